"""A job whose package cannot be had leaves nothing, not even a record; and no pip runs where a job is submitted."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from aiohttp import web

from airflow_customjob.backends.base import EngineError
from airflow_customjob.backends.process import ProcessBackend
from airflow_customjob.client import AsyncCustomJobClient, CustomJobClient
from airflow_customjob.job import NoSuchJob
from airflow_customjob.plan.types import JobId
from airflow_customjob.spec import SpecError
from airflow_customjob.supervisor.ownership import Claim
from tests.packaging.serving import sdist, serving

JOB = JobId("42")


def job(*uris: str) -> dict[str, Any]:
    """Its second pool has the packages."""
    machine = {"machineType": "n1-standard-4"}
    container = {"imageUri": "local/py:1", "command": ["true"]}
    package = {"executorImageUri": "local/py:1", "packageUris": list(uris), "pythonModule": "trainer.task"}
    return {
        "workerPoolSpecs": [
            {"machineSpec": machine, "replicaCount": 1, "containerSpec": container},
            {"machineSpec": machine, "replicaCount": 2, "pythonPackageSpec": package},
        ]
    }


@pytest.fixture
def backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ProcessBackend:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return ProcessBackend(state_folder=str(tmp_path / "state"))


def test_a_missing_package_is_a_problem_of_the_spec_and_nothing_is_created(
    backend: ProcessBackend, tmp_path: Path
) -> None:
    """It was found only when the job had a record already, as a failure of the job."""
    client = CustomJobClient(backend)
    (tmp_path / "trainer-0.1.tar.gz").write_bytes(sdist())
    with pytest.raises(SpecError) as refused:
        client.run(job(str(tmp_path / "trainer-0.1.tar.gz"), "/no/such/lib-1.whl"), job_id=JOB)
    (problem,) = refused.value.problems
    assert problem.path == "job_spec.worker_pool_specs[1].python_package_spec.package_uris[1]"
    assert problem.message.startswith("/no/such/lib-1.whl: it does not exist on this machine")
    with pytest.raises(NoSuchJob):
        client.get(JOB)


def test_a_server_that_does_not_answer_is_no_fault_of_the_spec(backend: ProcessBackend) -> None:
    """Airflow tries such a task again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("airflow_customjob.packaging.http.PAUSES", ())
        with pytest.raises(EngineError, match="package-unreachable"):
            CustomJobClient(backend).submit(job("http://127.0.0.1:1/trainer-0.1.whl"), job_id=JOB)


def test_a_job_that_is_there_goes_on_without_its_package(backend: ProcessBackend, tmp_path: Path) -> None:
    package = tmp_path / "trainer-0.1.tar.gz"
    package.write_bytes(sdist())

    async def main() -> None:
        client = AsyncCustomJobClient(backend)
        claim, submitted = await client.submit(job(str(package)), job_id=JOB)
        assert claim is Claim.CREATE
        package.unlink()
        claim, _ = await client.submit(job(str(package)), job_id=JOB, owner=submitted.record.owner)
        assert claim is Claim.GO_ON

    asyncio.run(main())


def test_an_interrupt_does_not_wait_for_a_download(backend: ProcessBackend) -> None:
    came, over = asyncio.Event(), asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        came.set()
        await over.wait()
        return response

    async def main() -> None:
        async with serving(answer) as address:
            client = AsyncCustomJobClient(backend)
            running = asyncio.ensure_future(client.run(job(f"http://{address}/trainer-0.1.whl"), job_id=JOB))
            await came.wait()
            running.cancel()
            async with asyncio.timeout(5):
                with pytest.raises(asyncio.CancelledError):
                    await running
            over.set()
            with pytest.raises(NoSuchJob):
                await client.get(JOB)

    asyncio.run(main())


WATCHED = """
import json, sys

started = []
STARTS = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "pty.spawn"}
sys.addaudithook(lambda event, args: started.append(f"{event} {args[:2]}") if event in STARTS else None)

from airflow_customjob.backends.docker import DockerBackend
from airflow_customjob.client import CustomJobClient

lines = []
job = CustomJobClient(DockerBackend()).run(json.loads(sys.argv[1]), sink=lambda line: lines.append(line.text), say=print)
ours = sorted({name.partition(".")[0] for name in sys.modules} & {"pip", "setuptools", "uv", "greeter"})
print(json.dumps([job.state.name, job.error, lines, started, ours, job.record.prepared.artifacts]))
"""


@pytest.mark.docker
def test_no_pip_runs_and_no_process_starts_where_a_job_is_submitted(tmp_path: Path) -> None:
    """Whoever installs is in a container: the process that launches starts none of its own, and imports nothing of pip."""
    wheel = tmp_path / "greeter-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("greeter/task.py", f"print('hello')  # {uuid4()}: was never installed before")
        archive.writestr("greeter-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: greeter\nVersion: 1.0\n")
        archive.writestr(
            "greeter-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("greeter-1.0.dist-info/RECORD", "")
    task = {"executorImageUri": "local/py:1", "packageUris": [str(wheel)], "pythonModule": "greeter.task"}
    spec = {
        "workerPoolSpecs": [
            {"machineSpec": {"machineType": "e2-standard-4"}, "replicaCount": 1, "pythonPackageSpec": task}
        ]
    }
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, json.dumps(spec)],
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, done.stderr
    *_, told = done.stdout.splitlines()
    state, error, lines, started, ours, artifacts = json.loads(told)
    subprocess.run(["docker", "image", "rm", *artifacts.values()], capture_output=True)
    assert (state, lines) == ("JOB_STATE_SUCCEEDED", ["hello"]), (error, done.stdout)
    assert "Installing" in done.stdout or "installing" in done.stdout
    assert started == []
    assert ours == []
