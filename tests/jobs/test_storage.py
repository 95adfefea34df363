"""Where jobs write to: buckets that a folder stands for, local folders; and the key by which they reach Google Cloud."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from typing import Any

import pytest

from airflow_customjob.backends.base import Backend
from airflow_customjob.plan.types import JobOptions
from airflow_customjob.spec.job_state import JobState
from tests.jobs.conftest import Place, job_of, shell

WRITES = """
test -n "$AIP_MODEL_DIR" && echo "$AIP_MODEL_DIR"
folder=$(echo "$AIP_MODEL_DIR" | sed 's|^gs:/|/gcs|')
mkdir -p "$folder" && echo model > "${folder}model.bin"
cat /gcs/data/in.txt
"""
KEY = {"type": "service_account", "private_key": "-----BEGIN-hunter2-----"}


def output_to(prefix: str, *pools: dict[str, Any]) -> dict[str, Any]:
    spec = job_of(*pools)
    spec["jobSpec"]["baseOutputDirectory"] = {"outputUriPrefix": prefix}
    return spec


def with_buckets(place: Place) -> Backend:
    """On all backends alike: the folder is on this host."""
    (place.folder / "buckets" / "data").mkdir(parents=True)
    (place.folder / "buckets" / "data" / "in.txt").write_text("rows\n")
    return replace(place.backend(), bucket_root=str(place.folder / "buckets"))  # type: ignore[type-var]


def test_a_folder_stands_for_buckets(place: Place) -> None:
    """The script turns gs:// into /gcs/, as scripts for Vertex AI do, and runs unchanged."""
    script = WRITES if place.name != "process" else WRITES.replace("cat /gcs/data/in.txt", "cat $0")
    job, told = place.run(
        output_to("gs://models/run", {**shell(script), "containerSpec": _container(script, "/gcs/data/in.txt")}),
        JobOptions(trial_id="7"),
        with_buckets(place),
    )
    assert job.state is JobState.JOB_STATE_SUCCEEDED, (job.error, told.lines)
    root = place.folder / "buckets"
    assert (root / "models" / "run" / "7" / "model" / "model.bin").read_text() == "model\n"
    told_dir = f"{root}/models/run/7/model/" if place.name == "process" else "gs://models/run/7/model/"
    assert told.of("workerpool0-0") == [told_dir, "rows"]


def _container(script: str, *args: str) -> dict[str, Any]:
    return {"imageUri": "local/py:1", "command": ["sh", "-c"], "args": [script, *args]}


@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_a_local_output_directory_is_the_same_folder_inside(place: Place, form: str) -> None:
    """Docker mounts it; on Kubernetes a volume of the template does."""
    folder = place.folder / "manual__2026-01-01T00:00:00+00:00"  # regression: Docker refused a run's id in the path
    backend = replace(place.backend(), volumes=()) if place.name == "docker" else place.backend()  # type: ignore[type-var]
    script = 'mkdir -p "$AIP_MODEL_DIR" && echo "$AIP_MODEL_DIR" | tee "${AIP_MODEL_DIR}model.txt"'
    job, told = place.run(output_to(form.format(folder), shell(script)), None, backend)
    assert job.state is JobState.JOB_STATE_SUCCEEDED, (job.error, told.lines)
    assert (folder / "model" / "model.txt").read_text() == f"{folder}/model/\n"


def test_a_google_key_is_a_file_of_the_replica_and_stands_nowhere_else(place: Place) -> None:
    key = place.folder / "key.json"
    key.write_text(json.dumps(KEY))
    script = 'test -r "$GOOGLE_APPLICATION_CREDENTIALS" && wc -c < "$GOOGLE_APPLICATION_CREDENTIALS"; env | grep -c hunter[2]'
    spec = job_of(shell(f"{script}; true"))
    options = JobOptions(google_credentials=str(key))
    job, told = place.run(spec, options)
    assert job.state is JobState.JOB_STATE_SUCCEEDED, (job.error, told.lines)
    assert told.of("workerpool0-0") == [str(len(json.dumps(KEY))), "0"]
    key.unlink()
    kept = "".join(path.read_text(errors="replace") for path in place.folder.rglob("*") if path.is_file())
    rendered = str(place.backend().render(_plan(place, spec, options)))
    assert "hunter2" not in kept + rendered + str(job.record) + "".join(told.said)
    assert place.remains(job.job_id) == []


def _plan(place: Place, spec: dict[str, Any], options: JobOptions) -> Any:
    from airflow_customjob.client import CustomJobClient

    return CustomJobClient(place.backend()).plan(spec, options)


def test_a_google_key_that_is_none_is_refused_and_not_quoted(place: Place) -> None:
    key = place.folder / "key.json"
    key.write_text("hunter2")
    job, told = place.run(job_of(shell("true")), JobOptions(google_credentials=os.fspath(key)))
    assert job.state is JobState.JOB_STATE_FAILED
    assert f"google_credentials: {key} cannot be given to replicas (it is no key file of Google Cloud)" in job.error
    assert "hunter2" not in job.error + "".join(told.said)
    assert place.remains(job.job_id) == []
