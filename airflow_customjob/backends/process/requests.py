"""What a shim is told of its replica, as plain data. Pure."""

from __future__ import annotations

import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from airflow_customjob.plan.environment import GCS, GOOGLE_KEY
from airflow_customjob.plan.types import JobPlan, ReplicaPlan

GPUS = "CUDA_VISIBLE_DEVICES"
_BUCKETS = re.compile(rf"(?<![\w./-]){GCS}/")
"""A path below ``/gcs`` wherever it begins in an argument; not the middle of another path or of a URL."""


@dataclass(frozen=True)
class Request:
    """One replica as it is run.

    :param digest: of the job's request.
    :param argv: the command and its arguments.
    :param env: without secrets and without what comes from the host.
    :param path: goes before the host's PATH: where the replica's Python environment has its commands.
    :param cwd: working folder. Its own, not ``/`` as on Vertex AI: there every replica has a disk of its own, here a
        relative path would be one file for all of them, or none where ``/`` is not writable.
    :param files: path and content of what is written before it starts.
    :param gpus: devices leased to it.
    """

    digest: str
    argv: tuple[str, ...]
    env: dict[str, str]
    path: str
    cwd: str
    files: dict[str, str]
    gpus: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def request_of(
    plan: JobPlan,
    replica: ReplicaPlan,
    folder: Path,
    *,
    bucket_root: str = "",
    gpus: tuple[str, ...] = (),
    hide_gpus: bool = False,
) -> Request:
    """What runs this replica in this folder.

    :param bucket_root: folder whose subfolders stand for buckets; empty: there is none.
    :param gpus: devices leased to it.
    :param hide_gpus: a replica without a lease sees none.
    """
    private = (GOOGLE_KEY,) if plan.options.google_credentials else ()
    inside = (*(path for path, _ in replica.files), *private)
    paths = {path: os.fspath(folder / "files" / os.path.basename(path)) for path in inside}

    def local(text: str) -> str:
        for path, real in paths.items():
            text = text.replace(path, real)
        if bucket_root:
            root = bucket_root.rstrip("/")
            if plan.output.startswith("gs://"):
                text = text.replace(plan.output, f"{root}/{plan.output.removeprefix('gs://')}")
            text = _BUCKETS.sub(f"{root}/", text)
        return text

    env = {name: local(value) for name, value in replica.env}
    environment = plan.prepared.artifacts.get(str(replica.pool), "")
    if environment:
        env["VIRTUAL_ENV"] = environment
    if gpus or hide_gpus:
        env[GPUS] = ",".join(gpus)
    return Request(
        digest=plan.digest,
        argv=tuple(local(text) for text in (*replica.command, *replica.args)),
        env=env,
        path=os.path.join(environment, "bin") if environment else "",
        cwd=os.fspath(folder / "work"),
        files={paths[path]: content for path, content in plan.files_of(replica)},
        gpus=gpus,
    )
