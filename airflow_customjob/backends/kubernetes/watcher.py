"""One subscription to a namespace's Pods and one to its records, shared by everybody in an event loop who waits for some."""

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
KINDS = ("pods", "configmaps")


class _Expired(Exception):
    """The place to go on from is no longer known: look anew."""


class Watcher:
    """Wakes those who wait. It keeps no Pods: who is woken looks for himself, and is also woken when events may have been
    missed.
    """

    def __init__(self, api: Api) -> None:
        self._api = api
        self._waiting: dict[str, list[asyncio.Event]] = defaultdict(list)
        self._tasks: list[asyncio.Task[None]] = []

    @contextmanager
    def listening(self, topic: str, heard: asyncio.Event | None = None) -> Iterator[asyncio.Event]:
        """An event that is set at each change of a job (by its id: its Pods, its record) or of a Pod (by its name)."""
        heard = heard or asyncio.Event()
        self._waiting[topic].append(heard)
        if not self._tasks:
            self._tasks = [asyncio.create_task(self._run(kind)) for kind in KINDS]
        try:
            yield heard
        finally:
            self._waiting[topic].remove(heard)
            if not self._waiting[topic]:
                del self._waiting[topic]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(self, kind: str) -> None:
        delay, version = FIRST_BACK_OFF, ""
        while True:
            try:
                version = version or await self._begin(kind)
                async for place in self._events(kind, version):
                    delay, version = FIRST_BACK_OFF, place
                await asyncio.sleep(FIRST_BACK_OFF)
            except _Expired:
                version = ""
            except EngineError as error:
                log.info("watching %s in %s: %s; trying again", kind, self._api.namespace, error)
                version = "" if isinstance(error, ApiError) else version
                await asyncio.sleep(delay)
                delay = min(delay * 2, LAST_BACK_OFF)

    async def _begin(self, kind: str) -> str:
        listed = await self._api.list(kind, names.MANAGED_SELECTOR, limit=1)
        return str(listed["metadata"]["resourceVersion"])

    async def _events(self, kind: str, version: str) -> AsyncIterator[str]:
        """The place of each event, once those who wait for it were woken."""
        query = {
            "watch": "1",
            "labelSelector": names.MANAGED_SELECTOR,
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": TURN,
        }
        async with self._api.stream(self._api.path(kind), query, SILENCE) as pieces:
            self._wake_all()
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
            raise ApiError("watch", thing.get("code", 0), thing.get("reason", ""), thing.get("message", ""))
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
