"""The rules of a CustomJob. Everything that decides what happens to a job is in this file, and none of it does I/O.

Theory of operation
-------------------
A supervisor reads the job's record, then lists the job's replicas, then calls :func:`decide`. If the record that comes
back differs, the supervisor writes it by compare-and-set; only when that write went through does it apply the actions.
Any number of supervisors may do so at once: of two that decided on the same record one writes first, the other reads again.

A replica object is named by its incarnation (generation, attempt, replica, restart). The record says which incarnation of
each replica is the present one; an object of any other is *stale*: it is stopped and removed, and nothing is created
before the last stale one is gone. So there is one gang at a time, whoever else is still at work.

``record.unlaunched`` names the replicas whose present incarnation nobody may have started. Such a replica is created when
it is missing. Once all of them exist, ``unlaunched`` is emptied in the record, and then they are started: all or nothing.
A replica that is not in ``unlaunched`` and is missing has therefore been *lost*.

An end is written before it is carried out: the terminal state is recorded first, then the replicas are stopped and
removed. Exit codes seen after that no longer count.

Sources: Vertex AI documentation, 'Understand the custom training service' and 'Troubleshooting'; custom_job.proto.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from airflow_customjob.backends.base import LaunchRefused, Observation, Phase, Reason, ReplicaRef, ReplicaStatus
from airflow_customjob.plan.types import JobPlan
from airflow_customjob.spec.job_state import JobState
from airflow_customjob.supervisor.record import JobError, JobRecord, touched
from airflow_customjob.supervisor.sentences import MAX_REFUSAL, failure_message, failure_sentence, worth_telling

RETRYABLE_EXITS = frozenset({6, 11, 134, 139})
"""SIGABRT and SIGSEGV, as exit codes and as 128+N: the whole job runs again (Vertex AI, Troubleshooting)."""
MAX_JOB_RESTARTS = 3
"""Restarts of the whole job (Vertex AI: 'the whole job is retried up to three times')."""
MAX_REPLICA_RESTARTS = 5
"""Restarts of one replica after the infrastructure took it away (Vertex AI: 'up to five restarts per worker')."""
TELL_AGAIN = 2.0
"""Seconds between two changes of what the record tells of waiting: a thousand replicas start one after another."""

OK, CANCELLED, INVALID_ARGUMENT, INTERNAL = 0, 1, 3, 13
"""google.rpc codes; code 3 for user errors was seen in Vertex AI's own job errors."""

TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    JobState.JOB_STATE_QUEUED: frozenset(
        {
            JobState.JOB_STATE_PENDING,
            JobState.JOB_STATE_SUCCEEDED,
            JobState.JOB_STATE_FAILED,
            JobState.JOB_STATE_CANCELLING,
        }
    ),
    JobState.JOB_STATE_PENDING: frozenset(
        {
            JobState.JOB_STATE_QUEUED,
            JobState.JOB_STATE_RUNNING,
            JobState.JOB_STATE_SUCCEEDED,
            JobState.JOB_STATE_FAILED,
            JobState.JOB_STATE_CANCELLING,
        }
    ),
    JobState.JOB_STATE_RUNNING: frozenset(
        {
            JobState.JOB_STATE_SUCCEEDED,
            JobState.JOB_STATE_FAILED,
            JobState.JOB_STATE_CANCELLED,
            JobState.JOB_STATE_EXPIRED,
            JobState.JOB_STATE_CANCELLING,
        }
    ),
    JobState.JOB_STATE_CANCELLING: frozenset({JobState.JOB_STATE_CANCELLED}),
}
"""Every change of state there is within a generation; the documentation's state diagram is drawn from it."""


@dataclass(frozen=True)
class Prepare:
    """Pull images, install packages, choose ports."""


@dataclass(frozen=True)
class Create:
    refs: tuple[ReplicaRef, ...]


@dataclass(frozen=True)
class Start:
    refs: tuple[ReplicaRef, ...]


@dataclass(frozen=True)
class Stop:
    refs: tuple[ReplicaRef, ...]
    grace: float


@dataclass(frozen=True)
class Remove:
    """Remove ended or never started replicas, after their logs were read to the end."""

    refs: tuple[ReplicaRef, ...]


@dataclass(frozen=True)
class Release:
    """No replica is left: remove what else the job had."""


Action = Prepare | Create | Start | Stop | Remove | Release


@dataclass(frozen=True)
class Decision:
    """What to record and what to do.

    :param record: equal to the given one where nothing is to be written.
    :param actions: in order; only after the record was written.
    :param wake_at: when to decide again at the latest, in seconds since the epoch, even if nothing is heard.
    :param done: the job has ended and nothing of it is left.
    """

    record: JobRecord
    actions: tuple[Action, ...] = ()
    wake_at: float = math.inf
    done: bool = False


