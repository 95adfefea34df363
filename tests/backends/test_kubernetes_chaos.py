"""The API server goes away under a running job, and comes back: on a cluster of this test's own."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from airflow_customjob import CustomJobClient
from airflow_customjob.backends.base import LogLine
from airflow_customjob.backends.kubernetes import KubernetesBackend
from airflow_customjob.spec.job_state import JobState
from tests.backends.test_kubernetes import job_of, pool
from tests.engines import dev_engines, exports, own_instance

pytestmark = [pytest.mark.kubernetes, pytest.mark.chaos, pytest.mark.timeout(500)]

BACKEND = KubernetesBackend(machine_types={"*": {}})


def do(command: str, instance: int) -> None:
    done = dev_engines(command, "kubernetes", instance=instance)
    assert done.returncode == 0, f"dev/engines {command} kubernetes: {done.stderr}"


@pytest.fixture(scope="module")
def cluster() -> Iterator[int]:
    """The instance of a cluster that may be killed."""
    if os.geteuid():
        pytest.skip("kubernetes chaos: only root can start a cluster to kill")
    with own_instance("kubernetes") as instance:
        do("down", instance)  # of a session that was killed
        try:
            do("up", instance)
            yield instance
        finally:
            do("down", instance)


@pytest.mark.parametrize(("command", "seconds"), [("kill", 30.0), ("restart", 0.0)])
def test_a_job_outlives_its_api_server(cluster: int, command: str, seconds: float) -> None:
    """The job goes on, its log has no gap, its end is right, and nothing is left."""
    backend = replace(BACKEND, kubeconfig=exports(cluster)["KUBECONFIG"])
    client = CustomJobClient(backend)
    count = "i=0; while [ $i -lt 300 ]; do echo line $i; i=$((i+1)); sleep 0.1; done"
    lines: list[LogLine] = []
    said: list[str] = []
    ended = []
    job = job_of(pool(count), pool("echo up; exec sleep 1000"))
    driving = threading.Thread(
        target=lambda: ended.append(client.run(job, sink=lines.append, say=said.append)), daemon=True
    )
    driving.start()
    while len(lines) < 20:
        assert driving.is_alive(), said
        time.sleep(0.1)
    do(command, cluster)
    time.sleep(seconds)
    do("up", cluster)
    driving.join(120)
    assert ended, (said, len(lines))
    assert ended[0].state is JobState.JOB_STATE_SUCCEEDED, ended[0].error
    told = [line.text for line in lines if line.ref.replica == "workerpool0-0"]
    assert told == [f"line {number}" for number in range(300)], (told[-5:], len(told))
    assert ended[0].record.attempt == 0
    assert ended[0].record.restarts == {}
