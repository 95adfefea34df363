"""Python packages on a real cluster: installed by each replica, or once in an image that a real registry keeps."""

from __future__ import annotations

import asyncio
import base64
import io
import os
import shutil
import tarfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from airflow_customjob.backends.base import Retention
from airflow_customjob.backends.kubernetes import KubernetesBackend, builders, builds, packages
from airflow_customjob.backends.kubernetes.sharing import api_of
from airflow_customjob.job import Job
from airflow_customjob.plan.types import Prepared
from airflow_customjob.spec.job_state import JobState
from tests.backends.test_kubernetes import (  # noqa: F401 - a fixture among them
    ADMIN,
    IMAGE,
    Told,
    api_call,
    assert_only_records_are_left,
    job_of,
    left_of,
    namespace,
    run,
)
from tests.engines import exports
from tests.registry import LOGIN, Registry, registry

pytestmark = pytest.mark.kubernetes


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry with a login that Pods and nodes reach; the node has the layers of its one image already."""
    places = {**exports(), **os.environ}
    if "CUSTOMJOB_TEST_REGISTRY" not in places or shutil.which("docker-registry") is None:
        pytest.skip("a registry that Pods and nodes reach comes with the cluster that dev/engines makes itself")
    with registry(tmp_path_factory.mktemp("registry"), places["CUSTOMJOB_TEST_REGISTRY"], LOGIN) as made:
        made.push("base/py", "1", [Path(places["CUSTOMJOB_TEST_ROOT"])], {"Env": ["PATH=/usr/bin:/bin"]})
        yield made


@pytest.fixture
def backend(namespace: str, served: Registry) -> KubernetesBackend:  # noqa: F811
    secret = {
        "metadata": {"name": "login"},
        "type": "kubernetes.io/dockerconfigjson",
        "data": {".dockerconfigjson": base64.b64encode(served.docker_config.encode()).decode()},
    }
    api_call("POST", f"/api/v1/namespaces/{namespace}/secrets", secret)
    return replace(
        ADMIN,
        registry=f"{served.address}/team/customjob",
        registry_secret="login",
        registry_plain_http=True,
        image_pull_secrets=("login",),
    )


def wheel(folder: Path, task: str, name: str = "greeter") -> Path:
    """A package ``greeter`` whose module ``task`` is this."""
    path, info = folder / f"{name}-1.0+local-py3-none-any.whl", f"{name}-1.0+local.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}/__init__.py", "")
        archive.writestr(f"{name}/task.py", task)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0+local\n")
        about = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        archive.writestr(f"{info}/WHEEL", about)
        archive.writestr(f"{info}/RECORD", "")
    return path


def source_of(folder: Path, setup: str) -> Path:
    """A source distribution ``greeter`` with this ``setup.py``."""
    path = folder / "greeter-1.0.tar.gz"
    files = {
        "setup.py": setup,
        "PKG-INFO": "Metadata-Version: 2.1\nName: greeter\nVersion: 1.0\n",
        "greeter/__init__.py": "",
        "greeter/task.py": "print('trained')\n",
    }
    with tarfile.open(path, "w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(f"greeter-1.0/{name}")
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
    return path


def task_of(package: Path, image: str = IMAGE, count: int = 1, **task: Any) -> dict[str, Any]:
    task = {"executorImageUri": image, "packageUris": [str(package)], "pythonModule": "greeter.task", **task}
    return {"machineSpec": {"machineType": "n1-standard-4"}, "replicaCount": count, "pythonPackageSpec": task}


def prepared(ended: Job) -> Prepared:
    assert ended.record.prepared is not None
    return ended.record.prepared


HELLO = "import os, sys\nprint('hello', *sys.argv[1:], os.environ['PYTHONUSERBASE'])\n"


# -- in each replica ------------------------------------------------------------------------------------------------


def test_a_python_package_is_installed_once_in_each_pod_and_run(namespace: str, tmp_path: Path) -> None:  # noqa: F811
    ended, told = run(namespace, job_of(task_of(wheel(tmp_path, HELLO), args=["$(RANK_IS_UNSET)", "you"])))
    assert ended.state is JobState.JOB_STATE_SUCCEEDED, (ended.error, told.texts)
    lines = told.of("workerpool0-0")
    assert lines[:2] == [
        "Installing the package",
        "Running command: pip3 install --user --upgrade --force-reinstall --no-deps greeter-1.0+local-py3-none-any.whl",
    ]
    assert lines[-1] == "hello $(RANK_IS_UNSET) you /opt/customjob/packages"
    assert_only_records_are_left(namespace)


def test_a_package_that_cannot_be_installed_shows_pips_words(namespace: str, tmp_path: Path) -> None:  # noqa: F811
    """A wheel that is none inside: nothing has to be settled for it, and so the replica itself finds out."""
    package = tmp_path / "greeter-1.0+local-py3-none-any.whl"
    with zipfile.ZipFile(package, "w") as archive:
        archive.writestr("other-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    ended, told = run(namespace, job_of(task_of(package)))
    assert ended.state is JobState.JOB_STATE_FAILED
    assert "its init container packages failed" in ended.error
    assert any("greeter" in text and "other" in text for text in told.texts), told.texts
    assert_only_records_are_left(namespace)


def test_packages_that_no_secret_can_hold_are_refused_with_the_way_out(namespace: str, tmp_path: Path) -> None:  # noqa: F811
    package = wheel(tmp_path, "#" * packages.MAX_SECRET)
    ended, _ = run(namespace, job_of(task_of(package)))
    assert ended.state is JobState.JOB_STATE_FAILED
    assert "900,000 can be brought to Pods by a Secret: name them by an http(s):// URL" in ended.error
    assert "give the backend a registry=" in ended.error
    assert_only_records_are_left(namespace)


# -- in an image ----------------------------------------------------------------------------------------------------


def test_with_a_registry_packages_are_installed_once_and_then_pulled(
    namespace: str,  # noqa: F811
    backend: KubernetesBackend,
    served: Registry,
    tmp_path: Path,
) -> None:
    """More than a Secret holds; a second job finds the image by one call."""
    package = wheel(tmp_path, HELLO + "#" * (2 * packages.MAX_SECRET))
    job = job_of(task_of(package, f"{served.address}/base/py:1", count=1, args=["you"]))
    ended, told = run(namespace, job, backend=backend)
    assert ended.state is JobState.JOB_STATE_SUCCEEDED, (ended.error, told.said, told.texts)
    assert told.of("workerpool0-0") == ["hello you /opt/customjob/packages"]
    assert any(said.startswith("Running command: pip3 install") for said in told.said)
    assert "installed greeter==1.0+local" in prepared(ended).notes
    assert left_of(namespace, "pods") == []
    assert left_of(namespace, "secrets") == ["login"]
    again, told = run(namespace, job, backend=backend)
    assert again.state is JobState.JOB_STATE_SUCCEEDED, again.error
    assert any("cache hit" in said for said in told.said)
    assert not any(said.startswith("Running command") for said in told.said)


def test_code_of_a_package_sees_no_login_and_no_token(
    namespace: str,  # noqa: F811
    backend: KubernetesBackend,
    served: Registry,
    tmp_path: Path,
) -> None:
    backwards = base64.b64encode(LOGIN.encode()).decode()[::-1]  # so that it does not find itself
    looks = f"""
