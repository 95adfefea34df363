"""Packages in Cloud Storage: an emulator that speaks its API, and google-cloud-storage itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_customjob.packaging.gcs import CloudStorage, _refused, client_for
from airflow_customjob.packaging.sources import locate
from tests.packaging.serving import cloud_storage, fetched, refusal, sdist

BYTES = sdist(pad=100_000)
NAME = "staging/aiplatform-2026-01-01-10:11:44.810-aiplatform_custom_trainer_script-0.1.tar.gz"


@pytest.fixture(scope="module")
def bucket() -> Iterator[Any]:
    with cloud_storage("packages") as client:
        yield client.bucket("packages")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def test_an_object_is_fetched_once_for_each_generation(bucket: Any, folder: Path) -> None:
    bucket.blob(NAME).upload_from_string(BYTES)
    lines: list[str] = []
    (got,) = fetched(f"gs://packages/{NAME}", folder=folder, say=lines.append)
    assert got.filename == NAME.removeprefix("staging/")
    assert got.path.read_bytes() == BYTES
    (again,) = fetched(f"gs://packages/{NAME}", folder=folder, say=lines.append)
    assert again == got
    assert lines == [f"Downloading the package: gs://packages/{NAME}"], "it came once"
    bucket.blob(NAME).upload_from_string(sdist(version="0.2"))
    assert fetched(f"gs://packages/{NAME}", folder=folder)[0].sha256 != got.sha256


def test_a_missing_object_and_a_file_that_is_no_package_are_named(bucket: Any, folder: Path) -> None:
    bucket.blob("cut-0.1.tar.gz").upload_from_string(BYTES[:-500])
    message = refusal("gs://packages/no-0.1.whl", "gs://packages/cut-0.1.tar.gz", "gs://none/a-1.whl", folder=folder)
    missing, cut, no_bucket = message.splitlines()
    assert missing.startswith(
        "python_package_spec.package_uris[0]: gs://packages/no-0.1.whl: there is no such object: check"
    )
    assert "package_uris[1]: gs://packages/cut-0.1.tar.gz: it is no whole gzipped tar file" in cut
    assert "gs://none/a-1.whl: there is no such object" in no_bucket


def test_an_object_beyond_the_limit_is_refused_before_it_comes(bucket: Any, folder: Path) -> None:
    bucket.blob("large-0.1.tar.gz").upload_from_string(BYTES)
    assert "more than 1,000 bytes" in refusal("gs://packages/large-0.1.tar.gz", folder=folder, max_size=1000)


def test_letters_that_mean_something_in_a_url_are_letters_of_an_objects_name() -> None:
    found = locate("gs://packages/dist/what?%41 it#is-0.1.tar.gz")
    assert found.filename == "what?%41 it#is-0.1.tar.gz"
    assert found.source == CloudStorage("packages", "dist/what?%41 it#is-0.1.tar.gz", None)


def test_who_may_not_read_it_is_told_as_whom_it_was_asked() -> None:
    message = _refused(403, "nobody (no application default credentials)")
    assert "nobody (no application default credentials)" in message
    assert "gcp_conn_id" in message


def connection(monkeypatch: pytest.MonkeyPatch, **extra: Any) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_GCP", json.dumps({"conn_type": "google_cloud_platform", "extra": extra}))


def test_a_connections_key_is_used_without_the_google_provider(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    key = tmp_path / "key.json"
    user = {"type": "authorized_user", "client_id": "c", "client_secret": "s3cret", "refresh_token": "r"}
    key.write_text(json.dumps(user))
    for extra in ({"keyfile_dict": user}, {"keyfile_dict": json.dumps(user)}, {"key_path": str(key)}):
        connection(monkeypatch, **extra)
        client, who = client_for("GCP")
        assert client._credentials.client_secret == "s3cret"
        assert who == "the connection GCP"


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"keyfile_dict": {"type": "unheard of", "private_key": "s3cret"}}, "holds no key that Google knows"),
        ({"keyfile_dict": '{"private_key": "s3cret'}, "cannot be read"),
        ({"key_path": "/no/such/key.json"}, "cannot be read"),
        ({"impersonation_chain": "a@b"}, "impersonation_chain"),
    ],
)
def test_a_connection_without_a_usable_key_is_refused_and_not_quoted(
    monkeypatch: pytest.MonkeyPatch, folder: Path, extra: dict[str, Any], words: str
) -> None:
    connection(monkeypatch, **extra)
    message = refusal("gs://packages/a-1.whl", folder=folder, gcp_conn_id="GCP")
    assert words in message
    assert "s3cret" not in message


def test_a_connection_that_is_not_there_is_named(folder: Path) -> None:
    assert "the connection nobody cannot be read here" in refusal("gs://b/a-1.whl", folder=folder, gcp_conn_id="nobody")
