"""Real packages, a web server and a Cloud Storage on the loopback."""

from __future__ import annotations

import asyncio
import io
import os
import socket
import tarfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from airflow_customjob.packaging import Fetched, PackageError, fetch


def sdist(name: str = "trainer", version: str = "0.1", files: Mapping[str, bytes] | None = None, pad: int = 0) -> bytes:
    """A source distribution; with so many bytes that cannot be compressed."""
    root = f"{name}-{version}"
    about = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode()
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for path, data in {"PKG-INFO": about, **(files or {}), **({"noise": os.urandom(pad)} if pad else {})}.items():
            member = tarfile.TarInfo(f"{root}/{path}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return stream.getvalue()


def silent(line: str) -> None:
    pass


def fetched(*uris: str, folder: Path, say: Callable[[str], None] = silent, **how: Any) -> tuple[Fetched, ...]:
    return asyncio.run(fetch(uris, say, folder=folder, **how))


def refusal(*uris: str, folder: Path, **how: Any) -> str:
    with pytest.raises(PackageError) as error:
        fetched(*uris, folder=folder, **how)
    assert not list(folder.glob(".incoming-*")), "nothing unfinished stays"
    return error.value.message


@asynccontextmanager
async def serving(handler: Callable[[web.Request], object]) -> AsyncIterator[str]:
    """The address, without a scheme, of a server that answers every path."""
    app = web.Application()
    app.router.add_get("/{path:.*}", handler)  # type: ignore[arg-type]
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@contextmanager
def cloud_storage(bucket: str) -> Iterator[Any]:
    """A Cloud Storage with one bucket, at ``STORAGE_EMULATOR_HOST``; a client of it."""
    from gcp_storage_emulator.server import create_server
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import storage

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch, create_server("127.0.0.1", port, in_memory=True, default_bucket=bucket):
        patch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
        yield storage.Client(project="customjob", credentials=AnonymousCredentials())
