"""A coroutine in a thread of its own, and a main thread that waits for it and may be told to stop by a signal.

A signal handler of Python runs in the main thread between any two of its instructions: it may not wait for a lock, talk to
Airflow or take time. So it only sets a flag in the coroutine's event loop.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, wait
from contextlib import suppress
from enum import Enum
from typing import Any, TypeVar

T = TypeVar("T")

WIND_UP = 30.0
"""Seconds that the coroutine has to come to its end after the main thread was interrupted by an exception."""


class Stop(Enum):
    """Why to stop."""

    KILLED = "killed"
    """A signal: the process has some seconds left."""
    OVER = "over"
    """The main thread was interrupted (execution_timeout, Ctrl-C): this try is over."""


class Stopping:
    """Tells a coroutine that it is to stop."""

    def __init__(self) -> None:
        self.why: Stop | None = None
        self._told = asyncio.Event()

    def tell(self, why: Stop) -> None:
        self.why = self.why or why
        self._told.set()

    async def unless_told(self, work: Coroutine[Any, Any, T]) -> T | None:
        """The work's result; None: it was given up because somebody told to stop."""
        task, told = asyncio.ensure_future(work), asyncio.ensure_future(self._told.wait())
        try:
            await asyncio.wait({task, told}, return_when=asyncio.FIRST_COMPLETED)
            return task.result() if task.done() else None
        finally:
            task.cancel()
            told.cancel()
            await asyncio.gather(task, told, return_exceptions=True)


class SupervisorThread:
    """Runs one coroutine at a time; see above."""

    def __init__(self) -> None:
        self._early: Stop | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: Stopping

    def run(self, main: Callable[[Stopping], Coroutine[Any, Any, T]]) -> T:
        """Run the coroutine to its end, which must follow when it is told to stop."""
        outcome: Future[T] = Future()

        async def watched() -> T:
            self._stopping = Stopping()
            self._loop = asyncio.get_running_loop()
            if self._early is not None:
                self._stopping.tell(self._early)
            return await main(self._stopping)

        def target() -> None:
            try:
                outcome.set_result(asyncio.run(watched()))
            except BaseException as error:  # noqa: BLE001 - raised in the thread that waits
                outcome.set_exception(error)

        context = contextvars.copy_context()
        thread = threading.Thread(target=context.run, args=(target,), name="customjob supervisor", daemon=True)
        thread.start()
        try:
            # Not thread.join(): one that an exception of a signal handler leaves takes the thread for ended.
            return outcome.result()
        except BaseException:
            if not outcome.done():
                self.tell(Stop.OVER)
                wait([outcome], WIND_UP)
            raise
        finally:
            self._early = self._loop = None

    def tell(self, why: Stop) -> None:
        """Have the coroutine stop. Takes no lock and no time: a signal handler may call it."""
        self._early = why
        loop = self._loop
        if loop is not None:
            with suppress(RuntimeError):  # it has ended meanwhile
                loop.call_soon_threadsafe(self._stopping.tell, why)
