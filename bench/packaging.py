"""Seconds until a Python package's module runs in every replica, on Docker and on Kubernetes: installed once, or by pip at each
start."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
import tempfile
import time
import zipfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any
from uuid import uuid4

from airflow_customjob.backends.base import Backend
from airflow_customjob.backends.docker import DockerBackend
from airflow_customjob.backends.kubernetes import KubernetesBackend
from airflow_customjob.backends.kubernetes.sharing import api_of
from airflow_customjob.client import AsyncCustomJobClient
from airflow_customjob.plan.identity import new_job_id
from bench.job import STAYS
from tests.engines import exports
from tests.registry import registry

READY = "ready"
MODULE = f"import time; print('{READY}', flush=True); time.sleep({STAYS})"
NAME = "customjob_bench"
PLAIN, CACHED, PIP = "no package", "package, installed before", "pip at each start"
KINDS = (PLAIN, CACHED, PIP)
ADDED, ON_KUBERNETES = "packaging of a job, installed before", ", Kubernetes"
TARGET = 0.1
"""Seconds that it may add to a job, whatever the number of its replicas."""


@dataclass(frozen=True)
class Way:
    """How a replica comes to its package.

    :param replica: of a worker pool's spec: what runs.
    """

    backend: Backend
    replica: dict[str, Any]


def measure(image: str, replicas: int, runs: int) -> dict[str, list[float]]:
    """On Docker."""
    with tempfile.TemporaryDirectory(prefix="customjob-bench-") as folder:
        package = _wheel(Path(folder))
        backend = DockerBackend(volumes=(f"{folder}:/packages:ro",), shm_size="1g")
        pip = f"pip3 install --quiet --user --break-system-packages --no-index /packages/{package.name} && python3 -m {NAME}.task"
        ways = {
            PLAIN: Way(backend, _plain(image)),
            CACHED: Way(backend, _packaged(image, package)),
            PIP: Way(backend, {"containerSpec": {"imageUri": image, "command": ["sh", "-c", pip]}}),
        }
        return asyncio.run(_measure(ways, replicas, runs))


def measure_kubernetes(counts: Sequence[int], runs: int) -> dict[str, list[float]]:
    """On Kubernetes, with a registry of its own that Pods and nodes reach.

    :raises RuntimeError: there is no place for one.
    """
    places = {**exports(), **os.environ}
    if "CUSTOMJOB_TEST_REGISTRY" not in places or shutil.which("docker-registry") is None:
        raise RuntimeError("a registry that Pods and nodes reach comes with the cluster that dev/engines makes itself")
    found: dict[str, list[float]] = {}
    with (
        tempfile.TemporaryDirectory(prefix="customjob-bench-") as folder,
        registry(Path(folder) / "registry", places["CUSTOMJOB_TEST_REGISTRY"]) as served,
    ):
        served.push("base/py", "1", [Path(places["CUSTOMJOB_TEST_ROOT"])], {"Env": ["PATH=/usr/bin:/bin"]})
        image, package = f"{served.address}/base/py:1", _wheel(Path(folder))
        namespace = f"customjob-bench-{uuid4().hex[:8]}"
        backend = KubernetesBackend(namespace=namespace, machine_types={"*": {}})
        builds = replace(backend, registry=f"{served.address}/team/customjob", registry_plain_http=True)
        ways = {
            PLAIN: Way(builds, _plain(image)),
            CACHED: Way(builds, _packaged(image, package)),
            PIP: Way(backend, _packaged(image, package)),  # each replica's init container runs it
        }

        async def main() -> None:
            async with _namespace(namespace):
                for replicas in counts:
                    for name, values in (await _measure(ways, replicas, runs)).items():
                        found.setdefault(f"{name}{ON_KUBERNETES}", []).extend(values)

        asyncio.run(main())
    return found


async def _measure(ways: dict[str, Way], replicas: int, runs: int) -> dict[str, list[float]]:
    """Interleaved, since the machine's speed drifts; one round before them warms up, and installs."""
    found: dict[str, list[float]] = {name: [] for name in [*ways, ADDED]}
    for run in range(runs + 1):
        for name, way in ways.items():
            seconds = await _until_all_run(way.backend, _job(replicas, way.replica), replicas)
            found[name] += [seconds] if run else []
            print(f"round {run} of {runs}: {name}, {replicas}: {seconds:.2f} s", file=sys.stderr, flush=True)
        plain, cached = [
            await _preparing(way.backend, _job(replicas, way.replica)) for way in (ways[PLAIN], ways[CACHED])
        ]
        found[ADDED] += [cached - plain] if run else []
    many = f"{replicas} replica{'s' if replicas > 1 else ''}"
    return {name if name == ADDED else f"{name}, {many}": values for name, values in found.items()}


