"""What is left on an engine, and what becomes of it: pure judgement in :func:`verdict_on`, carried out by :func:`collect`."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum

from airflow_customjob.backends.base import (
    Engine,
    EngineError,
    JobObjects,
    KeepsInstallations,
    RecordConflict,
    Retention,
)
from airflow_customjob.plan.types import JobId
from airflow_customjob.spec.problem import SpecError
from airflow_customjob.supervisor.claims import cancel_job
from airflow_customjob.supervisor.ownership import ENDED_TASK, Canceller
from airflow_customjob.supervisor.record import JobRecord, Owner, RecordError, decode
from airflow_customjob.supervisor.supervise import Fenced, Supervisor

log = logging.getLogger(__name__)

OwnerState = Callable[[Owner], Awaitable[str | None]]
"""Tells the state of an owner's task in Airflow, ``GONE`` or ``UNKNOWN`` (:mod:`.ownership`)."""

ORPHAN_AGE = 3600.0
"""Seconds that objects without a record are left alone: a launch may just be under way, or a claimant rebuild the record."""


class Fate(StrEnum):
    """What becomes of what is left of a job."""

    KEEP = "keep"
    CANCEL = "cancel"
    """Its owner has ended and nobody drives it."""
    CLEAR = "clear away"
    """It has ended; what is left of it is removed, its record stays."""
    FORGET = "forget"
    """Its record is past its time: all of it is removed."""
    REMOVE = "remove"
    """Nobody knows of it any more: its objects are removed."""


@dataclass(frozen=True)
class Collected:
    """What was, or would be, done.

    :param why: for people.
    """

    job_id: JobId
    fate: Fate
    why: str

    def __str__(self) -> str:
        return f"job {self.job_id}: {self.fate}: {self.why}"


def verdict_on(objects: JobObjects, record: JobRecord | None, owner_state: str | None, now: float) -> Collected:
    """The first row that fits decides.

    :param owner_state: of the record's owner; None: nobody asked.
    """
    left = len(objects.refs) + len(objects.other)
    age = now - objects.created_at if objects.created_at is not None else 0.0
    ended = record is not None and record.state.terminal
    since_end = now - (record.end_time or record.update_time) if record is not None else 0.0
    ttl = record.request.options.record_ttl if record is not None else 0.0
    rows = (
        (
            record is None and left and age >= ORPHAN_AGE,
            Fate.REMOVE,
            f"{left} objects without a record, {age:.0f} s old",
        ),
        (record is None, Fate.KEEP, "it has no record yet"),
        (ended and since_end >= ttl, Fate.FORGET, f"it ended {since_end:.0f} s ago and its record_ttl is {ttl:.0f} s"),
        (ended and left, Fate.CLEAR, f"it has ended, and {left} objects are left"),
        (ended, Fate.KEEP, "its record is kept until its record_ttl"),
        (owner_state in ENDED_TASK, Fate.CANCEL, f"the task that owns it is {owner_state}"),
    )
    fate, why = next(((fate, why) for fits, fate, why in rows if fits), (Fate.KEEP, "it is under way"))
    return Collected(objects.job_id, fate, why)


async def collect(
    engine: Engine,
    *,
    owner_state: OwnerState | None = None,
    dry_run: bool = False,
    say: Callable[[str], None] = log.info,
    hold_removal: float = 0.0,
    retention: Retention | None = None,
    clock: Callable[[], float] = time.time,
) -> list[Collected]:
    """Look at every job on the engine, and do what :func:`verdict_on` says; then at what was installed for jobs.

    :param hold_removal: seconds that replicas of ended jobs are kept, for a supervisor that still reads their logs.
    :param retention: of installed packages; None: they are left alone.
    :returns: all that was done, without what is kept.
    """
    done = []
    in_use: set[str] = set()
    for objects in await engine.jobs():
        record: JobRecord | None = None
        if objects.record is not None:
            try:
                record = decode(objects.record.data)
            except RecordError as error:
                say(f"job {objects.job_id}: {error}")
                retention = None  # nobody knows what it uses
                continue
        if record is not None and record.prepared is not None and not record.state.terminal:
            in_use |= set(record.prepared.artifacts.values())
        state = None
        if owner_state is not None and record is not None and not record.state.terminal:
            state = await owner_state(record.owner)
        verdict = verdict_on(objects, record, state, clock())
        if verdict.fate is Fate.KEEP:
            continue
        say(str(verdict))
        done.append(verdict)
        if not dry_run:
            try:
                await _carry_out(engine, objects, record, verdict, state, say, hold_removal, clock)
            except (Fenced, RecordConflict):
                pass  # somebody is at work there: it is not left
            except (EngineError, SpecError) as error:  # the other jobs' turn comes all the same
                say(f"job {objects.job_id}: not done, the next gc tries again: {error}")
    if retention is not None and isinstance(engine, KeepsInstallations):
        for what in await engine.prune(retention, in_use, clock(), dry_run=dry_run):
            say(f"{what}: remove")
    return done


async def _carry_out(
    engine: Engine,
    objects: JobObjects,
    record: JobRecord | None,
    verdict: Collected,
    owner_state: str | None,
    say: Callable[[str], None],
    hold_removal: float,
    clock: Callable[[], float],
) -> None:
    if record is None:
        await engine.remove(objects.refs)
        await engine.release(objects.job_id)
        return
    if verdict.fate is Fate.CANCEL:
        why = f"The job was cancelled because its Airflow task is {owner_state}."
        await cancel_job(engine, objects.job_id, Canceller.SWEEP, why, task_state=owner_state, clock=clock)
    hold = hold_removal if verdict.fate is Fate.CLEAR else 0.0
    supervisor = Supervisor(
        engine, record.job_id, record.owner, record.generation, say=say, hold_removal=hold, clock=clock
    )
    await supervisor.run()
    if verdict.fate is Fate.FORGET:
        stored = await engine.read_record(record.job_id)
        if stored is not None:
            await engine.delete_record(record.job_id, if_version=stored.version)