@dataclass(frozen=True)
class _Sight:
    """The observation, sorted by what the record says of each incarnation."""

    present: dict[str, ReplicaStatus]
    stale: tuple[ReplicaStatus, ...]
    unlaunched: frozenset[str]
    missing: tuple[str, ...]
    lost: tuple[ReplicaStatus, ...]
    ends: tuple[ReplicaStatus, ...] = field(default=())


def decide(plan: JobPlan, record: JobRecord, seen: Observation, now: float) -> Decision:
    """What follows from what is recorded and seen.

    :param plan: made from ``record.request``, ``record.generation`` and ``record.prepared``.
    :param record: as read before the replicas were listed.
    :param seen: as listed after the record was read.
    :param now: seconds since the epoch.
    """
    if record.settled:
        return settle(record, seen.replicas, now)
    if seen.refused is not None:
        return _refuse(record, seen.refused, seen.replicas, now)
    if record.prepared is None:
        return _prepare(record, seen, now)
    sight = _look(plan, record, seen.replicas)
    end = _end(plan, record, sight, now)
    if end is not None:
        return end
    if seen.busy and sight.missing:
        return _queue(plan, record, sight, seen.busy, now)
    return _drive(plan, record, sight, now)


def settle(record: JobRecord, statuses: Sequence[ReplicaStatus], now: float) -> Decision:
    """What follows for a job that has ended or is being cancelled. It needs no plan: a request that this version refuses is
    cancelled and cleared away like any other."""
    if record.state.terminal:
        return _clear_away(record, statuses)
    return _cancel(record, statuses, now)


def _look(plan: JobPlan, record: JobRecord, statuses: Sequence[ReplicaStatus]) -> _Sight:
    refs = {ref: ref.replica for ref in record.refs(plan)}
    present = {refs[status.ref]: status for status in statuses if status.ref in refs}
    names = tuple(replica.name for replica in plan.replicas)
    unlaunched = frozenset(names if record.unlaunched is None else record.unlaunched)
    missing = tuple(name for name in names if name not in present)
    gone = (
        ReplicaStatus(record.ref(name), Phase.LOST, reason=Reason.LOST, message="its object is gone from the engine")
        for name in missing
        if name not in unlaunched
    )
    ended = (status for status in present.values() if status.phase is Phase.LOST)
    ends = [
        s
        for s in present.values()
        if s.phase is Phase.EXITED and (s.exit_code != 0 or s.ref.replica == plan.primary.name)
    ]
    return _Sight(
        present=present,
        stale=tuple(status for status in statuses if status.ref not in refs),
        unlaunched=unlaunched,
        missing=missing,
        lost=(*ended, *gone),
        ends=tuple(sorted(ends, key=order_of_ends)),
    )


def order_of_ends(status: ReplicaStatus) -> tuple[float, bool]:
    """By time; within one tick of a coarse clock the primary's success comes first: others often fail because of it."""
    return math.inf if status.finished_at is None else status.finished_at, status.exit_code != 0


# -- the ways a job ends or starts again ----------------------------------------------------------------------------


def _end(plan: JobPlan, record: JobRecord, sight: _Sight, now: float) -> Decision | None:
    """The first replica whose end decides, then lost replicas, then the timeout; None: nothing has ended."""
    if sight.ends:
        first = sight.ends[0]
        if first.exit_code == 0:
            return _finish(record, sight, JobState.JOB_STATE_SUCCEEDED, None, now)
        if is_retryable(first) and may_restart_job(plan, record):
            return _restart_job(record, sight, worth_telling([first]), now)
        failures = worth_telling(status for status in sight.ends if status.exit_code != 0)
        error = JobError(INVALID_ARGUMENT, failure_message(failures))
        return _finish(record, sight, JobState.JOB_STATE_FAILED, error, now, failures)
    if sight.lost:
        return _recover(plan, record, sight, now)
    if now >= deadline(plan, record):
        state = JobState[f"JOB_STATE_{plan.options.timeout_state}"]
        message = f"The job ran for its whole timeout of {_seconds(plan.timeout)} (job_spec.scheduling.timeout) and was stopped."
        return _finish(record, sight, state, JobError(CANCELLED, message), now)
    return None


def is_retryable(status: ReplicaStatus) -> bool:
    """Whether this end runs the whole job again: SIGABRT or SIGSEGV, and not for want of memory or a command."""
    return status.exit_code in RETRYABLE_EXITS and status.reason in (Reason.ERROR, None)


def may_restart_job(plan: JobPlan, record: JobRecord) -> bool:
    return not plan.disable_retries and record.job_restarts < MAX_JOB_RESTARTS


