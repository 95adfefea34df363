"""One subscription to a daemon's events, shared by every job that is watched over a connection."""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from airflow_customjob.backends.base import EngineError
from airflow_customjob.backends.docker.labels import JOB, job_of_record

if TYPE_CHECKING:
    from airflow_customjob.backends.docker.api import Api

FIRST_BACK_OFF, LAST_BACK_OFF = 0.1, 5.0
"""Seconds before a lost subscription is made again; doubled at each failure."""
SUBSCRIBING = 0.2
"""A daemon answers a moment before it has subscribed us: everybody is told once more after that many seconds."""
IDLE = 600.0
"""Seconds without an event after which the subscription is made anew: a dead TCP connection is silent for ever."""
FIRST_WAIT = 5.0
"""Seconds that a watcher waits for the subscription before it goes on without: it is told when it stands."""
HEARD = ("create", "start", "die", "oom", "destroy", "pause", "unpause", "rename")


class EventHub:
    """Subscribes when the first watcher comes, and keeps the subscription until it is closed."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._watchers: dict[str, list[asyncio.Event]] = defaultdict(list)
        self._task: asyncio.Task[None] | None = None
        self._live = asyncio.Event()
        self.started: dict[str, float] = {}
        """When each container started, by its id: heard, so that nobody has to ask."""
        self.died: set[str] = set()
        """Ids and names of containers that are known to have ended. A daemon says so before its own list shows it."""

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    @asynccontextmanager
    async def watch(self, job_id: str) -> AsyncIterator[AsyncIterator[None]]:
        with self.listening(job_id) as heard:
            with suppress(TimeoutError):
                async with asyncio.timeout(FIRST_WAIT):
                    await self._live.wait()

            async def items() -> AsyncIterator[None]:
                while True:
                    await heard.wait()
                    heard.clear()
                    yield

            yield items()

    @contextmanager
    def listening(self, job_id: str) -> Iterator[asyncio.Event]:
        """An event that is set whenever something may have happened to the job's containers or its record."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._subscribe(), name="docker-events")
        heard = asyncio.Event()
        self._watchers[job_id].append(heard)
        try:
            yield heard
        finally:
            self._watchers[job_id].remove(heard)
            if not self._watchers[job_id]:
                del self._watchers[job_id]

    async def _subscribe(self) -> None:
        delay = FIRST_BACK_OFF
        # Not by label: no volume would be told then.
        filters = json.dumps({"type": ["container", "volume"], "event": list(HEARD)})
        while True:
            began = time.monotonic()
            with suppress(EngineError, ValueError):  # a line too long is no event of ours
                async with self._api.stream(
                    "GET", "events", what="send its events", params={"filters": filters}, idle=IDLE
                ) as content:
                    self._live.set()
                    self._tell_everybody()
                    again = asyncio.get_running_loop().call_later(SUBSCRIBING, self._tell_everybody)
                    try:
                        while line := await content.readline():
                            self._hear(json.loads(line))
                    finally:
                        again.cancel()
            self._live.clear()
            self._tell_everybody()
            if time.monotonic() - began > LAST_BACK_OFF:
                delay = FIRST_BACK_OFF
            await asyncio.sleep(delay)
            delay = min(delay * 2, LAST_BACK_OFF)

    def _hear(self, event: dict[str, Any]) -> None:
        actor = event.get("Actor") or {}
        attributes = actor.get("Attributes") or {}
        job_id = job_of_record(actor["ID"]) if event.get("Type") == "volume" else attributes.get(JOB, "")
        if not job_id:
            return
        if event.get("Action") == "start":
            self.started[actor["ID"]] = event.get("timeNano", 0) / 1e9
        elif event.get("Action") == "die":
            self.died.add(actor["ID"])
        elif event.get("Action") == "destroy":
            self.started.pop(actor["ID"], None)
            self.died -= {actor["ID"], attributes.get("name", "")}
        for heard in self._watchers.get(job_id, ()):
            heard.set()

    def _tell_everybody(self) -> None:
        for watchers in self._watchers.values():
            for heard in watchers:
                heard.set()
