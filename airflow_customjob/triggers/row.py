"""Reading of one replica in the triggerer, while its row is deferred."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_customjob.triggers.custom_job import ASK_AGAIN, GIVE_UP, Once

POSITIONS_EVERY = 10.0
"""Seconds between two times that a row's place in its log is stored: there may be 200 rows."""


class ReplicaRowTrigger(BaseTrigger):
    """
    Tells one replica's log in the triggerer. It changes nothing, unless somebody marks the row as failed: that cancels the job.

    :param run: where the task is that owns the job.
    :param me: where the row is.
    :param row: the replica's name, or a pool's.
    """

    def __init__(self, run: Mapping[str, str], me: Mapping[str, str], row: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.run_at = dict(run)
        self.me = dict(me)
        self.row = row
        self._once = Once(self._cancel_in_time)

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return f"{__name__}.{type(self).__name__}", {"run": self.run_at, "me": self.me, "row": self.row}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Until the owner's task has ended."""
        from airflow_customjob.task.rows import RowWatch
        from airflow_customjob.task.xcoms import positions_kept

        async with positions_kept(self.me, POSITIONS_EVERY) as positions:
            watch = RowWatch(
                self.run_at,
                self.row,
                sink=lambda line: self.log.info("%s", line.text),
                say=lambda text: self.log.info("%s", text),
                positions=positions,
            )
            with self._once.begun_by_cancellation():
                end = await watch.to_its_end()
        yield TriggerEvent(end.to_json())  # type: ignore[no-untyped-call]

    async def on_kill(self) -> None:
        """Called for a mark, a clear, and a move to another triggerer; only a row that somebody marked as failed counts."""
        await self._once.to_its_end()

    async def _cancel_in_time(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(GIVE_UP):
                await self._cancel()

    async def _cancel(self) -> None:
        from airflow_customjob.backends.base import EngineError
        from airflow_customjob.client import AsyncCustomJobClient
        from airflow_customjob.job import NoSuchJob
        from airflow_customjob.supervisor.ownership import UNKNOWN, Canceller
        from airflow_customjob.task.comms import ask_airflow
        from airflow_customjob.task.identity import state_at
        from airflow_customjob.task.xcoms import REF, xcom_at

        while (state := await ask_airflow(state_at, self.me)) == UNKNOWN:
            await asyncio.sleep(ASK_AGAIN)
        ref = await xcom_at(self.run_at, REF) if state == "failed" else None
        while ref is not None:
            try:
                client = AsyncCustomJobClient(ref["backend"])
                job = await client.get(ref["custom_job_id"])
                await client.cancel(
                    job.job_id,
                    generation=job.record.generation,
                    who=Canceller.USER,
                    why=f"The job was cancelled: the row of {self.row} was marked as failed.",
                )
            except EngineError as error:
                self.log.warning("the job cannot be cancelled now (%s); trying again", error)
                await asyncio.sleep(ASK_AGAIN)
            except NoSuchJob:
                return
            else:
                return
