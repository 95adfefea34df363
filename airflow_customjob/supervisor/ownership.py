"""Who owns a job: what makes 'exactly once' true. Every rule of ownership is in this file, and none is anywhere else.

A job's names follow from its identity, so every try of an Airflow task meets the same record. Its owner is the task
instance that claimed it last. Task-instance ids are UUIDv7, so of two keys the greater is the later one. Seen on Airflow
3.3: a clear gives a new id and raises ``max_tries`` and the run's ``clear_number``; a retry gives a new id and a higher
``try_number`` and leaves both; a deleted and recreated run starts all of them anew, under a later id, and has another start.
"""

from __future__ import annotations

from enum import StrEnum

from airflow_customjob.spec.job_state import JobState
from airflow_customjob.supervisor.record import JobRecord, Owner

ADOPTABLE = frozenset(
    {
        JobState.JOB_STATE_QUEUED,
        JobState.JOB_STATE_PENDING,
        JobState.JOB_STATE_RUNNING,
        JobState.JOB_STATE_SUCCEEDED,
    }
)
"""States that a retry takes over. A failed or cancelled job is never adopted: the retry is there to run it again."""


class Claim(StrEnum):
    """What a claimant may do with the record it found."""

    CREATE = "create"
    """There is no record: write the first."""
    GO_ON = "go on"
    """It is the claimant's own: drive the record's request, not a newly rendered one."""
    TAKE_OVER = "take over"
    """Become the owner of the same generation, by compare-and-set."""
    REPLACE = "replace"
    """Become the owner of generation + 1; what is left of the old one is stopped before anything new is created."""
    REFUSE_ENGINE = "refuse: another engine"
    """The record was made on another engine: an error, never a create."""
    REFUSE_LATER_OWNER = "refuse: a later owner"
    """A later task instance owns the job: the claimant is a zombie and changes nothing."""


def claim(record: JobRecord | None, owner: Owner, digest: str, engine: str) -> Claim:
    """What ``owner``, who asks for ``digest`` on ``engine``, may do with ``record``. The first row that fits decides."""
    if record is None:
        return Claim.CREATE
    held = record.owner
    same_try_chain = _chain(owner) == _chain(held)
    rows = (
        (record.engine != engine, Claim.REFUSE_ENGINE),
        (owner.key == held.key, Claim.GO_ON),
        (owner.key < held.key, Claim.REFUSE_LATER_OWNER),
        (
            owner.try_number > held.try_number
            and same_try_chain
            and digest == record.digest
            and record.state in ADOPTABLE,
            Claim.TAKE_OVER,
        ),
    )
    return next((verdict for fits, verdict in rows if fits), Claim.REPLACE)


def _chain(owner: Owner) -> tuple[int, int, str]:
    """What all tries of a task have in common that one may take over from another."""
    return owner.max_tries, owner.clear_number, owner.where.get("run_started", "")


def drives(record: JobRecord, owner: Owner, generation: int) -> bool:
    """Whether this owner, who claimed this generation, may still change anything."""
    return record.owner.key == owner.key and record.generation == generation


class Canceller(StrEnum):
    """On whose word a job is to be cancelled."""

    USER = "user"
    """``customjob cancel`` or the client; names a generation."""
    OPERATOR = "operator"
    """An operator's on_kill: a task marked failed, cleared, timed out, or a worker's SIGTERM (a rolling deploy)."""
    TRIGGER = "trigger"
    """A trigger's on_kill; fires also when the trigger moves to another triggerer, while its task stays deferred."""
    SWEEP = "sweep"
    """A live supervisor or ``gc``, looking for jobs whose owner is gone."""


class Verdict(StrEnum):
    CANCEL = "cancel"
    LEAVE = "leave"
    ASK_AGAIN = "ask again"
    """The task's state could not be read: try again for some minutes, then leave."""


UNKNOWN = "unknown"
"""Task state that could not be read."""
GONE = "gone"
"""Task state of a task instance that no longer exists."""
ENDED_TASK = frozenset({"success", "failed", "skipped", "upstream_failed", "removed", GONE})


def may_cancel(
    record: JobRecord,
    who: Canceller,
    *,
    owner: Owner | None = None,
    generation: int | None = None,
    task_state: str | None = None,
    will_retry: bool = False,
) -> Verdict:
    """Whether ``who`` may cancel the job. The first row that fits decides.

    :param owner: the task instance that asks (operator, trigger).
    :param generation: the generation that is meant (user); None means the present one.
    :param task_state: state of the asking or owning task in Airflow's database (None: cleared; :data:`UNKNOWN`, :data:`GONE`).
    :param will_retry: Airflow would start this task again if its process died now.
    """
    by_task = who in (Canceller.OPERATOR, Canceller.TRIGGER)
    rows = (
        (record.state.terminal, Verdict.LEAVE),
        (who is Canceller.USER, Verdict.CANCEL if generation in (None, record.generation) else Verdict.LEAVE),
        (by_task and (owner is None or owner.key != record.owner.key), Verdict.LEAVE),
        (who is Canceller.TRIGGER and task_state == "deferred", Verdict.LEAVE),
        (who is Canceller.TRIGGER and task_state == UNKNOWN, Verdict.ASK_AGAIN),
        (who is Canceller.OPERATOR and task_state == "running" and will_retry, Verdict.LEAVE),
        (who is Canceller.SWEEP and task_state not in ENDED_TASK, Verdict.LEAVE),
    )
    return next((verdict for fits, verdict in rows if fits), Verdict.CANCEL)
