"""Whether a file is a package, by its table of contents. Nothing of it is unpacked, kept or run.

A package may be anybody's: sizes that it claims are not believed, and what it would unpack to has a bound.
"""

from __future__ import annotations

import gzip
import os
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

NAME = re.compile(r"[A-Za-z0-9_][^/\\\x00-\x1f\x7f]*\.(tar\.gz|tgz|zip|whl)")
"""What pip takes for an archive; anything else it would take for the name of a project, and ask an index for it."""
MAX_UNPACKED = 2 * 2**30
"""Bytes that a source distribution may take on a disk."""
MAX_CONTENTS = 16 * 2**20
"""Bytes of a wheel's table of contents: some 200,000 files."""

MAX_METADATA = 2**20
"""Bytes of a wheel's metadata that are read."""

_METADATA = re.compile(r"[^/]+\.dist-info/METADATA")
_CHUNK = 2**20
_BLOCK, _AT_LEAST = 512, 4096
"""Bytes of a tar file's blocks, and that a file takes on a disk."""
_MARKS = ("PKG-INFO", "pyproject.toml", "setup.py")
"""By one of these, in its only folder, pip knows a source distribution."""


def why_no_package(path: Path, filename: str) -> str:
    """What is wrong with the file; empty if it looks like what its name says.

    :param filename: the package's own name: ``trainer-0.1-py3-none-any.whl``.
    """
    try:
        if filename.endswith((".whl", ".zip")):
            return _wheel(path) if filename.endswith(".whl") else _source(_zip_names(path))
        return _source(_tar_names(path))
    except (zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError, RuntimeError, ValueError) as error:
        kind = "zip file" if filename.endswith((".whl", ".zip")) else "gzipped tar file"
        return f"it is no whole {kind} ({str(error) or 'it ends too early'})"


def requires_nothing(path: Path, filename: str) -> bool:
    """Whether it is a wheel that depends on no other project, by its own metadata. False: it may.

    :param path: of a file that :func:`why_no_package` finds nothing wrong with.
    """
    if not filename.endswith(".whl"):
        return False  # what a source distribution requires may only be known once its code has run
    requires = re.compile(rb"^Requires-(Dist|External)\s*:", re.MULTILINE | re.IGNORECASE)
    return not any(len(text) > MAX_METADATA or requires.search(text) for text in _metadata(path))


def _wheel(path: Path) -> str:
    if any(True for _ in _metadata(path)):
        return ""
    return "it is a zip file, but no wheel: there is no NAME.dist-info/METADATA in it"


def _metadata(path: Path) -> Iterator[bytes]:
    """What a wheel says of itself; of one that says more than :data:`MAX_METADATA` the beginning."""
    with path.open("rb") as file, zipfile.ZipFile(_Bounded(file)) as archive:
        for name in filter(_METADATA.fullmatch, archive.namelist()):
            with archive.open(name) as told:
                yield told.read(MAX_METADATA + 1)


def _source(names: Iterator[str]) -> str:
    """Reads to the end, since a file that was cut short shows there."""
    found = False
    for name in names:
        folder, _, file = name.removeprefix("./").partition("/")
        found = found or (bool(folder) and file in _MARKS)
    return "" if found else f"it is no source distribution: its folder has none of {', '.join(_MARKS)}"


class _Bounded:
    """A file that is read in pieces of bounded size: a zip file says itself how long its table of contents is."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(MAX_CONTENTS + 1 if size < 0 else min(size, MAX_CONTENTS + 1))
        if len(data) > MAX_CONTENTS:
            raise ValueError(f"its table of contents has more than {MAX_CONTENTS:,} bytes")
        return data


def _zip_names(path: Path) -> Iterator[str]:
    with path.open("rb") as file, zipfile.ZipFile(_Bounded(file)) as archive:
        yield from archive.namelist()


def _tar_names(path: Path) -> Iterator[str]:
    """Names of the members, read header by header: the library would believe any size that a header claims."""
    with path.open("rb") as raw, gzip.GzipFile(fileobj=raw) as file:
        left, zeros = MAX_UNPACKED, 0
        while zeros < 2:
            header = file.read(_BLOCK)
            if not header:
                return
            if not header.strip(b"\0"):
                zeros += 1
                continue
            zeros = 0
            name, size = _header(header)
            left -= size + _AT_LEAST
            if left < 0:
                raise ValueError(f"it unpacks to more than {MAX_UNPACKED:,} bytes")
            yield name
            _skip(file, -(-size // _BLOCK) * _BLOCK)
        _skip_to_end(file)


def _header(header: bytes) -> tuple[str, int]:
    """A member's name and size (POSIX ustar; a size beyond eight octal digits is binary, as GNU writes it)."""
    if len(header) < _BLOCK:
        raise EOFError("it ends too early")
    told = int(header[148:156].split(b"\0")[0].strip() or b"0", 8)
    if told != sum(header[:148]) + 8 * ord(" ") + sum(header[156:]):
        raise ValueError("a header's checksum is wrong")
    size = header[124:136]
    length = int.from_bytes(size[1:], "big") if size[0] & 0x80 else int(size.split(b"\0")[0].strip() or b"0", 8)
    prefix = header[345:500].split(b"\0")[0] if header[257:262] == b"ustar" else b""
    name = header[:100].split(b"\0")[0]
    return os.fsdecode(prefix + b"/" + name if prefix else name), length


def _skip(file: gzip.GzipFile, size: int) -> None:
    while size:
        data = file.read(min(size, _CHUNK))
        if not data:
            raise EOFError("it ends too early")
        size -= len(data)


def _skip_to_end(file: gzip.GzipFile) -> None:
    """To the checksum of the whole, through tar's own padding."""
    left = _CHUNK
    while data := file.read(_CHUNK):
        left -= len(data)
        if left < 0:
            raise ValueError("more follows its end")
