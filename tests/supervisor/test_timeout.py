"""``scheduling.timeout``: measured from the first RUNNING, across restarts, to the state that the user chose."""

from __future__ import annotations

import pytest

from airflow_customjob.plan.types import JobOptions
from airflow_customjob.spec.job_state import JobState
from airflow_customjob.supervisor.rules import Remove, Stop
from tests.supervisor.jobs import CREATED, T0, R, S, exited, launched_job, lost, running_job


@pytest.mark.parametrize("name", ["CANCELLED", "EXPIRED", "FAILED"])
def test_end_state(name: str) -> None:
    job = running_job(timeout="30s", options=JobOptions(timeout_state=name))
    decision = job.decide(job.statuses(), now=T0 + 30)
    record = decision.record
    assert record.error is not None
    assert (record.state, record.end_time, record.error.code) == (JobState[f"JOB_STATE_{name}"], T0 + 30, 1)
    assert record.error.message == (
        "The job ran for its whole timeout of 30 s (job_spec.scheduling.timeout) and was stopped."
    )
    assert decision.actions == (Stop(job.refs(), job.plan.options.stop_grace),)


def test_not_a_moment_earlier() -> None:
    job = running_job(timeout="30s")
    decision = job.decide(job.statuses(), now=T0 + 29.999)
    assert (decision.record.state, decision.wake_at) == (R, T0 + 30)


def test_a_job_that_is_not_running_yet_has_all_the_time() -> None:
    job = launched_job(timeout="30s")
    assert not job.decide(job.statuses(w1=CREATED), now=T0 + 1000).record.state.terminal


def test_a_restart_does_not_begin_it_anew() -> None:
    job = running_job(timeout="30s")
    again = job.decide(job.statuses(w0=exited(139)), now=T0 + 29).record
    job = job.but(attempt=again.attempt, unlaunched=again.unlaunched)
    assert job.decide((), now=T0 + 31).record.state.terminal


def test_an_end_that_came_first_counts() -> None:
    job = running_job(timeout="30s")
    assert job.decide(job.statuses(p=exited(0, at=T0 + 29)), now=T0 + 31).record.state is S


def test_a_loss_after_the_time_is_over_still_ends_it() -> None:
    job = running_job(timeout="30s")
    again = job.decide(job.statuses(w0=lost()), now=T0 + 31)
    job = job.but(restarts=again.record.restarts, unlaunched=again.record.unlaunched)
    decision = job.decide(job.statuses(w0=None), now=T0 + 31)
    assert decision.record.state.terminal
    assert not [action for action in decision.actions if not isinstance(action, Stop | Remove)]


def test_seven_days_where_nothing_is_said() -> None:
    job = running_job()
    assert job.decide(job.statuses()).wake_at == T0 + 7 * 24 * 3600


def test_times_never_go_back_though_clocks_differ() -> None:
    job = running_job(timeout="30s")
    record = job.decide(job.statuses(p=exited(0)), now=T0 - 7).record
    assert (record.start_time, record.end_time, record.update_time) == (T0, T0, T0)
