"""Reads what shims write. A position is the offset of the byte after a line, so that any process can go on from it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from airflow_customjob.backends.base import LogLine, ReplicaRef

CHUNK = 2**18


class LogFile:
    """A replica's log, from a position on.

    :param after: the position of the last line that was read.
    """

    def __init__(self, path: Path, ref: ReplicaRef, after: str | None = None) -> None:
        self._path = path
        self._ref = ref
        self._file: int | None = None
        self._offset = int(after or 0)
        self._at = 0.0

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)

    def seek_tail(self, count: int) -> None:
        """Go on where the last ``count`` lines begin, unless that is before the position."""
        file = self._open()
        if file is not None:
            self._offset = max(self._offset, _tail(file, count))

    def read(self, *, over: bool) -> Iterator[list[LogLine]]:
        """The lines that are there, some at a time.

        :param over: nothing is written any more: the last line counts also without a newline.
        """
        file = self._open()
        if file is None:
            return
        if (size := os.fstat(file).st_size) < self._offset:
            text = f"the log of {self._ref.replica} ends before where it was read to; lines may be missing"
            self._offset = size
            yield [LogLine(self._ref, text, self._at, str(size), notice=True)]
        rest = b""
        while data := os.pread(file, CHUNK, self._offset + len(rest)):
            *whole, rest = (rest + data).split(b"\n")
            yield [self._line(line, 1) for line in whole]
        if over and rest:
            yield [self._line(rest, 0)]

    def _open(self) -> int | None:
        if self._file is None:
            try:
                self._file = os.open(self._path, os.O_RDONLY)
            except (FileNotFoundError, NotADirectoryError):
                return None
        return self._file

    def _line(self, line: bytes, newline: int) -> LogLine:
        self._offset += len(line) + newline
        stamp, mark, text = line[:17], line[17:18], line[18:]
        try:
            self._at = float(stamp)
        except ValueError:
            mark, text = b" ", line  # written over a full disk
        return LogLine(self._ref, text.decode("utf-8", "replace"), self._at, str(self._offset), notice=mark == b"!")


def _tail(file: int, count: int) -> int:
    """Offset of the last ``count`` lines."""
    end = os.fstat(file).st_size
    if count <= 0:
        return end
    wanted = count + (os.pread(file, 1, max(end - 1, 0)) == b"\n")
    while end > 0:
        begin = max(end - CHUNK, 0)
        data = os.pread(file, end - begin, begin)
        found = data.count(b"\n")
        if found >= wanted:
            for _ in range(wanted):
                data = data[: data.rfind(b"\n")]
            return begin + len(data) + 1
        wanted -= found
        end = begin
    return 0
