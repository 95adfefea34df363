"""Seconds from the call until all Pods exist, and until all run, on Kubernetes: the floor, ours, and one Indexed Job.

``python -m bench.kubernetes_launch --replicas 100 1000`` needs nodes for so many: ``dev/engines nodes 20``. How fast an
Indexed Job is, is a matter of the controller manager's request rate: ``KCM_QPS=20 KCM_BURST=30 dev/engines up kubernetes``
gives it the one that it has by default.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any
from uuid import uuid4

import msgspec

from airflow_customjob.backends.kubernetes import KubernetesBackend, names
from airflow_customjob.backends.kubernetes.api import STRATEGIC, Api
from airflow_customjob.backends.kubernetes.at_once import AT_ONCE
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


@dataclass(frozen=True)
class Launch:
    """
    :param created: seconds until all Pods existed.
    :param running: seconds until all ran; of ours, until its record said so.
    :param calls: requests to the API server.
    """

    created: float
    running: float
    calls: int


class Seen:
    """Counts Pods by a watch of its own, the same for everybody: when all of them existed, and when all ran."""

    def __init__(self, api: Api, selector: str, count: int) -> None:
        self._api = api
        self._selector = selector
        self._count = count
        self.created_at = 0.0
        self.running_at = 0.0

    async def all(self) -> None:
        created: set[str] = set()
        running: set[str] = set()
        query = {"watch": "1", "labelSelector": self._selector, "resourceVersion": "0", "timeoutSeconds": 3600}
        while not self.running_at:
            async with self._api.stream(self._api.path("pods"), query, 300.0) as pieces:
                rest = b""
                async for piece in pieces:
                    *lines, rest = (rest + piece).split(b"\n")
                    for line in filter(None, lines):
                        pod = msgspec.json.decode(line)["object"]
                        created.add(pod["metadata"]["name"])
                        if pod.get("status", {}).get("phase") == "Running":
                            running.add(pod["metadata"]["name"])
                    if len(created) >= self._count and not self.created_at:
                        self.created_at = time.perf_counter()
                    if len(running) >= self._count:
                        self.running_at = time.perf_counter()
                        return


@asynccontextmanager
async def watched(backend: KubernetesBackend, selector: str, count: int) -> AsyncIterator[Seen]:
    """Inside, Pods are counted, by a connection whose calls nobody counts; at the end of it, all of them run."""
    api = await api_of(backend)
    seen = Seen(api, selector, count)
    watching = asyncio.create_task(seen.all())
    try:
        yield seen
        await watching
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await api.close()


async def raw(backend: KubernetesBackend, replicas: int, image: str) -> Launch:
    """The very same Pods and their Service, without any record, rule or watch over them."""
    plan = AsyncCustomJobClient(backend).plan(job(replicas, image), OPTIONS)
    parts = backend.render(plan)
    label = uuid4().hex[:10]
    api = await api_of(backend)
    pods = [part for part in parts if part["kind"] == "Pod"]
    for part in parts:
        part["metadata"].setdefault("labels", {})["bench"] = label
    gates = {"spec": {"schedulingGates": [{"$patch": "delete", "name": pods[0]["spec"]["schedulingGates"][0]["name"]}]}}

    async def each(do: Any) -> None:
        queue = iter(pods)

        async def worker() -> None:
            for pod in queue:
                await do(pod)

        await asyncio.gather(*(worker() for _ in range(AT_ONCE)))

    started = time.perf_counter()
    async with watched(backend, f"bench={label}", replicas) as seen:
        for part in parts:
            if part["kind"] != "Pod":
                await api.create(f"{part['kind'].lower()}s", part)
        await each(lambda pod: api.create("pods", pod))
        await each(lambda pod: api.patch("pods", pod["metadata"]["name"], gates, STRATEGIC))
    launch = Launch(seen.created_at - started, seen.running_at - started, api.calls)
    await api.call(
        "DELETE", api.path("pods"), query={"labelSelector": f"bench={label}"}, body={"gracePeriodSeconds": 0}
    )
    await api.delete_all("configmaps", f"bench={label}")
    await api.delete("services", parts[0]["metadata"]["name"])
    await gone(api, f"bench={label}")
    await api.close()
    return launch


async def ours(backend: KubernetesBackend, replicas: int, image: str) -> Launch:
    """From the call to the record that says RUNNING."""
    client = AsyncCustomJobClient(backend)
    async with backend.open() as engine:
        api = engine._api  # type: ignore[attr-defined]
        before, started = api.calls, time.perf_counter()
        _, submitted = await client.submit(job(replicas, image), OPTIONS, say=quiet)
        async with watched(backend, f"{names.JOB}={submitted.job_id}", replicas) as seen:
            await client.supervise(
                submitted.job_id, say=quiet, until=lambda record: record.state is JobState.JOB_STATE_RUNNING
            )
            launch = Launch(seen.created_at - started, time.perf_counter() - started, api.calls - before)
        await client.cancel(submitted.job_id)
        await client.supervise(submitted.job_id, say=quiet)
    return launch


async def indexed(backend: KubernetesBackend, replicas: int, image: str) -> Launch:
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
    started = time.perf_counter()
    async with watched(backend, f"bench={name}", replicas) as seen:
        await api.call("POST", path, body=body)
    launch = Launch(seen.created_at - started, seen.running_at - started, api.calls)
    await api.call("DELETE", f"{path}/{name}", query={"propagationPolicy": "Background", "gracePeriodSeconds": 0})
    await gone(api, f"bench={name}")
    await api.close()
    return launch


async def gone(api: Api, selector: str) -> None:
    while (await api.list("pods", selector, limit=1))["items"]:
        await asyncio.sleep(0.5)


def quiet(line: str) -> None:
    pass


def peak() -> float:
    """MiB that this process has had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


