"""An event loop whose clock jumps: what would take days of waiting takes no time, and runs the same way every time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine
from random import Random
from typing import Any, TypeVar

T = TypeVar("T")


class Stuck(RuntimeError):
    """Everything waits, and nothing is ever going to happen."""


class VirtualLoop(asyncio.BaseEventLoop):
    """When nothing is ready to run, the clock jumps to the next timer.

    There are no sockets, subprocesses and threads in it: nobody would wait for them.

    :param shuffle: runs what is ready at the same moment in a random order; None: in asyncio's own.
    """

    def __init__(self, shuffle: Random | None = None) -> None:
        super().__init__()
        self._now = 0.0
        self._shuffle = shuffle
        self._selector = self
        self._ready: deque[asyncio.Handle]

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._now

    def select(self, timeout: float | None) -> list[Any]:
        """Called by asyncio once a turn, in the place of waiting for sockets."""
        if timeout is None:
            raise Stuck("every task waits for something that nobody is going to do")
        self._now += timeout
        if self._shuffle is not None and len(self._ready) > 1:
            ready = list(self._ready)
            self._shuffle.shuffle(ready)
            self._ready.clear()
            self._ready.extend(ready)
        return []

    def _process_events(self, events: list[Any]) -> None: ...

    def _write_to_self(self) -> None: ...


def run_in_virtual_time(main: Coroutine[Any, Any, T], *, shuffle: Random | None = None) -> T:
    """As :func:`asyncio.run`, in a :class:`VirtualLoop`.

    :raises Stuck: nothing can go on.
    """
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(shuffle)) as runner:
        return runner.run(main)
