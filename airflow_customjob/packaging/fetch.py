"""Brings packages to this machine as bytes: by path, ``file://`` or ``http(s)://``, into a content-addressed folder."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import tempfile
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import SplitResult, unquote, urlsplit

MAX_SIZE = 2 * 2**30
"""Bytes of one package; more is a mistake (a dataset, an endless answer)."""
RETRY_AFTER = 5.0
"""Seconds before a download is tried for the second and last time, as the executor's gsutil does."""
STALL = 60.0
"""Seconds without a byte after which a download has failed."""
CHUNK = 2**20

# What pip takes for an archive; anything else it would take for the name of a project, and ask an index for it.
_ARCHIVE = re.compile(r"[A-Za-z0-9_][^/\\\x00-\x1f\x7f]*\.(tar\.gz|tgz|tar\.bz2|tar\.xz|tar|zip|whl)")

Say = Callable[[str], None]


class PackageError(Exception):
    """A package cannot be had.

    :param message: which one, why, and what to do; without the credentials that its URI may hold.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


@dataclass(frozen=True)
class Fetched:
    """A package on this machine.

    :param uri: as the spec names it, without user, password and query.
    :param filename: its own name, which pip reads the project and version from.
    :param path: where its bytes are; never changed once there.
    :param sha256: of its bytes, in hexadecimal.
    :param size: in bytes.
    """

    uri: str
    filename: str
    path: Path
    sha256: str
    size: int


def packages_folder() -> Path:
    """``airflow-customjob/packages`` in the user's cache directory."""
    cache = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(cache) if os.path.isabs(cache) else Path.home() / ".cache") / "airflow-customjob" / "packages"


async def fetch(
    uris: Iterable[str], say: Say, *, folder: Path | None = None, max_size: int = MAX_SIZE
) -> tuple[Fetched, ...]:
    """The packages in the order of their URIs, read or downloaded anew and kept by their hash.

    Any number of processes may use one folder at once.

    :param say: is told each package and its size.
    :param folder: None is :func:`packages_folder`.
    :param max_size: bytes that one package may have.
    :raises PackageError: one cannot be had.
    """
    folder = folder or packages_folder()
    return tuple([await _fetch(uri, say, folder, max_size) for uri in uris])


async def _fetch(uri: str, say: Say, folder: Path, max_size: int) -> Fetched:
    try:
        parts = urlsplit(uri)
        shown = _redacted(parts)
    except ValueError:
        raise PackageError("a package URI cannot be read: write an absolute path, file:// or http(s)://") from None
    fill = _source(parts, uri, shown)
    filename = os.path.basename(unquote(parts.path) if parts.scheme else uri)
    if not _ARCHIVE.fullmatch(filename):
        raise PackageError(
            f"package {shown} is not named like a Python package: build a source distribution (.tar.gz) or a wheel (.whl)"
        )
    say(f"Downloading the package: {shown}")
    try:
        with _incoming(folder) as (file, place):
            sink = _Sink(file, shown, max_size)
            await fill(sink)
            path = place(sink.sha256, filename)
    except OSError as error:
        raise PackageError(f"package {shown} cannot be read or kept: {_words(error)}") from None
    return Fetched(shown, filename, path, sha256=sink.sha256, size=sink.size)


class _Sink:
    """Takes a package's bytes: writes, hashes and counts them."""

    def __init__(self, file: BinaryIO, shown: str, max_size: int) -> None:
        self._file = file
        self._shown = shown
        self._max_size = max_size
        self.restart()

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def restart(self) -> None:
        self._file.seek(0)
        self._file.truncate()
        self._hash = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> None:
        self.expect(self.size + len(data))
        self._file.write(data)
        self._hash.update(data)
        self.size += len(data)

    def expect(self, size: int) -> None:
        if size > self._max_size:
            raise PackageError(
                f"package {self._shown} has more than {self._max_size:,} bytes: give data to the job by its own "
                "storage, not inside a package"
            )


