"""One subscription to a namespace's Pods, shared by everybody in an event loop who waits for some of them."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from airflow_customjob.backends.base import EngineError
from airflow_customjob.backends.kubernetes import names
from airflow_customjob.backends.kubernetes.api import Api, ApiError

log = logging.getLogger(__name__)

TURN = 300
"""Seconds after which the API server ends a watch, and it is opened again from where it was."""
SILENCE = 90.0
"""Seconds without a word (bookmarks come once a minute) after which a connection counts as dead."""
FIRST_BACK_OFF, LAST_BACK_OFF = 0.1, 10.0


class _Expired(Exception):
    """The place to go on from is no longer known: look anew."""


class Watcher:
    """Wakes those who wait. It keeps no Pods: who is woken looks for himself, and is also woken when events may have been
    missed.
    """

    def __init__(self, api: Api) -> None:
        self._api = api
        self._waiting: dict[str, list[asyncio.Event]] = defaultdict(list)
        self._task: asyncio.Task[None] | None = None
        self.live = asyncio.Event()

    @contextmanager
    def listening(self, topic: str, heard: asyncio.Event | None = None) -> Iterator[asyncio.Event]:
        """An event that is set at each change of a job (by its id) or of a Pod (by its name)."""
        heard = heard or asyncio.Event()
        self._waiting[topic].append(heard)
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        try:
            yield heard
        finally:
            self._waiting[topic].remove(heard)
            if not self._waiting[topic]:
                del self._waiting[topic]

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        delay, version = FIRST_BACK_OFF, ""
        while True:
            try:
                version = version or await self._begin()
                async for place in self._events(version):
                    delay, version = FIRST_BACK_OFF, place
            except _Expired:
                version = ""
            except EngineError as error:
                self.live.clear()
                log.info("watching Pods in %s: %s; trying again", self._api.namespace, error)
                version = "" if isinstance(error, ApiError) else version
                await asyncio.sleep(delay)
                delay = min(delay * 2, LAST_BACK_OFF)

    async def _begin(self) -> str:
        listed = await self._api.list("pods", names.MANAGED_SELECTOR, limit=1)
        return str(listed["metadata"]["resourceVersion"])

    async def _events(self, version: str) -> AsyncIterator[str]:
        """The place of each event, once those who wait for it were woken."""
        query = {
            "watch": "1",
            "labelSelector": names.MANAGED_SELECTOR,
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": TURN,
        }
        async with self._api.stream(self._api.path("pods"), query, SILENCE) as pieces:
            self._wake_all()
            self.live.set()
            rest = b""
            async for piece in pieces:
                *lines, rest = (rest + piece).split(b"\n")
                for line in filter(None, lines):
                    yield self._hear(msgspec.json.decode(line))

    def _hear(self, event: dict[str, Any]) -> str:
        thing = event["object"]
        if event["type"] == "ERROR":
            if thing.get("code") == 410:
                raise _Expired
            raise ApiError("watch pods", thing.get("code", 0), thing.get("reason", ""), thing.get("message", ""))
        metadata = thing["metadata"]
        if event["type"] != "BOOKMARK":
            self._wake(metadata["name"])
            self._wake(metadata["labels"].get(names.JOB, ""))
        return str(metadata["resourceVersion"])

    def _wake(self, topic: str) -> None:
        for heard in self._waiting.get(topic, ()):
            heard.set()

    def _wake_all(self) -> None:
        for topic in self._waiting:
            self._wake(topic)
