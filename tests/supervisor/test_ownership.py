"""Who may have a job, and who may cancel it: each sentence of the ownership rules is a row."""

from __future__ import annotations

from dataclasses import replace

import pytest

from airflow_customjob.supervisor.ownership import UNKNOWN, Canceller, Claim, Verdict, claim, drives, may_cancel
from airflow_customjob.supervisor.record import JobRecord, Owner
from tests.supervisor.jobs import CG, C, E, F, P, Q, R, S, running_job

HELD = Owner("k2", try_number=2, max_tries=3, clear_number=1, where={"dag_id": "d"})
RECORD = replace(running_job().record, owner=HELD, digest="same", engine="here", generation=4)
RETRY = replace(HELD, key="k3", try_number=3)
CLEARED = replace(RETRY, max_tries=6, clear_number=2)


def in_state(state: object) -> JobRecord:
    return replace(RECORD, state=state)  # type: ignore[arg-type]


CLAIMS = {
    "there is no record": (None, HELD, "same", "here", Claim.CREATE),
    "the same task instance goes on": (RECORD, HELD, "same", "here", Claim.GO_ON),
    "also if it renders another spec now": (RECORD, HELD, "other", "here", Claim.GO_ON),
    "also with an ended job": (in_state(F), HELD, "same", "here", Claim.GO_ON),
    "a retry takes over a queued job": (in_state(Q), RETRY, "same", "here", Claim.TAKE_OVER),
    "a retry takes over a pending job": (in_state(P), RETRY, "same", "here", Claim.TAKE_OVER),
    "a retry takes over a running job": (in_state(R), RETRY, "same", "here", Claim.TAKE_OVER),
    "a retry takes over a success": (in_state(S), RETRY, "same", "here", Claim.TAKE_OVER),
    "a failed job is never adopted": (in_state(F), RETRY, "same", "here", Claim.REPLACE),
    "a cancelled job is never adopted": (in_state(C), RETRY, "same", "here", Claim.REPLACE),
    "an expired job is never adopted": (in_state(E), RETRY, "same", "here", Claim.REPLACE),
    "a job that is being cancelled is not adopted": (in_state(CG), RETRY, "same", "here", Claim.REPLACE),
    "a retry with a changed spec starts anew": (RECORD, RETRY, "other", "here", Claim.REPLACE),
    "a clear starts anew": (RECORD, CLEARED, "same", "here", Claim.REPLACE),
    "a clear of a success starts anew": (in_state(S), CLEARED, "same", "here", Claim.REPLACE),
    "more tries alone are a clear of the task": (RECORD, replace(RETRY, max_tries=6), "same", "here", Claim.REPLACE),
    "a cleared run is a clear": (RECORD, replace(RETRY, clear_number=2), "same", "here", Claim.REPLACE),
    "a recreated run begins with its first try": (RECORD, Owner("k9", 1, 3, 1), "same", "here", Claim.REPLACE),
    "a retry in a recreated run takes nothing over": (
        in_state(S),
        replace(RETRY, where={"dag_id": "d", "run_started": "later"}),
        "same",
        "here",
        Claim.REPLACE,
    ),
    "the same try under another id is not a retry": (RECORD, replace(HELD, key="k3"), "same", "here", Claim.REPLACE),
    "an earlier task instance is a zombie": (RECORD, replace(HELD, key="k1"), "same", "here", Claim.REFUSE_LATER_OWNER),
    "also one with a higher try": (RECORD, Owner("k1", 9, 3, 1), "same", "here", Claim.REFUSE_LATER_OWNER),
    "another engine is an error": (RECORD, RETRY, "same", "there", Claim.REFUSE_ENGINE),
    "also for the owner itself": (RECORD, HELD, "same", "there", Claim.REFUSE_ENGINE),
}


@pytest.mark.parametrize(("record", "owner", "digest", "engine", "verdict"), CLAIMS.values(), ids=CLAIMS)
def test_claim(record: JobRecord | None, owner: Owner, digest: str, engine: str, verdict: Claim) -> None:
    assert claim(record, owner, digest, engine) is verdict


