"""How a world's time goes on in the event loops that use it, and how those who wait there are woken."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from airflow_customjob.backends.fake.virtual_time import VirtualLoop

FIRST_DAY = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
"""When virtual time begins."""


class Pulse:
    """Lets the world's time go on in one event loop, and wakes those who wait in it."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, now: Callable[[], float], go_on: Callable[[], float | None]
    ) -> None:
        """
        :param now: seconds since the epoch.
        :param go_on: does what was due, and gives the next time at which something is.
        """
        self.users = 0
        self._loop = loop
        self._now = now
        self._go_on = go_on
        self._timer: asyncio.TimerHandle | None = None
        self._waiting: dict[Hashable, list[Callable[[], None]]] = defaultdict(list)

    def arm(self, when: float | None) -> None:
        """Let things happen at that time; to be called whenever the next time has changed."""
        self._in_loop(lambda: self._arm(when))

    def wake(self, topic: Hashable) -> None:
        self._in_loop(lambda: self._wake(topic))

    @contextmanager
    def listening(self, topic: Hashable, do: Callable[[], None]) -> Iterator[None]:
        """Call ``do`` in this loop at each change of ``topic``."""
        self._waiting[topic].append(do)
        try:
            yield
        finally:
            self._waiting[topic].remove(do)
            if not self._waiting[topic]:
                del self._waiting[topic]

    def _wake(self, topic: Hashable) -> None:
        for do in tuple(self._waiting.get(topic, ())):
            do()

    def _arm(self, when: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if when is not None:
            self._timer = self._loop.call_later(max(0.0, when - self._now()), self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._arm(self._go_on())

    def _in_loop(self, do: Callable[[], None]) -> None:
        if asyncio._get_running_loop() is self._loop:
            do()
        elif not self._loop.is_closed():
            self._loop.call_soon_threadsafe(do)


class WorldClock:
    """The wall's time, or that of virtual loops one after the other."""

    def __init__(self) -> None:
        self._loop: VirtualLoop | None = None
        self._began = self._last = FIRST_DAY

    def __call__(self) -> float:
        loop = asyncio._get_running_loop()
        if not isinstance(loop, VirtualLoop):
            return self._last if self._loop else time.time()
        if loop is not self._loop:
            self._loop, self._began = loop, self._last - loop.time()
        self._last = self._began + loop.time()
        return self._last
