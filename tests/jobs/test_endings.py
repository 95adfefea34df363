"""How a whole job ends: in Vertex AI's words, in the right state, in time, and with nothing left behind."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import wait
from typing import Any

import pytest

from airflow_customjob.client import CustomJobClient
from airflow_customjob.job import Job
from airflow_customjob.plan.types import JobOptions
from airflow_customjob.spec.job_state import JobState
from tests.engines import STALL
from tests.jobs.conftest import (
    DOCKER,
    FOR_EVER,
    KUBERNETES,
    PATIENCE,
    PROCESS,
    KubernetesPlace,
    Place,
    eventually,
    job_of,
    on,
    pool,
    shell,
)

Figure = Callable[[str], None]


def failed(job: Job) -> str:
    """The error's text."""
    assert job.state is JobState.JOB_STATE_FAILED, job.error
    message = job.message()
    assert message.error.message == job.error
    return job.error


def test_a_worker_that_fails_fails_the_job(place: Place, figure: Figure) -> None:
    worker = (
        'echo "rank $RANK loads"; [ $RANK = 2 ] || exec sleep 1000000; sleep 1; echo "no data for rank $RANK"; exit 1'
    )
    job, told = place.run(job_of(pool(*FOR_EVER), shell(worker, count=3)))
    error = failed(job)
    assert job.message().error.code == 3
    assert error.startswith("The replica workerpool1-1 exited with a non-zero status of 1. Termination reason: Error.")
    assert error.splitlines()[-2:] == ["rank 2 loads", "no data for rank 2"]
    assert place.remains(job.job_id) == []
    others = ("workerpool0-0", "workerpool1-0", "workerpool1-2")
    took = max(map(told.finished_at, others)) - told.finished_at("workerpool1-1")
    figure(f"the others were gone {took:.2f} s after the failure")
    assert took < STALL


@pytest.mark.parametrize("how", ["exit 139", "kill -ABRT $$$$; sleep 30"])
def test_a_crash_runs_the_whole_job_again(place: Place, how: str) -> None:
    """``$$$$`` is the shell's own process id: a spec's args are expanded, and ``$$`` is a dollar."""
    script = (
        f"echo start >>{place.folder}/$RANK; n=$(wc -l <{place.folder}/$RANK); echo attempt $n; "
        f"[ $RANK = 0 ] || exec sleep 1000000; [ $n = 1 ] || exit 0; "
        f"until [ -e {place.folder}/1 ]; do sleep 0.05; done; {how}"
    )
    job, told = place.run(job_of(shell(script), shell(script)))
    assert job.state is JobState.JOB_STATE_SUCCEEDED, job.error
    assert job.record.job_restarts == 1
    starts = {rank: (place.folder / str(rank)).read_text().count("start") for rank in (0, 1)}
    assert starts == {0: 2, 1: 2}
    assert told.of("workerpool0-0") == told.of("workerpool1-0") == ["attempt 1", "attempt 2"]
    code = 139 if "139" in how else 134
    again = next(said for said in told.said if "starts again" in said)
    assert (
        f"the whole job starts again (1 of 3): The replica workerpool0-0 exited with a non-zero status of {code}"
        in again
    )
    assert place.remains(job.job_id) == []


def test_a_job_that_always_crashes_runs_four_times(place: Place) -> None:
    job, told = place.run(job_of(shell("echo attempt; exit 139")))
    assert "The replica workerpool0-0 exited with a non-zero status of 139." in failed(job)
    assert told.of("workerpool0-0") == ["attempt"] * 4
    assert place.remains(job.job_id) == []


@on(DOCKER, KUBERNETES)
def test_running_out_of_memory_is_told_as_that(place: Place) -> None:
    """By the machine type's own memory as a limit: 4 GiB on Docker, and what ``machine_types`` says on Kubernetes."""
    eats = "x = []\nwhile True: x.append(bytearray(2**24))"
    backend = place.backend()
    if isinstance(place, KubernetesPlace):
        backend = place.backend(machine_types={"*": {"cpu": "10m", "memory": "64Mi"}})
    job, _ = place.run(
        job_of(pool("python3", "-c", eats, machine="n4-highcpu-2"), pool(*FOR_EVER, machine="n4-highcpu-2")),
        JobOptions(memory_limits=True),
        backend,
    )
    assert failed(job).startswith(
        "The replica workerpool0-0 ran out of memory and exited with a non-zero status of 137."
    )
    assert place.remains(job.job_id) == []


@on(DOCKER)
def test_a_missing_image_is_named_before_anything_exists(place: Place) -> None:
    job, told = place.run(job_of(pool(*FOR_EVER), pool(*FOR_EVER, image="127.0.0.1:1/none:404")))
    assert "127.0.0.1:1/none:404" in failed(job)
    assert told.seen == {}
    assert place.remains(job.job_id) == []


