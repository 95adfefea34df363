"""Where everything lies that the process backend knows, and how processes that share it keep out of each other's way.

::

    jobs/<job id>/record.json                the job's record
    jobs/<job id>/replicas/<name>/           one replica: request.json, claim, log, exit.json, files, work
    events/<name>                            written to and closed as the replica starts and ends; for those who listen
    ports/<port>.<job id>                    ports that jobs were given
    environments/<key>/                      virtual environments of Python packages
"""

from __future__ import annotations

import fcntl
import os
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from airflow_customjob.backends.base import EngineError, ReplicaRef
from airflow_customjob.plan.types import JobId

LOCK_PATIENCE = 20.0
"""Seconds to wait for a lock that is held for milliseconds only: longer means that its holder is frozen."""

_NAME = re.compile(r"customjob-(\d+)-(\d+)-(\d+)-(workerpool\d+-\d+)-(\d+)")


@dataclass(frozen=True)
class Folders:
    """Paths below one state folder."""

    root: Path

    @property
    def jobs(self) -> Path:
        return self.root / "jobs"

    @property
    def events(self) -> Path:
        return self.root / "events"

    @property
    def ports(self) -> Path:
        return self.root / "ports"

    @property
    def environments(self) -> Path:
        return self.root / "environments"

    def job(self, job_id: JobId) -> Path:
        return self.jobs / job_id

    def replicas(self, job_id: JobId) -> Path:
        return self.job(job_id) / "replicas"

    def replica(self, ref: ReplicaRef) -> Path:
        return self.replicas(ref.job_id) / ref.name

    def make(self) -> None:
        """
        :raises EngineError: the state folder cannot be used.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
            for folder in (self.jobs, self.events, self.ports, self.environments):
                folder.mkdir(exist_ok=True, mode=0o700)
        except OSError as error:
            raise EngineError(
                f"the state folder {self.root} cannot be used ({os.strerror(error.errno or 0)}): make it writable, or name "
                "another one in state_folder or [customjob] process_dir"
            ) from None


def ref_of(name: str) -> ReplicaRef | None:
    """The replica that has this name; None: it is no replica's."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    job_id, generation, attempt, replica, restart = match.groups()
    return ReplicaRef(JobId(job_id), int(generation), int(attempt), replica, int(restart))


def names_in(folder: Path) -> list[str]:
    """Sorted; empty if there is no such folder."""
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []


def read_text(path: Path) -> str | None:
    """None if there is no such file."""
    try:
        return path.read_text("utf-8", "surrogateescape")
    except (FileNotFoundError, NotADirectoryError):
        return None


def write_whole(path: Path, text: str) -> None:
    """Readers see the old content or the new, also after a loss of power."""
    with tempfile.NamedTemporaryFile(
        "w", dir=path.parent, prefix=f".{path.name}-", delete=False, encoding="utf-8"
    ) as file:
        try:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold this lock file; it may be removed by its holder. The kernel unlocks it if the holder dies.

    :raises EngineError: somebody holds it for longer than anything here takes.
    """
    end = time.monotonic() + LOCK_PATIENCE
    while True:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except FileNotFoundError:
            continue
        try:
            if try_lock(file) and is_named(file, path):
                yield
                return
        finally:
            os.close(file)
        if time.monotonic() > end:
            raise EngineError(f"{path} is held by another process for {LOCK_PATIENCE:.0f} s: is that process frozen?")
        time.sleep(0.002)


def try_lock(file: int) -> bool:
    """False: somebody else holds it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_named(file: int, path: Path) -> bool:
    """Whether an open file still has its name: its last holder may have removed it."""
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False
