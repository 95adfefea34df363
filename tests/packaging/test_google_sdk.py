"""What google-cloud-aiplatform's own ``CustomJob.from_local_script`` makes runs here unchanged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_customjob.backends.base import Backend
from airflow_customjob.backends.docker import DockerBackend
from airflow_customjob.backends.kubernetes import KubernetesBackend
from airflow_customjob.backends.process import ProcessBackend
from airflow_customjob.client import CustomJobClient
from airflow_customjob.plan.types import JobOptions
from airflow_customjob.spec.job_state import JobState
from tests.packaging.serving import cloud_storage

SCRIPT = """
import json, os, sys
print("rank", os.environ["RANK"], "of", os.environ["WORLD_SIZE"], *sys.argv[1:])
print("model", os.environ["AIP_MODEL_DIR"].endswith("/model/"), json.loads(os.environ["CLUSTER_SPEC"])["task"]["type"])
"""
EXECUTOR = "us-docker.pkg.dev/vertex-ai/training/pytorch-xla.2-4.py310:latest"


@pytest.fixture(scope="module")
def sdk_job(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The SDK's own object, whose package is in a Cloud Storage that goes with the module."""
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import aiplatform

    folder = tmp_path_factory.mktemp("sdk")
    (folder / "train.py").write_text(SCRIPT)
    with cloud_storage("staging"), pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        aiplatform.init(
            project="acme",
            location="europe-west4",
            staging_bucket="gs://staging",
            credentials=AnonymousCredentials(),
        )
        yield aiplatform.CustomJob.from_local_script(
            display_name="from a script",
            script_path=str(folder / "train.py"),
            container_uri=EXECUTOR,
            args=["--epochs", "3"],
            replica_count=2,
        )


@pytest.fixture(
    params=[
        "process",
        pytest.param("docker", marks=pytest.mark.docker),
        pytest.param("kubernetes", marks=pytest.mark.kubernetes),
    ]
)
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    match request.param:
        case "process":
            return ProcessBackend(state_folder=str(tmp_path))
        case "docker":
            return DockerBackend()
        case _:
            return KubernetesBackend(machine_types={"*": {}})


def test_from_local_script_runs_unchanged(sdk_job: Any, backend: Backend) -> None:
    (uri,) = sdk_job.job_spec.worker_pool_specs[0].python_package_spec.package_uris
    assert uri.startswith("gs://staging/aiplatform-")
    assert ":" in uri.rpartition("/")[2], "a name with colons, which Docker's and Kubernetes' paths have to take"
    lines: set[str] = set()
    said: list[str] = []
    job = CustomJobClient(backend).run(
        sdk_job,
        JobOptions(image_map=(("us-docker.pkg.dev/vertex-ai/*", "local/py:1"),)),
        sink=lambda line: lines.add(line.prefixed),
        say=said.append,
    )
    assert job.state is JobState.JOB_STATE_SUCCEEDED, (job.error, said, sorted(lines))
    assert {
        "workerpool0-0: rank 0 of 2 --epochs 3",
        "workerpool0-0: model True workerpool0",
    } <= lines
