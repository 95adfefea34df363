"""Supervision of a job in the triggerer, while its task is deferred."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_customjob.supervisor.ownership import ENDED_TASK, Canceller, Verdict
from airflow_customjob.task.comms import ask_airflow
from airflow_customjob.task.identity import Held, is_same_task, state_at, told

if TYPE_CHECKING:
    from airflow_customjob.job import Job
    from airflow_customjob.task.drive import Driver

ENDED, TIMED_OUT, LOST_IT = "ended", "timed out", "lost it"
"""What an event says: see the job's record; so, because of ``execution_timeout``; somebody else has the job now."""

SUPERSEDED = 60.0
"""Seconds that a trigger waits for Airflow to cancel it when a later try of its own task has the job: an event of its own
would be too late, and might be taken for that try's."""
ASK_AGAIN = 1.0
"""Seconds between two attempts to read the task's state."""
LOOK_EVERY = 5.0
"""Seconds between two looks at the task's state: Airflow leaves a cleared task its trigger until what comes before it in its DAG has
run again, if that was cleared too (3.3.2)."""
GIVE_UP = 600.0
"""Seconds after which a task's state that cannot be read is asked for no more: the sweep will end the job."""

_killing: set[asyncio.Task[None]] = set()
"""Kept from being collected as garbage."""


class CustomJobTrigger(BaseTrigger):
    """
    Drives a job in the triggerer: its rules, its live log, its XComs. The job itself outlives every triggerer.

    :param held: the task's claim on the job, :meth:`~airflow_customjob.task.identity.Held.to_json`.
    :param deadline: when the task's ``execution_timeout`` is over, in seconds since the epoch; the job is cancelled then.
    """

    def __init__(self, held: Mapping[str, Any], deadline: float | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.held = dict(held)
        self.deadline = deadline
        self._positions: dict[str, str] | None = None
        self._once = Once(self._kill)

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return f"{__name__}.{type(self).__name__}", {"held": self.held, "deadline": self.deadline}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Until the job has ended and nothing of it is left."""
        from airflow_customjob.supervisor.supervise import Fenced

        what, message = ENDED, ""
        where = Held.from_json(self.held).owner.where
        try:
            driver = await self._driver()
            async with driver.at_work():
                with self._once.begun_by_cancellation():
                    async with self._looking_for_a_clear(where):
                        ended = await self._in_time(driver)
                if ended is None:
                    what = TIMED_OUT
                    await driver.cancel(
                        Canceller.OPERATOR, "The job was cancelled: its task's execution_timeout is over."
                    )
                    await driver.supervise()
                # Airflow takes no event of a cleared task, and would start this trigger again.
                while ended is not None and await ask_airflow(state_at, where) is None:
                    await asyncio.sleep(LOOK_EVERY)
        except Fenced as fenced:
            what, message = LOST_IT, str(fenced)
            if fenced.found is not None and is_same_task(fenced.found.owner, Held.from_json(self.held).owner):
                await asyncio.sleep(SUPERSEDED)
        yield TriggerEvent({"what": what, "message": message})  # type: ignore[no-untyped-call]

    async def on_kill(self) -> None:
        """Called when somebody marked the task or cleared it, and also when it only moved to another triggerer."""
        await self._once.to_its_end()

    async def _kill(self) -> None:
        from airflow_customjob.job import NoSuchJob
        from airflow_customjob.supervisor.supervise import Fenced

        driver = await self._driver()
        with suppress(Fenced, NoSuchJob):
            try:
                async with asyncio.timeout(GIVE_UP):
                    verdict, state = await self._cancel(driver)
            except TimeoutError:
                return
            if verdict is Verdict.CANCEL:
                ended = state in ENDED_TASK  # one that was cleared may show its next job by now
                async with driver.at_work() if ended else nullcontext():
                    await driver.supervise()

    async def _cancel(self, driver: Driver) -> tuple[Verdict, str | None]:
        """What became of it, and the task's state by which it did."""
        from airflow_customjob.backends.base import EngineError

        while True:
            state = await ask_airflow(state_at, driver.held.owner.where)
            try:
                verdict = await driver.cancel(
                    Canceller.TRIGGER, f"The job was cancelled: its Airflow task was {told(state)}.", task_state=state
                )
            except EngineError as error:
                self.log.warning("the job cannot be cancelled now (%s); trying again", error)
                verdict = Verdict.ASK_AGAIN
            if verdict is not Verdict.ASK_AGAIN:
                return verdict, state
            await asyncio.sleep(ASK_AGAIN)

    @asynccontextmanager
    async def _looking_for_a_clear(self, where: Mapping[str, str]) -> AsyncIterator[None]:
        async def look() -> None:
            state: str | None = "deferred"
            while state is not None:
                await asyncio.sleep(LOOK_EVERY)
                state = await ask_airflow(state_at, where)
            self._once.begin()

        looking = asyncio.create_task(look())
        try:
            yield
        finally:
            looking.cancel()

    async def _in_time(self, driver: Driver) -> Job | None:
        """The ended job; None: the deadline passed first."""
        left = None if self.deadline is None else max(0.0, self.deadline - time.time())
        try:
            async with asyncio.timeout(left) as limit:
                return await driver.supervise()
        except TimeoutError:
            if not limit.expired():
                raise
            return None

    async def _driver(self) -> Driver:
        from airflow_customjob.client import AsyncCustomJobClient
        from airflow_customjob.task.drive import Driver
        from airflow_customjob.task.xcoms import positions_at, pull_at, push_at

        held = Held.from_json(self.held)
        where = held.owner.where
        if self._positions is None:
            self._positions = await positions_at(where)
        client = AsyncCustomJobClient(held.backend)
        return Driver(client, held, log=self.log, push=push_at(where), pull=pull_at(where), positions=self._positions)


class Once:
    """What a trigger does when somebody has marked or cleared its task: begun once, and gone on with whatever Airflow cancels.

    Airflow cancels :meth:`run` once a second until it has ended, and its own call of ``on_kill`` with it, which may so never be
    made (3.3.2). Only such a cancellation has a message: a triggerer that is stopped, or a timeout, has none. It waits for
    ``on_kill`` no longer than ``[triggerer] on_kill_timeout``; what was begun then goes on, so that a job with a long grace, or
    many that end at once, are shown to their ends.

    :param kill: what is to be done.
    """

    def __init__(self, kill: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._kill = kill
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> asyncio.Task[None]:
        if self._task is None:
            self._task = asyncio.create_task(self._kill())
            _killing.add(self._task)
            self._task.add_done_callback(_killing.discard)
        return self._task

    async def to_its_end(self) -> None:
        """For ``on_kill``."""
        await asyncio.shield(self.begin())

    @contextmanager
    def begun_by_cancellation(self) -> Iterator[None]:
        """Inside, a cancellation by what somebody did begins it."""
        try:
            yield
        except asyncio.CancelledError as cancelled:
            if cancelled.args:
                self.begin()
            raise
