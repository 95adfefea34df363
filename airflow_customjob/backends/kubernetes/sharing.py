"""How to reach a cluster; and jobs that use the same one in the same event loop share one connection and one watch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from airflow_customjob.backends.base import EngineError
from airflow_customjob.backends.kubernetes.api import Api
from airflow_customjob.backends.kubernetes.backend import KubernetesBackend
from airflow_customjob.backends.kubernetes.engine import KubernetesEngine
from airflow_customjob.backends.sharing import Connections

IN_CLUSTER = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where a Pod finds the token and the namespace of its own service account."""


_connections: Connections[KubernetesEngine] = Connections()


def connection(backend: KubernetesBackend) -> AbstractAsyncContextManager[KubernetesEngine]:
    """The running loop's connection to this cluster, and its one watch."""

    async def connect() -> KubernetesEngine:
        return KubernetesEngine(backend, await api_of(backend))

    return _connections.share((backend, os.environ.get("KUBECONFIG")), connect)


async def api_of(backend: KubernetesBackend) -> Api:
    """:raises EngineError: nothing says where the cluster is, or how to get in."""
    configuration, namespace = await _access(backend)

    async def connect() -> Any:
        return _client((await _access(backend))[0])

    return Api(_client(configuration), connect, backend.namespace or namespace or "default")


def _client(configuration: Any) -> Any:
    from kubernetes_asyncio.client import ApiClient

    configuration.connection_pool_maxsize = 0  # no limit: each followed log holds one
    return ApiClient(configuration)


async def _access(backend: KubernetesBackend) -> tuple[Any, str | None]:
    """A kubernetes_asyncio ``Configuration``, and the namespace that it comes with."""
    from kubernetes_asyncio.config import ConfigException

    try:
        if backend.conn_id is not None:
            return await _by_connection(backend)
        if backend.kubeconfig or any(Path(path).expanduser().exists() for path in _default_files()):
            return await _by_kubeconfig(backend)
        if not IN_CLUSTER.exists():
            files = os.pathsep.join(_default_files())
            raise ConfigException(f"{files} does not exist, and this is no Pod of a cluster")
        return _in_cluster()
    except (ConfigException, OSError, KeyError) as error:
        raise EngineError(
            f"there is no way to a Kubernetes cluster: {str(error).rstrip('.')}; give KubernetesBackend a conn_id or a "
            "kubeconfig, or export KUBECONFIG"
        ) from error


def _default_files() -> list[str]:
    return [path for path in (os.environ.get("KUBECONFIG") or "~/.kube/config").split(os.pathsep) if path]


async def _by_connection(backend: KubernetesBackend) -> tuple[Any, str | None]:
    from airflow.providers.cncf.kubernetes.hooks.kubernetes import AsyncKubernetesHook

    hook = AsyncKubernetesHook(conn_id=backend.conn_id, cluster_context=backend.context)
    try:
        extras = await hook.get_conn_extras()
        async with hook.get_conn() as client:
            return client.configuration, _namespace_of(extras, backend.context)
    except Exception as error:  # noqa: BLE001 - whatever it is: its text may hold what the connection holds
        raise EngineError(
            f"the connection {backend.conn_id!r} of the Kubernetes backend cannot be used ({type(error).__name__}): look at "
            "it in Airflow, or leave conn_id out"
        ) from None


def _namespace_of(extras: Mapping[str, Any], context: str | None) -> str | None:
    """The connection's own, that of its kubeconfig's context, or the one of the Pod that this runs in."""

    def extra(name: str) -> Any:
        return extras.get(name) or extras.get(f"extra__kubernetes__{name}")

    if extra("namespace"):
        return str(extra("namespace"))
    if extra("in_cluster"):
        return _own_namespace()
    import yaml

    config = extra("kube_config")
    if path := extra("kube_config_path"):
        config = Path(path).read_text()
    config = (yaml.safe_load(config) if isinstance(config, str) else config) or {}
    chosen = context or extra("cluster_context") or config.get("current-context")
    named = [item["context"] for item in config.get("contexts", ()) if item["name"] == chosen]
    return named[0].get("namespace") if named else None


async def _by_kubeconfig(backend: KubernetesBackend) -> tuple[Any, str | None]:
    from kubernetes_asyncio.client import Configuration
    from kubernetes_asyncio.config import load_kube_config
    from kubernetes_asyncio.config.kube_config import list_kube_config_contexts

    files = backend.kubeconfig or os.pathsep.join(_default_files())
    configuration = Configuration()
    await load_kube_config(files, backend.context, configuration, persist_config=False)
    contexts, current = list_kube_config_contexts(files)
    named = [context for context in contexts if context["name"] == backend.context]
    chosen = named[0] if named else current
    return configuration, (chosen or {}).get("context", {}).get("namespace")


def _in_cluster() -> tuple[Any, str | None]:
    from kubernetes_asyncio.client import Configuration
    from kubernetes_asyncio.config import load_incluster_config

    configuration = Configuration()
    load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call] # it has no types
    return configuration, _own_namespace()


def _own_namespace() -> str:
    return (IN_CLUSTER / "namespace").read_text().strip()
