"""TorchX's ``local_docker``, in an environment of its own; prints one JSON list of seconds.

``python torchx_launch.py REPLICAS IMAGE RUNS``: run by bench, with the interpreter that has torchx.
"""

from __future__ import annotations

import json
import sys
import time

import docker
from torchx.runner import get_runner
from torchx.schedulers.docker_scheduler import LABEL_APP_ID
from torchx.specs import AppDef, AppState, Resource, RetryPolicy, Role


def remove(app_id: str) -> None:
    """Its own cancel stops one container after the other, ten seconds each, and leaves them all."""
    client = docker.from_env()
    for container in client.containers.list(all=True, filters={"label": f"{LABEL_APP_ID}={app_id}"}):
        container.remove(force=True)


def main(replicas: int, image: str, runs: int) -> None:
    role = Role(
        name="bench",
        image=image,
        entrypoint="sleep",
        args=["300"],
        num_replicas=replicas,
        retry_policy=RetryPolicy.APPLICATION,
        resource=Resource(cpu=1, gpu=0, memMB=512),
    )
    seconds = []
    with get_runner() as runner:
        for _ in range(runs):
            started = time.perf_counter()
            handle = runner.run(AppDef(name="bench", roles=[role]), scheduler="local_docker")
            while (status := runner.status(handle)) is None or status.state is not AppState.RUNNING:
                time.sleep(0.02)
            seconds.append(time.perf_counter() - started)
            remove(handle.rpartition("/")[2])
    docker.from_env().networks.get("torchx").remove()
    print(json.dumps(seconds))


main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
