"""What the kernel says of this host and its processes, read from ``/proc``."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from airflow_customjob.backends.process.shim import MARK

PATIENCE = 10.0
"""Seconds that killed processes are given to be gone."""

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Process:
    """A process.

    :param cpu_seconds: of itself and of its children that have ended.
    :param memory_bytes: resident.
    """

    pid: int
    parent: int
    session: int
    zombie: bool
    cpu_seconds: float
    memory_bytes: int


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def engine_identity(state_folder: Path) -> str:
    """Of this host since it booted, this process-id namespace (a container has its own) and this folder."""
    machine = next((text for path in ("/etc/machine-id", "/var/lib/dbus/machine-id") if (text := _text(path))), "")
    parts = (machine, boot_id(), os.readlink("/proc/self/ns/pid"), os.path.realpath(state_folder))
    return f"process:{socket.gethostname()}:{hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}"


def processes() -> dict[int, Process]:
    """Every process, by its id."""
    found = (_process(int(name)) for name in os.listdir("/proc") if name.isdigit())
    return {process.pid: process for process in found if process is not None}


def tree(all_processes: dict[int, Process], root: int) -> list[Process]:
    """Those below ``root``."""
    children: dict[int, list[Process]] = {}
    for process in all_processes.values():
        children.setdefault(process.parent, []).append(process)
    found: list[Process] = []
    todo = [root]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += [process.pid for process in below]
    return found


def end_leftovers(folder: Path, shim: int, boot: str) -> bool:
    """Kill what is left of a replica whose shim is gone: what has its mark, or is of the shim's session.

    A process that took another session *and* cleared its environment cannot be told from any other, and stays.

    :param boot: id of the boot that the shim ran under; the numbers of another one mean nothing.
    :returns: whether all that was found has ended.
    """
    mark = f"{MARK}={folder}".encode()
    sessions = boot == boot_id()
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        left = [process for process in _leftovers(mark, shim if sessions else 0) if not process.zombie]
        if not left:
            return True
        for process in left:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(process.pid, signal.SIGKILL)
        time.sleep(0.005)
    return False


def _leftovers(mark: bytes, session: int) -> list[Process]:
    everything = processes()
    leader = everything.get(session)
    if leader is not None and not leader.zombie:
        session = 0  # the number is another process's by now: no session that still had members would have freed it
    return [
        process
        for process in everything.values()
        if process.pid != os.getpid() and ((session and process.session == session) or mark in _environ(process.pid))
    ]


def _environ(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def _process(pid: int) -> Process | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return Process(
            pid=pid,
            parent=int(fields[1]),
            session=int(fields[3]),
            zombie=fields[0] in (b"Z", b"X"),
            cpu_seconds=sum(map(int, fields[11:15])) / _TICKS,
            memory_bytes=int(fields[21]) * _PAGE,
        )
    except (OSError, IndexError):
        return None


def _text(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
