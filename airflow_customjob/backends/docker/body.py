"""What is sent to Docker for a replica: pure data, the same for a dry run and for the real thing."""

from __future__ import annotations

import io
import os
import re
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airflow_customjob.backends.base import ReplicaRef
from airflow_customjob.backends.docker.labels import network_name, replica_labels
from airflow_customjob.plan.environment import GCS
from airflow_customjob.plan.types import JobPlan

LOG_CONFIG = {
    "Type": "json-file",
    "Config": {"max-size": "1p", "max-file": "1", "compress": "false", "mode": "blocking"},
}
"""Said in full, since what is left out comes from the host's daemon.json: a log that rotates loses lines while it is
followed, and so does one in non-blocking mode. A log lives no longer than its replica."""
REDACTED = "***"
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?", re.IGNORECASE)
_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


@dataclass(frozen=True)
class Settings:
    """How the backend is configured, as far as containers see it; see ``DockerBackend``."""

    shm_size: str
    volumes: tuple[str, ...] = ()
    gpus: tuple[str, ...] = ()
    network: str | None = None
    user: str | None = None
    extra_hosts: tuple[str, ...] = ()
    bucket_root: str | None = None


@dataclass(frozen=True)
class BuildSettings:
    """How the backend is configured, as far as builds see it; see ``DockerBackend``."""

    index_urls: tuple[str, ...] = ()
    ca_bundle: str | None = None
    cpus: float | None = None
    memory: str = "50%"
    timeout: float = 3600.0


@dataclass(frozen=True)
class Host:
    """What bounds a replica."""

    cpus: float
    memory_bytes: int


def container_body(
    plan: JobPlan,
    ref: ReplicaRef,
    settings: Settings,
    *,
    host: Host | None = None,
    secrets: Mapping[str, str] | None = None,
    devices: Sequence[str] | None = None,
) -> dict[str, Any]:
    """The body of ``POST /containers/create``.

    :param host: None in a dry run: nothing is capped, and a size relative to the host stays as it is written.
    :param secrets: None in a dry run: redacted.
    :param devices: the GPUs that were leased for it; None in a dry run.
    """
    replica = plan.replica(ref.replica)
    pool = plan.pool_of(replica)
    hidden = {name: REDACTED for name, _ in plan.options.secret_env}
    environment = {**replica.environ, **(hidden if secrets is None else secrets)}
    body: dict[str, Any] = {
        "Image": plan.prepared.artifacts.get(str(pool.index), pool.image),
        "Hostname": replica.host,
        "Env": [f"{name}={value}" for name, value in environment.items()],
        "Labels": replica_labels(plan, ref),
        "StopSignal": "SIGTERM",  # whatever the image's is
        "HostConfig": _host_config(plan, ref, settings, host, devices),
    }
    if replica.command:
        body["Entrypoint"] = list(replica.command)
    if replica.command or replica.args:
        body["Cmd"] = list(replica.args)
    if pool.package is not None:
        body["WorkingDir"] = "/"
    if settings.user:
        body["User"] = settings.user
    network = network_of(plan, settings)
    if network is not None:
        body["NetworkingConfig"] = {"EndpointsConfig": {network: {"Aliases": [replica.host]}}}
    return body


def _host_config(
    plan: JobPlan, ref: ReplicaRef, settings: Settings, host: Host | None, devices: Sequence[str] | None
) -> dict[str, Any]:
    wished = plan.pool_of(plan.replica(ref.replica)).resources
    # Init: without it Python as PID 1 ignores SIGTERM, and a signal that it sends itself reads as exit 0.
    config: dict[str, Any] = {"Init": True, "LogConfig": LOG_CONFIG, "ShmSize": shm_bytes(settings.shm_size, host)}
    network = network_of(plan, settings)
    if network is not None:
        config["NetworkMode"] = network
    if binds := _binds(plan, settings):
        config["Binds"] = binds
    if settings.extra_hosts:
        config["ExtraHosts"] = list(settings.extra_hosts)
    if wished.cpus:
        config["NanoCpus"] = int(min(wished.cpus, host.cpus if host else wished.cpus) * 1e9)
    if plan.options.memory_limits and wished.memory_bytes:
        # Equal limits: swap would turn an out-of-memory kill into a replica that crawls.
        config["Memory"] = config["MemorySwap"] = wished.memory_bytes
    if wished.gpus:
        ids = ["leased"] * wished.gpus if devices is None else list(devices)
        config["DeviceRequests"] = [{"DeviceIDs": ids, "Capabilities": [["gpu"]]}]
    return config


def _binds(plan: JobPlan, settings: Settings) -> list[str]:
    """The backend's volumes; the buckets; and a local output directory, under its own path, unless a volume holds it already."""
    binds = list(settings.volumes)
    if settings.bucket_root:
        binds.append(f"{settings.bucket_root}:{GCS}")
    inside = [f"{bind.split(':')[1].rstrip('/')}/" for bind in binds if ":" in bind]
    if plan.output.startswith("/") and not any(plan.output.startswith(path) for path in inside):
        folder = _bindable(plan.output.rstrip("/"))
        binds.append(f"{folder}:{folder}")
    return binds


def _bindable(path: str) -> str:
    """The path; or the folder above its first colon, which separates the parts of a bind: the ids of Airflow's runs have colons."""
    head, colon, _ = path.partition(":")
    return os.path.dirname(head) if colon else path


def network_of(plan: JobPlan, settings: Settings) -> str | None:
    """The network that the job's replicas meet in: the user's own, else the job's; a single replica needs none."""
    if settings.network:
        return settings.network
    return network_name(plan.job_id, plan.generation) if len(plan.replicas) > 1 else None


def shm_bytes(size: str, host: Host | None, what: str = "shm_size") -> int | str:
    """``50%`` (of the host's memory) or ``16g`` in bytes; a percentage stays as it is while the host is not known.

    :raises ValueError: it is neither.
    """
    text = size.strip()
    if text.endswith("%"):
        share = float(text[:-1])
        return text if host is None else int(host.memory_bytes * share / 100)
    found = _SIZE.fullmatch(text)
    if found is None:
        raise ValueError(f"{what} is {size!r}: expected a share of the host's memory (50%) or a size (16g, 512m)")
    return int(float(found[1]) * _UNITS[found[2].lower()])


def archive(files: Sequence[tuple[str, bytes]], mode: int = 0o444) -> bytes:
    """A tar of these files, by absolute path, for ``PUT /containers/NAME/archive?path=/``."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for path, content in files:
            member = tarfile.TarInfo(path.lstrip("/"))
            member.size, member.mode = len(content), mode
            tar.addfile(member, io.BytesIO(content))
    return stream.getvalue()
