"""Jobs that use the same engine in the same event loop share one connection, and so one subscription to its events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar
from weakref import WeakKeyDictionary


class Closable(Protocol):
    async def close(self) -> None: ...


E = TypeVar("E", bound=Closable)


@dataclass
class _Shared(Generic[E]):
    """:param users: how many hold it; the last one closes it."""

    engine: E | None = None
    users: int = 0
    opening: asyncio.Lock = field(default_factory=asyncio.Lock)


class Connections(Generic[E]):
    """The open connections of one kind of engine in this process."""

    def __init__(self) -> None:
        self._known: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[object, _Shared[E]]] = WeakKeyDictionary()

    @asynccontextmanager
    async def share(self, key: object, connect: Callable[[], Awaitable[E]]) -> AsyncIterator[E]:
        """The running loop's connection; made by the first who asks, closed by the last who leaves.

        :param key: all that tells one engine from another.
        :param connect: makes the connection.
        """
        known = self._known.setdefault(asyncio.get_running_loop(), {})
        shared = known.setdefault(key, _Shared())
        shared.users += 1
        try:
            async with shared.opening:
                if shared.engine is None:
                    shared.engine = await connect()
            yield shared.engine
        finally:
            shared.users -= 1
            if not shared.users:
                known.pop(key, None)
                if shared.engine is not None:
                    await shared.engine.close()
