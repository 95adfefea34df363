"""A replica is a folder, and its shim's lock says whether it runs. Everything here may block for moments: use a thread."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from airflow_customjob.backends.base import EngineError, Phase, Reason, ReplicaRef, ReplicaStatus
from airflow_customjob.backends.process.folders import Folders, names_in, read_text, ref_of
from airflow_customjob.backends.process.proc import end_leftovers
from airflow_customjob.backends.process.requests import Request
from airflow_customjob.plan.types import JobId

SHIM = Path(__file__).with_name("shim.py")
LAUNCH_PATIENCE = 60.0
"""Seconds that shims are given to start; they need some hundredths of one."""
KILL_PATIENCE = 15.0
"""Seconds that a shim is given to end all that it runs, before it is killed itself."""

_FLOCK = "hhqqi4x"


# -- creating and starting ------------------------------------------------------------------------------------------


def create(folders: Folders, ref: ReplicaRef, request: Request) -> None:
    """Make the replica's folder, whole or not at all; one that is there stays as it is."""
    target = folders.replica(ref)
    while not target.exists():
        try:
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            new = Path(tempfile.mkdtemp(prefix=".new-", dir=target.parent))
            try:
                _fill(new, request)
                os.rename(new, target)
            except BaseException:
                shutil.rmtree(new, ignore_errors=True)
                raise
        except OSError as error:
            # Somebody tidied the job's folder at this very moment, or made the same replica.
            if error.errno != errno.ENOENT and not target.exists():
                raise
        else:
            (folders.events / ref.name).touch(0o600)


def _fill(folder: Path, request: Request) -> None:
    for name in ("files", "work"):
        (folder / name).mkdir()
    (folder / "request.json").write_text(json.dumps(request.as_dict()))
    for path, content in request.files.items():
        (folder / "files" / os.path.basename(path)).write_text(content, "utf-8", "surrogateescape")


def keep_private(path: Path, text: str) -> None:
    """Write a file that only this user can read; one that is there is the same."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)


def startable(folders: Folders, refs: Sequence[ReplicaRef]) -> list[ReplicaRef]:
    """Those that exist and were never started."""
    return [
        ref
        for ref in refs
        if (folders.replica(ref) / "request.json").exists() and not (folders.replica(ref) / "claim").exists()
    ]


def start(folders: Folders, refs: Sequence[ReplicaRef], secrets: Mapping[str, str]) -> None:
    """Returns when each has started its command, or cannot.

    :raises EngineError: shims cannot be started; each replica runs, or can still be started.
    """
    order = {
        "folders": [os.fspath(folders.replica(ref)) for ref in refs],
        "events": os.fspath(folders.events),
        "secrets": dict(secrets),
    }
    try:
        launch = subprocess.run(
            [sys.executable, "-I", "-S", os.fspath(SHIM)],
            input=json.dumps(order).encode(),
            capture_output=True,
            timeout=LAUNCH_PATIENCE,
            start_new_session=True,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EngineError(f"replicas cannot be started by {sys.executable}: {type(error).__name__}") from None
    if launch.returncode:
        *_, last = launch.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
        raise EngineError(f"replicas cannot be started by {sys.executable}: {last}")


# -- looking --------------------------------------------------------------------------------------------------------


def refs_of(folders: Folders, job_id: JobId) -> list[ReplicaRef]:
    return [ref for name in names_in(folders.replicas(job_id)) if (ref := ref_of(name)) is not None]


def status(folders: Folders, ref: ReplicaRef) -> ReplicaStatus | None:
    """None: there is no such replica. One whose shim has vanished is lost from now on, and what is left of it is ended."""
    folder = folders.replica(ref)
    request, claim = _read(folder / "request.json"), _claim(folder)
    if request is None:
        return None
    digest, node = request["digest"], socket.gethostname()
    if claim is None:
        return ReplicaStatus(ref, Phase.CREATED, digest=digest)
    ending = _read(folder / "exit.json")
    if ending is None and holder(folder / "claim") is None:
        ending = _read(folder / "exit.json") or _lose(folder, claim)
    if ending is None:
        return ReplicaStatus(ref, Phase.RUNNING, node=node, started_at=claim["at"], digest=digest)
    return ReplicaStatus(
        ref,
        Phase(ending["phase"]),
        exit_code=ending["code"],
        reason=Reason(ending["reason"]),
        message=ending["message"],
        node=node,
        started_at=claim["at"],
        finished_at=max(ending["at"], claim["at"]),
        digest=digest,
    )


def is_over(folders: Folders, ref: ReplicaRef) -> bool:
    """Whether its log cannot grow any more."""
    found = status(folders, ref)
    return found is None or found.ended


def holder(claim: Path) -> int | None:
    """The shim that holds this claim; None: it has ended, however."""
    try:
        file = os.open(claim, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, _, _, _, pid = struct.unpack(_FLOCK, fcntl.fcntl(file, fcntl.F_GETLK, asked))
        return None if kind == fcntl.F_UNLCK else pid
    finally:
        os.close(file)


def _lose(folder: Path, claim: dict[str, Any]) -> dict[str, Any]:
    gone = end_leftovers(folder, claim["pid"], claim["boot"])
    ending = {
        "phase": Phase.LOST,
        "code": None,
        "reason": Reason.LOST,
        "message": "the process that kept this replica was killed, or its host went down; how its command ended is not known"
        + ("" if gone else "; some of its processes could not be ended"),
        "at": time_of(folder / "log"),
    }
    try:
        with tempfile.NamedTemporaryFile("w", dir=folder, prefix=".exit-") as file:
            json.dump(ending, file)
            file.flush()
            os.link(file.name, folder / "exit.json")
    except (FileNotFoundError, FileExistsError):
        pass  # removed, or told by another observer, meanwhile
    return _read(folder / "exit.json") or ending


def time_of(path: Path) -> float:
    """Seconds since the epoch at which a file was last written to; 0 without the file."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _claim(folder: Path) -> dict[str, Any] | None:
    claim = _read(folder / "claim")
    if claim is None and (folder / "claim").exists():
        return {"pid": 0, "boot": "", "at": 0.0}
    return claim


