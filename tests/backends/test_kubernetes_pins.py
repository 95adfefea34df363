"""Packages that each replica installs for itself, on a real cluster and from a real index: all come to the same versions, whoever dies
over it; and what no Secret holds is fetched by those who install.
"""

from __future__ import annotations

import asyncio
import io
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from airflow_customjob.backends.kubernetes import KubernetesBackend, names, packages
from airflow_customjob.backends.kubernetes.api import Api
from airflow_customjob.client import AsyncCustomJobClient
from airflow_customjob.job import Job
from airflow_customjob.plan.types import JobOptions
from airflow_customjob.spec.job_state import JobState
from tests.backends.test_kubernetes import (  # noqa: F401 - a fixture among them
    ADMIN,
    IMAGE,
    api_call,
    assert_only_records_are_left,
    job_of,
    left_of,
    namespace,
    node_is_here,
    run,
)
from tests.backends.test_kubernetes_indexes import Onlooker
from tests.backends.test_kubernetes_packages import source_of

pytestmark = pytest.mark.kubernetes


class Index(ThreadingHTTPServer):
    """A web server that Pods reach, with an index of packages among its files.

    :ivar files: by path; ``/simple/NAME/`` lists those below it.
    :ivar later: paths that are listed once ``/simple/NAME/`` has been asked for.
    :ivar asked: paths, each as often as it was asked for.
    """

    daemon_threads = True

    def __init__(self, address: str) -> None:
        super().__init__((address, 0), _Answers)
        self.files: dict[str, bytes] = {}
        self.later: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.url = f"http://{address}:{self.server_port}"

    def has(self, name: str, version: str, *requires: str, later: bool = False) -> None:
        file, data = wheel(name, version, *requires)
        (self.later if later else self.files)[f"/simple/{name}/{file}"] = data


class _Answers(BaseHTTPRequestHandler):
    server: Index

    def do_GET(self) -> None:
        path, there = self.path.partition("?")[0], self.server.files
        self.server.asked.append(path)
        below = [file for file in there if file.startswith(path)]
        if path.startswith("/count/"):
            data = str(self.server.asked.count(path.removeprefix("/count"))).encode()
        elif path.endswith("/") and below:
            data = "".join(f'<a href="{file}">{file.rpartition("/")[2]}</a>' for file in below).encode()
            new = {file: content for file, content in self.server.later.items() if file.startswith(path)}
            there.update(new)
        elif path in there:
            data = there[path]
        elif path in ("/turn", "/here"):
            data = str(self.server.asked.count(path)).encode()
        else:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Type", "text/html" if path.endswith("/") else "application/octet-stream")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def index() -> Iterator[Index]:
    if not node_is_here():
        pytest.skip("kubernetes: its node is another machine, whose Pods cannot reach a server here")
    address = api_call("GET", "/api/v1/nodes")["items"][0]["status"]["addresses"][0]["address"]
    with Index(address) as server:
        threading.Thread(target=server.serve_forever).start()
        yield server
        server.shutdown()


def wheel(name: str, version: str, *requires: str, task: str = "", pad: int = 0) -> tuple[str, bytes]:
    """Its file's name, and its bytes.

    :param pad: bytes that make it larger.
    """
    stream, info = io.BytesIO(), f"{name}-{version}.dist-info"
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(f"{name}/__init__.py", f"version = {version!r}\n")
        archive.writestr(f"{name}/task.py", task)
        archive.writestr(f"{name}/noise", bytes(pad))
        needs = "".join(f"Requires-Dist: {each}\n" for each in requires)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}")
        about = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        archive.writestr(f"{info}/WHEEL", about)
        archive.writestr(f"{info}/RECORD", "")
    return f"{name}-{version}-py3-none-any.whl", stream.getvalue()


def task_of(*uris: object, count: int = 1, **more: Any) -> dict[str, Any]:
    task = {"executorImageUri": IMAGE, "packageUris": list(map(str, uris)), "pythonModule": "greeter.task", **more}
    return {"machineSpec": {"machineType": "n1-standard-4"}, "replicaCount": count, "pythonPackageSpec": task}


def saved(folder: Path, named: tuple[str, bytes]) -> Path:
    path = folder / named[0]
    path.write_bytes(named[1])
    return path


def on(index: Index) -> KubernetesBackend:
    return replace(ADMIN, index_urls=(f"{index.url}/simple",))


def notes_of(ended: Job) -> tuple[str, ...]:
    assert ended.record.prepared is not None
    return ended.record.prepared.notes


TELLS = "import dep\nprint('dep', dep.version, flush=True)\n"
MEETS_TWICE = (
    TELLS
    + """
import os, time, urllib.request

def ask(path):
    return int(urllib.request.urlopen("{url}" + path).read())

if os.environ["RANK"] != "0":
    ask("/here")
    time.sleep(1000)
turn = ask("/turn")
while ask("/count/here") < turn:
    time.sleep(0.2)
if turn == 1:
    os._exit(139)
"""
)


