"""Configuration of the Kubernetes engine."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields
from typing import Any

from airflow_customjob.backends.base import Engine
from airflow_customjob.backends.indexes import check_indexes, is_reference
from airflow_customjob.plan.capabilities import capabilities_of
from airflow_customjob.plan.types import Capabilities, JobPlan

_MAPPINGS = ("machine_types", "pod_template", "labels", "annotations")


@dataclass(frozen=True)
class KubernetesBackend:
    """Replicas are Pods of one namespace of a Kubernetes cluster.

    :param conn_id: a connection of Airflow's cncf-kubernetes provider: in cluster, a kubeconfig's path or text, context,
        namespace. None: ``kubeconfig``, else the files that ``KUBECONFIG`` or ``~/.kube/config`` name, else the service
        account of the Pod that this runs in.
    :param kubeconfig: path of a kubeconfig on the machine that talks to Kubernetes.
    :param context: a context of the kubeconfig; None: its current one.
    :param namespace: where everything is created; None: the connection's, the context's, the Pod's own, or ``default``.
    :param pod_template: a Pod (``{"spec": {...}}``, or a path of a YAML file) that ours is merged over: tolerations, node
        selectors, volumes, sidecars, security contexts, schedulerName. Lists of named things (containers, volumes, env)
        merge by name, as in a strategic merge patch; the replica's container is called ``replica`` (``base`` is read as
        that too).
    :param machine_types: by the spec's machine type (``*``: any other) what a replica requests instead of its size:
        ``{"n1-standard-4": {"cpu": "500m", "memory": "1Gi", "node_selector": {"pool": "small"}}}``; ``{}`` requests nothing.
    :param request_share: share of a machine type's vCPUs and memory that is requested: a node of that very size keeps
        some of it for itself.
    :param gpu_resource: what a GPU is called on the nodes.
    :param queue: name of a Kueue queue: the job's Pods are a pod group in it, admitted together.
    :param service_account: the ServiceAccount of replicas whose job names none; None: no token is mounted.
    :param image_pull_secrets: names of Secrets in the namespace.
    :param shm_size: limit of ``/dev/shm`` (``16Gi``), which is memory; None: none but the node's.
    :param bucket_root: what replicas see under ``/gcs``, where ``gs://bucket/x`` is ``/gcs/bucket/x`` as on Vertex AI: the name of a
        PersistentVolumeClaim, or the absolute path of a folder of each node.
    :param gcsfuse: mount there all buckets that the replicas' ServiceAccount may see, by GKE's Cloud Storage FUSE driver.
    :param registry: a repository for images with Python packages in them (``registry.example/team/customjob``), which are made
        once in the cluster and pulled by each node. None: each replica installs its packages for itself.
    :param registry_secret: a Secret of the namespace (``kubernetes.io/dockerconfigjson``) whose login may write to that
        repository and read the executor image. Nodes pull with their own rights, or with ``image_pull_secrets``.
    :param registry_conn_id: a connection of Airflow's (host, login, password) that may read the executor image: before each job its
        registry is asked which image a tag means now. None: asked without a login; a registry that does not answer us is
        told of in the log, and its tags count as unmoved.
    :param registry_plain_http: that registry has no TLS.
    :param index_urls: where packages are looked for, the first one in place of PyPI: URLs without a password; with a
        ``registry`` also where a URL with one is found: ``connection:ID``, ``variable:KEY``, ``file:/path``, ``env:NAME``.
    :param ca_bundle: path of a PEM file on the machine that launches: authorities that indexes and the registry are trusted by, where
        an image is made; nodes have their own. It goes with ``registry``.
    :param build_timeout: seconds that an installation may take.
    :param cluster_domain: the cluster's DNS domain.
    :param share_processes: the containers of a Pod share one process namespace. A replica's command is then not process 1,
        to which signals do nothing that it does not handle: SIGTERM would be ignored, a crash by SIGABRT go unseen.
    :param force_delete: a replica on a node that does not answer is deleted without waiting for the node. Two of the same
        replica may then run at once if the node is only cut off.
    :param labels: of every Pod, beside our own.
    :param annotations: of every Pod, beside our own.
    """

    conn_id: str | None = None
    kubeconfig: str | None = None
    context: str | None = None
    namespace: str | None = None
    pod_template: str | Mapping[str, Any] | None = None
    machine_types: str | Mapping[str, Any] | None = None
    request_share: float = 0.8
    gpu_resource: str = "nvidia.com/gpu"
    queue: str | None = None
    service_account: str | None = None
    image_pull_secrets: tuple[str, ...] = ()
    shm_size: str | None = None
    bucket_root: str | None = None
    gcsfuse: bool = False
    registry: str | None = None
    registry_secret: str | None = None
    registry_conn_id: str | None = None
    registry_plain_http: bool = False
    index_urls: tuple[str, ...] = ()
    ca_bundle: str | None = None
    build_timeout: float = 3600.0
    cluster_domain: str = "cluster.local"
    share_processes: bool = True
    force_delete: bool = False
    labels: str | Mapping[str, str] | None = None
    annotations: str | Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        if self.bucket_root and self.gcsfuse:
            raise ValueError("KubernetesBackend: bucket_root and gcsfuse both say what /gcs is: keep one of them")
        for name in ("image_pull_secrets", "index_urls"):
            values: Any = getattr(self, name)
            object.__setattr__(self, name, (values,) if isinstance(values, str) else tuple(values))
        _check_registry(self.registry)
        _check_indexes(self.index_urls, self.registry)
        if self.ca_bundle and not self.registry:
            raise ValueError(
                "KubernetesBackend: ca_bundle is for the Pod that makes an image in a registry=: without one, packages are installed "
                "by the executor image's own pip, which trusts what the image does"
            )
        for name in _MAPPINGS:  # as text, so that equal configurations are equal and can be dictionary keys
            value = getattr(self, name)
            if isinstance(value, Mapping):
                object.__setattr__(self, name, json.dumps(value, sort_keys=True, default=list))

    @property
    def name(self) -> str:
        return "kubernetes"

    def mapping(self, name: str) -> dict[str, Any]:
        """The value of an argument that is a mapping; a path of a YAML file is read.

        :raises ValueError: it is no mapping.
        """
        text = getattr(self, name)
        if not text:
            return {}
        if not text.lstrip().startswith("{"):
            with open(text) as file:
                text = file.read()
        import yaml

        value = yaml.safe_load(text)
        if not isinstance(value, dict):
            raise ValueError(
                f"KubernetesBackend: {name} is {type(value).__name__}: expected a mapping, or a path of one"
            )
        return value

    def serialize(self) -> dict[str, Any]:
        given = {field.name: (getattr(self, field.name), field.default) for field in fields(self)}
        return {"name": self.name} | {
            name: _plain(name, value) for name, (value, default) in given.items() if value != default
        }

    def capabilities(self) -> Capabilities:
        return capabilities_of("kubernetes")

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Engine]:
        from airflow_customjob.backends.kubernetes.sharing import connection

        async with connection(self) as engine:
            yield engine

    def render(self, plan: JobPlan) -> list[dict[str, Any]]:
        """The manifests of the job's Service and of each replica's Pod, as they are first created."""
        from airflow_customjob.backends.kubernetes.manifests import manifests_of

        return manifests_of(plan, self)


def _check_registry(registry: str | None) -> None:
    host, _, repository = (registry or "host.example/x").partition("/")
    if (
        "://" in (registry or "")
        or not repository
        or ":" in repository
        or not ("." in host or ":" in host or host == "localhost")
    ):
        raise ValueError(
            f"KubernetesBackend: registry is {registry!r}: expected a repository without a tag, as registry.example/team/customjob"
        )


def _check_indexes(urls: Iterable[str], registry: str | None) -> None:
    check_indexes(urls)
    for number, url in enumerate(urls):
        if is_reference(url) and not registry:
            raise ValueError(
                f"KubernetesBackend: index_urls[{number}] is {url!r}: an index with a password needs a registry=, where packages are "
                "installed once and their code does not see it; or name a proxy inside the cluster that adds the password"
            )


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return json.loads(value) if name in _MAPPINGS and value.startswith("{") else value
