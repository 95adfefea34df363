"""What holds of every decision, whatever is recorded and seen: found by Hypothesis."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_customjob.backends.base import LaunchRefused, Phase, Reason, ReplicaStatus
from airflow_customjob.plan.types import JobOptions, Prepared
from airflow_customjob.spec.job_state import JobState
from airflow_customjob.supervisor.record import JobError
from airflow_customjob.supervisor.rules import (
    MAX_JOB_RESTARTS,
    MAX_REPLICA_RESTARTS,
    TRANSITIONS,
    Create,
    Decision,
    Prepare,
    Release,
    Remove,
    Start,
    Stop,
)
from tests.supervisor.jobs import (
    CG,
    CREATED,
    RUNNING,
    T0,
    Job,
    P,
    Q,
    R,
    Shown,
    exited,
    lost,
    new_job,
    queues,
    running_job,
    waits,
)

ENDS = [state for state in TRANSITIONS[R] | TRANSITIONS[CG] if state.terminal]
SHOWN = st.one_of(
    st.sampled_from((CREATED, RUNNING, waits(), queues(), lost())),
    st.builds(
        Shown,
        st.just(Phase.EXITED),
        st.sampled_from((0, 0, 1, 6, 137, 139, 255)),
        st.sampled_from((Reason.ERROR, Reason.OOM_KILLED, Reason.START_ERROR, None)),
        finished_at=st.none() | st.floats(T0, T0 + 9),
    ),
)


@st.composite
def situations(draw: st.DrawFn) -> tuple[Job, tuple[ReplicaStatus, ...], Decision]:
    """A job in any state that the rules lead to, anything an engine may show of it, and what follows."""
    options = JobOptions(gang=draw(st.booleans()), timeout_state=draw(st.sampled_from(("CANCELLED", "FAILED"))))
    scheduling = {key: draw(st.booleans()) for key in ("disableRetries", "restartJobOnWorkerRestart")}
    job = new_job((1, draw(st.integers(0, 3))), options, timeout="8s", **scheduling)
    state = draw(st.sampled_from((Q, P, R, CG, *ENDS)))
    prepared = None if state is Q and draw(st.booleans()) else Prepared()
    names = st.sampled_from(job.names)
    unlaunched = draw(st.none() | st.sets(names).map(sorted).map(tuple))
    job = job.but(
        state=state,
        generation=draw(st.integers(1, 2)),
        attempt=draw(st.integers(0, MAX_JOB_RESTARTS)),
        restarts=draw(st.dictionaries(names, st.integers(1, MAX_REPLICA_RESTARTS))),
        prepared=prepared,
        unlaunched=None if state is Q else unlaunched,
        start_time={Q: None, P: None, R: T0}.get(state, draw(st.sampled_from((None, T0)))),
        error=JobError(1, "somebody cancelled it") if state is CG else None,
    )
    waiting = set(job.names if job.record.unlaunched is None else job.record.unlaunched)
    present = [status for status in job.statuses() if draw(st.booleans())]
    statuses = [replace_shown(s, CREATED if s.ref.replica in waiting else draw(SHOWN)) for s in present]
    for _ in range(draw(st.integers(0, 2))):
        older = replace(job.record.ref(draw(names)), generation=draw(st.integers(0, job.record.generation - 1)))
        statuses.append(replace_shown(ReplicaStatus(older, Phase.RUNNING), draw(SHOWN)))
    statuses = list({status.ref: status for status in statuses}.values())
    seen = draw(
        st.sampled_from(
            ({}, {}, {"busy": "every GPU is leased"}, {"refused": LaunchRefused("no")}, {"prepared": Prepared()})
        )
    )
    decision = job.decide(statuses, now=T0 + draw(st.sampled_from((1, 7, 8, 100))), **seen)
    return job, tuple(statuses), decision


def replace_shown(status: ReplicaStatus, it: Shown) -> ReplicaStatus:
    return replace(
        status,
        phase=it.phase,
        exit_code=it.exit_code,
        reason=it.reason,
        finished_at=it.finished_at,
        started_at=None,
        queued=it.queued,
    )


@given(situations())
def test_states_follow_the_table(situation: tuple[Job, tuple[ReplicaStatus, ...], Decision]) -> None:
    job, _, decision = situation
    before, after = job.record.state, decision.record.state
    assert after is before or after in TRANSITIONS.get(before, ())


@given(situations())
def test_an_end_is_final(situation: tuple[Job, tuple[ReplicaStatus, ...], Decision]) -> None:
    job, statuses, decision = situation
    if job.record.state.terminal:
        assert decision.record == job.record
        assert all(isinstance(action, Stop | Remove | Release) for action in decision.actions)
        assert decision.done == (not statuses)


@given(situations())
def test_an_end_is_written_with_its_time_and_its_reason(
    situation: tuple[Job, tuple[ReplicaStatus, ...], Decision],
) -> None:
    job, _, decision = situation
    record = decision.record
    if record.state.terminal and not job.record.state.terminal:
        assert record.end_time is not None
        assert record.start_time is None or record.start_time <= record.end_time
        assert (record.error is None) == record.state.succeeded


@given(situations())
def test_nothing_is_created_or_started_beside_a_stale_replica(
    situation: tuple[Job, tuple[ReplicaStatus, ...], Decision],
) -> None:
    job, statuses, decision = situation
    present = set(job.record.refs(job.plan))
    if any(status.ref not in present for status in statuses):
        assert not any(isinstance(action, Create | Start) for action in decision.actions)


@given(situations())
def test_only_the_present_incarnation_is_created_or_started(
    situation: tuple[Job, tuple[ReplicaStatus, ...], Decision],
) -> None:
    _, statuses, decision = situation
    present = set(decision.record.refs(situation[0].plan))
    created = {status.ref for status in statuses if status.phase is Phase.CREATED}
    for action in decision.actions:
        if isinstance(action, Create):
            assert set(action.refs) <= present - {status.ref for status in statuses}
        if isinstance(action, Start):
            assert set(action.refs) <= present & created
            assert not {ref.replica for ref in action.refs} & set(decision.record.unlaunched or ())


@given(situations())
def test_all_or_nothing(situation: tuple[Job, tuple[ReplicaStatus, ...], Decision]) -> None:
    job, statuses, decision = situation
    if job.plan.options.gang and any(isinstance(action, Start) for action in decision.actions):
        assert {status.ref for status in statuses} >= set(job.record.refs(job.plan))


@given(situations())
def test_counts_stay_within_their_limits(situation: tuple[Job, tuple[ReplicaStatus, ...], Decision]) -> None:
    job, _, decision = situation
    before, after = job.record, decision.record
    assert before.job_restarts <= after.job_restarts <= MAX_JOB_RESTARTS
    assert before.attempt <= after.attempt
    assert max(after.restarts.values(), default=0) <= MAX_REPLICA_RESTARTS
    assert after.start_time == before.start_time or before.start_time is None
    if job.plan.disable_retries:
        assert (after.job_restarts, after.restarts) == (before.job_restarts, before.restarts)


@given(situations())
def test_what_is_removed_was_not_seen_at_work(situation: tuple[Job, tuple[ReplicaStatus, ...], Decision]) -> None:
    _, statuses, decision = situation
    at_work = {status.ref for status in statuses if status.phase in (Phase.RUNNING, Phase.WAITING)}
    for action in decision.actions:
        if isinstance(action, Remove):
            assert not set(action.refs) & at_work
        if isinstance(action, Stop):
            assert set(action.refs) <= at_work


@given(situations())
def test_with_an_engine_that_does_as_asked_every_job_comes_to_its_end(
    situation: tuple[Job, tuple[ReplicaStatus, ...], Decision],
) -> None:
    job, statuses, _ = situation
    shown = {status.ref: status for status in statuses}
    now, prepared = T0 + 10, None
    for _ in range(100):
        decision = job.decide(tuple(shown.values()), now=now, prepared=prepared)
        if decision.done:
            assert not shown
            return
        at_rest = decision.record == job.record and not decision.actions
        job = Job(job.plan, decision.record)
        for action in decision.actions:
            match action:
                case Prepare():
                    prepared = Prepared()
                case Create(refs):
                    shown |= {ref: ReplicaStatus(ref, Phase.CREATED) for ref in refs}
                case Start(refs):
                    shown |= {ref: replace(shown[ref], phase=Phase.RUNNING) for ref in refs}
                case Stop(refs):
                    ended = {"phase": Phase.EXITED, "exit_code": 143, "finished_at": now}
                    shown |= {ref: replace(shown[ref], **ended) for ref in refs}
                case Remove(refs):
                    shown = {ref: status for ref, status in shown.items() if ref not in refs}
        if at_rest:
            primary = job.record.ref("workerpool0-0")
            shown[primary] = replace_shown(shown[primary], exited(0, at=now))
        now += 0.01
    raise AssertionError(f"no end in sight: {job.record}, {shown}")


@pytest.mark.parametrize("state", ENDS)
def test_clearing_away(state: JobState) -> None:
    job = running_job().but(state=state)
    busy = job.decide(job.statuses(w0=exited(0), w1=CREATED))
    assert busy.actions == (
        Stop(job.refs("workerpool0-0"), job.plan.options.stop_grace),
        Remove(job.refs("workerpool1-0", "workerpool1-1")),
    )
    over = job.decide(())
    assert (over.actions, over.done, over.record) == ((Release(),), True, job.record)
