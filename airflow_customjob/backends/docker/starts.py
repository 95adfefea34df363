"""Who starts a container. Docker runs an ended one again when it is told to start it, so each is started by one caller only.

Two that see a container created, and both tell the daemon to start it, would run a short command twice: the second call
waits for the first one's start, and finds the container ended already. So whoever is to start one claims it first, by a
create-once volume. A claim whose holder has died is left behind after a while, for the next one to claim anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from itertools import count
from uuid import uuid4

from airflow_customjob.backends.base import ReplicaRef
from airflow_customjob.backends.docker.api import Api
from airflow_customjob.backends.docker.labels import JOB, KIND, KIND_START, NONCE, start_name

PATIENCE = 10.0
"""Seconds that another's claim counts although the container has not been started: a busy daemon takes some to start one."""
LOOK_AGAIN = 0.1
"""Seconds between two looks at a container that another is about to start."""


class Starts:
    """The claims of one connection."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._mine: set[ReplicaRef] = set()
        self._at_it: dict[ReplicaRef, asyncio.Lock] = {}

    @asynccontextmanager
    async def turn(self, ref: ReplicaRef) -> AsyncIterator[bool]:
        """Gives whether the caller is to start it, now; otherwise it has been started, was refused, or is gone.

        :param ref: seen created a moment ago.
        """
        async with self._at_it.setdefault(ref, asyncio.Lock()):
            yield await self._claim(ref)

    def forget(self, refs: Iterable[ReplicaRef]) -> None:
        """These were removed."""
        for ref in refs:
            self._mine.discard(ref)
            self._at_it.pop(ref, None)

    async def _claim(self, ref: ReplicaRef) -> bool:
        if ref in self._mine:  # an earlier attempt to start it has failed, or succeeded unheard
            return await self._is_created(ref)
        for turn in count():
            nonce = uuid4().hex
            labels = {JOB: ref.job_id, KIND: KIND_START, NONCE: nonce}
            if (await self._api.create_volume(start_name(ref, turn), labels)).get(NONCE) == nonce:
                self._mine.add(ref)
                return not turn or await self._is_created(ref)
            if not await self._is_left(ref):
                break
        return False

    async def _is_left(self, ref: ReplicaRef) -> bool:
        """Whether it still has not been started, long after it was claimed."""
        until = asyncio.get_running_loop().time() + PATIENCE
        while asyncio.get_running_loop().time() < until:
            await asyncio.sleep(LOOK_AGAIN)
            if not await self._is_created(ref):
                return False
        return True

    async def _is_created(self, ref: ReplicaRef) -> bool:
        container = await self._api.inspect(ref.name)
        return container is not None and container["State"]["Status"] == "created" and not container["State"]["Error"]
