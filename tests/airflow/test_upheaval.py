"""What no hour of an installation should hold: dying triggerers and workers under twenty jobs, and a second Airflow on the same Docker."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.airflow.conftest import airflow_home
from tests.airflow.remains import remains, remove_containers, replicas
from tests.airflow.running import DagRun, RunningAirflow, wait_for
from tests.engines import why_not

pytestmark = [pytest.mark.airflow, pytest.mark.long, pytest.mark.timeout(1800)]

KEPT = Path(__file__).parents[2] / "build" / "upheaval.txt"
"""What was seen, to be read."""
LAST = "workerpool0-0: last "
TICK = re.compile(rb'"workerpool0-0: tick (\d+)"')
DEFERRED, SYNC = 20, 4
Make = Callable[..., RunningAirflow]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Starts an Airflow with these settings; without an installation id, as most are."""
    if why := why_not("postgres"):
        pytest.skip(why)

    with ExitStack() as stack:

        def start(name: str, **environ: str) -> RunningAirflow:
            airflow = RunningAirflow(airflow_home(tmp_path / name))
            del airflow.environ["AIRFLOW__CUSTOMJOB__INSTALLATION_ID"]
            airflow.environ |= environ
            return stack.enter_context(airflow.up())

        yield start


@pytest.fixture(scope="module")
def tell() -> Callable[[str], None]:
    """Prints what was seen, and keeps it."""
    KEPT.parent.mkdir(exist_ok=True)
    KEPT.write_text("")

    def tell(line: str) -> None:
        print(f"\n{line}")
        with KEPT.open("a") as kept:
            kept.write(f"{line}\n")

    return tell


def jobs(runs: list[DagRun]) -> dict[str, set[str]]:
    """Ids of the jobs, and of their replicas."""
    job_ids = [run.wait_until_running() for run in runs]
    return {job_id: set(replicas("process", job_id)) for job_id in job_ids}


def ticks(lines: list[str], replica: str) -> list[int]:
    prefix = f"{replica}: tick "
    return [int(line.removeprefix(prefix)) for line in lines if line.startswith(prefix)]


def last_tick(run: DagRun) -> int:
    """The primary's latest line in the files of the task's log: to read them all by the API would take minutes."""
    return max((int(number) for file in run.log_files() for number in TICK.findall(_end_of(file))), default=-1)


def _end_of(file: Path) -> bytes:
    with file.open("rb") as log:
        log.seek(max(0, file.stat().st_size - 20_000))
        return log.read()


def goes_on(runs: list[DagRun], seconds: float) -> None:
    """Every log does."""
    before = {run: last_tick(run) for run in runs}
    wait_for("every log", lambda: all(last_tick(run) > last for run, last in before.items()), seconds, 0.5)


def test_twenty_jobs_outlive_every_triggerer_and_worker(make: Make, tell: Callable[[str], None]) -> None:
    """Killed with -9, frozen until another has its triggers, and stopped in order as by a rolling deploy."""
    airflow = make(
        "one",
        AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT="30",
        AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL="5",
    )
    deferred = [airflow.run("counts_deferred_process") for _ in range(DEFERRED)]
    sync = [airflow.run("counts_sync_process") for _ in range(SYNC)]
    before = jobs([*deferred, *sync])

    airflow.kill("triggerer")
    airflow.restart("triggerer")
    killed_at = time.time()
    goes_on(deferred, 400)
    tell(f"triggerer, kill -9: all {DEFERRED} logs went on within {time.time() - killed_at:.1f} s")

    tries = {run: run.task()["try_number"] for run in sync}
    airflow.stop("scheduler")  # and its workers: a SIGTERM, seconds later a SIGKILL
    stopped_at = time.time()
    airflow.start("scheduler")
    wait_for("further tries", lambda: all(run.task()["try_number"] > number for run, number in tries.items()), 400, 1)
    goes_on(sync, 400)
    tell(f"workers stopped: all {SYNC} logs went on within {time.time() - stopped_at:.1f} s, in a further try")

    airflow.start("triggerer-2", "triggerer")
    airflow.kill("triggerer", signal.SIGSTOP)
    frozen_at = time.time()
    goes_on(deferred, 400)
    tell(f"triggerer frozen: all {DEFERRED} logs went on in another one within {time.time() - frozen_at:.1f} s")
    airflow.kill("triggerer", signal.SIGCONT)
    goes_on(deferred, 400)

    (airflow.home / "stop").touch()
    counted = 0
    for run in (*deferred, *sync):
        run.wait_until("success", "failed", seconds=300)
        lines = run.log(run.task()["try_number"])
        assert run.task()["state"] == "success", lines
        job = run.xcom("custom_job")
        assert (job["state"], job["generation"]) == ("JOB_STATE_SUCCEEDED", 1)
        last = max(int(line.rpartition(" ")[2]) for line in lines if LAST in line)
        told = [sorted(set(ticks(lines, replica))) for replica in ("workerpool0-0", "workerpool1-0")]
        assert told[0] == list(range(last + 1))
        assert told[1] == list(range(max(told[1]) + 1))  # it may be stopped with the primary
        assert max(told[1]) > last - 20
        counted += len(told[0]) + len(told[1])
    tell(f"all {len(before)} jobs succeeded, none was started anew, and each of {counted:,} lines was told")
    assert all(len(ids) == 2 for ids in before.values())
    assert not [job_id for job_id in before if remains("process", job_id)]


@contextmanager
def removed(job_ids: list[str]) -> Iterator[None]:
    try:
        yield
    finally:
        for job_id in job_ids:
            remove_containers(job_id)


@pytest.mark.docker
def test_two_airflows_with_the_same_run_on_one_docker(make: Make) -> None:
    """Regression: with a constant as default id, the later one took the earlier one's job for its own that had been cleared."""
    one, other = make("one"), make("other")
    mine = one.run("once_task_deferred_docker", "scheduled")
    my_job = mine.wait_until_running()
    my_replicas = replicas("docker", my_job)
    theirs = other.run("once_task_deferred_docker", "scheduled")
    their_job = theirs.wait_until_running()
    with removed([my_job, their_job]):
        assert my_job != their_job
        assert replicas("docker", my_job) == my_replicas
        their_replicas = replicas("docker", their_job)
        mine.end("failed")
        wait_for("my job's end", lambda: not remains("docker", my_job), 30)
        mine.delete()
        again = one.run("once_task_deferred_docker", "scheduled")
        wait_for("the next generation", lambda: (again.xcom("custom_job") or {}).get("generation") == 2, 60, 0.3)
        assert again.wait_until_running() == my_job
        assert replicas("docker", their_job) == their_replicas
        for run, job_id in ((theirs, their_job), (again, my_job)):
            run.end("failed")
            wait_for("its end", lambda job_id=job_id: not remains("docker", job_id), 30)


def test_a_run_made_again_under_its_old_id_takes_nothing_over(make: Make) -> None:
    """A success is for the retries of its own run."""
    airflow = make("one")
    first = airflow.run("ends_deferred_process", "manual")
    first.wait_until("success", "failed", seconds=240)
    ended = first.xcom("custom_job")
    first.delete()
    again = airflow.run("ends_deferred_process", "manual")
    again.wait_until("success", "failed", seconds=240)
    ran = again.xcom("custom_job")
    assert (ended["generation"], ran["generation"]) == (1, 2)
    assert ran["name"] == ended["name"]