@contextmanager
def _incoming(folder: Path) -> Iterator[tuple[BinaryIO, Callable[[str, str], Path]]]:
    """A file to fill, and how to put it in its place; it is gone if it was not."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".incoming-", delete=False) as file:

        def place(sha256: str, filename: str) -> Path:
            file.flush()
            os.fsync(file.fileno())
            target = folder / sha256 / filename
            target.parent.mkdir(exist_ok=True)
            os.chmod(file.name, 0o644)
            os.replace(file.name, target)
            return target

        try:
            yield file.file, place  # type: ignore[misc]
        finally:
            Path(file.name).unlink(missing_ok=True)


# -- where bytes come from ------------------------------------------------------------------------------------------


def _source(parts: SplitResult, uri: str, shown: str) -> Callable[[_Sink], Awaitable[None]]:
    match parts.scheme.lower():
        case "http" | "https":
            return lambda sink: _download(uri, shown, sink)
        case "gs":
            raise PackageError(
                f"package {shown}: Cloud Storage cannot be read yet; copy the package to this machine "
                f"(gcloud storage cp {shown} .) and name its absolute path, or serve it over http(s)"
            )
        case "file" if parts.netloc not in ("", "localhost"):
            raise PackageError(f"package {shown} is on the host {parts.netloc}: write file:///absolute/path")
        case "file":
            return _reader(Path(unquote(parts.path)), shown)
        case "" if os.path.isabs(uri):
            return _reader(Path(uri), shown)
        case "":
            raise PackageError(
                f"package {shown} is a relative path, which means another file in every process: write it absolute"
            )
        case scheme:
            raise PackageError(
                f"package {shown}: {scheme}:// is not known here; use an absolute path, file:// or http(s)://"
            )


def _reader(path: Path, shown: str) -> Callable[[_Sink], Awaitable[None]]:
    if path.is_dir():
        build = "build it first (python3 -m build) and name the file in its dist folder"
        known = any((path / name).is_file() for name in ("pyproject.toml", "setup.py", "setup.cfg"))
        raise PackageError(
            f"package {shown} is {'the source of a package' if known else 'a directory'}, not a package: {build}"
        )
    if not path.is_file():
        raise PackageError(f"package {shown} does not exist on this machine: check the path, or name it by http(s)://")

    def read(sink: _Sink) -> None:
        with path.open("rb") as source:
            while data := source.read(CHUNK):
                sink.write(data)

    async def fill(sink: _Sink) -> None:
        await asyncio.to_thread(read, sink)

    return fill


async def _download(uri: str, shown: str, sink: _Sink) -> None:
    import aiohttp

    limits = aiohttp.ClientTimeout(total=None, sock_connect=STALL, sock_read=STALL)
    async with aiohttp.ClientSession(timeout=limits, trust_env=True, auto_decompress=False) as session:
        for last in (False, True):
            try:
                async with session.get(uri, headers={"Accept-Encoding": "identity"}) as response:
                    if response.status < 400:
                        sink.restart()
                        sink.expect(response.content_length or 0)
                        async for data in response.content.iter_chunked(CHUNK):
                            sink.write(data)
                        return
                    why, worth_another = (
                        f"HTTP {response.status}",
                        response.status in (408, 429) or response.status >= 500,
                    )
            except (aiohttp.InvalidURL, ValueError):
                raise PackageError(f"package {shown}: this is no URL that can be asked for") from None
            except TimeoutError:
                why, worth_another = f"nothing came for {STALL:.0f} s", True
            except aiohttp.ClientConnectorError as error:
                why, worth_another = _words(error.os_error), True
            except aiohttp.ClientError as error:
                why, worth_another = type(error).__name__, True
            if last or not worth_another:
                raise PackageError(
                    f"package {shown} cannot be downloaded: {why}; check the URL and that it answers here"
                )
            await asyncio.sleep(RETRY_AFTER)


def _redacted(parts: SplitResult) -> str:
    """What may be shown: credentials stand before the host, in the query or in the fragment."""
    if not parts.scheme:
        return parts.geturl()
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path.rpartition('@')[2]}"


def _words(error: OSError) -> str:
    if error.errno and error.errno > 0:
        return os.strerror(error.errno)
    return error.strerror or type(error).__name__
