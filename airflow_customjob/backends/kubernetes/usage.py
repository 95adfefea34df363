"""What running replicas use: asked of the metrics API, or of their nodes where that is missing and we may."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from airflow_customjob.backends.base import Phase, ReplicaRef, Usage
from airflow_customjob.backends.kubernetes import names
from airflow_customjob.backends.kubernetes.api import Api, ApiError
from airflow_customjob.backends.kubernetes.judge import status_of
from airflow_customjob.backends.kubernetes.refusals import quantity

Json = Mapping[str, Any]


async def usage_of(api: Api, pods: Iterable[Json]) -> list[Usage]:
    """Empty where nobody measures."""
    now = time.time()
    statuses = {pod["metadata"]["name"]: status_of(pod, now) for pod in pods}
    running = {name: status for name, status in statuses.items() if status and status.phase is Phase.RUNNING}
    if not running:
        return []
    refs = {name: status.ref for name, status in running.items()}
    try:
        path = f"/apis/metrics.k8s.io/v1beta1/namespaces/{api.namespace}/pods"
        answer = await api.call("GET", path, query={"labelSelector": names.MANAGED_SELECTOR})
        return list(_by_metrics(answer, refs, now))
    except ApiError:
        nodes = {status.node for status in running.values()}
        found = await asyncio.gather(*(_of_node(api, node, refs, now) for node in nodes))
        return [usage for usages in found for usage in usages]


def _by_metrics(answer: Json, refs: Mapping[str, ReplicaRef], now: float) -> Iterator[Usage]:
    for item in answer["items"]:
        ref = refs.get(item["metadata"]["name"])
        for container in item["containers"]:
            if ref is not None and container["name"] == names.CONTAINER:
                used = container["usage"]
                yield Usage(ref, now, float(quantity(used["cpu"])), int(quantity(used["memory"])))


async def _of_node(api: Api, node: str, refs: Mapping[str, ReplicaRef], now: float) -> list[Usage]:
    """By the kubelet's own summary; empty where ``nodes/proxy`` is not ours to get."""
    usages = []
    with suppress(ApiError):
        answer = await api.call("GET", f"/api/v1/nodes/{node}/proxy/stats/summary")
        for pod in answer["pods"]:
            ref = refs.get(pod["podRef"]["name"]) if pod["podRef"]["namespace"] == api.namespace else None
            for container in pod.get("containers", ()):
                memory = container.get("memory", {}).get("workingSetBytes")
                if ref is not None and container["name"] == names.CONTAINER and memory:
                    cpus = container.get("cpu", {}).get("usageNanoCores", 0) / 1e9
                    usages.append(Usage(ref, now, cpus, memory))
    return usages
