"""What only a cluster can do to a whole job: quotas, scheduling, and many replicas."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest

from airflow_customjob.client import CustomJobClient
from airflow_customjob.spec.job_state import JobState
from tests.engines import STALL
from tests.jobs.conftest import FOR_EVER, KUBERNETES, PATIENCE, KubernetesPlace, eventually, job_of, on, pool, shell

pytestmark = [on(KUBERNETES), pytest.mark.timeout(600)]

Figure = Callable[[str], None]


@pytest.fixture
def quota(place: KubernetesPlace) -> Callable[[int], None]:
    """Lets the namespace have so many Pods, until the test is over."""

    def limit(pods: int) -> None:
        place.kubectl("create", "quota", "few", f"--hard=pods={pods}")
        eventually(lambda: "pods" in place.kubectl("get", "quota", "few", "-o", "jsonpath={.status.hard}"), "the quota")

    return limit


@pytest.fixture(autouse=True)
def _no_quota_stays(place: KubernetesPlace) -> object:
    yield
    place.kubectl("delete", "quota", "few", "--ignore-not-found")


def test_a_quota_reached_amid_the_creation_rolls_all_back(place: KubernetesPlace, quota: Callable[[int], None]) -> None:
    quota(5)
    mark = f"touch {place.folder}/ran.$RANK; exec sleep 1000000"
    job, told = place.run(job_of(shell(mark), shell(mark, count=7)))
    assert job.state is JobState.JOB_STATE_FAILED
    assert job.message().error.code == 8
    assert "ResourceQuota few" in job.error
    assert "All 8 replicas need 8 of pods" in job.error
    assert {status.started_at for status in told.seen.values()} <= {None}
    assert list(place.folder.glob("ran.*")) == [], "a container of the refused gang ran"
    assert place.remains(job.job_id) == []


def test_a_quota_that_another_job_uses_up_lets_the_job_wait(
    place: KubernetesPlace, quota: Callable[[int], None]
) -> None:
    first, told, first_id = place.start(job_of(pool(*FOR_EVER), pool(*FOR_EVER, count=2)))
    eventually(lambda: any("JOB_STATE_RUNNING" in said for said in told.said), "the first job runs")
    quota(5)
    mark = f"touch {place.folder}/ran.$RANK"
    second, told, second_id = place.start(job_of(shell(mark), shell(f"{mark}; exec sleep 1000000", count=3)))
    eventually(lambda: any("ResourceQuota few" in said for said in told.said), "why the second job waits")
    client = CustomJobClient(place.backend())
    eventually(lambda: client.get(second_id).state is JobState.JOB_STATE_QUEUED, "QUEUED")
    assert list(place.folder.glob("ran.*")) == []
    client.cancel(first_id, wait=False)
    assert first.result(PATIENCE).state is JobState.JOB_STATE_CANCELLED
    job = second.result(PATIENCE)
    assert job.state is JobState.JOB_STATE_SUCCEEDED, job.error
    assert place.remains(first_id) + place.remains(second_id) == []


def test_an_unschedulable_replica_says_why(place: KubernetesPlace, figure: Figure) -> None:
    vast = place.backend(machine_types={"n1-standard-96": {"cpu": "96"}, "*": {"cpu": "10m"}})
    running, told, job_id = place.start(
        job_of(pool(*FOR_EVER), pool(*FOR_EVER, machine="n1-standard-96")), backend=vast
    )
    eventually(lambda: any("JOB_STATE_PENDING" in said for said in told.said), "PENDING")
    began = time.monotonic()
    eventually(lambda: any("workerpool1-0 waits" in s and "Insufficient cpu" in s for s in told.said), "the reason")
    took = time.monotonic() - began
    figure(f"the scheduler's words were said {took:.1f} s after PENDING")
    assert took < STALL
    CustomJobClient(vast).cancel(job_id, wait=False)
    assert running.result(PATIENCE).state is JobState.JOB_STATE_CANCELLED
    assert place.remains(job_id) == []


def test_sixty_four_replicas_meet(place: KubernetesPlace, figure: Figure) -> None:
    """Every worker reaches the primary by its name; the primary succeeds when it has met them all."""
    primary = (
        "import os, socket\nserver = socket.create_server(('', 3333), backlog=64)\nmet = set()\n"
        "while len(met) < 63: met.add(server.accept()[0].makefile().readline().strip())\nprint('met', len(met))"
    )
    worker = (
        "import os, socket, time\nwhile True:\n try:\n"
        "  peer = socket.create_connection((os.environ['MASTER_ADDR'], int(os.environ['MASTER_PORT'])), 5)\n"
        "  peer.sendall(os.environ['RANK'].encode() + b'\\n')\n  break\n except OSError: time.sleep(0.5)\n"
        "time.sleep(1000000)"
    )
    began = time.monotonic()
    job, told = place.run(job_of(pool("python3", "-c", primary), pool("python3", "-c", worker, count=63)))
    took = time.monotonic() - began
    assert job.state is JobState.JOB_STATE_SUCCEEDED, job.error
    assert told.of("workerpool0-0") == ["met 63"]
    assert job.record.start_time is not None
    launch = job.record.start_time - job.record.create_time
    figure(f"64 real replicas: RUNNING after {launch:.1f} s, all over and cleared away after {took:.1f} s")
    assert place.remains(job.job_id) == []
    assert json.loads(place.kubectl("get", "pods", "-o", "json"))["items"] == []
