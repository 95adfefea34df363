"""Seconds until a Python package's module runs in every replica, on Docker: installed once, or by pip at each start."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
import zipfile
from pathlib import Path
from statistics import median
from typing import Any

from airflow_customjob.backends.docker import DockerBackend
from airflow_customjob.client import AsyncCustomJobClient
from airflow_customjob.plan.identity import new_job_id
from bench.docker_launch import forget
from bench.job import STAYS

READY = "ready"
MODULE = f"import time; print('{READY}', flush=True); time.sleep({STAYS})"
NAME = "customjob_bench"
PLAIN, CACHED, PIP = "no package", "package, installed before", "pip at each start"
KINDS = (PLAIN, CACHED, PIP)
ADDED = "packaging of a job, installed before"
TARGET = 0.1
"""Seconds that it may add to a job, whatever the number of its replicas."""


def measure(image: str, replicas: int, runs: int) -> dict[str, list[float]]:
    """Interleaved, since the machine's speed drifts; one round before them warms up, and installs."""
    with tempfile.TemporaryDirectory(prefix="customjob-bench-") as folder:
        return asyncio.run(_measure(image, Path(folder), replicas, runs))


async def _measure(image: str, folder: Path, replicas: int, runs: int) -> dict[str, list[float]]:
    package = _wheel(folder)
    backend = DockerBackend(volumes=(f"{folder}:/packages:ro",), shm_size="1g")
    pip = f"pip3 install --quiet --user --break-system-packages --no-index /packages/{package.name} && python3 -m {NAME}.task"
    replica = {
        PLAIN: {"containerSpec": {"imageUri": image, "command": ["python3", "-c", MODULE]}},
        CACHED: {
            "pythonPackageSpec": {
                "executorImageUri": image,
                "packageUris": [str(package)],
                "pythonModule": f"{NAME}.task",
            }
        },
        PIP: {"containerSpec": {"imageUri": image, "command": ["sh", "-c", pip]}},
    }
    jobs = {name: _job(replicas, spec) for name, spec in replica.items()}
    found: dict[str, list[float]] = {name: [] for name in [*jobs, ADDED]}
    for run in range(runs + 1):
        for name, job in jobs.items():
            seconds = await _until_all_run(backend, job, replicas)
            found[name] += [seconds] if run else []
        found[ADDED] += (
            [await _preparing(backend, jobs[CACHED]) - await _preparing(backend, jobs[PLAIN])] if run else []
        )
    many = f"{replicas} replica{'s' if replicas > 1 else ''}"
    return {name if name == ADDED else f"{name}, {many}": values for name, values in found.items()}


def show(samples: dict[str, list[float]]) -> None:
    added = samples[ADDED]
    verdict = "met" if median(added) <= TARGET else "MISSED"
    print(
        f"packaging adds to a job whose package is installed: median {median(added):.3f} s; target {TARGET}: {verdict}"
    )


async def _until_all_run(backend: DockerBackend, job: dict[str, Any], replicas: int) -> float:
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
    async with backend.open():
        await forget(job_id)
    return seconds


async def _preparing(backend: DockerBackend, job: dict[str, Any]) -> float:
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