@on(KUBERNETES)
def test_a_missing_image_is_named_while_the_job_waits_for_it(place: Place) -> None:
    """A registry that does not answer may come back: the job is PENDING, says why, and can be cancelled."""
    running, told, job_id = place.start(job_of(pool(*FOR_EVER), pool(*FOR_EVER, image="127.0.0.1:1/none:404")))
    eventually(lambda: any("workerpool1-0 waits" in said and "none:404" in said for said in told.said), "its name")
    CustomJobClient(place.backend()).cancel(job_id, wait=False)
    assert running.result(PATIENCE).state is JobState.JOB_STATE_CANCELLED
    assert place.remains(job_id) == []


@pytest.mark.parametrize("command", ["/no/such/command", "no-such-command"])
def test_a_missing_command_is_named(place: Place, command: str) -> None:
    job, _ = place.run(job_of(pool(*FOR_EVER), pool(command, "--flag")))
    error = failed(job)
    assert error.startswith("The replica workerpool1-0 exited with a non-zero status of ")
    assert "StartError" in error
    assert command in error
    assert place.remains(job.job_id) == []


@pytest.mark.parametrize(
    ("place", "state"),
    [
        pytest.param("process", "CANCELLED"),
        pytest.param("process", "EXPIRED"),
        pytest.param("process", "FAILED"),
        pytest.param("docker", "EXPIRED", marks=pytest.mark.docker),
        pytest.param("kubernetes", "CANCELLED", marks=pytest.mark.kubernetes),
    ],
    indirect=["place"],
)
def test_a_timeout_counts_from_running(place: Place, figure: Figure, state: str) -> None:
    job, told = place.run(
        job_of(pool(*FOR_EVER), shell("echo up; exec sleep 1000000", count=2), timeout="3s"),
        JobOptions(timeout_state=state),
    )
    assert job.state.name == f"JOB_STATE_{state}", job.error
    assert "3 s (job_spec.scheduling.timeout)" in job.error
    assert place.remains(job.job_id) == []
    assert job.record.start_time is not None
    assert job.record.end_time is not None
    ran = job.record.end_time - job.record.start_time
    last = max(map(told.finished_at, ("workerpool0-0", "workerpool1-0", "workerpool1-1"))) - job.record.start_time
    figure(f"{state} {ran:.2f} s after RUNNING, the last replica gone after {last:.2f} s")
    assert 3.0 <= ran < 3.0 + STALL
    assert last < 3.0 + STALL


def test_a_cancel_ends_a_running_job_at_once(place: Place, figure: Figure) -> None:
    """Regression: a supervisor heard of another process's cancel only at its next resync, up to half a minute later."""
    stubborn = "trap '' TERM; echo ready; while :; do sleep 0.1; done"
    running, told, job_id = place.start(job_of(shell(stubborn), shell(stubborn, count=2)))
    eventually(lambda: len([line for line in told.lines if line.text == "ready"]) == 3, "three replicas at work")
    client = CustomJobClient(place.backend())
    cancelled = client.cancel(job_id, wait=False)
    job = running.result(PATIENCE)
    assert job.state is JobState.JOB_STATE_CANCELLED
    assert job.error == "The job was cancelled by its user."
    assert job.record.end_time is not None
    took = job.record.end_time - cancelled.record.update_time
    figure(f"CANCELLED {took:.2f} s after the cancel, of replicas that ignore SIGTERM")
    assert took < STALL
    assert place.remains(job_id) == []


@on(PROCESS, DOCKER)
def test_a_disabled_retry_lets_the_first_crash_decide(place: Place) -> None:
    job, told = place.run(job_of(shell("echo attempt; exit 139"), disableRetries=True))
    assert "exited with a non-zero status of 139" in failed(job)
    assert told.of("workerpool0-0") == ["attempt"]


@on(PROCESS, DOCKER)
def test_the_first_of_two_endings_decides(place: Place) -> None:
    """A primary that succeeds first makes the job succeed, whatever a worker does because of it."""
    jobs: list[Any] = [
        place.start(job_of(shell("sleep 1; exit 0"), shell("sleep 1.5; exit 9"))),
        place.start(job_of(shell("sleep 1.5; exit 0"), shell("sleep 1; exit 9"))),
    ]
    wait([running for running, *_ in jobs], PATIENCE)
    states = [running.result(0).state.name for running, *_ in jobs]
    assert states == ["JOB_STATE_SUCCEEDED", "JOB_STATE_FAILED"]