import glob, os, pathlib
from setuptools import setup
found = [path for path in glob.glob('/opt/customjob/**', recursive=True) + glob.glob('/var/run/secrets/**', recursive=True)
         if os.path.isfile(path) and {backwards!r}[::-1] in pathlib.Path(path).read_text(errors='replace')]
assert not found, found
assert not os.path.exists('/var/run/secrets/kubernetes.io'), 'a token'
assert not os.path.exists('/opt/customjob/login'), 'the login'
stolen = '/opt/customjob/packages/stolen.json'
if not os.path.lexists(stolen):
    os.symlink('/opt/customjob/login/config.json', stolen)
setup(name='greeter', version='1.0', packages=['greeter'])
"""
    job = job_of(task_of(source_of(tmp_path, looks), f"{served.address}/base/py:1"))
    ended, told = run(namespace, job, backend=backend)
    assert ended.state is JobState.JOB_STATE_SUCCEEDED, (ended.error, told.said)
    digest = prepared(ended).artifacts["0"].rpartition("@")[2]
    manifest = served.json(f"/v2/team/customjob/manifests/{digest}")
    files = served.layer("team/customjob", manifest["layers"][-1]["digest"])
    assert files["opt/customjob/packages/stolen.json"][0].issym()
    assert not any(LOGIN.partition(":")[2].encode() in content for _, content in files.values())


def test_a_failed_installation_is_told_and_leaves_nothing(
    namespace: str,  # noqa: F811
    backend: KubernetesBackend,
    served: Registry,
    tmp_path: Path,
) -> None:
    package = source_of(tmp_path, "raise SystemExit('no compiler here')\n")
    ended, _ = run(namespace, job_of(task_of(package, f"{served.address}/base/py:1")), backend=backend)
    assert ended.state is JobState.JOB_STATE_FAILED
    assert "greeter-1.0.tar.gz could not be installed into" in ended.error
    assert "no compiler here" in ended.error
    job = job_of(task_of(wheel(tmp_path, HELLO), f"{served.address}/base/py:1"))
    ended, _ = run(namespace, job, backend=replace(backend, registry_secret=None))
    assert ended.state is JobState.JOB_STATE_FAILED
    assert "HTTP 401, without a login" in ended.error
    assert left_of(namespace, "pods") == []
    assert left_of(namespace, "secrets") == ["login"]


def test_a_cancelled_job_takes_its_builder_away_unless_another_waits_for_it(
    namespace: str,  # noqa: F811
    backend: KubernetesBackend,
    served: Registry,
    tmp_path: Path,
) -> None:
    package = source_of(tmp_path, "import time\ntime.sleep(300)\n")

    async def main() -> list[list[str]]:
        from airflow_customjob.packaging import fetch

        api = await api_of(replace(backend, namespace=namespace))
        fetched = await fetch([str(package)], print)
        made = builds.Builds(api, replace(backend, namespace=namespace), {})

        async def begun() -> asyncio.Task[builds.Built]:
            installing = asyncio.Event()

            def say(line: str) -> None:
                if line.startswith("Running command: pip3 install"):
                    installing.set()

            task = asyncio.create_task(made.image(f"{served.address}/base/py:1", fetched, say))
            await asyncio.wait_for(installing.wait(), 60)
            return task

        left = []
        try:
            for task in [await begun(), await begun()]:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                left.append(await asyncio.to_thread(left_of, namespace, "pods"))
        finally:
            await api.close()
        return left

    after_one, after_both = asyncio.run(main())
    assert len(after_one) == 1
    assert after_both == []


def test_gc_removes_what_a_dead_process_left_of_an_installation(
    namespace: str,  # noqa: F811
    backend: KubernetesBackend,
    served: Registry,
    tmp_path: Path,
) -> None:
    async def main() -> tuple[list[str], list[str]]:
        from airflow_customjob.packaging import fetch

        api = await api_of(replace(backend, namespace=namespace))
        fetched = await fetch([str(wheel(tmp_path, HELLO))], print)
        build = builders.Build(f"{served.address}/base/py:1", fetched, backend)
        try:
            made = builds.Builds(api, backend, {})
            await made._make(build)  # and dies
            while (await api.get("pods", build.name))["status"].get("phase") not in ("Succeeded", "Failed"):
                await asyncio.sleep(0.2)
            keep = Retention(ttl=3600.0, count=10)
            first = await builds.prune(api, keep, (), time.time(), dry_run=False)
            return first, [build.name]
        finally:
            await api.close()

    removed, (name,) = asyncio.run(main())
    assert removed == [f"builder {name}"]
    deadline = time.monotonic() + 20
    while left_of(namespace, "secrets") != ["login"] and time.monotonic() < deadline:
        time.sleep(0.2)
    assert left_of(namespace, "secrets") == ["login"]
