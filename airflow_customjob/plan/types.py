"""The data that flows from a spec to an engine: what was asked for, and everything a replica will see.

All of it is frozen and none of it knows an engine. A :class:`JobRequest` is enough to plan the same job again on
any machine: it is what the job's record keeps. A :class:`JobPlan` follows from it by a pure function.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any, NewType

JobId = NewType("JobId", str)
"""Decimal digits, as Vertex AI's own custom-job ids; a pure function of the job's identity."""


class ClusterSpec(StrEnum):
    """How ``CLUSTER_SPEC`` reaches a replica (Linux caps one environment string at 128 KiB)."""

    ENV = "env"
    FILE = "file"
    NONE = "none"


class SingleReplica(StrEnum):
    """The form of ``CLUSTER_SPEC`` in a job of one replica, where Vertex AI's own sources disagree."""

    WORKERPOOL0 = "workerpool0"
    CHIEF = "chief"
    UNSET = "unset"


TIMEOUT_STATES = ("CANCELLED", "EXPIRED", "FAILED")
"""How a job may end whose timeout has passed."""
SECRET_KINDS = ("env", "file", "variable", "connection")
"""What a reference of ``secret_env`` begins with, before a colon."""


@dataclass(frozen=True)
class JobOptions:
    """What a user may choose beside the spec. All of it is part of the request's digest.

    :param stop_grace: seconds between the polite and the final signal when a replica is stopped.
    :param timeout_state: end state when ``scheduling.timeout`` passes: one of :data:`TIMEOUT_STATES`.
    :param ignore_fields: field paths (``network``, ``worker_pool_specs.nfs_mounts``) that the user knows will not be honoured.
    :param image_map: pairs of image names; the first is replaced by the second wherever the spec names it.
        A ``FROM`` that ends with ``*`` replaces by prefix.
    :param cluster_spec: how CLUSTER_SPEC is delivered.
    :param single_replica: the form of CLUSTER_SPEC in a job of one replica.
    :param expand_args: expand ``$(VAR)`` in command and args too, as Kubernetes does.
    :param trial_id: hyperparameter trial: AIP_* directories gain ``<trial_id>/``; CLOUD_ML_TRIAL_ID is set.
    :param gang: create every replica before any starts.
    :param project: project number or id, for CLOUD_ML_PROJECT_ID and the job's resource name.
    :param region: for CLOUD_ML_REGION and the job's resource name.
    :param memory_limits: give replicas the machine type's memory as a hard limit (off: Vertex machines are whole VMs).
    :param record_ttl: seconds that the record of an ended job is kept (default 7 days).
    :param gcp_conn_id: an Airflow connection to Google Cloud, by which packages are read from ``gs://``; None: application
        default credentials.
    :param google_credentials: path of a key file, or id of an Airflow connection to Google Cloud: replicas find the key as a file
        that GOOGLE_APPLICATION_CREDENTIALS names; it is read when they are created. None: they get none.
    :param secret_env: pairs of a variable's name and where its value is found when a replica is created
        (:mod:`airflow_customjob.backends.secrets`); the value itself is in no plan, record or log.
    """

    stop_grace: float = 0.5
    timeout_state: str = "CANCELLED"
    ignore_fields: tuple[str, ...] = ()
    image_map: tuple[tuple[str, str], ...] = ()
    cluster_spec: ClusterSpec = ClusterSpec.ENV
    single_replica: SingleReplica = SingleReplica.WORKERPOOL0
    expand_args: bool = True
    trial_id: str | None = None
    gang: bool = True
    project: str = "0"
    region: str = "local"
    memory_limits: bool = False
    record_ttl: float = 7 * 24 * 3600.0
    gcp_conn_id: str | None = None
    google_credentials: str | None = None
    secret_env: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class JobRequest:
    """One job as it was asked for.

    :param job: the CustomJob in canonical proto3 JSON.
    :param options: what was chosen beside it.
    """

    job: dict[str, Any]
    options: JobOptions = field(default_factory=JobOptions)


