"""Images of packages that a real cluster makes: by whoever asks, whoever dies over it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from airflow_customjob.backends.base import Retention
from airflow_customjob.backends.kubernetes import KubernetesBackend, builders, builds
from airflow_customjob.backends.kubernetes.api import Api
from airflow_customjob.backends.kubernetes.sharing import api_of
from airflow_customjob.backends.kubernetes.tags import pinned
from airflow_customjob.packaging import Fetched, fetch
from airflow_customjob.spec.job_state import JobState
from tests.backends.test_kubernetes import job_of, left_of, namespace, run  # noqa: F401 - a fixture among them
from tests.backends.test_kubernetes_indexes import Onlooker
from tests.backends.test_kubernetes_packages import (  # noqa: F401 - likewise
    HELLO,
    backend,
    served,
    source_of,
    task_of,
    wheel,
)
from tests.packaging.serving import run_at_once
from tests.registry import LOGIN, Registry

pytestmark = pytest.mark.kubernetes


@asynccontextmanager
async def opened(backend: KubernetesBackend, package: Path) -> AsyncIterator[tuple[Api, tuple[Fetched, ...]]]:  # noqa: F811
    api = await api_of(backend)
    try:
        yield api, await fetch([str(package)], print)
    finally:
        await api.close()


def test_a_builder_whose_maker_died_before_it_brought_the_packages_is_made_again(
    namespace: str,  # noqa: F811
    backend: KubernetesBackend,  # noqa: F811
    served: Registry,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever came after it waited until build_timeout was over."""
    monkeypatch.setattr(builds, "NOT_BROUGHT", 2.0)
    monkeypatch.setattr(builds, "SLOWEST", 1e9)
    mine, base = replace(backend, namespace=namespace), f"{served.address}/base/py:1"

    async def main() -> tuple[builds.Built, list[str]]:
        async with opened(mine, wheel(tmp_path, HELLO)) as (api, fetched):
            build = builders.Build(base, fetched, mine)
            await api.create("pods", builders.builder(build, {}, 1))
            built = await builds.Builds(api, mine, {}).image(base, fetched, print)
            await api.create("pods", builders.builder(build, {}, 1))
            keep = Retention(ttl=3600.0, count=10)
            assert await builds.prune(api, keep, (), time.time(), dry_run=True) == [], "its maker may be at work"
            await asyncio.sleep(3.5)
            return built, await builds.prune(api, keep, (), time.time(), dry_run=False)

    built, removed = asyncio.run(main())
    assert built.versions == "greeter==1.0+local"
    assert len(removed) == 1
    assert removed[0].startswith("builder customjob-build-")
    assert left_of(namespace, "pods") == []


def test_two_processes_that_need_one_image_at_once_make_it_once(
    namespace: str,  # noqa: F811
    backend: KubernetesBackend,  # noqa: F811
    served: Registry,  # noqa: F811
    tmp_path: Path,
) -> None:
    slow = "import time\nfrom setuptools import setup\ntime.sleep(2)\nsetup(name='greeter', version='1.0', packages=['greeter'])\n"
    job = job_of(task_of(source_of(tmp_path, slow), f"{served.address}/base/py:1"))
    with Onlooker(namespace) as onlooker:
        ends = run_at_once(job, replace(backend, namespace=namespace).serialize())
    assert [ended["state"] for ended, _ in ends] == ["JOB_STATE_SUCCEEDED"] * 2, ends
    assert all(any(line.startswith("installing greeter-1.0.tar.gz") for line in said) for _, said in ends), (
        "neither came late"
    )
    assert ends[0][0]["images"] == ends[1][0]["images"]
    pods = [item["metadata"] for key, item in onlooker.seen.items() if key.startswith("pods/customjob-build-")]
    assert len({pod["uid"] for pod in pods}) == 1
    key = pods[0]["name"].removeprefix("customjob-build-")
    assert served.log.read_text().count(f'"PUT /v2/team/customjob/manifests/{key} ') == 1
    assert left_of(namespace, "pods") == []


# -- tags -----------------------------------------------------------------------------------------------------------


def test_a_tag_that_has_moved_is_another_executor_image(
    namespace: str,  # noqa: F811
    backend: KubernetesBackend,  # noqa: F811
    served: Registry,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever had moved it got the packages in the image that it was before."""
    user, _, password = LOGIN.partition(":")
    connection = {"conn_type": "docker", "host": served.address, "login": user, "password": password}
    monkeypatch.setenv("AIRFLOW_CONN_REGISTRY", json.dumps(connection))
    mine, path = replace(backend, registry_conn_id="registry"), "/v2/base/py/manifests/"
    package = wheel(tmp_path, "import os; print('base', os.environ['WHICH'])\n")
    job = job_of(task_of(package, f"{served.address}/base/py:moving"))
    layers, said = served.json(f"{path}1")["layers"], []
    for which in ("one", "two", "two"):
        served.put_image("base/py", "moving", layers, {"Env": ["PATH=/usr/bin:/bin", f"WHICH={which}"]})
        ended, told = run(namespace, job, backend=mine)
        assert ended.state is JobState.JOB_STATE_SUCCEEDED, (ended.error, told.said, told.texts)
        assert told.of("workerpool0-0") == [f"base {which}"]
        said.append(any("cache hit" in line for line in told.said))
    assert said == [False, False, True]


def test_a_registry_that_does_not_tell_is_named_and_its_tag_counts_as_unmoved(
    backend: KubernetesBackend,  # noqa: F811
    served: Registry,  # noqa: F811
) -> None:
    said: list[str] = []
    for image in (f"{served.address}/base/py:1", "127.0.0.1:1/none:1", f"127.0.0.1:1/none@sha256:{'0' * 64}"):
        assert asyncio.run(pinned(image, backend, said.append)) == image
    assert len(said) == 2, "a digest does not move"
    assert "HTTP 401, without a login" in said[0]
    assert "does registry_conn_id hold a login" in said[0]
    assert "127.0.0.1:1/none:1 has moved is not known here" in said[1]
