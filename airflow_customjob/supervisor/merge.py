"""A job's log for somebody who only reads: what its replicas have written so far, or all of it until the job has ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress

from airflow_customjob.backends.base import Engine, EngineError, LogLine, ReplicaRef
from airflow_customjob.plan.types import JobId
from airflow_customjob.supervisor.follow import ALL, Selection
from airflow_customjob.supervisor.listening import listening
from airflow_customjob.supervisor.record import JobRecord, decode

LOOK_AGAIN = 2.0
"""Seconds between two looks at a followed job, whatever its engine tells: its end need not be an event of any replica."""
RETRY = 0.5
"""Seconds after which a log that broke off is taken up again."""


async def merged(
    engine: Engine,
    record: JobRecord,
    *,
    replica: str | None = None,
    follow: bool = False,
    tail: int | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> AsyncGenerator[LogLine, None]:
    """The lines of a job's replicas in one stream: without ``follow`` replica by replica, with it as they come.

    :param record: of the job.
    :param replica: only of these, of every incarnation that is there: a name, or what :func:`~.follow.chosen` takes. None: all;
        with ``follow`` what it takes for None, and those that fail.
    :param follow: until the job has ended; replicas that start later join, and an engine that fails is asked again.
    :param tail: only so many last lines of each incarnation that is there.
    :param say: is told which replicas are not followed.
    :raises EngineError: without ``follow``.
    """
    which = replica if replica or follow else ALL
    selection = Selection(which, engine.capabilities.backend, tell=None if replica else say, with_failing=not replica)
    if not follow:
        for ref in sorted(selection.of(record, await engine.observe(record.job_id))):
            async for line in engine.logs(ref, follow=False, tail=tail):
                yield line
        return
    lines: asyncio.Queue[LogLine | None] = asyncio.Queue()
    reading = asyncio.create_task(_read_all(engine, record.job_id, selection, tail, lines))
    reading.add_done_callback(lambda _: lines.put_nowait(None))
    try:
        while (item := await lines.get()) is not None:
            yield item
        await reading
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


async def _read_all(
    engine: Engine, job_id: JobId, selection: Selection, tail: int | None, lines: asyncio.Queue[LogLine | None]
) -> None:
    readers: dict[ReplicaRef, asyncio.Task[None]] = {}
    ended = False
    try:
        changed = asyncio.Event()
        async with listening(engine, job_id, changed, again=RETRY):
            while not ended:
                changed.clear()
                with suppress(EngineError):
                    stored = await engine.read_record(job_id)
                    record = None if stored is None else decode(stored.data)
                    ended = record is None or record.state.terminal
                    statuses = await engine.observe(job_id)
                    for ref in selection.of(record, statuses) if record else ():
                        if ref not in readers:
                            readers[ref] = asyncio.create_task(_read(engine, ref, tail, lines))
                    tail = None
                if not ended:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(LOOK_AGAIN):
                            await changed.wait()
        await asyncio.gather(*readers.values())
    finally:
        for reader in readers.values():
            reader.cancel()
        await asyncio.gather(*readers.values(), return_exceptions=True)


async def _read(engine: Engine, ref: ReplicaRef, tail: int | None, lines: asyncio.Queue[LogLine | None]) -> None:
    after = None
    while True:
        try:
            async for line in engine.logs(ref, after=after, follow=True, tail=tail):
                lines.put_nowait(line)
                after, tail = line.position, None
        except EngineError:
            await asyncio.sleep(RETRY)
        else:
            return
