"""Real packages, a web server and a Cloud Storage on the loopback; a job that several processes run at once."""

from __future__ import annotations

import asyncio
import io
import json
import os
import socket
import subprocess
import sys
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


def certificate(folder: Path, address: str) -> tuple[Path, Path]:
    """Of a server at this address, its own authority; and the key."""
    cert, key = folder / "cert.pem", folder / "key.pem"
    request = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=tests"]
    request += ["-addext", f"subjectAltName=IP:{address}", "-keyout", str(key), "-out", str(cert)]
    subprocess.run(request, check=True, capture_output=True)
    return cert, key


_RUNS = """
import json, sys
from airflow_customjob import CustomJobClient
client, job = CustomJobClient(json.loads(sys.argv[1])), json.loads(sys.argv[2])
client.plan(job)
print("ready", flush=True)
sys.stdin.readline()
ended = client.run(job, sink=lambda line: None, say=print)
print(json.dumps({"state": ended.state.name, "error": ended.error, "images": list(ended.record.prepared.artifacts.values())}))
"""


def run_at_once(
    job: dict[str, Any], backend: dict[str, Any], processes: int = 2
) -> list[tuple[dict[str, Any], list[str]]]:
    """A job of its own in each of so many processes, which begin when all of them are ready.

    :returns: how each has ended, and what it said.
    """
    command = [sys.executable, "-c", _RUNS, json.dumps(backend), json.dumps(job)]
    pipe = subprocess.PIPE
    running = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(processes)]
    try:
        for process in running:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in running:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        said = [process.communicate(timeout=240)[0].splitlines() for process in running]
    finally:
        for process in running:
            process.kill()
            process.wait()
    return [(json.loads(lines[-1]), lines[:-1]) for lines in said]
