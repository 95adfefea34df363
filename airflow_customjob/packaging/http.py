"""Bytes over ``http(s)://``: tried again with growing pauses, and gone on with where they broke off."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_customjob.packaging.package import PackageError, Unchanged, os_words

if TYPE_CHECKING:
    from aiohttp import ClientResponse

    from airflow_customjob.packaging.store import Sink

PAUSES = (1.0, 2.0, 4.0, 8.0)
"""Seconds before a download is tried again that brought nothing; after the last one it has failed."""
LONGEST_PAUSE = 60.0
"""Seconds that a server may ask us to wait (``Retry-After``)."""
STALL = 60.0
"""Seconds without a byte after which a download has broken off."""
_CHUNK = 2**20


class _Again(Exception):
    """Worth another try.

    :param after: seconds that the server asks for.
    """

    def __init__(self, why: str, after: float = 0.0) -> None:
        super().__init__(why)
        self.after = after


@dataclass(frozen=True)
class Download:
    """:param uri: with the credentials that it may hold."""

    uri: str

    async def fill(self, sink: Sink, known: str) -> str:
        """See :class:`~airflow_customjob.packaging.sources.Source`; a version is a strong ETag."""
        import aiohttp

        limits = aiohttp.ClientTimeout(total=None, sock_connect=STALL, sock_read=STALL)
        pauses = list(PAUSES)
        version, before = "", 0
        async with aiohttp.ClientSession(timeout=limits, trust_env=True, auto_decompress=False) as session:
            while True:
                try:
                    async with session.get(self.uri, headers=_headers(sink, known, version)) as response:
                        version = _accept(response, sink, known, version)
                        async for data in response.content.iter_chunked(_CHUNK):
                            sink.write(data)
                        return version
                except (aiohttp.InvalidURL, ValueError):
                    raise PackageError("this is no URL that can be asked for") from None
                except (TimeoutError, aiohttp.ClientError, _Again) as error:
                    if sink.size > before:
                        pauses, before = list(PAUSES), sink.size
                    if not pauses:
                        raise PackageError(
                            f"it cannot be downloaded: {_words(error)}; check the URL, and that it answers here",
                            passing=True,
                        ) from None
                    await asyncio.sleep(max(pauses.pop(0), getattr(error, "after", 0.0)))


def _headers(sink: Sink, known: str, version: str) -> dict[str, str]:
    headers = {"Accept-Encoding": "identity"}
    if sink.size and version:
        return headers | {"Range": f"bytes={sink.size}-", "If-Range": version}
    return headers | {"If-None-Match": known} if known else headers


def _accept(response: ClientResponse, sink: Sink, known: str, version: str) -> str:
    """Make the sink ready for what comes.

    :returns: the version of it.
    :raises Unchanged: nothing comes, since it is known.
    """
    status = response.status
    if status == 304 and known:
        raise Unchanged
    if status in (408, 416, 425, 429) or status >= 500:
        if status == 416:
            sink.restart()
        raise _Again(f"HTTP {status}", _retry_after(response))
    if status not in (200, 206):
        raise PackageError(f"it cannot be downloaded: HTTP {status}; {_REMEDIES.get(status, 'check the URL')}")
    etag = response.headers.get("ETag", "")
    begins = response.headers.get("Content-Range", "").startswith(f"bytes {sink.size}-")
    if status == 206 and not (begins and version and etag in ("", version)):
        sink.restart()
        raise _Again("the server went on with another part than was asked for")
    if status == 200:
        sink.restart()
        version = "" if etag.startswith("W/") else etag
    sink.expect(sink.size + (response.content_length or 0))
    return version


_REMEDIES = {
    401: "it wants a login: give one by a netrc file (NETRC) of the user that runs this",
    403: "this user may not read it",
    404: "there is no such file: check the URL",
}


def _retry_after(response: ClientResponse) -> float:
    with suppress(ValueError):
        return min(float(response.headers.get("Retry-After", 0)), LONGEST_PAUSE)
    return 0.0


def _words(error: Exception) -> str:
    """Without the URL, which the library's own words may quote."""
    if isinstance(error, _Again):
        return str(error)
    if isinstance(error, TimeoutError):
        return f"nothing came for {STALL:.0f} s"
    refused = getattr(error, "os_error", None)
    if isinstance(refused, OSError):
        return os_words(refused)
    return type(error).__name__