@dataclass(frozen=True)
class Prepared:
    """What an engine settled once per generation, before anything was created; kept in the record.

    :param artifacts: by worker-pool index (as text): the image digest or virtual environment that the pool runs.
    :param ports: one port per replica in rank order, then MASTER_PORT; empty where replicas have their own addresses.
    :param notes: provenance for people: package hashes, image digests.
    :param pins: where each replica installs for itself, by the index (as text) of the first pool that installs alike: for each of its
        packages in order, the versions of projects that are held from then on, an empty one being held no more.
    """

    artifacts: dict[str, str] = field(default_factory=dict)
    ports: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()
    pins: dict[str, tuple[dict[str, str], ...]] = field(default_factory=dict)


class Support(StrEnum):
    """What a backend does with a field of the spec."""

    HONOURED = "honoured"
    EMULATED = "emulated"
    REFUSED = "refused"


@dataclass(frozen=True)
class FieldSupport:
    """One row of a backend's capability table.

    :param path: field path without indexes, below ``job_spec`` (``worker_pool_specs.disk_spec``) or the job (``encryption_spec``).
    :param support: what happens with it.
    :param note: what exactly, for the plan's notes and the docs.
    """

    path: str
    support: Support
    note: str


@dataclass(frozen=True)
class Capabilities:
    """What an engine can do, as data that the plan reads.

    :param backend: ``process``, ``docker``, ``kubernetes`` or ``fake``.
    :param loopback: replicas share one network namespace: hosts are 127.0.0.1 and ports differ.
    :param isolated: a replica runs its image; otherwise its command runs on this host and the image is not honoured.
    :param fields: fields that are not simply honoured.
    :param fetches: whoever launches a job brings its Python packages.
    :param host_cpus: CPUs of the host where that bounds a replica; None: not known or not bounding.
    """

    backend: str
    loopback: bool
    isolated: bool
    fields: tuple[FieldSupport, ...] = ()
    fetches: bool = True
    host_cpus: float | None = None


@dataclass(frozen=True)
class Note:
    """Something the plan changed, emulates or leaves out, told to the user.

    :param path: field path in the spec.
    :param message: what happens here instead of on Vertex AI.
    """

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


@dataclass(frozen=True)
class Resources:
    """What a replica asks of its machine. None means: no wish.

    :param cpus: virtual CPUs of the machine type.
    :param memory_bytes: memory of the machine type.
    :param gpus: number of accelerators.
    :param gpu_type: accelerator type's name, for people.
    """

    cpus: float | None = None
    memory_bytes: int | None = None
    gpus: int = 0
    gpu_type: str | None = None


@dataclass(frozen=True)
class Package:
    """A ``python_package_spec``.

    :param uris: packages in the order they are installed.
    :param module: run as ``python3 -m <module>``.
    :param gcp_conn_id: an Airflow connection to Google Cloud, for ``gs://``.
    """

    uris: tuple[str, ...]
    module: str
    gcp_conn_id: str | None = None


@dataclass(frozen=True)
class NfsMount:
    """A share that each replica of a pool finds at ``/mnt/nfs/<mount_point>``.

    :param path: exported by the server.
    """

    server: str
    path: str
    mount_point: str


@dataclass(frozen=True)
class PoolPlan:
    """A worker pool.

    :param index: position in the spec; skipped pools leave a gap.
    :param name: ``workerpool<index>``.
    :param replica_count: how many replicas.
    :param image: container or executor image, after ``image_map``.
    :param image_requested: the image as the spec names it.
    :param package: set for a ``python_package_spec``.
    :param resources: of each replica.
    :param machine_type: as the spec names it.
    :param disk_gb: size of the boot disk in GiB; 0: no wish.
    :param nfs_mounts: shares that its replicas mount.
    """

    index: int
    name: str
    replica_count: int
    image: str
    image_requested: str
    package: Package | None
    resources: Resources
    machine_type: str = ""
    disk_gb: int = 0
    nfs_mounts: tuple[NfsMount, ...] = ()


