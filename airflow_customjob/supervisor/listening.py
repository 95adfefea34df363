"""An engine's events as an :class:`asyncio.Event`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from airflow_customjob.backends.base import Engine, EngineError
from airflow_customjob.plan.types import JobId


@asynccontextmanager
async def listening(engine: Engine, job_id: JobId, heard: asyncio.Event, *, again: float) -> AsyncIterator[None]:
    """Set ``heard`` whenever the engine tells of a change; also of one that cannot be reached at first, or breaks off.

    :param again: seconds after which a subscription that broke off is taken up again.
    """

    async def pump() -> None:
        while True:
            with suppress(EngineError):
                async with engine.watch(job_id) as events:
                    heard.set()
                    async for _ in events:
                        heard.set()
            await asyncio.sleep(again)

    pumping = asyncio.create_task(pump())
    try:
        yield
    finally:
        pumping.cancel()
        await asyncio.gather(pumping, return_exceptions=True)
