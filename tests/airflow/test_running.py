"""What an installation of Airflow does to a job: the real scheduler, triggerer and API server, on real engines. How tasks are
killed is in test_kill_paths."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.airflow.remains import remains, replicas
from tests.airflow.running import DagRun, RunningAirflow, wait_for
from tests.engines import STALL, why_not

pytestmark = [pytest.mark.airflow, pytest.mark.slow, pytest.mark.timeout(600)]

BACKENDS = ("process",) if why_not("docker") else ("process", "docker")
REPLICAS = ("workerpool0-0", "workerpool1-0", "workerpool1-1")


@pytest.fixture(params=["process", pytest.param("docker", marks=pytest.mark.docker)])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def wait_until_gone(backend: str, job_id: str, since: float, what: str) -> None:
    """Until nothing of the job is left; shows how long that is after that moment (seconds since the epoch)."""
    wait_for(f"{backend}: {job_id} is gone", lambda: not remains(backend, job_id), STALL)
    took = time.time() - since
    print(f"\n{backend}: {what}: all gone after {took:.2f} s")


def ticks_of(lines: list[str], replica: str) -> list[int]:
    prefix = f"{replica}: tick "
    return [int(line.removeprefix(prefix)) for line in lines if line.startswith(prefix)]


def assert_no_tick_is_missing(lines: list[str]) -> None:
    for replica in REPLICAS:
        ticks = ticks_of(lines, replica)
        assert ticks, f"no line of {replica}"
        assert sorted(set(ticks)) == list(range(max(ticks) + 1))


def ticking(run: DagRun, backend: str) -> tuple[str, list[str]]:
    """A job whose replicas all run: its id and their ids."""
    job_id = run.wait_until_running()
    wait_for("three replicas", lambda: len(replicas(backend, job_id)) == len(REPLICAS))
    return job_id, replicas(backend, job_id)


@pytest.fixture(scope="session")
def ended(airflow: RunningAirflow) -> Callable[[str], DagRun]:
    """Runs of DAGs that end by themselves, all started at once."""
    runs = {
        f"{name}_{mode}_{backend}": airflow.run(f"{name}_{mode}_{backend}")
        for backend in BACKENDS
        for mode in ("sync", "deferred")
        for name in ("ends", "fails")
    }

    def of(dag_id: str) -> DagRun:
        runs[dag_id].wait_until("success", "failed", seconds=240)
        return runs[dag_id]

    return of


@pytest.mark.parametrize("mode", ["sync", "deferred"])
def test_a_job_from_end_to_end(ended: Callable[[str], DagRun], backend: str, mode: str) -> None:
    run = ended(f"ends_{mode}_{backend}")
    assert run.task()["state"] == "success", run.log()
    result, lines = run.xcom("return_value"), run.log()
    assert result["state"] == 4
    assert run.job_state() == "JOB_STATE_SUCCEEDED"
    assert run.xcom("custom_job_replicas")["replica"] == list(REPLICAS)
    assert run.xcom("custom_job_ref")["backend"] == {"name": backend}
    for rank, replica in enumerate(REPLICAS):
        told = [line for line in lines if line.startswith(f"{replica}: ")]
        assert told == [f"{replica}: line {number} of rank {rank}" for number in range(10)]
    assert not remains(backend, run.job_id())


@pytest.mark.parametrize("mode", ["sync", "deferred"])
def test_a_failing_job_fails_its_task_with_the_cause(ended: Callable[[str], DagRun], backend: str, mode: str) -> None:
    run = ended(f"fails_{mode}_{backend}")
    assert run.task()["state"] == "failed"
    text = "\n".join(run.log())
    assert "The replica workerpool1-0 exited with a non-zero status of 3" in text
    assert "cannot read the data" in text
    assert not remains(backend, run.job_id())


@dataclass
class Ticking:
    """A deferred job that runs."""

    backend: str
    run: DagRun
    job_id: str
    before: list[str]

    def ticks(self) -> list[int]:
        return ticks_of(self.run.log(), "workerpool0-0")

    def wait_for_ticks(self, count: int) -> None:
        goal = max(self.ticks(), default=0) + count
        wait_for(f"{count} more ticks", lambda: max(self.ticks(), default=0) > goal, 180, 0.5)

    def end(self, what: str) -> None:
        marked_at = time.time()
        self.run.mark_failed()
        wait_until_gone(self.backend, self.job_id, marked_at, what)


@pytest.fixture
def deferred(airflow: RunningAirflow) -> list[Ticking]:
    """One job on each backend."""
    runs = [(backend, airflow.run(f"ticks_deferred_{backend}")) for backend in BACKENDS]
    return [Ticking(backend, run, *ticking(run, backend)) for backend, run in runs]


def test_a_trigger_that_moves_to_another_triggerer_leaves_its_job(
    airflow: RunningAirflow, deferred: list[Ticking]
) -> None:
    """One that is frozen for longer than its heartbeat allows loses its triggers, and calls on_kill when it wakes up."""
    airflow.start("triggerer-2", "triggerer")
    airflow.kill("triggerer", signal.SIGSTOP)
    try:
        for job in deferred:
            job.wait_for_ticks(30)
    finally:
        airflow.kill("triggerer", signal.SIGCONT)
    for job in deferred:
        wait_for(
            "on_kill where the trigger was", lambda job=job: "invoking on_kill" in "\n".join(job.run.log()), 30, 0.5
        )
        job.wait_for_ticks(30)
        assert replicas(job.backend, job.job_id) == job.before
        assert job.run.task()["state"] == "deferred"
        assert_no_tick_is_missing(job.run.log())
        job.end("deferred, marked failed after its trigger moved")
    airflow.stop("triggerer-2")
