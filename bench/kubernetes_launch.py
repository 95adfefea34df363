"""Seconds from the call until all Pods run, on Kubernetes: the floor, ours, and one Indexed Job.

``python -m bench.kubernetes_launch --replicas 1000`` needs nodes for so many: ``dev/engines nodes 20``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import time
from statistics import median
from typing import Any
from uuid import uuid4

from airflow_customjob.backends.kubernetes import KubernetesBackend
from airflow_customjob.backends.kubernetes.api import STRATEGIC, Api
from airflow_customjob.backends.kubernetes.engine import AT_ONCE
from airflow_customjob.backends.kubernetes.sharing import api_of
from airflow_customjob.client import AsyncCustomJobClient
from airflow_customjob.plan.types import ClusterSpec, JobOptions
from airflow_customjob.spec.job_state import JobState
from bench.job import base_image, job

SIMULATED = {
    "spec": {
        "nodeSelector": {"type": "kwok"},
        "tolerations": [{"key": "type", "operator": "Equal", "value": "kwok", "effect": "NoSchedule"}],
    }
}
OPTIONS = JobOptions(cluster_spec=ClusterSpec.FILE)
RAW, OURS, INDEXED = "raw Pods, created and ungated concurrently", "ours", "one Indexed Job"


class Running:
    """Counts running Pods by a watch of its own, the same for everybody."""

    def __init__(self, api: Api, selector: str) -> None:
        self._api = api
        self._selector = selector

    async def until(self, count: int) -> None:
        running: set[str] = set()
        version = "0"
        while len(running) < count:
            query = {"watch": "1", "labelSelector": self._selector, "resourceVersion": version, "timeoutSeconds": 300}
            async with self._api.stream(self._api.path("pods"), query, 300.0) as pieces:
                rest = b""
                async for piece in pieces:
                    *lines, rest = (rest + piece).split(b"\n")
                    for line in filter(None, lines):
                        pod = json.loads(line)["object"]
                        if pod.get("status", {}).get("phase") == "Running":
                            running.add(pod["metadata"]["name"])
                    if len(running) >= count:
                        return


async def raw(backend: KubernetesBackend, replicas: int, image: str) -> float:
    """The very same Pods and their Service, without any record, rule or watch over them."""
    plan = AsyncCustomJobClient(backend).plan(job(replicas, image), OPTIONS)
    parts = backend.render(plan)
    label = uuid4().hex[:10]
    api = await api_of(backend)
    pods = [part for part in parts if part["kind"] == "Pod"]
    for part in parts:
        part["metadata"].setdefault("labels", {})["bench"] = label
    started = time.perf_counter()
    for part in parts:
        if part["kind"] != "Pod":
            await api.create(f"{part['kind'].lower()}s", part)

    async def each(do: Any) -> None:
        queue = iter(pods)

        async def worker() -> None:
            for pod in queue:
                await do(pod)

        await asyncio.gather(*(worker() for _ in range(AT_ONCE)))

    watching = asyncio.create_task(Running(api, f"bench={label}").until(replicas))
    await each(lambda pod: api.create("pods", pod))
    gates = {"spec": {"schedulingGates": [{"$patch": "delete", "name": pods[0]["spec"]["schedulingGates"][0]["name"]}]}}
    await each(lambda pod: api.patch("pods", pod["metadata"]["name"], gates, STRATEGIC))
    await watching
    seconds = time.perf_counter() - started
    await api.call(
        "DELETE", api.path("pods"), query={"labelSelector": f"bench={label}"}, body={"gracePeriodSeconds": 0}
    )
    await api.delete_all("configmaps", f"bench={label}")
    await api.delete("services", parts[0]["metadata"]["name"])
    await gone(api, f"bench={label}")
    await api.close()
    return seconds


async def ours(backend: KubernetesBackend, replicas: int, image: str) -> tuple[float, int]:
    """From the call to the record that says RUNNING; and how many calls that took."""
    client = AsyncCustomJobClient(backend)
    async with backend.open() as engine:
        api = engine._api  # type: ignore[attr-defined]
        before, started = api.calls, time.perf_counter()
        _, submitted = await client.submit(job(replicas, image), OPTIONS, say=quiet)
        await client.supervise(
            submitted.job_id, say=quiet, until=lambda record: record.state is JobState.JOB_STATE_RUNNING
        )
        seconds, calls = time.perf_counter() - started, api.calls - before
        await client.cancel(submitted.job_id)
        await client.supervise(submitted.job_id, say=quiet)
    return seconds, calls


async def indexed(backend: KubernetesBackend, replicas: int, image: str) -> float:
    """What the Job controller does with the same number of Pods, as fast as its own request rate lets it."""
    name = f"bench-{uuid4().hex[:10]}"
    api = await api_of(backend)
    template = backend.mapping("pod_template").get("spec", {})
    pod = {
        **template,
        "restartPolicy": "Never",
        "subdomain": name,
        "containers": [{"name": "main", "image": image, "command": ["sleep", "300"]}],
    }
    body = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {
            "completions": replicas,
            "parallelism": replicas,
            "completionMode": "Indexed",
            "template": {"metadata": {"labels": {"bench": name}}, "spec": pod},
        },
    }
    path = f"/apis/batch/v1/namespaces/{api.namespace}/jobs"
    watching = asyncio.create_task(Running(api, f"bench={name}").until(replicas))
    started = time.perf_counter()
    await api.call("POST", path, body=body)
    await watching
    seconds = time.perf_counter() - started
    await api.call("DELETE", f"{path}/{name}", query={"propagationPolicy": "Background", "gracePeriodSeconds": 0})
    await gone(api, f"bench={name}")
    await api.close()
    return seconds


async def gone(api: Api, selector: str) -> None:
    while (await api.list("pods", selector, limit=1))["items"]:
        await asyncio.sleep(0.5)


def quiet(line: str) -> None:
    pass


async def measure(replicas: int, pairs: int, *, simulated: bool, with_indexed: bool) -> None:
    backend = KubernetesBackend(machine_types={"*": {}}, pod_template=SIMULATED if simulated else None)
    image = base_image()
    samples: dict[str, list[float]] = {RAW: [], OURS: [], INDEXED: []}
    calls = 0
    for pair in range(1, pairs + 1):
        samples[RAW].append(await raw(backend, replicas, image))
        seconds, calls = await ours(backend, replicas, image)
        samples[OURS].append(seconds)
        if with_indexed:
            samples[INDEXED].append(await indexed(backend, replicas, image))
        last = ", ".join(f"{name} {values[-1]:.2f} s" for name, values in samples.items() if values)
        print(f"round {pair} of {pairs}: {last}", flush=True)
    for name, values in samples.items():
        if values:
            print(f"{name:45} {median(values):7.2f} s")
    print(f"{'ours / raw':45} {median(samples[OURS]) / median(samples[RAW]):7.2f}")
    print(f"{'API calls of ours, for each replica':45} {calls / replicas:7.2f}")
    print(
        f"{'memory of this process, at most':45} {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:5.0f} MiB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.kubernetes_launch", description=__doc__)
    parser.add_argument("--replicas", type=int, default=1000)
    parser.add_argument("--pairs", type=int, default=3, help="interleaved rounds (default %(default)s)")
    parser.add_argument("--real", action="store_true", help="on real nodes instead of simulated ones")
    parser.add_argument("--no-indexed", action="store_true", help="leave the Indexed Job out")
    given = parser.parse_args()
    asyncio.run(measure(given.replicas, given.pairs, simulated=not given.real, with_indexed=not given.no_indexed))


if __name__ == "__main__":
    main()