async def measure(replicas: int, rounds: int, *, simulated: bool, with_indexed: bool) -> None:
    backend = KubernetesBackend(machine_types={"*": {}}, pod_template=SIMULATED if simulated else None)
    image = base_image()
    ways = {OURS: ours, RAW: raw} | ({INDEXED: indexed} if with_indexed else {})
    samples: dict[str, list[Launch]] = {name: [] for name in ways}
    before, memory = peak(), 0.0
    for number in range(1, rounds + 1):
        for name, way in ways.items():
            samples[name].append(await way(backend, replicas, image))
            memory = memory or peak() - before  # ours comes first
            last = samples[name][-1]
            print(
                f"round {number} of {rounds}: {name}: created {last.created:.1f} s, running {last.running:.1f} s",
                flush=True,
            )
    print(f"\n{replicas} replicas{'':35} created   running   API calls for each")
    for name, launches in samples.items():
        created, running = (median(getattr(one, what) for one in launches) for what in ("created", "running"))
        print(f"{name:45} {created:7.2f} s {running:7.2f} s {launches[-1].calls / replicas:9.2f}")
    print(f"{'ours / raw, until all run':45} {_ratio(samples):19.2f}")
    print(f"{'memory that ours took':45} {memory:17.0f} MiB\n", flush=True)


def _ratio(samples: dict[str, list[Launch]]) -> float:
    return median(mine.running / floor.running for mine, floor in zip(samples[OURS], samples[RAW], strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.kubernetes_launch", description=__doc__)
    parser.add_argument("--replicas", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--pairs", type=int, default=3, help="interleaved rounds (default %(default)s)")
    parser.add_argument("--real", action="store_true", help="on real nodes instead of simulated ones")
    parser.add_argument("--no-indexed", action="store_true", help="leave the Indexed Job out")
    given = parser.parse_args()
    for replicas in given.replicas:
        asyncio.run(measure(replicas, given.pairs, simulated=not given.real, with_indexed=not given.no_indexed))


if __name__ == "__main__":
    main()
