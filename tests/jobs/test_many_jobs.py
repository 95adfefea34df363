"""Many jobs at once on one Docker host, each with a network of its own: Docker's own address pools end at thirty."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from airflow_customjob.client import AsyncCustomJobClient
from airflow_customjob.job import Job
from airflow_customjob.spec.job_state import JobState
from tests.jobs.conftest import DOCKER, DockerPlace, job_of, on, shell

pytestmark = pytest.mark.timeout(600)

JOBS = 60


@on(DOCKER)
def test_sixty_jobs_of_two_replicas_at_once(place: DockerPlace, figure: Callable[[str], None]) -> None:
    """No job ends before all run: so all networks are there at one time."""
    mark = f"touch {place.folder}/up.$CLOUD_ML_JOB_ID"
    waits = f"until [ -e {place.folder}/go ]; do sleep 1; done"
    spec = job_of(shell(f"{mark}; {waits}; echo done"), shell("exec sleep 1000000"))
    ids = [place.new_job() for _ in range(JOBS)]
    said: list[str] = []
    lines: list[str] = []

    async def main() -> tuple[list[Job], int]:
        client = AsyncCustomJobClient(place.backend())
        jobs = [
            asyncio.create_task(
                client.run(spec, job_id=job_id, sink=lambda line: lines.append(line.prefixed), say=said.append)
            )
            for job_id in ids
        ]
        while len(list(place.folder.glob("up.*"))) < JOBS:
            assert not any(job.done() for job in jobs), [job for job in jobs if job.done()]
            await asyncio.sleep(0.5)
        networks = await asyncio.to_thread(place.docker, "network", "ls", "--format", "{{.Name}}")
        at_once = sum(name.split("-")[1:2] in [[job_id] for job_id in ids] for name in networks)
        (place.folder / "go").touch()
        return await asyncio.gather(*jobs), at_once

    began = time.monotonic()
    jobs, networks = asyncio.run(main())
    figure(f"{JOBS} jobs of 2 replicas in {time.monotonic() - began:.0f} s, {networks} networks at one time")
    assert {job.state for job in jobs} == {JobState.JOB_STATE_SUCCEEDED}, {job.error for job in jobs}
    assert networks == JOBS
    assert not [text for text in said if "in use" in text]
    assert lines.count("workerpool0-0: done") == JOBS
    assert [remains for job_id in ids for remains in place.remains(job_id)] == []
