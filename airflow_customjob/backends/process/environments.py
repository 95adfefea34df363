"""Virtual environments of Python packages: one for each content key, built once, then only used.

What a package runs while it is built or installed, runs in processes of their own with an interpreter that knows nothing
of ours, and with as little of our environment as pip needs.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
import shlex
import shutil
import signal
import sys
from collections import deque
from collections.abc import AsyncIterator, Collection, Sequence
from pathlib import Path

from airflow_customjob.backends.base import LaunchRefused, Retention, Say
from airflow_customjob.backends.process.folders import is_named, try_lock
from airflow_customjob.backends.process.shim import PASSED
from airflow_customjob.packaging import Fetched, content_key, install_commands

LOCK = ".lock"
LAST_LINES = 15
"""Lines of the installer's output that its failure tells."""
LONGEST = 65536
"""Bytes of a line of the installer's output."""
COMPLETE = "complete"
"""A file in an environment that is; its time is that of the last use."""
LOOK_AGAIN = 0.2
"""Seconds between two looks whether another process has built the environment."""

_WHAT_IT_IS = "import sys, sysconfig; print(sys.version, sysconfig.get_platform(), sys.base_prefix)"
_FOR_UV = {
    "UV_DEFAULT_INDEX": "PIP_INDEX_URL",
    "UV_INDEX": "PIP_EXTRA_INDEX_URL",
    "UV_FIND_LINKS": "PIP_FIND_LINKS",
    "SSL_CERT_FILE": "PIP_CERT",
}
"""uv's variables, and those of pip that say the same."""
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")
_ONLY_HOW = re.compile(
    r"(PIP|UV)_(\w*(CACHE|CERT|CONCURRENT|LOG|PROGRESS|RETRIES|TIMEOUT|VERBOSE|QUIET)\w*|DISABLE_PIP_VERSION_CHECK|LINK_MODE|"
    r"NATIVE_TLS|NO_COLOR|NO_INPUT|ROOT_USER_ACTION)"
)
"""Variables of the installers that say how, and not what, is installed; any other may make another environment of the same packages."""


class _Failed(Exception):
    """The installer's command and its last lines."""


async def environment_for(
    root: Path, packages: Sequence[Fetched], say: Say, *, python: str, requirements: Sequence[str]
) -> str:
    """The folder of an environment with these packages; built if there is none yet.

    :param root: where environments are kept.
    :param python: the interpreter it is made of; empty: the one that runs this.
    :param requirements: installed before the packages.
    :raises LaunchRefused: there is no such interpreter, or something cannot be installed.
    """
    python = python or sys.executable
    named = [hashlib.sha256(Path(name).read_bytes()).hexdigest() for name in requirements if os.path.isfile(name)]
    key = content_key(await _identity(python), packages, options=(*requirements, *named, *_told()))
    folder = root / key
    names = ", ".join(package.filename for package in packages)
    async with _only_one(folder.with_suffix(LOCK)) as lock:
        if (folder / COMPLETE).exists():
            os.utime(folder / COMPLETE)
            say(f"environment {key[:12]} with {names}: cache hit")
            return os.fspath(folder)
        say(f"environment {key[:12]} with {names}: installing")
        for last, base in ((False, _uv()), (True, None)):
            try:
                await _build(folder, packages, requirements, python, base, say, lock)
            except _Failed as failed:
                await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
                if last:
                    raise LaunchRefused(f"package {names} cannot be installed on this host: {failed}") from None
                say("the installation failed, and is tried again with pip")
            else:
                (folder / COMPLETE).touch()
                break
        return os.fspath(folder)


def prune(root: Path, retention: Retention, in_use: Collection[str], now: float, dry_run: bool) -> list[str]:
    """See :meth:`airflow_customjob.backends.base.KeepsInstallations.prune`."""
    used, unfinished = {}, []
    for folder in {path.with_suffix("") for path in root.iterdir()}:
        if (folder / COMPLETE).exists():
            used[os.fspath(folder)] = (folder / COMPLETE).stat().st_mtime
        else:
            unfinished.append(os.fspath(folder))
    beyond = [*unfinished, *retention.beyond({name: at for name, at in used.items() if name not in in_use}, now)]
    return [f"environment {name}" for name in beyond if _remove(Path(name), dry_run)]


