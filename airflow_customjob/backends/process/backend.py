"""Configuration of the process engine."""

from __future__ import annotations

import os
import re
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_customjob.backends.base import Engine, ReplicaRef
from airflow_customjob.backends.process.folders import Folders
from airflow_customjob.backends.process.requests import request_of
from airflow_customjob.backends.sharing import Connections
from airflow_customjob.plan.capabilities import capabilities_of
from airflow_customjob.plan.types import Capabilities, JobPlan

if TYPE_CHECKING:
    from airflow_customjob.backends.process.engine import ProcessEngine


_connections: Connections[ProcessEngine] = Connections()

_LOGIN = re.compile(r"://[^/\s]*@")
"""In a requirement's URL; behind its host an @ names a revision."""


@dataclass(frozen=True)
class ProcessBackend:
    """Runs replicas as processes of this host. It isolates nothing: it is for trying things out, and for testing DAGs.

    :param state_folder: where jobs are kept; every process that is to see them names the same one. Empty:
        ``[customjob] process_dir``, else ``airflow-customjob/processes`` in the user's state directory.
    :param gpus: this host's GPUs, as CUDA_VISIBLE_DEVICES names them.
    :param python: interpreter that the environments of Python packages are made of. Empty: the one that runs this.
    :param requirements: what the executor image would bring along (``torch==2.3``): installed before the packages.
    :param bucket_root: folder of this host whose subfolders stand for buckets: ``gs://bucket/x`` is ``bucket/x`` in it. There is no
        ``/gcs`` here, so where the spec names its own output directory or a path below ``/gcs``, replicas get the folder's path.
    """

    state_folder: str = ""
    gpus: tuple[str, ...] = ()
    python: str = ""
    requirements: tuple[str, ...] = ()
    bucket_root: str = ""

    def __post_init__(self) -> None:
        if self.bucket_root and not os.path.isabs(self.bucket_root):
            raise ValueError(f"bucket_root is {self.bucket_root!r}: expected the absolute path of a folder")
        for number, requirement in enumerate(self.requirements):
            if _LOGIN.search(requirement):
                raise ValueError(
                    f"requirements[{number}] holds a login, which would stand in every serialized DAG: let pip find it in a netrc, "
                    "or in PIP_INDEX_URL of the worker"
                )

    @property
    def name(self) -> str:
        return "process"

    @property
    def folders(self) -> Folders:
        return Folders(Path(self.state_folder or default_state_folder()).absolute())

    def serialize(self) -> dict[str, Any]:
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        return {"name": self.name} | {
            name: list(value) if isinstance(value, tuple) else value for name, value in given.items() if value
        }

    def capabilities(self) -> Capabilities:
        return capabilities_of("process")

    def open(self) -> AbstractAsyncContextManager[Engine]:
        async def connect() -> ProcessEngine:
            from airflow_customjob.backends.process.engine import ProcessEngine

            return ProcessEngine(self)

        return _connections.share((self, self.folders), connect)

    def render(self, plan: JobPlan) -> list[dict[str, Any]]:
        rendered = []
        for replica in plan.replicas:
            folder = self.folders.replica(ReplicaRef(plan.job_id, plan.generation, 0, replica.name, 0))
            request = request_of(plan, replica, folder, bucket_root=self.bucket_root, hide_gpus=bool(self.gpus))
            secrets = {name: f"<{reference}>" for name, reference in plan.options.secret_env}
            rendered.append(
                {
                    "replica": replica.name,
                    "argv": list(request.argv),
                    "env": request.env | secrets,
                    "cwd": request.cwd,
                    "files": request.files,
                    "packages": list(package.uris) if (package := plan.pool_of(replica).package) else [],
                }
            )
        return rendered


def default_state_folder() -> str:
    from airflow_customjob.settings import setting

    state = os.environ.get("XDG_STATE_HOME", "")
    home = Path(state) if os.path.isabs(state) else Path.home() / ".local" / "state"
    return setting("process_dir") or os.fspath(home / "airflow-customjob" / "processes")
