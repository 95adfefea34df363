"""A task drives its job: in the triggerer's event loop, or in a thread of its own beside the task's main thread."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from airflow_customjob.backends.base import EngineError, LogLine
from airflow_customjob.client import AsyncCustomJobClient
from airflow_customjob.job import Job
from airflow_customjob.supervisor.ownership import Canceller, Verdict
from airflow_customjob.supervisor.record import JobRecord
from airflow_customjob.task.identity import Held
from airflow_customjob.task.provenance import plan_document
from airflow_customjob.task.sweep import sweeping
from airflow_customjob.task.usage import EVERY as SAMPLE_EVERY
from airflow_customjob.task.xcoms import Publisher, Pull, Push

log = logging.getLogger(__name__)

OUT_OF_REACH = 5.0
"""Seconds between two attempts to reach an engine that does not answer."""
FIRST_SAMPLE = 2.0
"""Seconds after which what the replicas use is looked at first."""
SAMPLE_SHARE = 20.0
"""Seconds of pause for each that a sample took; Docker takes one for its own."""
LAST_WORD = 60.0
"""Seconds that the last XComs may take: those of many jobs that end at once wait for one another."""


class WrongEngine(Exception):
    """The same backend leads to another engine here than where the job was submitted."""


class Driver:
    """What a task does with the job that it holds.

    :param log: the task's log; takes the replicas' lines as they come.
    :param push: stores an XCom of the task.
    :param pull: reads one.
    :param positions: of log lines that the user was told already; kept up to date. None: nobody goes on after this process.
    :param opening: XComs that are stored before all others.
    :param links: XComs that are stored while the job goes on.
    """

    def __init__(
        self,
        client: AsyncCustomJobClient,
        held: Held,
        *,
        log: logging.Logger | Any,
        push: Push,
        pull: Pull | None = None,
        positions: dict[str, str] | None = None,
        opening: Mapping[str, Any] | None = None,
        links: Mapping[str, str] | None = None,
    ) -> None:
        self.client = client
        self.held = held
        self._log = log
        self._positions = {} if positions is None else positions
        self._publisher = Publisher(push, positions, pull=pull, describe=self._describe, opening=opening, links=links)

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        """Inside, XComs are kept up to date, and the installation's other jobs are looked after.

        Whoever is made to leave it has no last word: another driver of the job may have said a later one by then.
        """
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(sweeping(self.client, self.held.owner.where, self._say))
            publishing = asyncio.create_task(self._publisher.run())
            sampling = asyncio.create_task(self._sample())
            try:
                yield
                sampling.cancel()
                self._publisher.close()
                await asyncio.wait([publishing], timeout=LAST_WORD)
            finally:
                sampling.cancel()
                publishing.cancel()

    async def supervise(
        self, until: Callable[[JobRecord], bool] = lambda record: False, *, in_a_hurry: bool = False
    ) -> Job:
        """Drive the job until nothing of it is left; an engine that does not answer is waited for.

        :param until: leave it earlier, when this says so of its record.
        :param in_a_hurry: this process is going to be killed: nothing is kept for others to read.
        :raises WrongEngine: the job is not to be found from here.
        :raises Fenced: somebody else has it now.
        :raises NoSuchJob: its record is gone.
        """
        while True:
            try:
                await self._check_engine()
                return await self.client.supervise(
                    self.held.job_id,
                    owner=self.held.owner,
                    generation=self.held.generation,
                    sink=self._sink,
                    logs=self.held.logs,
                    say=self._say,
                    on_change=self._publisher.on_change,
                    positions=self._positions,
                    hold_removal=0.0 if in_a_hurry else self.held.hold_removal,
                    until=until,
                )
            except EngineError as error:
                self._say(f"{self.client.backend.name} does not answer: {error}; trying again")
                await asyncio.sleep(OUT_OF_REACH)

    async def cancel(
        self, who: Canceller, why: str, *, task_state: str | None = None, will_retry: bool = False
    ) -> Verdict:
        """Have the job cancelled if :func:`~airflow_customjob.supervisor.ownership.may_cancel` allows it.

        It is carried out by :meth:`supervise`.
        """
        verdict, _ = await self.client.cancel(
            self.held.job_id,
            who=who,
            why=why,
            owner=self.held.owner,
            task_state=task_state,
            will_retry=will_retry,
        )
        return verdict

    def _describe(self, record: JobRecord) -> dict[str, Any]:
        return plan_document(record, self.client.backend.capabilities(), time.time())

    async def _sample(self) -> None:
        """Tell what the replicas use, at a rate that costs their engine little."""
        pause = FIRST_SAMPLE
        while True:
            await asyncio.sleep(pause)
            began = time.monotonic()
            try:
                self._publisher.on_usage(await self.client.usage(self.held.job_id))
            except EngineError as error:
                log.debug("no sample of job %s: %s", self.held.job_id, error)
            pause = max(SAMPLE_EVERY, SAMPLE_SHARE * (time.monotonic() - began))

    async def _check_engine(self) -> None:
        async with self.client.backend.open() as engine:
            here = await engine.identity()
        if here != self.held.engine:
            raise WrongEngine(
                f"job {self.held.job_id} runs on the engine {self.held.engine}, and {self.client.backend!r} leads to "
                f"{here} on this host: point the backend of workers and triggerers at one and the same engine"
            )

    def _sink(self, line: LogLine) -> None:
        self._log.log(logging.WARNING if line.notice else logging.INFO, "%s", line.prefixed)

    def _say(self, text: str) -> None:
        self._log.info("%s", text)
