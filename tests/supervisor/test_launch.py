"""The way to RUNNING: prepare, create all, then start all; or not at all."""

from __future__ import annotations

import pytest

from airflow_customjob.backends.base import LaunchRefused
from airflow_customjob.plan.types import JobOptions, Prepared
from airflow_customjob.supervisor.rules import Create, Prepare, Remove, Start, Stop
from airflow_customjob.supervisor.sentences import MAX_REFUSAL
from tests.supervisor.jobs import (
    CREATED,
    RUNNING,
    T0,
    F,
    P,
    Q,
    R,
    exited,
    launched_job,
    new_job,
    prepared_job,
    running_job,
)

NOT_A_GANG = JobOptions(gang=False)
SETTLED = Prepared(artifacts={"0": "sha256:1"}, notes=("a note",))


def test_first_the_engine_prepares() -> None:
    decision = new_job().decide()
    assert (decision.record.state, decision.actions) == (Q, (Prepare(),))


def test_what_it_settled_is_recorded_before_anything_is_created() -> None:
    decision = new_job().decide(prepared=SETTLED)
    assert (decision.record.state, decision.record.prepared, decision.actions) == (P, SETTLED, ())


def test_an_older_generation_goes_before_anything_else() -> None:
    job = new_job().but(generation=2)
    old = job.stale(RUNNING, generation=1), job.stale(exited(0), replica="workerpool1-0", generation=1)
    decision = job.decide(old)
    assert decision.actions == (Stop((old[0].ref,), job.plan.options.stop_grace), Remove((old[1].ref,)))


def test_all_are_created_before_one_is_started() -> None:
    job = prepared_job()
    assert job.decide(()).actions == (Create(job.refs()),)
    assert job.decide(job.statuses(others=CREATED, w1=None)).actions == (Create(job.refs("workerpool1-1")),)


def test_that_all_exist_is_recorded_and_then_all_start() -> None:
    job = prepared_job()
    decision = job.decide(job.statuses(others=CREATED))
    assert (decision.record.unlaunched, decision.actions) == ((), (Start(job.refs()),))


def test_without_gang_they_start_as_they_come() -> None:
    job = prepared_job(options=NOT_A_GANG)
    decision = job.decide(job.statuses(others=None, p=CREATED))
    assert decision.record.unlaunched == ("workerpool1-0", "workerpool1-1")
    assert decision.actions == (Start(job.refs("workerpool0-0")), Create(job.refs("workerpool1-0", "workerpool1-1")))


def test_a_stale_replica_goes_before_anything_is_created() -> None:
    job = prepared_job().but(attempt=1)
    old = job.stale(CREATED, attempt=0)
    assert job.decide((old,)).actions == (Remove((old.ref,)),)


def test_no_room_means_queued_and_nothing_is_held() -> None:
    job = prepared_job()
    decision = job.decide(job.statuses(others=CREATED, w1=None), busy="every GPU is leased")
    assert (decision.record.state, decision.record.message) == (Q, "every GPU is leased")
    assert decision.actions == (Remove(job.refs("workerpool0-0", "workerpool1-0")),)
    assert (decision.record.attempt, decision.record.queued, decision.record.job_restarts) == (1, 1, 0)


def test_no_room_and_nothing_to_give_back() -> None:
    job = prepared_job()
    first = job.decide((), busy="every GPU is leased").record
    assert (first.state, first.message, first.attempt) == (Q, "every GPU is leased", 0)
    again = job.but(state=Q, message="every GPU is leased")
    assert again.decide((), busy="every GPU is leased").record == again.record


def test_no_room_for_one_that_comes_back_leaves_the_others_at_work() -> None:
    job = running_job().but(restarts={"workerpool1-1": 1}, unlaunched=("workerpool1-1",))
    decision = job.decide(job.statuses(w1=None), busy="every GPU is leased")
    assert (decision.record.state, decision.record.message) == (R, "every GPU is leased")
    assert (decision.record.attempt, decision.actions) == (0, ())


def test_out_of_the_queue_when_it_is_launched() -> None:
    job = prepared_job().but(state=Q, message="every GPU is leased")
    assert job.decide(job.statuses(others=CREATED)).record.state is P


@pytest.mark.parametrize("code", [3, 8, 13])
def test_refused(code: int) -> None:
    job = prepared_job()
    refused = LaunchRefused("image x does not exist", code=code)
    decision = job.decide(job.statuses(others=CREATED, w1=None), refused=refused, now=T0 + 3)
    record = decision.record
    assert record.error is not None
    assert (record.state, record.error.code, record.error.message) == (F, code, "image x does not exist")
    assert (record.end_time, decision.actions) == (T0 + 3, (Remove(job.refs("workerpool0-0", "workerpool1-0")),))


def test_a_refusal_of_any_length_fits_into_the_record() -> None:
    record = prepared_job().decide((), refused=LaunchRefused("x" * 100_000)).record
    assert record.error is not None
    assert len(record.error.message) == MAX_REFUSAL


def test_somebody_else_found_room() -> None:
    """A supervisor that was told 'not now' and then sees a whole gang does not give it back."""
    job = launched_job()
    assert job.decide(job.statuses(), busy="every GPU is leased").record.state is R
    job = prepared_job()
    assert job.decide(job.statuses(others=CREATED), busy="every GPU is leased").actions == (Start(job.refs()),)


def test_a_job_of_which_something_runs_is_not_queued() -> None:
    job = prepared_job(options=NOT_A_GANG).but(unlaunched=("workerpool1-1",))
    record = job.decide(job.statuses(w1=None), busy="every GPU is leased").record
    assert (record.state, record.message) == (P, "every GPU is leased")


def test_a_restarted_job_that_finds_no_room_stays_running() -> None:
    job = running_job().but(attempt=1, unlaunched=None)
    record = job.decide(job.statuses(others=CREATED, w1=None), busy="every GPU is leased").record
    assert (record.state, record.attempt, record.job_restarts) == (R, 2, 1)
