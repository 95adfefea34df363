"""Every variable that Vertex AI sets in a replica, in one place; pure.

Sources: Vertex AI documentation, 'Distributed training' and 'Code requirements'; custom_job.proto (base_output_directory);
and what runs of the real service have shown where the documentation is silent (CLUSTER_SPEC's ``job`` is text,
``open_ports`` exists, RANK and its companions are set for containers too).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from airflow_customjob.plan.types import ClusterSpec, JobId, JobOptions, SingleReplica

PORT = 2222
"""Every replica's port in CLUSTER_SPEC and TF_CONFIG."""
MASTER_PORT = 3333
"""MASTER_PORT, and the one of ``open_ports``."""
MAX_VARIABLE = 120_000
"""Bytes of one variable; Linux takes 131,072 with its name, and 10 KB are left to user code that adds to it."""
FILES = "/var/run/customjob"
"""Folder in a replica that CLUSTER_SPEC and TF_CONFIG lie in where they are files."""

GCS = "/gcs"
"""Where replicas see buckets, as on Vertex AI: ``gs://bucket/x`` is ``/gcs/bucket/x``."""
GOOGLE_KEY = "/var/run/customjob-google/key.json"
"""Where a replica finds what ``google_credentials`` names."""

TF_TASKS = {0: "chief", 1: "worker", 2: "ps", 3: "evaluator"}
"""What TF_CONFIG calls a pool, by its position in the spec."""
EVALUATOR = "evaluator"
"""Never in TF_CONFIG's cluster."""


@dataclass(frozen=True)
class Member:
    """A replica, as the others see it.

    :param pool: index of its pool.
    :param index: zero-based inside its pool.
    :param address: host and port in CLUSTER_SPEC.
    """

    pool: int
    index: int
    address: str


@dataclass(frozen=True)
class Parts:
    """A text as long as the job is large, of which only the middle differs between replicas."""

    head: str
    own: str
    tail: str

    @property
    def text(self) -> str:
        return f"{self.head}{self.own}{self.tail}"


@dataclass(frozen=True)
class Work:
    """What CLUSTER_SPEC says of a pool's task: all empty for a container."""

    module: str = ""
    uris: tuple[str, ...] = ()
    args: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, object]:
        return {"python_module": self.module, "package_uris": list(self.uris), "job_args": list(self.args)}


class Cluster:
    """All replicas of a job, in rank order; gives each one's variables.

    :param members: the first is the primary replica.
    :param master: host and port of MASTER_ADDR and MASTER_PORT.
    """

    def __init__(self, job_id: JobId, members: Sequence[Member], master: tuple[str, int], options: JobOptions) -> None:
        self._job_id = job_id
        self._members = members
        self._master = master
        self._options = options
        pools: dict[str, list[str]] = {}
        tasks: dict[str, list[str]] = {}
        for member in members:
            pools.setdefault(f"workerpool{member.pool}", []).append(member.address)
            if (task := tf_task(member.pool)) != EVALUATOR:
                tasks.setdefault(task, []).append(member.address)
        self._head = _head(pools) + '"task": '
        self._tail = f', "open_ports": [{master[1]}]}}'
        self._tf_head = _head(tasks) + '"job": '

    @property
    def _single(self) -> bool:
        return len(self._members) == 1

    def spec_variables(self, member: Member, work: Work) -> dict[str, Parts]:
        """CLUSTER_SPEC, and TF_CONFIG where more than one replica is."""
        form = self._options.single_replica
        if self._options.cluster_spec is ClusterSpec.NONE or (self._single and form is SingleReplica.UNSET):
            return {}
        pool, head = f"workerpool{member.pool}", self._head
        if self._single and form is SingleReplica.CHIEF:
            pool, head = "chief", _head({"chief": [member.address]}) + '"task": '
        variables = {"CLUSTER_SPEC": self._cluster_spec(head, pool, member.index, work)}
        if not self._single:
            variables["TF_CONFIG"] = self._tf_config(member, work)
        return variables

    def _cluster_spec(self, head: str, pool: str, index: int, work: Work) -> Parts:
        task = json.dumps({"type": pool, "index": index, **self._trial()})
        job = json.dumps(json.dumps(work.as_dict(), separators=(",", ":")))
        return Parts(head, f'{task}, "job": {job}', self._tail)

    def _tf_config(self, member: Member, work: Work) -> Parts:
        task = json.dumps({"type": tf_task(member.pool), "index": member.index, **self._trial(), "cloud": self._job_id})
        return Parts(self._tf_head, f'{json.dumps(work.as_dict())}, "task": {task}', "}")

    def _trial(self) -> dict[str, str]:
        return {} if self._options.trial_id is None else {"trial": self._options.trial_id}

    def rank_variables(self, rank: int) -> dict[str, str]:
        """PyTorch's rendezvous; only where more than one replica is."""
        if self._single:
            return {}
        host, port = self._master
        return {
            "RANK": str(rank),
            "WORLD_SIZE": str(len(self._members)),
            "MASTER_ADDR": host,
            "MASTER_PORT": str(port),
        }


def _head(cluster: Mapping[str, Sequence[str]]) -> str:
    return f'{{"cluster": {json.dumps(cluster)}, "environment": "cloud", '


def tf_task(pool: int) -> str:
    return TF_TASKS.get(pool, f"workerpool{pool}")


def service_variables(job_id: JobId, options: JobOptions, work: Work, *, container: bool) -> dict[str, str]:
    """What every replica of any job has."""
    variables = {
        "CLOUD_ML_PROJECT_ID": options.project,
        "CLOUD_ML_REGION": options.region,
        "CLOUD_ML_JOB_ID": job_id,
        "CLOUD_ML_JOB": json.dumps(work.as_dict(), separators=(",", ":")),
    }
    if container:
        variables["AIP_USE_CUSTOM_CONTAINER"] = "true"
    if options.trial_id is not None:
        variables["CLOUD_ML_TRIAL_ID"] = options.trial_id
    if options.google_credentials is not None:
        variables["GOOGLE_APPLICATION_CREDENTIALS"] = GOOGLE_KEY
    return variables


def output_directory(output_uri_prefix: str) -> str:
    """As replicas are told it: with a slash at its end, and of ``file:`` the path."""
    if output_uri_prefix.startswith("file:"):
        output_uri_prefix = unquote(urlsplit(output_uri_prefix).path)
    return output_uri_prefix if output_uri_prefix.endswith("/") or not output_uri_prefix else f"{output_uri_prefix}/"


def directory_variables(output_uri_prefix: str, trial_id: str | None) -> dict[str, str]:
    """AIP_* directories; none without base_output_directory. The slash at the end is part of the value."""
    if not output_uri_prefix:
        return {}
    base = output_directory(output_uri_prefix)
    if trial_id is not None:
        base += f"{trial_id}/"
    return {
        "AIP_MODEL_DIR": f"{base}model/",
        "AIP_CHECKPOINT_DIR": f"{base}checkpoints/",
        "AIP_TENSORBOARD_LOG_DIR": f"{base}logs/",
    }


def file_of(name: str) -> str:
    """Where a replica finds this variable's value where that is a file; ``<NAME>_FILE`` says so."""
    return f"{FILES}/{name.lower()}.json"
