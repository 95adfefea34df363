"""Coroutines for callers that have no event loop, or have one that runs already (a notebook)."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Thread(Generic[T]):
    """A coroutine in a thread and an event loop of its own."""

    def __init__(self, main: Coroutine[Any, Any, T]) -> None:
        self._main = main
        self._started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any] | None]] = Future()
        self._done: Future[T] = Future()
        threading.Thread(target=self._go, name="customjob", daemon=True).start()

    def result(self) -> T:
        """What the coroutine gives or raises. A KeyboardInterrupt cancels it, waits for its end, and is raised on."""
        try:
            return self._done.result()
        except KeyboardInterrupt:
            self.cancel()
            self._done.exception()
            raise

    def cancel(self) -> None:
        loop, task = self._started.result()
        if task is not None and not self._done.done():
            with suppress(RuntimeError):  # its loop has been closed in between
                loop.call_soon_threadsafe(task.cancel)

    def _go(self) -> None:
        try:
            self._done.set_result(asyncio.run(self._tell_and_wait()))
        except BaseException as error:  # noqa: BLE001 - it is raised in the thread that asked
            self._done.set_exception(error)

    async def _tell_and_wait(self) -> T:
        self._started.set_result((asyncio.get_running_loop(), asyncio.current_task()))
        return await self._main


def run(main: Coroutine[Any, Any, T]) -> T:
    """As :func:`asyncio.run`, also where a loop runs already (a notebook)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(main)
    return Thread(main).result()