def _read(path: Path) -> dict[str, Any] | None:
    text = read_text(path)
    try:
        return None if text is None else json.loads(text)
    except ValueError:
        return None  # cut short by a loss of power


# -- ending ---------------------------------------------------------------------------------------------------------


@contextmanager
def shim_of(folder: Path) -> Iterator[int | None]:
    """A pidfd of the replica's shim; None: it does not run. The number cannot have become another process's."""
    claim = folder / "claim"
    pid = holder(claim)
    try:
        handle = None if pid is None else os.pidfd_open(pid)
    except ProcessLookupError:
        handle = None
    try:
        yield handle if holder(claim) == pid else None
    finally:
        if handle is not None:
            os.close(handle)


def tell(shim: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(shim, number)


def grant(folder: Path, grace: float) -> None:
    """Let the shim kill its replica itself this many seconds after SIGTERM, should nobody live to tell it so."""
    with suppress(OSError):  # no room, or it is just being removed
        (folder / "grace").write_text(str(grace))


def remove(folders: Folders, ref: ReplicaRef) -> None:
    """Take the folder away, and with it whatever was started in it at the last moment."""
    folder = folders.replica(ref)
    status(folders, ref)
    gone = folder.with_name(f".gone-{ref.name}-{os.urandom(4).hex()}")
    try:
        os.rename(folder, gone)
    except FileNotFoundError:
        return
    with shim_of(gone) as shim:
        if shim is not None:
            kill(shim)
            end_leftovers(folder, 0, "")
    shutil.rmtree(gone, ignore_errors=True)
    (folders.events / ref.name).unlink(missing_ok=True)


def kill(shim: int) -> None:
    """Let the shim end all that it runs, and then itself; one that cannot is killed."""
    for number, patience in ((signal.SIGUSR1, KILL_PATIENCE), (signal.SIGKILL, 1.0)):
        tell(shim, number)
        if select.select([shim], [], [], patience)[0]:
            return


def sweep(folders: Folders, job_id: JobId) -> None:
    """Take away what processes left that died while they created or removed a replica."""
    for name in names_in(folders.replicas(job_id)):
        ref = ref_of(name)
        if ref is None or status(folders, ref) is None:
            shutil.rmtree(folders.replicas(job_id) / name, ignore_errors=True)
    for name in names_in(folders.events):
        ref = ref_of(name)
        if ref is not None and ref.job_id == job_id and not folders.replica(ref).exists():
            (folders.events / name).unlink(missing_ok=True)
