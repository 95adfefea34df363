"""Brings packages to this machine: several at once, each checked by its table of contents and kept by the hash of its bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path

from airflow_customjob.packaging.archives import NAME, why_no_package
from airflow_customjob.packaging.package import Fetched, PackageError, Unchanged, os_words
from airflow_customjob.packaging.sources import Located, is_local, locate
from airflow_customjob.packaging.store import Say, Sink, Store, packages_folder

MAX_SIZE = 2 * 2**30
"""Bytes of one package; more is a mistake (a dataset, an endless answer)."""
AT_ONCE = 4
"""Packages that come at once."""


async def fetch(
    uris: Iterable[str],
    say: Say,
    *,
    gcp_conn_id: str | None = None,
    folder: Path | None = None,
    max_size: int = MAX_SIZE,
) -> tuple[Fetched, ...]:
    """The packages in the order of their URIs. One that has not changed since it was here last does not come again.

    :param say: is told each package, and how far a long download is.
    :param gcp_conn_id: an Airflow connection to Google Cloud, for ``gs://``; None: application default credentials.
    :param folder: None is :func:`~airflow_customjob.packaging.store.packages_folder`.
    :param max_size: bytes that one package may have.
    :raises PackageError: some cannot be had: which, and why each.
    """
    store, turn = Store(folder or packages_folder()), asyncio.Semaphore(AT_ONCE)

    async def one(uri: str) -> Fetched:
        async with turn:
            return await _fetch(uri, gcp_conn_id, say, store, max_size)

    results = await asyncio.gather(*map(one, uris), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, PackageError):
            raise result
    wrong = [(index, result) for index, result in enumerate(results) if isinstance(result, PackageError)]
    if wrong:
        lines = (f"python_package_spec.package_uris[{index}]: {error}" for index, error in wrong)
        raise PackageError("\n".join(lines), each=wrong)
    return tuple(result for result in results if isinstance(result, Fetched))


async def _fetch(uri: str, gcp_conn_id: str | None, say: Say, store: Store, max_size: int) -> Fetched:
    found = locate(uri, gcp_conn_id)
    if not NAME.fullmatch(found.filename):
        raise PackageError(
            f"{found.shown}: it is not named like a Python package: build a source distribution (.tar.gz) or a wheel (.whl)"
        )
    try:
        return await _brought(uri, found, say, store, max_size)
    except PackageError as error:
        raise PackageError(f"{found.shown}: {error.message}", passing=error.passing) from None
    except OSError as error:
        raise PackageError(f"{found.shown}: it cannot be read or kept: {os_words(error)}") from None


async def _brought(uri: str, found: Located, say: Say, store: Store, max_size: int) -> Fetched:
    version, here = await asyncio.to_thread(store.known, uri, found.shown)
    if here is None and not is_local(uri):
        say(f"Downloading the package: {found.shown}")
    with store.incoming() as file:
        sink = Sink(file, found.shown, max_size, say)
        try:
            version = await found.source.fill(sink, version)
        except Unchanged:
            if here is None:
                raise PackageError("its server says that it is known, and it is not: try again") from None
            return here
        file.flush()
        if why := await asyncio.to_thread(why_no_package, Path(file.name), found.filename):
            raise PackageError(f"{why}: build a source distribution (.tar.gz) or a wheel (.whl) anew")
        path = await asyncio.to_thread(store.keep, file, sink.sha256, found.filename)
        package = Fetched(found.shown, found.filename, path, sink.sha256, sink.size)
    store.remember(uri, version, package)
    return package
