"""What starts again: the whole job after a crash (at most 3 times), one replica that was lost (at most 5 times)."""

from __future__ import annotations

import pytest

from airflow_customjob.backends.base import Reason
from airflow_customjob.supervisor.rules import Create, Remove, Start, Stop
from tests.supervisor.jobs import CREATED, RUNNING, T0, F, R, Shown, exited, lost, prepared_job, running_job

CRASHES = (6, 11, 134, 139)


@pytest.mark.parametrize("code", range(256))
def test_which_exit_codes_run_the_whole_job_again(code: int) -> None:
    job = running_job()
    record = job.decide(job.statuses(w0=exited(code))).record
    assert record.attempt == (1 if code in CRASHES else 0)
    assert (record.state is F) == (code not in (0, *CRASHES))


@pytest.mark.parametrize("reason", [Reason.OOM_KILLED, Reason.START_ERROR])
def test_want_of_memory_or_of_a_command_is_no_crash(reason: Reason) -> None:
    job = running_job()
    assert job.decide(job.statuses(w0=exited(139, reason=reason))).record.state is F


def test_a_crash_stops_every_replica_of_the_attempt() -> None:
    job = running_job().but(restarts={"workerpool1-1": 2})
    decision = job.decide(job.statuses(w0=exited(139)), now=T0 + 6)
    record = decision.record
    assert (record.state, record.attempt, record.unlaunched, record.restarts) == (R, 1, None, {})
    assert record.message == (
        "the whole job starts again (1 of 3): "
        "The replica workerpool1-0 exited with a non-zero status of 139. Termination reason: Error."
    )
    assert decision.actions == (
        Stop(job.refs("workerpool0-0", "workerpool1-1"), job.plan.options.stop_grace),
        Remove(job.refs("workerpool1-0")),
    )


def test_the_start_time_stays_the_first_one() -> None:
    job = running_job()
    again = job.decide(job.statuses(w0=exited(11)), now=T0 + 6).record
    assert again.start_time == T0


def test_nothing_is_created_before_the_last_of_the_old_attempt_is_gone() -> None:
    job = running_job().but(attempt=1, unlaunched=None)
    old = job.stale(RUNNING, attempt=0), job.stale(exited(139), replica="workerpool1-0", attempt=0)
    assert job.decide(old).actions == (
        Stop((old[0].ref,), job.plan.options.stop_grace),
        Remove((old[1].ref,)),
    )
    assert job.decide(()).actions == (Create(job.refs()),)


@pytest.mark.parametrize(("attempt", "state"), [(0, R), (1, R), (2, R), (3, F)])
def test_the_whole_job_starts_again_at_most_three_times(attempt: int, state: object) -> None:
    job = running_job().but(attempt=attempt)
    record = job.decide(job.statuses(p=exited(6))).record
    assert (record.state, record.attempt) == (state, min(attempt + 1, 3))


def test_disable_retries_means_no_restart_of_the_job() -> None:
    job = running_job(disableRetries=True)
    record = job.decide(job.statuses(w0=exited(139))).record
    assert record.error is not None
    assert (record.state, record.error.code) == (F, 3)


@pytest.mark.parametrize("shown", [lost(), None], ids=["ended by its host", "its object is gone"])
def test_a_lost_replica_starts_again_alone(shown: Shown | None) -> None:
    job = running_job()
    decision = job.decide(job.statuses(w1=shown))
    record = decision.record
    assert (record.state, record.attempt, record.restarts, record.unlaunched) == (
        R,
        0,
        {"workerpool1-1": 1},
        ("workerpool1-1",),
    )
    assert decision.actions == (() if shown is None else (Remove(job.refs("workerpool1-1")),))
    assert record.message.startswith("workerpool1-1 was lost and starts again (1 of 5): ")


def test_the_next_incarnation_comes_after_the_old_object_is_gone() -> None:
    job = running_job().but(restarts={"workerpool1-1": 1}, unlaunched=("workerpool1-1",))
    old = job.stale(lost(), replica="workerpool1-1", restart=0)
    assert job.decide((*job.statuses(w1=None), old)).actions == (Remove((old.ref,)),)
    assert job.decide(job.statuses(w1=None)).actions == (Create(job.refs("workerpool1-1")),)
    launch = job.decide(job.statuses(w1=CREATED))
    assert (launch.record.unlaunched, launch.actions) == ((), (Start(job.refs("workerpool1-1")),))


@pytest.mark.parametrize(("restarts", "attempt"), [(0, 0), (4, 0), (5, 1)])
def test_after_five_restarts_of_a_replica_the_whole_job_starts_again(restarts: int, attempt: int) -> None:
    job = running_job().but(restarts={"workerpool1-1": restarts})
    record = job.decide(job.statuses(w1=lost())).record
    assert (record.state, record.attempt) == (R, attempt)


def test_lost_for_good() -> None:
    job = running_job().but(restarts={"workerpool1-1": 5, "workerpool1-0": 1}, attempt=3)
    record = job.decide(job.statuses(w0=lost(), w1=lost())).record
    assert record.error is not None
    assert (record.state, record.error.code) == (F, 13)
    assert record.error.message.startswith(
        "Internal error occurred for the current attempt: the replica workerpool1-1 was lost. its host is gone"
    ), "the one that used up its restarts is the cause"


@pytest.mark.parametrize(
    ("scheduling", "attempt", "state"),
    [
        ({"restartJobOnWorkerRestart": True}, 1, R),
        ({"disableRetries": True}, 0, F),
        ({"restartJobOnWorkerRestart": True, "disableRetries": True}, 0, F),
    ],
    ids=str,
)
def test_what_a_lost_replica_means_is_chosen(scheduling: dict[str, bool], attempt: int, state: object) -> None:
    job = running_job(**scheduling)
    record = job.decide(job.statuses(w1=lost())).record
    assert (record.state, record.attempt) == (state, attempt)


def test_an_exit_code_counts_more_than_a_loss() -> None:
    job = running_job()
    assert job.decide(job.statuses(w0=exited(1), w1=lost())).record.state is F


def test_what_was_never_launched_cannot_be_lost() -> None:
    job = prepared_job()
    decision = job.decide(job.statuses(others=None))
    assert (decision.record.restarts, decision.actions) == ({}, (Create(job.refs()),))


def test_when_all_are_lost_the_record_tells_of_the_first_ones() -> None:
    job = running_job(pools=(1, 999), restartJobOnWorkerRestart=True)
    record = job.decide(job.statuses(others=lost("x" * 1000))).record
    assert (record.attempt, len(record.failed)) == (1, 10)
