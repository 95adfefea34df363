"""Jobs' records: a file each, replaced as a whole under a lock, so that of two writers with one version one fails.

Readers need no lock. A writer that dies holding it is no hindrance (the kernel unlocks), and one that is frozen there
has not written yet, and nobody else does until it goes on or dies.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from airflow_customjob.backends.base import RecordConflict, StoredRecord
from airflow_customjob.backends.process.folders import Folders, locked, names_in, read_text, write_whole
from airflow_customjob.plan.types import JobId

RECORD = "record.json"
LOCK = "lock"


def read_record(folders: Folders, job_id: JobId) -> StoredRecord | None:
    text = read_text(folders.job(job_id) / RECORD)
    if text is None:
        return None
    stored = json.loads(text)
    return StoredRecord(job_id, stored["version"], stored["data"])


def write_record(folders: Folders, job_id: JobId, data: str, if_version: int, labels: Mapping[str, str] | None) -> int:
    """The first version of a record is made of the time, so that none of an earlier record of the job comes again.

    :raises RecordConflict: the record is not at ``if_version``.
    """
    if if_version:
        _expect(folders, job_id, if_version)
    with _holding(folders, job_id):
        _expect(folders, job_id, if_version)
        version = if_version + 1 if if_version else time.time_ns() // 1000
        stored = {"version": version, "labels": dict(labels or {}), "data": data}
        write_whole(folders.job(job_id) / RECORD, json.dumps(stored))
        return version


def delete_record(folders: Folders, job_id: JobId, if_version: int) -> None:
    """
    :raises RecordConflict: the record is not at ``if_version``.
    """
    _expect(folders, job_id, if_version)
    with _holding(folders, job_id):
        _expect(folders, job_id, if_version)
        (folders.job(job_id) / RECORD).unlink(missing_ok=True)


def tidy(folders: Folders, job_id: JobId) -> None:
    """Take the job's folder away if nothing is in it."""
    if folders.job(job_id).exists():
        with _holding(folders, job_id):
            pass


@contextmanager
def _holding(folders: Folders, job_id: JobId) -> Iterator[None]:
    """The job's lock. Whoever holds it last takes the job's folder away with it, once nothing else is there."""
    folder = folders.job(job_id)
    with locked(folder / LOCK):
        try:
            yield
        finally:
            for name in names_in(folder):
                if name.startswith(f".{RECORD}-"):  # its writer died over it
                    (folder / name).unlink()
            _remove_empty(folder / "replicas")
            if names_in(folder) == [LOCK]:
                (folder / LOCK).unlink()
                _remove_empty(folder)


def _remove_empty(folder: Path) -> None:
    try:
        os.rmdir(folder)
    except OSError:
        return  # not there, or somebody has put something into it: it stays


def _expect(folders: Folders, job_id: JobId, version: int) -> None:
    stored = read_record(folders, job_id)
    found = stored.version if stored else 0
    if found != version:
        raise RecordConflict(f"the record of job {job_id} is at version {found}, not {version}: read it again")