@asynccontextmanager
async def _namespace(name: str) -> AsyncIterator[None]:
    """One of its own; gone afterwards with all that is in it."""
    api = await api_of(KubernetesBackend())
    try:
        await api.call("POST", "/api/v1/namespaces", body={"metadata": {"name": name}})
        while not (await api.call("GET", f"/api/v1/namespaces/{name}/serviceaccounts"))["items"]:
            await asyncio.sleep(0.1)
        try:
            yield
        finally:
            await api.call("DELETE", f"/api/v1/namespaces/{name}")
    finally:
        await api.close()


def show(samples: dict[str, list[float]]) -> None:
    for name in (ADDED, f"{ADDED}{ON_KUBERNETES}"):
        if added := samples.get(name):
            verdict = "met" if median(added) <= TARGET else "MISSED"
            print(f"{name}, adds: median {median(added):.3f} s; target {TARGET}: {verdict}")


async def _until_all_run(backend: Backend, job: dict[str, Any], replicas: int) -> float:
    client, ready, all_run = AsyncCustomJobClient(backend), set[str](), asyncio.Event()

    def sink(line: Any) -> None:
        if line.text == READY:
            ready.add(line.ref.replica)
        if len(ready) == replicas:
            all_run.set()

    job_id = new_job_id()
    started = time.perf_counter()
    running = asyncio.create_task(client.run(job, job_id=job_id, sink=sink, say=_nothing))
    done, _ = await asyncio.wait(
        [running, waiting := asyncio.create_task(all_run.wait())], return_when=asyncio.FIRST_COMPLETED
    )
    seconds = time.perf_counter() - started
    waiting.cancel()
    if running in done:
        raise RuntimeError(f"the job has ended: {running.result().error}")
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    async with backend.open() as engine:
        stored = await engine.read_record(job_id)  # it would stay for days
        if stored is not None:
            await engine.delete_record(job_id, if_version=stored.version)
    return seconds


async def _preparing(backend: Backend, job: dict[str, Any]) -> float:
    plan = AsyncCustomJobClient(backend).plan(job)
    async with backend.open() as engine:
        await engine.identity()
        started = time.perf_counter()
        await engine.prepare(plan, _nothing)
        return time.perf_counter() - started


def _job(replicas: int, spec: dict[str, Any]) -> dict[str, Any]:
    pools = [
        {"machineSpec": {"machineType": "n1-standard-4"}, "replicaCount": count, **spec} for count in (1, replicas - 1)
    ]
    return {"displayName": "bench", "jobSpec": {"workerPoolSpecs": pools if replicas > 1 else pools[:1]}}


def _plain(image: str) -> dict[str, Any]:
    return {"containerSpec": {"imageUri": image, "command": ["python3", "-c", MODULE]}}


def _packaged(image: str, package: Path) -> dict[str, Any]:
    spec = {"executorImageUri": image, "packageUris": [str(package)], "pythonModule": f"{NAME}.task"}
    return {"pythonPackageSpec": spec}


def _wheel(folder: Path) -> Path:
    path, info = folder / f"{NAME}-1.0-py3-none-any.whl", f"{NAME}-1.0.dist-info"
    files = {
        f"{NAME}/__init__.py": "",
        f"{NAME}/task.py": MODULE,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {NAME}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": "",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(name), text)
    return path


def _nothing(_: object) -> None: ...
