"""Configuration of the Docker engine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields
from ipaddress import IPv4Network
from typing import Any

from airflow_customjob.backends.base import Engine, ReplicaRef
from airflow_customjob.backends.docker.body import BuildSettings, Settings, container_body, network_of, shm_bytes
from airflow_customjob.backends.indexes import check_indexes
from airflow_customjob.plan.capabilities import capabilities_of
from airflow_customjob.plan.environment import GOOGLE_KEY
from airflow_customjob.plan.types import Capabilities, JobPlan

_LISTS = ("volumes", "gpus", "subnets", "extra_hosts", "index_urls")


@dataclass(frozen=True)
class DockerBackend:
    """Replicas are containers of one Docker host.

    :param conn_id: a connection of Airflow's docker provider: the login of a registry (host, login, password). Its extra
        may hold ``docker_url`` and the ``tls_*`` paths for what is not given here. None: ``~/.docker/config.json``.
    :param docker_url: the daemon (``unix://...``, ``tcp://...``, ``ssh://...``); None: ``DOCKER_HOST``, Docker's current
        context, or its default socket.
    :param tls_ca_cert: path of a PEM file on the machine that talks to Docker; as DockerOperator's, like the next ones.
    :param shm_size: size of ``/dev/shm``, as a share of the host's memory or as ``16g``. Data loaders pass batches
        through it, and Docker's own 64 MB break them; half the memory is what Linux gives on a machine of one's own, and
        none of it is taken before it is written to.
    :param volumes: ``host-path-or-volume:path-in-the-replica[:ro]``, for every replica.
    :param gpus: ids (``0``, ``GPU-8f2e...``) of the host's GPUs that jobs may lease; every worker that uses this host
        must name the same ones.
    :param subnets: where jobs of several replicas get their small networks from (IPv4, CIDR form).
    :param network: an existing network for all replicas, instead of one for each job.
    :param user: ``uid[:gid]`` that replicas run as; None: the image's own.
    :param extra_hosts: ``name:address``, for every replica's ``/etc/hosts``.
    :param bucket_root: folder of the Docker host whose subfolders stand for buckets: replicas see ``gs://bucket/x`` as
        ``/gcs/bucket/x``, as on Vertex AI.
    :param index_urls: where packages are looked for, the first one in place of PyPI; empty: where the executor image's pip
        looks. One that needs a password is written as a reference to a secret that holds the whole URL
        (``connection:ID``, ``variable:KEY``, ``file:/path``, ``env:NAME``); no code of a package sees it.
    :param ca_bundle: path of a PEM file on the machine that launches: authorities that indexes are trusted by.
    :param build_cpus: CPUs while packages are installed; None: those of the host.
    :param build_memory: likewise, as a share of the host's memory or as ``8g``.
    :param build_timeout: seconds that an installation may take.
    """

    conn_id: str | None = None
    docker_url: str | None = None
    tls_ca_cert: str | None = None
    tls_client_cert: str | None = None
    tls_client_key: str | None = None
    tls_verify: bool = True
    shm_size: str = "50%"
    volumes: tuple[str, ...] = ()
    gpus: tuple[str, ...] = ()
    subnets: tuple[str, ...] = ("10.201.0.0/16",)
    network: str | None = None
    user: str | None = None
    extra_hosts: tuple[str, ...] = ()
    bucket_root: str | None = None
    index_urls: tuple[str, ...] = ()
    ca_bundle: str | None = None
    build_cpus: float | None = None
    build_memory: str = "50%"
    build_timeout: float = 3600.0

    def __post_init__(self) -> None:
        for name in _LISTS:
            value = getattr(self, name)
            object.__setattr__(self, name, (value,) if isinstance(value, str) else tuple(map(str, value)))
        shm_bytes(self.shm_size, None)
        if self.bucket_root and not self.bucket_root.startswith("/"):
            raise ValueError(f"bucket_root is {self.bucket_root!r}: expected the absolute path of a folder of the host")
        shm_bytes(self.build_memory, None, "build_memory")
        check_indexes(self.index_urls)
        for subnet in self.subnets:
            try:
                IPv4Network(subnet)
            except ValueError as error:
                raise ValueError(
                    f"subnets: {subnet!r} is no IPv4 network in CIDR form (10.201.0.0/16): {error}"
                ) from None

    @property
    def name(self) -> str:
        return "docker"

    @property
    def settings(self) -> Settings:
        return Settings(
            self.shm_size, self.volumes, self.gpus, self.network, self.user, self.extra_hosts, self.bucket_root
        )

    @property
    def build_settings(self) -> BuildSettings:
        return BuildSettings(
            self.index_urls, self.ca_bundle, self.build_cpus, self.build_memory, float(self.build_timeout)
        )

    def serialize(self) -> dict[str, Any]:
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        defaults = {field.name: field.default for field in fields(self)}
        return {"name": self.name} | {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in given.items()
            if value != defaults[name]
        }

    def capabilities(self) -> Capabilities:
        return capabilities_of("docker")

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Engine]:
        from airflow_customjob.backends.docker.sharing import connection

        async with connection(self) as engine:
            yield engine

    def render(self, plan: JobPlan) -> list[dict[str, Any]]:
        """Images with packages, the job's network, if it gets one, and each replica's container as it is first created."""
        from airflow_customjob.backends.docker.networks import network_body
        from airflow_customjob.packaging import dockerfile

        network = network_of(plan, self.settings)
        bodies: list[dict[str, Any]] = [
            {
                "create": "image",
                "for": [pool.name for pool in pools],
                "dockerfile": dockerfile(pools[0].image, pools[0].package.uris, self.index_urls),
            }
            for pools in plan.alike()
            if pools[0].package
        ]
        if network is not None and not self.network:
            subnet = f"a free one of {', '.join(self.subnets)}"
            bodies.append({"create": "network", **network_body(plan.job_id, network, subnet)})
        for replica in plan.replicas:
            ref = ReplicaRef(plan.job_id, plan.generation, 0, replica.name, 0)
            files = [path for path, _ in replica.files]
            files += [GOOGLE_KEY] if plan.options.google_credentials else []
            bodies.append(
                {"create": "container", "name": ref.name, **container_body(plan, ref, self.settings)}
                | ({"files": files} if files else {})
            )
        return bodies
