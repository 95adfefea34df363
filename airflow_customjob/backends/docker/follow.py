"""Reads a container's log from a position on, and goes on through whatever happens to the connection."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress

from airflow_customjob.backends.base import EngineError, LogLine, ReplicaRef
from airflow_customjob.backends.docker.api import Api, Missing
from airflow_customjob.backends.docker.events import EventHub
from airflow_customjob.backends.docker.logs import Entry, Position, Reader, entries

INIT_FAILED = re.compile(rb"\[FATAL tini \(\d+\)\] exec (?P<command>.*) failed: (?P<why>.*)\n?")
"""How Docker's init says that there is no such command; it is told as the replica's message, not as its output."""
FIRST_BACK_OFF, LAST_BACK_OFF = 0.1, 5.0
PATIENCE = 60.0
"""Seconds for which a daemon that does not answer is asked again before a follower hears of it."""
UNHEARD = 5.0
"""Seconds after which a container that has not started is looked at again, if no event came."""


async def read_log(
    api: Api, hub: EventHub, ref: ReplicaRef, after: str | None, follow: bool, tail: int | None
) -> AsyncIterator[LogLine]:
    """See :meth:`airflow_customjob.backends.base.Engine.logs`."""
    position = None if after is None else Position.parse(after)
    if not follow:
        async for line in _read_once(api, Reader(ref, position), tail):
            yield line
        return
    final = False
    trouble = _Trouble()
    while True:
        reader = Reader(ref, position)
        try:
            async for line in _read(api, reader, not final, tail if position is None else None):
                position = reader.position
                trouble.over()
                yield line
            container = None if final else await api.inspect(ref.name)
        except Missing:
            return
        except EngineError:
            await trouble.back_off()
            continue
        if container is None:
            for line in reader.finish():
                yield line
            return
        trouble.over()
        state = container["State"]["Status"]
        if state == "created" and not container["State"]["Error"]:
            with hub.listening(ref.job_id) as heard, suppress(TimeoutError):
                async with asyncio.timeout(UNHEARD):
                    await heard.wait()
        elif state in ("running", "paused", "restarting"):
            await asyncio.sleep(FIRST_BACK_OFF)
        else:  # it could not be started; or a stream that was cut while it ended has not given all: read the rest
            final = True


async def _read_once(api: Api, reader: Reader, tail: int | None) -> AsyncIterator[LogLine]:
    if tail == 0:
        return
    last: deque[LogLine] = deque(maxlen=tail)
    with suppress(Missing):
        async for line in _read(api, reader, follow=False, tail=tail if reader.after is None else None):
            if tail is None:
                yield line
            else:
                last.append(line)
        for line in reader.finish():
            last.append(line)
    for line in last:
        yield line


async def _read(api: Api, reader: Reader, follow: bool, tail: int | None) -> AsyncIterator[LogLine]:
    params = {"stdout": "1", "stderr": "1", "timestamps": "1", "follow": "1" if follow else "0"}
    if reader.since is not None:
        params["since"] = reader.since
    if tail is not None:
        params["tail"] = str(tail)
    path = f"containers/{reader.ref.name}/logs"
    async with api.stream("GET", path, what=f"give the log of {reader.ref.name}", params=params) as content:
        first = reader.after is None
        async for bunch in entries(content):
            for entry in bunch:
                if first and said_by_init(entry):
                    continue
                first = False
                for line in reader.feed(entry):
                    yield line


def said_by_init(entry: Entry) -> re.Match[bytes] | None:
    """The match of :data:`INIT_FAILED`, which is all that such a container ever says."""
    return INIT_FAILED.fullmatch(entry.data) if entry.stream == 2 else None


class _Trouble:
    """Back-off between attempts to read; raises once it has taken too long."""

    def __init__(self) -> None:
        self.over()

    def over(self) -> None:
        self._delay = FIRST_BACK_OFF
        self._waited = 0.0

    async def back_off(self) -> None:
        if self._waited >= PATIENCE:
            raise  # noqa: PLE0704 - called where an error is handled
        await asyncio.sleep(self._delay)
        self._waited += self._delay
        self._delay = min(self._delay * 2, LAST_BACK_OFF)
