"""The API server goes away under a running job, and comes back: on a cluster of this test's own."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from airflow_customjob import CustomJobClient
from airflow_customjob.backends.base import LogLine
from airflow_customjob.backends.kubernetes import KubernetesBackend, endings, judge
from airflow_customjob.backends.kubernetes.sharing import api_of
from airflow_customjob.spec.job_state import JobState
from tests.backends.test_kubernetes import job_of, pool
from tests.engines import dev_engines, exports, own_instance

pytestmark = [pytest.mark.kubernetes, pytest.mark.chaos, pytest.mark.timeout(500)]

BACKEND = KubernetesBackend(machine_types={"*": {}})
LINES = 450
"""Of the job whose API server goes away: one in a tenth of a second."""


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


def test_a_job_outlives_its_api_server(cluster: int) -> None:
    """Killed for half a minute, then restarted together with what decides and keeps: the job goes on, its log has no gap, its
    end is right."""
    backend = replace(BACKEND, kubeconfig=exports(cluster)["KUBECONFIG"])
    client = CustomJobClient(backend)
    count = f"i=0; while [ $i -lt {LINES} ]; do echo line $i; i=$((i+1)); sleep 0.1; done"
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
    do("kill", cluster)
    time.sleep(30)
    do("up", cluster)
    do("restart", cluster)
    driving.join(120)
    assert ended, (said, len(lines))
    assert ended[0].state is JobState.JOB_STATE_SUCCEEDED, ended[0].error
    told = [line.text for line in lines if line.ref.replica == "workerpool0-0"]
    assert told == [f"line {number}" for number in range(LINES)], (told[-5:], len(told))
    assert ended[0].record.attempt == 0
    assert ended[0].record.restarts == {}


def test_a_replica_on_a_silent_node_comes_back_only_when_the_old_one_is_gone(
    cluster: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its node's agent is dead and its Pod deleted: nobody can know whether it still runs, so nobody starts it again."""
    monkeypatch.setattr(judge, "SILENT_NODE", 5.0)
    monkeypatch.setattr(endings, "PATIENCE", 5.0)
    backend = replace(BACKEND, kubeconfig=exports(cluster)["KUBECONFIG"])
    client = CustomJobClient(backend)
    lines: list[LogLine] = []
    said: list[str] = []
    job = client.submit(job_of(pool("exec sleep 1000"), pool("echo up; exec sleep 1000")))
    driving = threading.Thread(
        target=lambda: client.supervise(job.job_id, sink=lines.append, say=said.append), daemon=True
    )
    driving.start()
    until(lambda: len(lines) == 1, said)
    (worker,) = [status.ref.name for status in client.get(job.job_id).replicas if status.ref.replica == "workerpool1-0"]
    os.kill(int((Path(backend.kubeconfig or "").parent / "pid" / "kubelet").read_text()), signal.SIGKILL)
    delete_pod(backend, worker)
    until(lambda: any("did not go within" in text and "out-of-service" in text for text in said), said)
    pods = [status.ref.name for status in client.get(job.job_id).replicas if status.ref.replica == "workerpool1-0"]
    assert pods == [worker]
    assert len(lines) == 1
    do("up", cluster)
    until(lambda: len([line for line in lines if line.text == "up"]) == 2, said)
    client.cancel(job.job_id)
    driving.join(60)
    assert client.get(job.job_id).state is JobState.JOB_STATE_CANCELLED
    assert any("workerpool1-0 was lost and starts again (1 of 5)" in text for text in said), said


def test_a_cluster_of_which_every_process_was_killed_comes_up_again(cluster: int) -> None:
    """As at the end of a session of whoever started it: the pid files that stay must not be taken for failures of this start."""
    backend = replace(BACKEND, kubeconfig=exports(cluster)["KUBECONFIG"])
    run = f"/run/customjob-kubernetes-{cluster}/"
    programs = [int(path.read_text()) for path in (Path(backend.kubeconfig or "").parent / "pid").iterdir()]
    shims = subprocess.run(["pgrep", "-f", f"containerd-shim.*{run}"], capture_output=True, text=True, check=False)
    for pid in [*programs, *map(int, shims.stdout.split())]:
        os.kill(pid, signal.SIGKILL)
    do("up", cluster)
    ended = CustomJobClient(backend).run(job_of(pool("echo up"), pool("exec sleep 1000")))
    assert ended.state is JobState.JOB_STATE_SUCCEEDED, ended.error


def until(check: Callable[[], bool], said: list[str]) -> None:
    end = time.monotonic() + 180
    while not check():
        assert time.monotonic() < end, said
        time.sleep(0.2)


def delete_pod(backend: KubernetesBackend, name: str) -> None:
    async def main() -> None:
        api = await api_of(backend)
        await api.delete("pods", name, gracePeriodSeconds=1)
        await api.close()

    asyncio.run(main())