def _remove(folder: Path, dry_run: bool) -> bool:
    """False: somebody builds it, or is about to use it. The mark goes first: half an environment is none."""
    path = folder.with_suffix(LOCK)
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if not (try_lock(lock) and is_named(lock, path)):
            return False
        if dry_run:
            return True
        (folder / COMPLETE).unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=not folder.exists())
        path.unlink()
    finally:
        os.close(lock)
    return True


async def _build(
    folder: Path,
    packages: Sequence[Fetched],
    requirements: Sequence[str],
    python: str,
    uv: str | None,
    say: Say,
    lock: int,
) -> None:
    await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
    inside = os.fspath(folder / "bin" / "python")
    if uv:
        await _run((uv, "venv", "--quiet", "--no-project", "--python", python, os.fspath(folder)), say, lock)
        pip: tuple[str, ...] = (uv, "pip", "install", "--python", inside)
    else:
        await _run((python, "-I", "-m", "venv", os.fspath(folder)), say, lock)
        pip = (inside, "-I", "-m", "pip", "install", "--disable-pip-version-check", "--no-input")
    if requirements:
        await _run((*pip, *requirements), say, lock)
    for package in packages:
        say(f"Installing the package {package.filename}")
        for command in install_commands(os.fspath(package.path), pip):
            await _run(command, say, lock)


async def _run(command: tuple[str, ...], say: Say, lock: int) -> None:
    """
    :param lock: held by the command too: whoever builds next waits for it even if this process dies.
    """
    shown = _CREDENTIALS.sub("", shlex.join(command))
    say(f"Running command: {shown}")
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=_environ(),
        cwd="/",
        start_new_session=True,
        pass_fds=(lock,),
    )
    last: deque[str] = deque(maxlen=LAST_LINES)
    try:
        async for line in _lines(process.stdout):
            last.append(line)
            say(line)
        code = await process.wait()
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    if code:
        raise _Failed("\n".join((f"{shown} exited with {code}", *last)))


async def _lines(output: asyncio.StreamReader | None) -> AsyncIterator[str]:
    """The end of a line that is longer than :data:`LONGEST`; without credentials."""
    rest = b""
    while output and (data := await output.read(LONGEST)):
        *whole, rest = (rest[-LONGEST:] + data).split(b"\n")
        for line in whole:
            yield _CREDENTIALS.sub("", line.decode(errors="replace").rstrip())
    if rest:
        yield _CREDENTIALS.sub("", rest.decode(errors="replace").rstrip())


def _told() -> list[str]:
    env = _environ()
    return [
        f"{name}={_CREDENTIALS.sub('', env[name])}"
        for name in sorted(env)
        if name[:3] in ("PIP", "UV_") and not _ONLY_HOW.match(name)
    ]


async def _identity(python: str) -> str:
    try:
        process = await asyncio.create_subprocess_exec(
            python, "-I", "-c", _WHAT_IT_IS, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
    except OSError as error:
        raise LaunchRefused(
            f"{python} cannot be run ({os.strerror(error.errno or 0)}): name an interpreter in python"
        ) from None
    out, _ = await process.communicate()
    if process.returncode:
        raise LaunchRefused(f"{python} exited with {process.returncode}: name a Python interpreter in python")
    return out.decode().strip()


def _uv() -> str | None:
    beside = Path(sys.executable).with_name("uv")
    return os.fspath(beside) if os.access(beside, os.X_OK) else shutil.which("uv")


def _environ() -> dict[str, str]:
    env = {
        name: value
        for name, value in os.environ.items()
        if name in PASSED or name.startswith(("PIP_", "UV_")) or name == "XDG_CACHE_HOME"
    }
    for ours, theirs in _FOR_UV.items():
        if theirs in env:
            env.setdefault(ours, env[theirs].replace(" ", ",") if ours == "UV_FIND_LINKS" else env[theirs])
    return env


@contextlib.asynccontextmanager
async def _only_one(path: Path) -> AsyncIterator[int]:
    """Hold a lock that may be held for minutes, and removed by its holder."""
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if try_lock(lock) and is_named(lock, path):
                yield lock
                return
        finally:
            os.close(lock)
        await asyncio.sleep(LOOK_AGAIN)
