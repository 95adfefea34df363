"""Reading a job's record, deciding by :mod:`.ownership`, and writing it by compare-and-set: to own a job, or to cancel it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any

from airflow_customjob.backends.base import Engine, Phase, RecordConflict, ReplicaStatus
from airflow_customjob.plan.types import JobId, JobRequest
from airflow_customjob.spec.job_state import JobState
from airflow_customjob.supervisor.ownership import Canceller, Claim, Verdict, claim, may_cancel
from airflow_customjob.supervisor.record import JobRecord, Owner, decode, encode, new_record, touched
from airflow_customjob.supervisor.rules import cancelling

Clock = Callable[[], float]

_REFUSALS = {
    Claim.REFUSE_ENGINE: "job {job} was started on the engine {held}, and this is {here}: two engines behind one address? "
    "Point this worker at the first one, or clear the job there",
    Claim.REFUSE_LATER_OWNER: "job {job} belongs to a later try ({owner}): this one stands back and changes nothing",
}


class ClaimRefused(Exception):
    """This claimant may not have the job.

    :param verdict: which rule says so.
    """

    def __init__(self, verdict: Claim, message: str) -> None:
        super().__init__(message)
        self.verdict = verdict


async def claim_job(
    engine: Engine,
    job_id: JobId,
    owner: Owner,
    request: JobRequest,
    digest: str,
    *,
    first: Callable[[], Awaitable[None]] | None = None,
    clock: Clock = time.time,
) -> tuple[Claim, JobRecord]:
    """Become the job's owner, or find that ``owner`` is already; creates nothing but the record.

    :param first: what has to go well before a job is begun; not for one that is there and goes on.
    :returns: how it was claimed, and the record to go on with, whose request counts.
    :raises ClaimRefused: another engine, or a later owner.
    """
    here = await engine.identity()
    while True:
        stored = await engine.read_record(job_id)
        held = (
            decode(stored.data)
            if stored
            else _rebuilt(job_id, here, request, owner, await engine.observe(job_id), clock())
        )
        verdict = claim(held, owner, digest, here)
        if verdict in _REFUSALS:
            assert held is not None  # noqa: S101 - there is nobody to refuse for otherwise
            text = _REFUSALS[verdict].format(job=job_id, held=held.engine, here=here, owner=held.owner.key)
            raise ClaimRefused(verdict, text)
        if verdict is Claim.GO_ON and held is not None:
            return verdict, held
        if verdict is Claim.TAKE_OVER and held is not None:
            claimed = touched(held, clock(), owner=owner)
        else:
            if first is not None:
                await first()
                first = None
                continue
            generation = held.generation + 1 if held else 1
            claimed = new_record(job_id, owner, here, request, digest, clock(), generation=generation)
        try:
            await _whole(engine.write_record(job_id, encode(claimed), if_version=stored.version if stored else 0))
        except RecordConflict:
            continue
        return verdict, claimed


async def _whole(call: Coroutine[Any, Any, object]) -> None:
    """To its end, also where this task is cancelled meanwhile: half a claim would be nobody's to call off."""
    task = asyncio.ensure_future(call)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.gather(task, return_exceptions=True)
        raise


def _rebuilt(
    job_id: JobId, engine: str, request: JobRequest, owner: Owner, statuses: Sequence[ReplicaStatus], now: float
) -> JobRecord | None:
    """The record of a job of which only replicas are left, from their labels; None: there is nothing of it.

    Its owner is the claimant's try before this one: if the replicas say that they are of the same request, the claimant takes
    them over as a retry does; otherwise they are an earlier generation, and are cleared away as such.
    """
    if not statuses:
        return None
    generation = max(status.ref.generation for status in statuses)
    gang = [status for status in statuses if status.ref.generation == generation]
    attempt = max(status.ref.attempt for status in gang)
    present = [status for status in gang if status.ref.attempt == attempt]
    restarts: dict[str, int] = {}
    for status in present:
        if status.ref.restart:
            restarts[status.ref.replica] = max(restarts.get(status.ref.replica, 0), status.ref.restart)
    launched = any(status.phase is not Phase.CREATED for status in present)
    before = replace(owner, key="", try_number=owner.try_number - 1)
    record = new_record(job_id, before, engine, request, present[0].digest, now, generation=generation)
    return replace(
        record,
        attempt=attempt,
        restarts=restarts,
        unlaunched=() if launched else None,
        state=JobState.JOB_STATE_PENDING,
        message="the job's record was gone; it was made again from the replicas that are there",
    )


async def cancel_job(
    engine: Engine,
    job_id: JobId,
    who: Canceller,
    why: str,
    *,
    owner: Owner | None = None,
    generation: int | None = None,
    task_state: str | None = None,
    will_retry: bool = False,
    clock: Clock = time.time,
) -> tuple[Verdict, JobRecord | None]:
    """Write that the job is to be cancelled, if :func:`~.ownership.may_cancel` says so; whoever supervises it carries it out.

    :param why: becomes the job's error message.
    :returns: the verdict, and the record thereafter; None: there is no such job.
    """
    while stored := await engine.read_record(job_id):
        record = decode(stored.data)
        verdict = may_cancel(
            record, who, owner=owner, generation=generation, task_state=task_state, will_retry=will_retry
        )
        wanted = cancelling(record, why, clock()) if verdict is Verdict.CANCEL else record
        if wanted == record:
            return verdict, record
        try:
            await engine.write_record(job_id, encode(wanted), if_version=stored.version)
        except RecordConflict:
            continue
        return verdict, wanted
    return Verdict.LEAVE, None
