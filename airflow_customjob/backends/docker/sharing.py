"""Jobs that use the same Docker in the same event loop share one connection, and so one subscription to its events."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from airflow_customjob.backends.docker.access import access_of
from airflow_customjob.backends.docker.backend import DockerBackend
from airflow_customjob.backends.docker.engine import DockerEngine


@dataclass
class _Shared:
    """:param users: how many hold it; the last one closes it."""

    engine: DockerEngine | None = None
    users: int = 0
    opening: asyncio.Lock = field(default_factory=asyncio.Lock)


_connections: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[object, _Shared]] = WeakKeyDictionary()


@asynccontextmanager
async def connection(backend: DockerBackend) -> AsyncIterator[DockerEngine]:
    """The running loop's connection to this Docker; made by the first who asks, closed by the last who leaves."""
    known = _connections.setdefault(asyncio.get_running_loop(), {})
    key = (backend, os.environ.get("DOCKER_HOST"))
    shared = known.setdefault(key, _Shared())
    shared.users += 1
    try:
        async with shared.opening:
            if shared.engine is None:
                shared.engine = DockerEngine(backend, await access_of(backend))
        yield shared.engine
    finally:
        shared.users -= 1
        if not shared.users:
            known.pop(key, None)
            if shared.engine is not None:
                await shared.engine.close()
