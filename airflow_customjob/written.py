"""What a job has written below its AIP_MODEL_DIR, where this machine can see it: a folder, a bucket that a folder stands for,
or a bucket that this machine's credentials may list."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from airflow_customjob.plan.environment import directory_variables
from airflow_customjob.supervisor.record import JobRecord
from airflow_customjob.supervisor.result import output_directory

log = logging.getLogger(__name__)

MAX_NAMES = 20
"""Files that are named."""
MAX_FILES = 10_000
"""Files that are counted."""
PATIENCE = 10.0
"""Seconds in which Cloud Storage has to answer."""


@dataclass(frozen=True)
class Written:
    """
    :param directory: AIP_MODEL_DIR.
    :param names: of the first files, below the directory, in their order.
    :param count: how many there are, up to :data:`MAX_FILES`.
    :param size: their bytes.
    """

    directory: str
    names: tuple[str, ...]
    count: int
    size: int


def model_of(record: JobRecord, backend: Mapping[str, Any]) -> Written | None:
    """What is there now; None: the job has no such directory, or it cannot be seen from here. May block.

    :param backend: where the job ran, as its ``serialize()`` gives it.
    """
    options = record.request.options
    directory = directory_variables(output_directory(record), options.trial_id).get("AIP_MODEL_DIR", "")
    here = directory_here(directory, backend)
    try:
        if here is not None:
            its_own = here.is_dir() and not here.is_symlink()  # a replica can lead a link anywhere
            return _told(directory, _in_folder(here)) if its_own else None
        if directory.startswith("gs://"):
            return _told(directory, _in_bucket(directory, options.gcp_conn_id))
    except Exception as error:  # noqa: BLE001 - the job has ended as it has, whatever is wrong with its storage
        log.info("%s is not listed: %s", directory, type(error).__name__)
    return None


def directory_here(directory: str, backend: Mapping[str, Any]) -> Path | None:
    """Where this machine would find a directory that replicas are told; None: nowhere."""
    root = str(backend.get("bucket_root") or "")
    if directory.startswith("/"):
        return Path(directory)
    return Path(root, directory.removeprefix("gs://")) if directory and root.startswith("/") else None


def _told(directory: str, files: Iterator[tuple[str, int]]) -> Written:
    found = sorted(islice(files, MAX_FILES))
    names = tuple(name for name, _ in found[:MAX_NAMES])
    return Written(directory, names, len(found), sum(size for _, size in found))


def _in_folder(root: Path) -> Iterator[tuple[str, int]]:
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            text = os.fsencode(path.relative_to(root).as_posix()).decode(errors="replace")  # as XCom has to store it
            yield text, path.lstat().st_size


def _in_bucket(directory: str, conn_id: str | None) -> Iterator[tuple[str, int]]:
    from airflow_customjob.packaging.gcs import NOBODY, client_for

    bucket, _, prefix = directory.removeprefix("gs://").partition("/")
    client, who = client_for(conn_id)
    if who == NOBODY and not os.environ.get("STORAGE_EMULATOR_HOST"):
        raise PermissionError
    for blob in client.list_blobs(bucket, prefix=prefix, max_results=MAX_FILES, timeout=PATIENCE, retry=None):
        if not blob.name.endswith("/"):
            yield blob.name.removeprefix(prefix), blob.size or 0