def deadline(plan: JobPlan, record: JobRecord) -> float:
    """When the timeout passes: measured from the first RUNNING, across restarts."""
    return math.inf if record.start_time is None or not plan.timeout else record.start_time + plan.timeout


def _recover(plan: JobPlan, record: JobRecord, sight: _Sight, now: float) -> Decision:
    names = [status.ref.replica for status in sight.lost]
    spent = any(record.restarts.get(name, 0) >= MAX_REPLICA_RESTARTS for name in names)
    told = worth_telling(sorted(sight.lost, key=lambda s: record.restarts.get(s.ref.replica, 0) < MAX_REPLICA_RESTARTS))
    whole_job = plan.restart_job_on_worker_restart or spent
    if plan.disable_retries or (whole_job and not may_restart_job(plan, record)):
        message = "\n\n".join(
            f"Internal error occurred for the current attempt: the replica {s.ref.replica} was lost. {s.message}".rstrip()
            for s in told
        )
        return _finish(record, sight, JobState.JOB_STATE_FAILED, JobError(INTERNAL, message), now, told)
    if whole_job:
        return _restart_job(record, sight, told, now)
    restarts = record.restarts | {name: record.restarts.get(name, 0) + 1 for name in names}
    again = touched(
        record,
        now,
        restarts=restarts,
        unlaunched=tuple(sorted({*sight.unlaunched, *names})),
        message="; ".join(
            f"{s.ref.replica} was lost and starts again ({restarts[s.ref.replica]} of {MAX_REPLICA_RESTARTS}): {s.message}"
            for s in told
        ),
    )
    return Decision(again, _sweep(record, [s for s in sight.lost if s.ref.replica in sight.present]), wake_at=now)


def _restart_job(record: JobRecord, sight: _Sight, why: tuple[ReplicaStatus, ...], now: float) -> Decision:
    cause = "; ".join(
        failure_sentence(s)
        if s.phase is Phase.EXITED
        else f"The replica {s.ref.replica} was lost. {s.message}".rstrip()
        for s in why
    )
    again = touched(
        record,
        now,
        attempt=record.attempt + 1,
        unlaunched=None,
        restarts={},
        failed=why,
        message=f"the whole job starts again ({record.job_restarts + 1} of {MAX_JOB_RESTARTS}): {cause}",
    )
    return Decision(again, _sweep(record, [*sight.present.values(), *sight.stale]), wake_at=now)


def _finish(
    record: JobRecord,
    sight: _Sight,
    state: JobState,
    error: JobError | None,
    now: float,
    failed: tuple[ReplicaStatus, ...] = (),
) -> Decision:
    ended = _ended(record, state, error, now, failed)
    if ended.start_time is None and state is JobState.JOB_STATE_SUCCEEDED:
        ended = replace(ended, start_time=ended.end_time)
    return Decision(ended, _sweep(record, [*sight.present.values(), *sight.stale]), wake_at=now)


def _ended(
    record: JobRecord, state: JobState, error: JobError | None, now: float, failed: tuple[ReplicaStatus, ...] = ()
) -> JobRecord:
    """Another host may have recorded the start, by a clock that is ahead of this one's."""
    end_time = max(now, record.start_time or now)
    return touched(record, now, state=state, end_time=end_time, error=error, failed=failed, message="")


def _refuse(record: JobRecord, refused: LaunchRefused, statuses: Sequence[ReplicaStatus], now: float) -> Decision:
    error = JobError(refused.code, refused.message[:MAX_REFUSAL])
    return Decision(_ended(record, JobState.JOB_STATE_FAILED, error, now), _sweep(record, statuses), wake_at=now)


def _cancel(record: JobRecord, statuses: Sequence[ReplicaStatus], now: float) -> Decision:
    at_work = [status for status in statuses if not status.ended]
    if at_work:
        return Decision(record, _sweep(record, at_work), wake_at=now)
    error = record.error or JobError(CANCELLED, "The job was cancelled.")
    return Decision(_ended(record, JobState.JOB_STATE_CANCELLED, error, now), wake_at=now)


def cancelling(record: JobRecord, why: str, now: float) -> JobRecord:
    """The record of a job that is to be cancelled; the rules do the rest. A terminal or cancelling one stays as it is."""
    if record.state.terminal or record.state is JobState.JOB_STATE_CANCELLING:
        return record
    return touched(record, now, state=JobState.JOB_STATE_CANCELLING, error=JobError(CANCELLED, why), message=why)


# -- the way to RUNNING ---------------------------------------------------------------------------------------------


