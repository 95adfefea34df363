"""A replica's output through the API server, from any place on, whatever breaks meanwhile.

A place is ``container/second/before/count/nanoseconds``: so many lines of the second before and of that second were given,
and the last one of them had that time. ``sinceTime`` counts whole seconds, and gives every line from there on in the log's
own order, so that to go on is to read from the second before and pass over so many lines. (Lines of standard output and
standard error are stamped apart: one may stand a little after a later one, also across the turn of a second.) Where the
line passed over last has another time, the log is not what it was (its node has rotated it): what is left of it is given
after a notice.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from airflow_customjob.backends.base import LogLine, ReplicaRef
from airflow_customjob.backends.kubernetes import names
from airflow_customjob.backends.kubernetes.api import Api, ApiError, Missing, Unreachable
from airflow_customjob.backends.kubernetes.judge import container_state
from airflow_customjob.backends.kubernetes.watcher import Watcher

SILENCE = 60.0
"""Seconds without output after which a followed log is opened anew: a dead connection looks like a quiet replica."""
LOOK_AGAIN = 5.0
"""Seconds after which a Pod is looked at again whose change may have been missed."""
MAX_LINE = 2**20
"""Bytes after which a line without an end is given in pieces."""
BACK_OFF = 0.5
TRIES = 60


@dataclass(frozen=True)
class Place:
    """How far a container's log was given."""

    container: str
    second: int = 0
    before: int = 0
    count: int = 0
    nanoseconds: int = 0

    @classmethod
    def read(cls, text: str) -> Place:
        container, *numbers = text.split("/")
        return cls(container, *map(int, numbers))

    def __str__(self) -> str:
        return f"{self.container}/{self.second}/{self.before}/{self.count}/{self.nanoseconds}"

    @property
    def given(self) -> int:
        """Lines from the second before on; 0: none at all."""
        return self.before + self.count

    def after(self, at: int) -> Place:
        """:param at: nanoseconds since the epoch of one more line."""
        second = at // 10**9
        if second > self.second:
            before = self.count if second == self.second + 1 else 0
            return replace(self, second=second, before=before, count=1, nanoseconds=at)
        if second == self.second:
            return replace(self, count=self.count + 1, nanoseconds=at)
        if second == self.second - 1:
            return replace(self, before=self.before + 1, nanoseconds=at)
        return self


Line = tuple[int, str, bool]
"""Nanoseconds since the epoch, text, and whether the line ends there."""


