"""The simulation has teeth: each of these mistakes in a rule breaks a history within a few thousand seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from airflow_customjob.backends.base import Observation, Phase, ReplicaStatus
from airflow_customjob.backends.fake import FakeWorld
from airflow_customjob.plan.types import JobPlan
from airflow_customjob.spec.job_state import JobState
from airflow_customjob.supervisor import claims, ownership, rules, supervise
from airflow_customjob.supervisor.follow import LogFollower
from airflow_customjob.supervisor.record import JobRecord
from airflow_customjob.supervisor.rules import Create, Decision, Start
from tests.simulation.run import play

SEEDS = range(1, 4001)

decide, settle = rules.decide, rules.settle


def starts_before_all_exist(plan: JobPlan, record: JobRecord, seen: Observation, now: float) -> Decision:
    decision = decide(plan, record, seen, now)
    created = tuple(status.ref for status in seen.replicas if status.phase is Phase.CREATED)
    eager = created and any(isinstance(action, Create) for action in decision.actions)
    return replace(decision, actions=(*decision.actions, Start(created))) if eager else decision


def counts_exit_codes_after_the_end(record: JobRecord, statuses: Sequence[ReplicaStatus], now: float) -> Decision:
    decision = settle(record, statuses, now)
    if not any(status.exit_code for status in statuses):
        return decision
    return replace(decision, record=replace(decision.record, state=JobState.JOB_STATE_FAILED))


def acts_before_it_writes(plan: JobPlan, record: JobRecord, seen: Observation, now: float) -> Decision:
    """Launching is not recorded: who dies then leaves replicas that run and count as never started."""
    decision = decide(plan, record, seen, now)
    starts = any(isinstance(action, Start) for action in decision.actions)
    return replace(decision, record=record) if starts else decision


def sees_nothing_stale(look: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args: replace(look(*args), stale=())


MISTAKES: dict[str, list[tuple[object, str, object]]] = {
    "the record is written without compare-and-set": [(FakeWorld, "_check_version", lambda *_: None)],
    "replicas start before all exist": [(supervise, "decide", starts_before_all_exist)],
    "exit codes count after the end was written": [(supervise, "settle", counts_exit_codes_after_the_end)],
    "replicas start before that is recorded": [(supervise, "decide", acts_before_it_writes)],
    "stale replicas are not swept away": [(rules, "_look", sees_nothing_stale(rules._look))],
    "what looks stale is stopped without another look at the record": [
        (supervise.Supervisor, "_confirm", lambda self, stored: _nothing())
    ],
    "a failed job is adopted": [
        (ownership, "ADOPTABLE", ownership.ADOPTABLE | {JobState.JOB_STATE_FAILED}),
    ],
    "a changed job is adopted": [
        (
            claims,
            "claim",
            lambda record, owner, digest, engine: ownership.claim(record, owner, record and record.digest, engine),
        )
    ],
    "who lost the job goes on": [(ownership, "drives", lambda *_: True)],
    "a zombie takes the job back": [
        (
            claims,
            "claim",
            lambda record, owner, digest, engine: ownership.Claim.TAKE_OVER if record else ownership.Claim.CREATE,
        )
    ],
    "logs are not read to their end": [(LogFollower, "is_through", lambda self, ref: True)],
    "the whole job starts again for ever": [(rules, "MAX_JOB_RESTARTS", 1000)],
    "a lost replica starts again for ever": [(rules, "MAX_REPLICA_RESTARTS", 1000)],
    "every failure runs the job again": [(rules, "RETRYABLE_EXITS", frozenset(range(1, 256)))],
    "the last failure is told as the cause": [(rules, "order_of_ends", lambda status: (-(status.finished_at or 0), 0))],
    "a job times out as soon as it runs": [(rules, "deadline", lambda plan, record: record.start_time or 1e9)],
}


async def _nothing() -> None: ...


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_breaks_a_history(
    mistake: str, monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, object], None]
) -> None:
    for where, name, wrong in MISTAKES[mistake]:
        monkeypatch.setattr(where, name, wrong)
    for seed in SEEDS:
        _, error = play(seed, cpu_seconds=5)
        if error is not None:
            record_property("broken", f"{seed}: {error}")
            return
    raise AssertionError(f"nothing is broken in {len(SEEDS)} histories although {mistake}")