@dataclass(frozen=True)
class SharedText:
    """How a file begins and ends in every replica: they differ in a few bytes of a text that is as long as the job is large.

    :param path: absolute, in the replica.
    """

    path: str
    head: str
    tail: str


@dataclass(frozen=True)
class ReplicaPlan:
    """A replica, whole but for the texts that it shares with the others (:meth:`JobPlan.files_of`).

    :param name: ``workerpool1-0``.
    :param pool: index of its pool.
    :param index: zero-based inside its pool.
    :param rank: zero-based over all pools; 0 is the primary replica.
    :param host: the name by which the others reach it, and its own HOSTNAME.
    :param env: service variables, then the user's, each once, in that order, expanded.
    :param command: replaces the image's ENTRYPOINT; empty: the image's own. A package's replica has ``python3 -m module``.
    :param args: replaces the image's CMD (also with nothing, where a command is given).
    :param files: absolute path in the replica, and what of its content is the replica's own (CLUSTER_SPEC as a file).
    """

    name: str
    pool: int
    index: int
    rank: int
    host: str
    env: tuple[tuple[str, str], ...]
    command: tuple[str, ...]
    args: tuple[str, ...]
    files: tuple[tuple[str, str], ...] = ()

    @property
    def environ(self) -> Mapping[str, str]:
        return dict(self.env)


@dataclass(frozen=True)
class JobPlan:
    """A whole job, ready for an engine.

    :param job_id: decimal digits.
    :param generation: counts how often this job was started anew (clear, changed spec), from 1.
    :param digest: sha256 of the request; equal digests ask for the same job.
    :param network: ``<10 hex>``, common to the hosts of one generation.
    :param replicas: in rank order; the first is the primary replica.
    :param timeout: seconds of running after which the job ends.
    :param disable_retries: no restart of any kind.
    :param restart_job_on_worker_restart: a lost replica restarts the whole job.
    :param service_account: as the spec names it, an e-mail address; empty: none.
    :param output: the base output directory as replicas are told it, with a slash at its end; empty: none.
    :param shared: how the replicas' files begin and end, each once.
    :param notes: all that is not simply as on Vertex AI.
    """

    job_id: JobId
    display_name: str
    generation: int
    digest: str
    network: str
    pools: tuple[PoolPlan, ...]
    replicas: tuple[ReplicaPlan, ...]
    timeout: float
    disable_retries: bool
    restart_job_on_worker_restart: bool
    options: JobOptions
    prepared: Prepared
    labels: tuple[tuple[str, str], ...] = ()
    service_account: str = ""
    output: str = ""
    shared: tuple[SharedText, ...] = ()
    notes: tuple[Note, ...] = ()

    @property
    def primary(self) -> ReplicaPlan:
        return self.replicas[0]

    def alike(self) -> list[tuple[PoolPlan, ...]]:
        """The pools that run the same image with the same packages, together: what is prepared once serves them all."""
        groups: dict[tuple[str, tuple[str, ...]], list[PoolPlan]] = {}
        for pool in self.pools:
            groups.setdefault((pool.image, pool.package.uris if pool.package else ()), []).append(pool)
        return [tuple(group) for group in groups.values()]

    def pool_of(self, replica: ReplicaPlan) -> PoolPlan:
        return next(pool for pool in self.pools if pool.index == replica.pool)

    def replica(self, name: str) -> ReplicaPlan:
        return self._by_name[name]

    @cached_property
    def _by_name(self) -> Mapping[str, ReplicaPlan]:
        return {replica.name: replica for replica in self.replicas}

    def files_of(self, replica: ReplicaPlan) -> tuple[tuple[str, str], ...]:
        """Path and whole content of each of a replica's files; made when it is needed, and kept nowhere."""
        around = {text.path: (text.head, text.tail) for text in self.shared}
        parts = ((path, own, *around.get(path, ("", ""))) for path, own in replica.files)
        return tuple((path, f"{head}{own}{tail}") for path, own, head, tail in parts)
