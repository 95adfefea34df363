"""Where a package's URI leads: Cloud Storage, a web server, or a file of this machine."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import SplitResult, unquote, urlsplit

from airflow_customjob.packaging.package import PackageError

if TYPE_CHECKING:
    from airflow_customjob.packaging.store import Sink

KINDS = "gs://bucket/name, http(s)://, file:// or an absolute path"
_CHUNK = 2**20


class Source(Protocol):
    """What a package can be had from."""

    async def fill(self, sink: Sink, known: str) -> str:
        """
        :param known: a version whose bytes are here; empty: none.
        :returns: the version of what was written; empty where there are none.
        :raises Unchanged: it is still the known version; nothing was written.
        :raises PackageError: it cannot be had.
        """
        ...


@dataclass(frozen=True)
class Located:
    """A URI that was understood.

    :param shown: without user, password, query and fragment.
    :param filename: what the package is called.
    """

    shown: str
    filename: str
    source: Source


def locate(uri: str, gcp_conn_id: str | None = None) -> Located:
    """
    :param gcp_conn_id: an Airflow connection to Google Cloud.
    :raises PackageError: it leads nowhere that is known here. It quotes what may be shown.
    """
    if uri.startswith("gs://"):  # no URL: % and ? are letters of a name like any other
        return _cloud_storage(uri, gcp_conn_id)
    try:
        parts = urlsplit(uri)
        _ = parts.port  # raises where a login was cut at a letter that means something else in a URL
        shown = shown_of(parts)
    except ValueError:
        raise PackageError(
            f"a package URI cannot be read: write {KINDS}; in a login, %23 for #, %2F for / and %3F for ?"
        ) from None
    filename = os.path.basename(unquote(parts.path) if parts.scheme else uri)
    return Located(shown, filename, _source(parts, uri, shown))


def is_local(uri: str) -> bool:
    """Whether it names a file of one machine, which another one may not have."""
    return uri.startswith("/") or uri.lower().startswith("file:")


def shown_of(parts: SplitResult) -> str:
    """What may be shown: credentials stand before the host, in the query or in the fragment."""
    if not parts.scheme:
        return parts.geturl()
    host = parts.netloc.rpartition("@")[2]
    if host == parts.netloc and "@" in f"{parts.path}{parts.query}{parts.fragment}":  # perhaps a login that was cut
        return f"{parts.scheme}://.../{os.path.basename(parts.path).rpartition('@')[2]}"
    return f"{parts.scheme}://{host}{parts.path.rpartition('@')[2]}"


def _cloud_storage(uri: str, conn_id: str | None) -> Located:
    from airflow_customjob.packaging.gcs import CloudStorage

    bucket, _, name = uri.removeprefix("gs://").partition("/")
    if not bucket or not name or name.endswith("/"):
        raise PackageError(f"{uri}: it names no object: write gs://bucket/folder/trainer-0.1.tar.gz")
    return Located(uri, os.path.basename(name), CloudStorage(bucket, name, conn_id))


def _source(parts: SplitResult, uri: str, shown: str) -> Source:
    match parts.scheme.lower():
        case "http" | "https":
            from airflow_customjob.packaging.http import Download

            return Download(uri)
        case "file" if parts.netloc not in ("", "localhost"):
            raise PackageError(f"{shown}: it is on the host {parts.netloc}: write file:///absolute/path")
        case "file":
            return LocalFile(Path(unquote(parts.path)))
        case "" if os.path.isabs(uri):
            return LocalFile(Path(uri))
        case "":
            raise PackageError(
                f"{shown}: it is a relative path, which means another file in every process: write it absolute"
            )
        case scheme:
            raise PackageError(f"{shown}: {scheme}:// is not known here; use {KINDS}")


@dataclass(frozen=True)
class LocalFile:
    """A file of this machine. It has no version: whatever has its time and size may be another one."""

    path: Path

    async def fill(self, sink: Sink, known: str) -> str:
        if self.path.is_dir():
            about = any((self.path / name).is_file() for name in ("pyproject.toml", "setup.py", "setup.cfg"))
            raise PackageError(
                f"it is {'the source of a package' if about else 'a directory'}, not a package: name it as local_package_path, "
                "or build it first (python3 -m build) and name the file in its dist folder"
            )
        if not self.path.is_file():
            raise PackageError(
                "it does not exist on this machine: check the path, or name it by gs:// or http(s):// if several machines are to read it"
            )
        await asyncio.to_thread(self._read, sink)
        return ""

    def _read(self, sink: Sink) -> None:
        sink.restart()
        with self.path.open("rb") as source:
            while data := source.read(_CHUNK):
                sink.write(data)
