"""A cancelled job is CANCELLING until nothing of it is at work, and then CANCELLED, whatever its replicas did meanwhile."""

from __future__ import annotations

import pytest

from airflow_customjob.spec.job_state import JobState
from airflow_customjob.supervisor.rules import Remove, Stop, cancelling
from tests.supervisor.jobs import CG, CREATED, RUNNING, T0, C, Job, exited, lost, new_job, running_job, waits

WHY = "somebody cancelled it"


def cancelled(job: Job) -> Job:
    return Job(job.plan, cancelling(job.record, WHY, T0 + 8))


def test_what_is_at_work_is_stopped_first() -> None:
    job = cancelled(running_job())
    decision = job.decide(job.statuses(w0=CREATED, w1=waits()))
    assert (decision.record.state, decision.done) == (CG, False)
    assert decision.actions == (
        Stop(job.refs("workerpool0-0", "workerpool1-1"), job.plan.options.stop_grace),
        Remove(job.refs("workerpool1-0")),
    )


@pytest.mark.parametrize("end", [exited(0), exited(1), exited(139), lost()], ids=str)
def test_how_they_ended_no_longer_counts(end: object) -> None:
    job = cancelled(running_job())
    record = job.decide(job.statuses(others=end), now=T0 + 9).record  # type: ignore[arg-type]
    assert record.error is not None
    assert (record.state, record.end_time, record.attempt) == (C, T0 + 9, 0)
    assert (record.error.code, record.error.message) == (1, WHY)


def test_old_attempts_are_stopped_too() -> None:
    job = cancelled(running_job().but(attempt=1))
    old = job.stale(RUNNING, attempt=0)
    decision = job.decide((old,))
    assert (decision.record.state, decision.actions) == (CG, (Stop((old.ref,), job.plan.options.stop_grace),))


def test_a_queued_job_is_cancelled_at_once() -> None:
    job = cancelled(new_job())
    assert job.decide(()).record.state is C


@pytest.mark.parametrize("state", [state for state in JobState if state.terminal or state is CG])
def test_an_end_or_another_cancel_stays(state: JobState) -> None:
    job = running_job().but(state=state)
    assert cancelling(job.record, WHY, T0) is job.record