@pytest.mark.parametrize(
    ("key", "generation", "may"),
    [("k2", 4, True), ("k2", 3, False), ("k2", 5, False), ("k1", 4, False), ("k3", 4, False)],
)
def test_only_the_owner_of_this_generation_changes_anything(key: str, generation: int, may: bool) -> None:
    assert drives(RECORD, replace(HELD, key=key), generation) is may


USER, OPERATOR, TRIGGER, SWEEP = Canceller.USER, Canceller.OPERATOR, Canceller.TRIGGER, Canceller.SWEEP
CANCELS = {
    "a user cancels": (USER, {}, Verdict.CANCEL),
    "a user cancels this generation": (USER, {"generation": 4}, Verdict.CANCEL),
    "a user meant an older generation": (USER, {"generation": 3}, Verdict.LEAVE),
    "the operator of a failed task": (OPERATOR, {"owner": HELD, "task_state": "failed"}, Verdict.CANCEL),
    "the operator of a task marked a success": (OPERATOR, {"owner": HELD, "task_state": "success"}, Verdict.CANCEL),
    "the operator of a cleared task": (OPERATOR, {"owner": HELD, "task_state": None}, Verdict.CANCEL),
    "a worker that shuts down, without retries": (OPERATOR, {"owner": HELD, "task_state": "running"}, Verdict.CANCEL),
    "a worker that shuts down, the task comes back": (
        OPERATOR,
        {"owner": HELD, "task_state": "running", "will_retry": True},
        Verdict.LEAVE,
    ),
    "a failed task that could be retried": (
        OPERATOR,
        {"owner": HELD, "task_state": "failed", "will_retry": True},
        Verdict.CANCEL,
    ),
    "an operator whose job somebody else has": (OPERATOR, {"owner": RETRY, "task_state": "failed"}, Verdict.LEAVE),
    "an operator without a name": (OPERATOR, {"task_state": "failed"}, Verdict.LEAVE),
    "a trigger of a failed task": (TRIGGER, {"owner": HELD, "task_state": "failed"}, Verdict.CANCEL),
    "a trigger of a cleared task": (TRIGGER, {"owner": HELD, "task_state": None}, Verdict.CANCEL),
    "a trigger that only moves": (TRIGGER, {"owner": HELD, "task_state": "deferred"}, Verdict.LEAVE),
    "a trigger that cannot read its task's state": (TRIGGER, {"owner": HELD, "task_state": UNKNOWN}, Verdict.ASK_AGAIN),
    "a trigger whose job somebody else has": (TRIGGER, {"owner": RETRY, "task_state": "failed"}, Verdict.LEAVE),
    "a sweep, the owner failed": (SWEEP, {"task_state": "failed"}, Verdict.CANCEL),
    "a sweep, the owner is gone": (SWEEP, {"task_state": "gone"}, Verdict.CANCEL),
    "a sweep, the owner was removed from its DAG": (SWEEP, {"task_state": "removed"}, Verdict.CANCEL),
    "a sweep, the owner runs": (SWEEP, {"task_state": "running"}, Verdict.LEAVE),
    "a sweep, the owner is deferred": (SWEEP, {"task_state": "deferred"}, Verdict.LEAVE),
    "a sweep, the owner is to be retried": (SWEEP, {"task_state": "up_for_retry"}, Verdict.LEAVE),
    "a sweep, the owner was cleared": (SWEEP, {"task_state": None}, Verdict.LEAVE),
    "a sweep that cannot read the state": (SWEEP, {"task_state": UNKNOWN}, Verdict.LEAVE),
}


@pytest.mark.parametrize(("who", "said", "verdict"), CANCELS.values(), ids=CANCELS)
def test_may_cancel(who: Canceller, said: dict[str, object], verdict: Verdict) -> None:
    assert may_cancel(RECORD, who, **said) is verdict  # type: ignore[arg-type]


@pytest.mark.parametrize("who", Canceller)
@pytest.mark.parametrize("state", [S, F, C, E])
def test_an_ended_job_is_left_alone(who: Canceller, state: object) -> None:
    assert may_cancel(in_state(state), who, owner=HELD, task_state="failed") is Verdict.LEAVE