def _prepare(record: JobRecord, seen: Observation, now: float) -> Decision:
    """Settle images, packages and ports; meanwhile replicas of an earlier generation are stopped and removed."""
    earlier = [status for status in seen.replicas if status.ref.generation != record.generation]
    if earlier:
        return Decision(record, _sweep(record, earlier), wake_at=now)
    if seen.prepared is None:
        return Decision(record, (Prepare(),), wake_at=now)
    return Decision(touched(record, now, prepared=seen.prepared, state=JobState.JOB_STATE_PENDING), wake_at=now)


def _queue(plan: JobPlan, record: JobRecord, sight: _Sight, why: str, now: float) -> Decision:
    """The engine has no room now: tell it; a gang gives back what was created, so that two jobs never hold half of what each needs.

    What is given back counts as an attempt: another supervisor may be about to start it, and is then overtaken.
    """
    if not plan.options.gang or len(sight.unlaunched) < len(plan.replicas):
        told = record if record.message == why else touched(record, now, message=why)
        return Decision(told, wake_at=now) if told != record else _drive(plan, record, sight, now)
    if sight.present:
        record = touched(record, now, attempt=record.attempt + 1, queued=record.queued + 1, unlaunched=None)
    state = JobState.JOB_STATE_QUEUED if record.start_time is None else record.state
    if (record.state, record.message) != (state, why):
        record = touched(record, now, state=state, message=why)
    return Decision(record, _sweep(record, [*sight.present.values(), *sight.stale]), wake_at=now)


def _drive(plan: JobPlan, record: JobRecord, sight: _Sight, now: float) -> Decision:
    wake_at = deadline(plan, record)
    if sight.stale:
        return Decision(record, _sweep(record, sight.stale), wake_at=now)
    to_create = tuple(record.ref(name) for name in sight.missing)
    created = {name for name, status in sight.present.items() if status.phase is Phase.CREATED}
    to_launch = sight.unlaunched - set(sight.missing)
    if to_launch and (not to_create or not plan.options.gang):
        left = tuple(name for name in sight.missing if name in sight.unlaunched)
        launched = touched(record, now, unlaunched=left, state=_at_least_pending(record.state))
        starts = Start(_in_rank_order(plan, record, created))
        creates = (Create(to_create),) if to_create else ()
        return Decision(launched, (starts, *creates), wake_at=now)
    if to_create:
        return Decision(record, (Create(to_create),), wake_at=now)
    if created:
        return Decision(record, (Start(_in_rank_order(plan, record, created)),), wake_at=now)
    waiting = [status for status in sight.present.values() if status.phase is Phase.WAITING]
    message = "; ".join(f"{status.ref.replica} waits: {status.message}" for status in worth_telling(waiting))
    queued = record.start_time is None and all(status.queued for status in sight.present.values())
    state = JobState.JOB_STATE_QUEUED if queued else _at_least_pending(record.state)
    if state is not record.state:
        return Decision(touched(record, now, state=state, message=message), wake_at=now)
    if not waiting and record.start_time is None:
        running = touched(record, now, state=JobState.JOB_STATE_RUNNING, start_time=now, message="")
        return Decision(running, wake_at=deadline(plan, running))
    if record.state is not JobState.JOB_STATE_RUNNING and message != record.message:
        if record.message and now < record.update_time + TELL_AGAIN:
            return Decision(record, wake_at=min(wake_at, record.update_time + TELL_AGAIN))
        return Decision(touched(record, now, message=message), wake_at=wake_at)
    return Decision(record, wake_at=wake_at)


def _at_least_pending(state: JobState) -> JobState:
    return JobState.JOB_STATE_PENDING if state is JobState.JOB_STATE_QUEUED else state


def _in_rank_order(plan: JobPlan, record: JobRecord, names: Iterable[str]) -> tuple[ReplicaRef, ...]:
    wanted = set(names)
    return tuple(record.ref(replica.name) for replica in plan.replicas if replica.name in wanted)


# -- clearing away --------------------------------------------------------------------------------------------------


def _clear_away(record: JobRecord, statuses: Sequence[ReplicaStatus]) -> Decision:
    if statuses:
        return Decision(record, _sweep(record, statuses), wake_at=record.update_time)
    return Decision(record, (Release(),), done=True)


def _sweep(record: JobRecord, statuses: Sequence[ReplicaStatus]) -> tuple[Action, ...]:
    """Stop what runs, remove what does not."""
    running = tuple(status.ref for status in statuses if status.phase in (Phase.RUNNING, Phase.WAITING))
    idle = tuple(status.ref for status in statuses if status.phase not in (Phase.RUNNING, Phase.WAITING))
    stop: tuple[Action, ...] = (Stop(running, record.request.options.stop_grace),) if running else ()
    remove: tuple[Action, ...] = (Remove(idle),) if idle else ()
    return stop + remove


def _seconds(value: float) -> str:
    return f"{value:g} s"
