"""When a job runs, and when it has succeeded: the primary replica alone decides."""

from __future__ import annotations

import pytest

from airflow_customjob.supervisor.rules import Remove, Start, Stop
from tests.supervisor.jobs import (
    CREATED,
    RUNNING,
    T0,
    P,
    Q,
    R,
    S,
    Shown,
    exited,
    launched_job,
    queues,
    running_job,
    waits,
)


@pytest.mark.parametrize("worker", [RUNNING, exited(0)], ids=["runs", "has exited 0 already"])
def test_running_when_all_have_started(worker: Shown) -> None:
    decision = launched_job().decide(launched_job().statuses(w1=worker), now=T0 + 7)
    assert (decision.record.state, decision.record.start_time, decision.record.message) == (R, T0 + 7, "")


@pytest.mark.parametrize("worker", [CREATED, waits()])
def test_not_running_before_all_have_started(worker: Shown) -> None:
    job = launched_job()
    decision = job.decide(job.statuses(w1=worker))
    assert (decision.record.state, decision.record.start_time) == (P, None)


def test_a_created_replica_of_a_launched_gang_is_started() -> None:
    job = launched_job()
    assert job.decide(job.statuses(w1=CREATED)).actions == (Start(job.refs("workerpool1-1")),)


def test_what_is_waited_for_is_told() -> None:
    job = launched_job()
    record = job.decide(job.statuses(w1=waits("no GPU is free"))).record
    assert record.message == "workerpool1-1 waits: no GPU is free"


def test_what_is_waited_for_is_not_told_all_the_time() -> None:
    """A thousand replicas that start one after another are not a thousand writes."""
    job = launched_job().but(message="workerpool1-0 waits: its image", update_time=T0 + 9)
    statuses = job.statuses(w1=waits("its image"))
    soon, later = job.decide(statuses, now=T0 + 10), job.decide(statuses, now=T0 + 11)
    assert (soon.record, soon.wake_at) == (job.record, T0 + 11)
    assert later.record.message == "workerpool1-1 waits: its image"


def test_queued_while_a_queue_lets_none_of_it_in() -> None:
    job = launched_job()
    queued = job.decide(job.statuses(queues(), p=queues()), now=T0 + 7).record
    assert (queued.state, queued.start_time) == (Q, None)
    assert queued.message.startswith("workerpool0-0 waits: not admitted yet")
    still = job.but(state=Q, message=queued.message)
    assert still.decide(job.statuses(queues(), p=queues())).record == still.record


@pytest.mark.parametrize("primary", [RUNNING, waits("its image")], ids=["runs", "has a node"])
def test_pending_as_soon_as_a_queue_lets_something_in(primary: Shown) -> None:
    job = launched_job().but(state=Q)
    assert job.decide(job.statuses(queues(), p=primary)).record.state is P
    assert job.decide(job.statuses(RUNNING, p=RUNNING)).record.state is P  # and RUNNING in the next look


def test_a_running_job_whose_replicas_queue_again_runs_on() -> None:
    job = running_job()
    assert job.decide(job.statuses(queues(), p=queues())).record.state is R


def test_a_queued_job_may_succeed_before_anybody_saw_it_run() -> None:
    job = launched_job().but(state=Q)
    assert job.decide(job.statuses(p=exited(0)), now=T0 + 6).record.state is S


def test_the_primary_replica_s_success_is_the_job_s() -> None:
    job = running_job()
    decision = job.decide(job.statuses(p=exited(0)), now=T0 + 6)
    assert (decision.record.state, decision.record.end_time, decision.record.error) == (S, T0 + 6, None)
    assert decision.actions == (
        Stop(job.refs("workerpool1-0", "workerpool1-1"), job.plan.options.stop_grace),
        Remove(job.refs("workerpool0-0")),
    )


def test_a_job_may_succeed_before_anybody_saw_it_run() -> None:
    job = launched_job()
    record = job.decide(job.statuses(p=exited(0), w0=CREATED), now=T0 + 6).record
    assert (record.state, record.start_time) == (S, T0 + 6)


def test_a_worker_that_exits_0_before_the_primary_changes_nothing() -> None:
    job = running_job()
    decision = job.decide(job.statuses(w0=exited(0), w1=exited(0)))
    assert (decision.record, decision.actions, decision.done) == (job.record, (), False)


@pytest.mark.parametrize(("worker_at", "wins"), [(T0 + 4, "failure"), (T0 + 5, "success"), (T0 + 6, "success")])
def test_the_earlier_end_decides_and_the_primary_s_within_one_instant(worker_at: float, wins: str) -> None:
    job = running_job()
    record = job.decide(job.statuses(p=exited(0, at=T0 + 5), w0=exited(1, at=worker_at))).record
    assert (record.state is S) == (wins == "success")


def test_an_end_without_a_time_comes_last() -> None:
    job = running_job()
    assert job.decide(job.statuses(p=exited(0), w0=exited(1, at=None))).record.state is S


def test_nothing_to_do_while_it_runs() -> None:
    job = running_job(timeout="60s")
    decision = job.decide(job.statuses())
    assert (decision.record, decision.actions, decision.wake_at) == (job.record, (), T0 + 60)