class _Overlap:
    """Passes over the lines that were given before, and notices when they are other ones."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._passed = 0
        self._later: list[Line] = []

    def give(self, line: Line) -> tuple[list[Line], bool]:
        """The lines to give now, and whether some may be missing before them."""
        if self._passed >= self._place.given:
            return [line], False
        at, _, whole = line
        self._passed += whole
        if at > self._place.nanoseconds:
            self._later.append(line)
        if self._passed == self._place.given and at == self._place.nanoseconds:
            return [], False
        if self._passed == self._place.given or at > self._place.nanoseconds + 2 * 10**9:
            self._passed = self._place.given
            return self._later, True
        return [], False

    def left(self) -> list[Line] | None:
        """What was held back of a log that ended before all of it was passed over; None: it did not."""
        return self._later if self._passed < self._place.given else None


class PodLog:
    """The log of one incarnation: of its installers first, then of its own container."""

    def __init__(self, api: Api, watcher: Watcher, ref: ReplicaRef) -> None:
        self._api = api
        self._watcher = watcher
        self._ref = ref

    async def lines(self, after: str | None, follow: bool, tail: int | None) -> AsyncIterator[LogLine]:
        place = Place.read(after) if after else None
        with self._watcher.listening(self._ref.name) as changed:
            pod = await self._pod()
            containers = _containers(pod)
            if place is not None and place.container in containers:
                containers = containers[containers.index(place.container) :]
            if tail is not None:
                containers = [name for name in containers if _has_started(pod, name)][-1:]
            for container in containers:
                start = place if place is not None and place.container == container else Place(container)
                async for line in self._of(container, start, follow, tail, changed):
                    yield line

    async def _of(
        self, container: str, place: Place, follow: bool, tail: int | None, changed: asyncio.Event
    ) -> AsyncIterator[LogLine]:
        failures = 0
        while True:
            changed.clear()
            pod = await self._pod()
            state = container_state(pod, container) if pod else {}
            ended = "terminated" in state
            if "running" in state or ended:
                try:
                    async for line, following in self._read(container, place, follow and not ended, tail):
                        failures, place = 0, following
                        yield line
                    tail = None
                except Unreachable:
                    failures += 1
                    if not follow or failures > TRIES:
                        raise
                    await asyncio.sleep(BACK_OFF)
                    continue
                except ApiError as error:
                    if ended:
                        for line in self._last_words(state, place, tail, error):
                            yield line
                        return
                    failures += 1
                    if failures > TRIES:
                        raise
                    await asyncio.sleep(BACK_OFF)
                    continue
            if ended or not follow or not pod or _will_not_run(pod, container):
                return
            if "running" not in state:
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_AGAIN):
                        await changed.wait()

    async def _pod(self) -> dict[str, Any]:
        """Empty: it is gone."""
        try:
            return await self._api.get("pods", self._ref.name)
        except Missing:
            return {}

    async def _read(
        self, container: str, place: Place, follow: bool, tail: int | None
    ) -> AsyncIterator[tuple[LogLine, Place]]:
        """One reading, from the place on to where it ends or breaks off."""
        query: dict[str, Any] = {"container": container, "timestamps": "true", "tailLines": tail}
        if follow:
            query["follow"] = "true"
        if place.given:
            query["sinceTime"] = datetime.fromtimestamp(place.second - 1, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        overlap = _Overlap(place)
        async with self._api.stream(self._api.path("pods", self._ref.name, "log"), query, SILENCE) as pieces:
            async for line in _lines(pieces):
                given, is_gap = overlap.give(line)
                if is_gap:
                    yield self._notice(place), place
                for at, text, whole in given:
                    following = place.after(at) if whole else place
                    yield LogLine(self._ref, text, at / 1e9, str(following)), following
                    place = following
        if not follow and (left := overlap.left()) is not None:
            yield self._notice(place), place
            for at, text, _ in left:
                place = place.after(at)
                yield LogLine(self._ref, text, at / 1e9, str(place)), place

    def _notice(self, place: Place) -> LogLine:
        text = f"the log of {self._ref.replica} is another one than before (its node may have rotated it): lines may be missing"
        return LogLine(self._ref, text, place.nanoseconds / 1e9, str(place), notice=True)

    def _last_words(
        self, state: Mapping[str, Any], place: Place, tail: int | None, error: ApiError
    ) -> Iterator[LogLine]:
        """What Kubernetes itself has kept of a log that can no longer be read."""
        ended = state["terminated"]
        kept = ended.get("message", "").splitlines() if ended.get("reason") == "Error" and not place.given else []
        if not kept:
            return
        for text in kept if tail is None else kept[len(kept) - min(tail, len(kept)) :]:
            yield LogLine(self._ref, text, 0.0, str(place))
        text = f"the log of {self._ref.replica} cannot be read any more ({error.said}): this is the end of it"
        yield LogLine(self._ref, text, 0.0, str(place), notice=True)


def _containers(pod: dict[str, Any]) -> list[str]:
    installers = [init["name"] for init in pod.get("spec", {}).get("initContainers", ())]
    return [*(name for name in installers if name in (names.INSTALLER, names.FILES)), names.CONTAINER]


def _has_started(pod: dict[str, Any], container: str) -> bool:
    return bool(container_state(pod, container).keys() & {"running", "terminated"})


def _will_not_run(pod: dict[str, Any], container: str) -> bool:
    """Its Pod has ended, and this container has not been and will not be started."""
    return not _has_started(pod, container) and pod.get("status", {}).get("phase") in ("Failed", "Succeeded")


async def _lines(pieces: AsyncIterator[bytes]) -> AsyncIterator[Line]:
    """Of a line that is too long, pieces."""
    rest, at = b"", 0
    async for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            at, text = _stamped(line, at)
            yield at, text, True
            at = 0
        if len(rest) > MAX_LINE:
            at, text = _stamped(rest, at)
            yield at, text, False
            rest = b""
    if rest or at:
        at, text = _stamped(rest, at)
        yield at, text, True


def _stamped(line: bytes, at: int) -> tuple[int, str]:
    """:param at: of the line's earlier piece; 0: it begins here, with its time."""
    if at:
        return at, line.decode(errors="replace")
    stamp, _, text = line.partition(b" ")
    try:
        return _nanoseconds(stamp.decode(errors="replace")), text.decode(errors="replace")
    except ValueError:  # a node that cannot read a log says so in its place
        raise ApiError("read a log", 200, "NoTimestamp", line.decode(errors="replace")) from None


def _nanoseconds(stamp: str) -> int:
    """Of ``2026-01-01T00:00:00.123456789Z`` or with an offset; whole numbers, since a float has no place for them."""
    head, dot, rest = stamp.partition(".")
    if not dot:
        return int(datetime.fromisoformat(stamp).timestamp()) * 10**9
    digits = rest.rstrip("Z").partition("+")[0].partition("-")[0]
    zone = rest[len(digits) :]
    return int(datetime.fromisoformat(head + zone).timestamp()) * 10**9 + int(digits.ljust(9, "0")[:9])
