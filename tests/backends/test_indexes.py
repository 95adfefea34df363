"""Package indexes with passwords: written as references, and read where packages are installed."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from airflow_customjob.backends.base import LaunchRefused
from airflow_customjob.backends.docker import DockerBackend
from airflow_customjob.backends.indexes import Index, load_authorities, read_authorities, resolve_indexes
from airflow_customjob.backends.kubernetes import KubernetesBackend

PLAIN = "https://pypi.org/simple"


def test_references_are_read_and_passwords_kept_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPANY_INDEX", "https://me%40team:p%3Aw@index.example:8443/simple")
    monkeypatch.setenv(
        "AIRFLOW_CONN_COMPANY", '{"host": "https://index.example/simple", "login": "me", "password": "pw"}'
    )
    (tmp_path / "url").write_text(PLAIN + "\n")
    found = resolve_indexes(["env:COMPANY_INDEX", "connection:COMPANY", f"file:{tmp_path}/url", PLAIN])
    assert found == [
        Index("https://index.example:8443/simple", "me@team:p:w"),
        Index("https://index.example/simple", "me:pw"),
        Index(PLAIN),
        Index(PLAIN),
    ]
    assert "p:w" not in repr(found)


@pytest.mark.parametrize("value", [None, "no-url-but-s3cret", "ftp://s3cret@index.example/"])
def test_a_reference_that_leads_nowhere_is_refused_without_its_value(
    value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COMPANY_INDEX", raising=False)
    if value is not None:
        monkeypatch.setenv("COMPANY_INDEX", value)
    with pytest.raises(LaunchRefused, match=r"index_urls\[1\] refers to env:COMPANY_INDEX") as refused:
        resolve_indexes([PLAIN, "env:COMPANY_INDEX"])
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("https://me:s3cret@index.example/simple", "holds a password"),
        ("index.example/simple", "expected https://"),
        ("connection:", "expected https://"),
        ("ftp://me:s3cret@index.example", "holds a password"),
        ("https://me:s3/cret@index.example/simple", "holds a password"),
        ("https://me:s3cret#@index.example/simple", "holds a password"),
        ("me:s3cret@index.example/simple", "holds a password"),
        ("https:/me:s3cret@index.example/simple", "holds a password"),
        ("https://[index.example/simple", "expected https://"),
        ("ftp://index.example", "expected https://"),
    ],
)
def test_a_backend_takes_no_password_since_dags_are_stored(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as refused:
        DockerBackend(index_urls=(PLAIN, text))
    assert "s3cret" not in str(refused.value)
    assert "index_urls[1]" in str(refused.value)


def test_on_kubernetes_a_password_needs_a_registry_since_each_replica_would_see_it() -> None:
    with pytest.raises(ValueError, match=r"index_urls\[1\] is 'connection:company': .* needs a registry="):
        KubernetesBackend(index_urls=(PLAIN, "connection:company"))
    KubernetesBackend(index_urls=(PLAIN, "connection:company"), registry="registry.example/team/customjob")


def test_a_ca_bundle_is_for_where_an_image_is_made_and_one_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="ca_bundle is for the Pod that makes an image in a registry="):
        KubernetesBackend(ca_bundle="/etc/ssl/company.pem")
    for read in (read_authorities, lambda path: load_authorities(ssl.create_default_context(), path)):
        with pytest.raises(LaunchRefused, match=r"ca_bundle: /none\.pem cannot be read here: No such file"):
            read("/none.pem")
