"""Packages on this machine: a folder where each is kept under the sha256 of its bytes, and what is known of where it came from.

Any number of processes may use one folder at once: a file is filled aside and then put in its place.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from airflow_customjob.packaging.package import Fetched, PackageError

Say = Callable[[str], None]

TELL = 5.0
"""Seconds between two words about how far a download has come."""
LEFT = 24 * 3600.0
"""Seconds after which a file that was never put in its place is a dead process's."""
_CHUNK = 2**20


def packages_folder() -> Path:
    """``airflow-customjob/packages`` in the user's cache directory."""
    cache = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(cache) if os.path.isabs(cache) else Path.home() / ".cache") / "airflow-customjob" / "packages"


class Sink:
    """Takes a package's bytes: writes, hashes and counts them, and tells how far it is.

    :param shown: the package's URI, for people.
    :param max_size: bytes that it may have.
    """

    def __init__(self, file: BinaryIO, shown: str, max_size: int, say: Say) -> None:
        self._file = file
        self._shown = shown
        self._max_size = max_size
        self._say = say
        self._told = time.monotonic()
        self._total = 0
        self.restart()

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def restart(self) -> None:
        """Begin again from nothing."""
        self._file.seek(0)
        self._file.truncate()
        self._hash = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        """:raises PackageError: it is too much."""
        self._check(self.size + len(data))
        self._file.write(data)
        self._hash.update(data)
        self.size += len(data)
        if time.monotonic() - self._told > TELL:
            self._told = time.monotonic()
            whole = f" of {self._total / 1e6:,.0f}" if self._total else ""
            self._say(f"{self._shown}: {self.size / 1e6:,.0f}{whole} MB")
        return len(data)

    def expect(self, size: int) -> None:
        """:raises PackageError: it will be too much."""
        self._check(size)
        self._total = size

    def flush(self) -> None:
        self._file.flush()

    def _check(self, size: int) -> None:
        if size > self._max_size:
            raise PackageError(
                f"it has more than {self._max_size:,} bytes: give data to the job by its own storage, not inside a package"
            )


@dataclass(frozen=True)
class Store:
    """:param root: the folder."""

    root: Path

    @contextmanager
    def incoming(self) -> Iterator[BinaryIO]:
        """A file to fill, which :meth:`keep` puts in its place; it is gone if nobody did."""
        self.root.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=self.root, prefix=".incoming-", delete=False) as file:
            try:
                yield file.file  # type: ignore[misc]
            finally:
                Path(file.name).unlink(missing_ok=True)

    def keep(self, file: BinaryIO, sha256: str, filename: str) -> Path:
        """Put a file that has these bytes in its place."""
        file.flush()
        os.fsync(file.fileno())
        target = self.root / sha256 / filename
        target.parent.mkdir(exist_ok=True)
        os.chmod(file.name, 0o644)
        os.replace(file.name, target)
        return target

    def remember(self, uri: str, version: str, package: Fetched) -> None:
        """That this version of what a URI names has these bytes, so that they need not come again.

        :param uri: with all its parts; it is kept as a hash.
        """
        if version:
            memo = {"version": version, "sha256": package.sha256, "filename": package.filename}
            self._memo(uri).parent.mkdir(exist_ok=True)
            with tempfile.NamedTemporaryFile(
                "w", dir=self._memo(uri).parent, prefix=".incoming-", delete=False
            ) as file:
                json.dump(memo, file)
            os.replace(file.name, self._memo(uri))

    def known(self, uri: str, shown: str) -> tuple[str, Fetched | None]:
        """The version of what is here of a URI, and the package; its bytes are hashed anew, and decide.

        :returns: no version and None, if it is not here as it was.
        """
        try:
            memo = json.loads(self._memo(uri).read_text())
            version, sha256, filename = memo["version"], memo["sha256"], memo["filename"]
            path = self.root / sha256 / filename
            digest, size = _hashed(path)
        except (OSError, ValueError, KeyError, TypeError):
            return "", None
        if digest != sha256:
            return "", None
        touch(path)
        return version, Fetched(shown, filename, path, sha256, size)

    def _memo(self, uri: str) -> Path:
        return self.root / "memo" / hashlib.sha256(uri.encode(errors="surrogateescape")).hexdigest()

    def prune(self, older_than: float, now: float, *, dry_run: bool = False) -> list[Path]:
        """Remove what was not used for so many seconds.

        :returns: the packages that were, or would be, removed.
        """
        gone = []
        for entry in self.root.iterdir() if self.root.is_dir() else ():
            with suppress(FileNotFoundError):  # another process prunes too
                age = now - max(file.stat().st_mtime for file in (*entry.iterdir(), entry)) if entry.is_dir() else 0.0
                if entry.name == "memo":
                    for memo in entry.iterdir():
                        if not dry_run and now - memo.stat().st_mtime > older_than:
                            memo.unlink()
                elif entry.is_dir() and age > older_than:
                    gone.append(entry)
                    if not dry_run:
                        shutil.rmtree(entry, ignore_errors=True)
                elif entry.is_file() and now - entry.stat().st_mtime > LEFT and not dry_run:
                    entry.unlink()
        return gone


def touch(path: Path) -> None:
    """It is in use: :meth:`Store.prune` goes by the file's time."""
    with suppress(OSError):
        os.utime(path)


def _hashed(path: Path) -> tuple[str, int]:
    """:raises OSError: there is no such file."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while data := file.read(_CHUNK):
            digest.update(data)
            size += len(data)
    return digest.hexdigest(), size