@pytest.mark.timeout(400)
def test_replicas_and_restarts_of_a_job_have_the_same_versions(
    namespace: str,  # noqa: F811
    index: Index,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A version is published as soon as one of them has asked, and the job's first run crashes. Who settles them has the
    replicas' variables, also secret ones."""
    monkeypatch.setenv("WHERE", f"{index.url}/simple")
    options = JobOptions(secret_env=(("PIP_INDEX_URL", "env:WHERE"),))
    trusted = {"name": "PIP_TRUSTED_HOST", "value": index.url.removeprefix("http://")}
    index.has("dep", "1.0")
    index.has("dep", "2.0", later=True)
    package = saved(tmp_path, wheel("greeter", "1.0", "dep", task=MEETS_TWICE.format(url=index.url)))
    job = job_of(*[task_of(package, env=[trusted])] * 2)
    with Onlooker(namespace) as onlooker:
        ended, told = run(namespace, job, options)
    assert ended.state is JobState.JOB_STATE_SUCCEEDED, (ended.error, told.said, told.texts)
    assert ended.record.attempt == 1
    assert "/simple/dep/dep-2.0-py3-none-any.whl" in index.files, "there was a newer one"
    lines = sorted(line for line in told.texts if ": dep " in line)
    assert lines == sorted(f"{replica}: dep 1.0" for replica in ("workerpool0-0", "workerpool1-0") * 2)
    resolvers = [pod for key, pod in onlooker.seen.items() if key.startswith("pods/") and "-pins-" in key]
    assert len({pod["metadata"]["uid"] for pod in resolvers}) == 1
    assert any(note == "installed dep==1.0 greeter==1.0" for note in notes_of(ended)), notes_of(ended)
    assert_only_records_are_left(namespace)


def test_a_dependency_that_cannot_be_had_is_named_and_no_replica_ever_starts(
    namespace: str,  # noqa: F811
    index: Index,
    tmp_path: Path,
) -> None:
    package = saved(tmp_path, wheel("greeter", "1.0", "nobody-has-this>=3"))
    with Onlooker(namespace) as onlooker:
        ended, _ = run(namespace, job_of(task_of(package, count=1)), backend=on(index))
    assert ended.state is JobState.JOB_STATE_FAILED
    assert ended.error.startswith(f"greeter-1.0-py3-none-any.whl cannot be installed into {IMAGE} (exit code 1")
    assert "No matching distribution found for nobody-has-this>=3" in ended.error
    pods = [pod for key, pod in onlooker.seen.items() if key.startswith("pods/")]
    assert {pod["metadata"]["labels"].get(names.REPLICA) for pod in pods} == {None}
    assert_only_records_are_left(namespace)


FORGES = """
import os, site
from setuptools import setup
folder = os.path.join(site.getusersitepackages(), "evil-1.dist-info")
os.makedirs(folder, exist_ok=True)
with open(os.path.join(folder, "METADATA"), "w") as file:
    file.write("Metadata-Version: 2.1\\nName: evil --index-url=http://evil.example\\nVersion: 1\\n")
setup(name="greeter", version="1.0", packages=["greeter"])
"""


def test_what_a_packages_code_forges_is_not_put_before_pip(namespace: str, tmp_path: Path) -> None:  # noqa: F811
    ended, told = run(namespace, job_of(task_of(source_of(tmp_path, FORGES))))
    assert ended.state is JobState.JOB_STATE_FAILED, told.said
    forged = "evil --index-url=http://evil.example=="
    assert f"greeter-1.0.tar.gz installs {forged!r}, which is no version of a project" in ended.error, told.said
    assert_only_records_are_left(namespace)


class Killed(BaseException):
    """The process died."""


def dying(monkeypatch: pytest.MonkeyPatch, number: int) -> list[str]:
    """Die when this change of the cluster has taken effect.

    :returns: the changes so far.
    """
    changes: list[str] = []
    call = Api.call

    async def counting(self: Api, method: str, path: str, **how: Any) -> Any:
        if len(changes) == number:
            raise Killed
        given = await call(self, method, path, **how)
        if method != "GET" and path.startswith("/api/v1/namespaces/"):
            changes.append(f"{method} {path.split('/')[5]}")
            if len(changes) == number:
                raise Killed
        return given

    monkeypatch.setattr(Api, "call", counting)
    return changes


STEPS = ["POST services", "POST secrets", "POST pods", "PUT configmaps", "POST configmaps", "DELETE pods", "POST pods"]
"""What happens to the cluster between the record of a job and its first replica."""


@pytest.mark.parametrize("number", range(1, len(STEPS) + 1))
def test_whoever_settles_versions_may_die_after_any_change(
    namespace: str,  # noqa: F811
    index: Index,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    index.has("dep", "1.0")
    package = saved(tmp_path, wheel("greeter", "1.0", "dep", task=TELLS))

    async def main() -> tuple[list[str], Job, list[str]]:
        backend = replace(on(index), namespace=namespace)
        _, job = await AsyncCustomJobClient(backend).submit(job_of(task_of(package)))
        with monkeypatch.context() as patch:
            changes = dying(patch, number)
            with pytest.raises(Killed):
                await AsyncCustomJobClient(backend).supervise(job.job_id)
        said: list[str] = []
        return changes, await AsyncCustomJobClient(backend).supervise(job.job_id, say=said.append), said

    changes, ended, said = asyncio.run(main())
    assert changes == STEPS[:number]
    assert ended.state is JobState.JOB_STATE_SUCCEEDED, (ended.error, said)
    assert any("dep==1.0" in note for note in notes_of(ended))
    assert_only_records_are_left(namespace)


SLOW = """
import time
from setuptools import setup
time.sleep(300)
"""


def test_a_job_that_is_cancelled_while_versions_are_settled_leaves_nothing(
    namespace: str,  # noqa: F811
    tmp_path: Path,
) -> None:
    """Also where whoever had it made is dead; and one that the cluster has taken away is made again."""

    async def main() -> tuple[Job, list[str]]:
        client, said = AsyncCustomJobClient(replace(ADMIN, namespace=namespace)), list[str]()
        _, job = await client.submit(job_of(task_of(source_of(tmp_path, SLOW))))
        driving = asyncio.create_task(client.supervise(job.job_id, say=said.append))

        async def installing(times: int) -> None:
            async with asyncio.timeout(90):
                while len([line for line in said if line.startswith("Running command: pip3 install")]) < times:
                    await asyncio.sleep(0.1)

        await installing(1)
        (name,) = await asyncio.to_thread(left_of, namespace, "pods")
        path = f"/api/v1/namespaces/{namespace}/pods/{name}"
        await asyncio.to_thread(api_call, "DELETE", path, {"gracePeriodSeconds": 0})
        await installing(2)
        driving.cancel()
        await asyncio.gather(driving, return_exceptions=True)
        assert await asyncio.to_thread(left_of, namespace, "pods") == [name], "for whoever goes on with the job"
        await client.cancel(job.job_id)
        return await client.supervise(job.job_id, say=said.append), said

    ended, said = asyncio.run(main())
    assert ended.state is JobState.JOB_STATE_CANCELLED, (ended.error, said)
    assert_only_records_are_left(namespace)


# -- what no Secret holds -------------------------------------------------------------------------------------------


@pytest.fixture
def large(index: Index) -> str:
    """The URL of a package that no Secret holds."""
    name, data = wheel("greeter", "1.0", task="print('hello')\n", pad=2 * packages.MAX_SECRET)
    path = f"/{uuid4().hex}/{name}"
    index.files[path] = data
    return f"{index.url}{path}?signature=a b"


def test_a_package_that_no_secret_holds_is_fetched_by_those_who_install(
    namespace: str,  # noqa: F811
    index: Index,
    large: str,
    tmp_path: Path,
) -> None:
    """Beside it a small file of this machine, which a Secret brings."""
    small = saved(tmp_path, wheel("small", "1.0"))
    with Onlooker(namespace) as onlooker:
        ended, told = run(namespace, job_of(task_of(small, large)), backend=on(index))
    assert ended.state is JobState.JOB_STATE_SUCCEEDED, (ended.error, told.said, told.texts)
    lines = told.of("workerpool0-0")
    assert lines[0] == f"Downloading the package: {large.partition('?')[0]}"
    assert lines[-1] == "hello"
    (secret,) = {tuple(item["data"]) for key, item in onlooker.seen.items() if key.startswith("secrets/customjob")}
    assert secret == ("0", "install.py", "order.json")
    path = large.removeprefix(index.url).partition("?")[0]
    assert index.asked.count(path) >= 3, "by who launched it, by who settled versions, and by the replica"
    assert [line for line in (*told.said, *told.texts) if "signature" in line] == []
    assert_only_records_are_left(namespace)


def test_a_package_that_has_changed_since_it_was_fetched_here_is_refused(
    namespace: str,  # noqa: F811
    index: Index,
    large: str,
) -> None:
    path = large.removeprefix(index.url).partition("?")[0]

    async def main() -> Job:
        client = AsyncCustomJobClient(replace(on(index), namespace=namespace))
        _, job = await client.submit(job_of(task_of(large)))
        driving = asyncio.create_task(client.supervise(job.job_id))
        while not await asyncio.to_thread(left_of, namespace, "secrets"):
            await asyncio.sleep(0.01)
        index.files[path] = wheel("greeter", "1.0", task="print('other')\n", pad=2 * packages.MAX_SECRET)[1]
        return await driving

    ended = asyncio.run(main())
    assert ended.state is JobState.JOB_STATE_FAILED
    assert f"{index.url}{path} has changed since the job was made: the sha256 was " in ended.error
    assert "signature" not in ended.error
    assert_only_records_are_left(namespace)
