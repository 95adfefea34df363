"""A container's log as lines: frames to entries, entries to lines, and how to go on exactly after a line.

Docker stores what a container writes as *entries*: what it read up to a newline, or 16 KiB of a longer line. Each entry
has a time in nanoseconds and arrives as one frame; one that does not end with a newline is continued by the next of its
stream. Entries keep their order for ever, but not that of their times: both streams are written by threads of their own.

So a *position* is the last entry of a line: its time, how many entries up to it have that time, and a checksum of its
text; then the time from which unfinished lines must be read again, and the streams whose unfinished line was given as it
was. To go on, the log is read from :data:`OVERLAP` seconds
before that, everything up to the matching entry is passed over, and the rest is new.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from airflow_customjob.backends.base import LogLine, ReplicaRef

if TYPE_CHECKING:
    import aiohttp

OVERLAP = 2.0
"""Seconds by which the times of neighbouring entries may be out of order."""
LONGEST = 2**20
"""Characters of a line; a longer one is given in parts."""
COUNTED = 100_000
"""Entries whose times are remembered before those that are out of reach are forgotten."""
_HEADER = struct.Struct(">BxxxL")
_NANO = 10**9


@dataclass(frozen=True)
class Entry:
    """:param at: nanoseconds since the epoch.
    :param stream: 1 is standard output, 2 standard error.
    :param data: with its newline, if it has one.
    """

    at: int
    stream: int
    data: bytes


@dataclass(frozen=True)
class Position:
    """After a line; see the module's words.

    :param at: nanoseconds.
    :param count: from 1.
    :param since: nanoseconds.
    :param given: bits of the streams whose unfinished line was given already.
    """

    at: int
    count: int
    checksum: int
    since: int
    given: int

    def __str__(self) -> str:
        return f"{self.at}-{self.count}-{self.checksum:x}-{self.at - self.since}-{self.given}"

    @staticmethod
    def parse(text: str) -> Position:
        at, count, checksum, before, given = text.split("-")
        return Position(int(at), int(count), int(checksum, 16), int(at) - int(before), int(given))


async def entries(content: aiohttp.StreamReader) -> AsyncIterator[list[Entry]]:
    """The entries of a log that is sent with time stamps, in bunches as they arrive."""
    pending = bytearray()
    async for chunk in content.iter_any():
        pending += chunk
        bunch, used = [], 0
        while len(pending) - used >= _HEADER.size:
            stream, size = _HEADER.unpack_from(pending, used)
            end = used + _HEADER.size + size
            if len(pending) < end:
                break
            bunch.append(_entry(stream, bytes(pending[used + _HEADER.size : end])))
            used = end
        del pending[:used]
        if bunch:
            yield bunch


def _entry(stream: int, payload: bytes) -> Entry:
    stamp, _, data = payload.partition(b" ")
    return Entry(nanoseconds(stamp.decode("ascii", "replace")), stream, data)


def nanoseconds(stamp: str) -> int:
    """RFC 3339 with up to nine decimals as nanoseconds since the epoch; 0 for what is no time."""
    whole, _, rest = stamp.removesuffix("Z").partition(".")
    try:
        return int(datetime.fromisoformat(f"{whole}+00:00").timestamp()) * _NANO + int(f"{rest:0<9}"[:9] or 0)
    except ValueError:
        return 0


@dataclass
class Reader:
    """Makes lines of the entries of one reading of a log, from a position on. No I/O.

    :param after: the last line that was given already.
    :param position: of the last line that was given, by this reading or before it.
    :param skipped: the entry after which all is new was found, or there is none.
    """

    ref: ReplicaRef
    after: Position | None = None
    position: Position | None = None
    skipped: bool = False
    _counts: dict[int, int] = field(default_factory=dict)
    _forget_at: int = COUNTED
    _parts: dict[int, list[Entry]] = field(default_factory=dict)
    _held: list[LogLine] = field(default_factory=list)
    _last: Entry = field(default=Entry(0, 1, b""))

    def __post_init__(self) -> None:
        self.position = self.after
        self.skipped = self.after is None

    @property
    def since(self) -> str | None:
        """Where the daemon is to begin, in its own form."""
        if self.after is None:
            return None
        start = max(0, self.after.since - int(OVERLAP * _NANO))
        return f"{start // _NANO}.{start % _NANO:09d}"

    def feed(self, entry: Entry) -> Iterator[LogLine]:
        """The lines that this entry completes, as far as they are new."""
        line = self._assemble(entry)
        if self.skipped or self.after is None:
            if line is not None:
                yield self._given(line)
            return
        if line is not None and entry.at > self.after.at:
            self._held.append(line)
        if self._is_the_last_given(entry):
            self.skipped, self._held = True, []
            for stream in [stream for stream in self._parts if self.after.given & stream]:
                del self._parts[stream]
        elif entry.at > self.after.at + OVERLAP * _NANO:
            yield from self.give_up()

    def give_up(self) -> Iterator[LogLine]:
        """The last given line is not in the log any more: say so, and give what is later."""
        if self.skipped or self.after is None:
            return
        self.skipped = True
        seconds = self.after.at / _NANO
        text = f"the log of {self.ref.replica} does not continue where it was left: lines may be missing here"
        yield LogLine(self.ref, text, seconds, str(self.after), notice=True)
        for line in self._held:
            yield self._given(line)
        self._held = []

    def finish(self) -> Iterator[LogLine]:
        """The log is at its end: lines without a newline are lines too."""
        yield from self.give_up()
        given = 0
        for stream in sorted(self._parts):
            given |= stream
            yield self._given(self._line(self._parts.pop(stream), given))

    def _given(self, line: LogLine) -> LogLine:
        self.position = Position.parse(line.position)
        return line

    def _assemble(self, entry: Entry) -> LogLine | None:
        self._counts[entry.at] = self._counts.get(entry.at, 0) + 1
        if len(self._counts) > self._forget_at:
            old = entry.at - 2 * OVERLAP * _NANO
            self._counts = {at: count for at, count in self._counts.items() if at > old}
            self._forget_at = max(COUNTED, 2 * len(self._counts))  # all may be within reach: not at each entry again
        self._last = entry
        parts = self._parts.pop(entry.stream, [])
        parts.append(entry)
        if entry.data.endswith(b"\n"):
            return self._line(parts, 0)
        if sum(len(part.data) for part in parts) >= LONGEST:
            return self._line(parts, entry.stream)
        self._parts[entry.stream] = parts
        return None

    def _line(self, parts: list[Entry], given: int) -> LogLine:
        last, data = self._last, b"".join(part.data for part in parts).removesuffix(b"\n")
        pending = (begun[0].at for begun in self._parts.values())
        position = Position(last.at, self._counts[last.at], zlib.crc32(last.data), min((last.at, *pending)), given)
        return LogLine(self.ref, data.decode(errors="replace"), parts[-1].at / _NANO, str(position))

    def _is_the_last_given(self, entry: Entry) -> bool:
        after = self.after
        return (
            after is not None
            and entry.at == after.at
            and self._counts[entry.at] == after.count
            and zlib.crc32(entry.data) == after.checksum
        )
