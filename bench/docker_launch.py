"""Seconds from the call until all containers run, on Docker: the floor, and ours."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any
from uuid import uuid4

from airflow_customjob.backends.docker import DockerBackend
from airflow_customjob.client import AsyncCustomJobClient
from airflow_customjob.plan.types import JobId
from airflow_customjob.spec.job_state import JobState

BACKEND = DockerBackend(shm_size="1g")


async def raw(job: dict[str, Any]) -> float:
    """The same containers by aiodocker alone: the network, all created concurrently, then all started concurrently."""
    import aiodocker

    name = f"bench-{uuid4().hex[:10]}"
    bodies = [body for body in BACKEND.render(AsyncCustomJobClient(BACKEND).plan(job)) if body["create"] == "container"]
    for body in bodies:
        del body["create"], body["name"]
        body["Labels"] = {"bench": name}
        body["HostConfig"]["NetworkMode"] = name
        body["HostConfig"]["NanoCpus"] = min(body["HostConfig"]["NanoCpus"], (os.cpu_count() or 1) * 10**9)
        body["NetworkingConfig"] = {"EndpointsConfig": {name: {"Aliases": [body["Hostname"]]}}}
    started = time.perf_counter()
    async with aiodocker.Docker() as docker:
        network = await docker.networks.create({"Name": name, "Driver": "bridge", "CheckDuplicate": True})
        containers = await asyncio.gather(
            *(docker.containers.create(body, name=f"{name}-{index}") for index, body in enumerate(bodies))
        )
        await asyncio.gather(*(container.start() for container in containers))
        seconds = time.perf_counter() - started
        await asyncio.gather(*(container.delete(force=True, v=True) for container in containers))
        await _removed(network)
    return seconds


async def _removed(network: Any) -> None:
    """Under load the daemon answers that containers are gone before it has taken them out of their network."""
    import aiodocker

    for last in (False,) * 50 + (True,):
        try:
            await network.delete()
            return
        except aiodocker.DockerError as error:
            if last or error.status != 403:
                raise
        await asyncio.sleep(0.2)


async def ours(job: dict[str, Any]) -> float:
    """From the call to the record that says RUNNING, with the logs of all replicas followed."""
    client = AsyncCustomJobClient(BACKEND)
    started = time.perf_counter()
    async with BACKEND.open():
        _, submitted = await client.submit(job, say=_nothing)
        running = await client.supervise(
            submitted.job_id,
            sink=_nothing,
            say=_nothing,
            until=lambda record: record.state is JobState.JOB_STATE_RUNNING or record.state.terminal,
        )
        seconds = time.perf_counter() - started
        if running.state is not JobState.JOB_STATE_RUNNING:
            raise RuntimeError(f"the job is {running.state.short}: {running.error}")
        await client.cancel(submitted.job_id)
        await client.supervise(submitted.job_id, say=_nothing)
        await forget(submitted.job_id)
    return seconds


async def forget(job_id: JobId) -> None:
    """Its record would stay for days."""
    async with BACKEND.open() as engine:
        stored = await engine.read_record(job_id)
        if stored is not None:
            await engine.delete_record(job_id, if_version=stored.version)


def _nothing(_: object) -> None: ...
