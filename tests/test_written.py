"""What is told of a model that a job has written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from airflow_customjob import written
from airflow_customjob.plan.types import JobId, JobOptions
from airflow_customjob.supervisor.record import JobRecord, Owner, new_record
from airflow_customjob.written import Written, model_of
from tests.packaging.serving import cloud_storage
from tests.plan.requests import request


def record(prefix: str, **options: str) -> JobRecord:
    given = {"baseOutputDirectory": {"outputUriPrefix": prefix}} if prefix else {}
    asked = replace(request(**given), options=JobOptions(**options))  # type: ignore[arg-type]
    return new_record(JobId("1"), Owner("me"), "engine", asked, "digest", 0.0)


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"12345")


def test_a_local_model_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(written, "MAX_NAMES", 2)
    write(tmp_path / "7" / "model", "b.bin", "a/weights.bin", "c.bin")
    found = Written(f"{tmp_path}/7/model/", ("a/weights.bin", "b.bin"), 3, 15)
    assert model_of(record(str(tmp_path), trial_id="7"), {"name": "docker"}) == found
    assert model_of(record(f"file://{tmp_path}", trial_id="7"), {"name": "docker"}) == found


def test_a_model_in_a_bucket_that_a_folder_stands_for_is_listed(tmp_path: Path) -> None:
    write(tmp_path / "models" / "run" / "model", "model.bin")
    told = model_of(record("gs://models/run"), {"name": "docker", "bucket_root": str(tmp_path)})
    assert told == Written("gs://models/run/model/", ("model.bin",), 1, 5)


def test_a_model_in_cloud_storage_is_listed() -> None:
    with cloud_storage("models") as client:
        for name in ("run/model/", "run/model/a.bin", "run/model/b/c.bin", "run/checkpoints/d.bin"):
            client.bucket("models").blob(name).upload_from_string(b"12345")
        told = model_of(record("gs://models/run"), {"name": "docker"})
        assert told == Written("gs://models/run/model/", ("a.bin", "b/c.bin"), 2, 10)
        assert model_of(record("gs://none/run"), {"name": "docker"}) is None


@pytest.mark.parametrize("prefix", ["", "/no/such/folder"])
def test_where_there_is_nothing_to_see_nothing_is_told(prefix: str) -> None:
    assert model_of(record(prefix), {"name": "docker"}) is None
    assert model_of(record(prefix), {"name": "kubernetes", "bucket_root": "a-claim"}) is None
