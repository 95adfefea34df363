"""Python packages on a real Docker. They are made here, so that no index is asked but the one of the test."""

from __future__ import annotations

import asyncio
import base64
import io
import ipaddress
import json
import os
import shutil
import ssl
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from airflow_customjob.backends import base
from airflow_customjob.backends.base import LaunchRefused, Retention
from airflow_customjob.backends.docker import DockerBackend, builds
from airflow_customjob.backends.docker.api import Api
from airflow_customjob.backends.docker.builders import versions_in
from airflow_customjob.backends.docker.engine import DockerEngine
from airflow_customjob.plan.types import JobPlan, Package
from tests.backends.contract import Act, Bench, sleeps, with_last_pool
from tests.backends.test_docker import IMAGE, engine_of, launch, on_docker
from tests.packaging.serving import certificate, run_at_once

pytestmark = pytest.mark.docker

BUILDS: dict[str, str | None] = {"customjob.kind": "build"}
PASSWORD = "correct-horse-battery"


def wheel(folder: Path, name: str, code: str = "", requires: str = "") -> Path:
    path = folder / f"{name}-0.1-py3-none-any.whl"
    path.write_bytes(wheel_bytes(name, {"task.py": code}, requires))
    return path


def wheel_bytes(name: str, files: dict[str, str], requires: str = "") -> bytes:
    info, data = f"{name}-0.1.dist-info", io.BytesIO()
    needs = f"Requires-Dist: {requires}\n" if requires else ""
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr(f"{name}/__init__.py", "")
        for file, text in files.items():
            archive.writestr(f"{name}/{file}", text)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1\n{needs}")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return data.getvalue()


BACKEND = """
import json, shutil, zipfile
from found import found

def get_requires_for_build_wheel(config=None):
    return []

def build_wheel(folder, config=None, metadata=None):
    shutil.copy("empty.whl", f"{folder}/NAME-0.1-py3-none-any.whl")
    with zipfile.ZipFile(f"{folder}/NAME-0.1-py3-none-any.whl", "a") as wheel:
        wheel.writestr("NAME/task.py", f"print({json.dumps(found())!r})")
    return "NAME-0.1-py3-none-any.whl"
"""


def sdist(folder: Path, name: str, found: str, requires: str = "") -> Path:
    """A source distribution that brings its own build backend, and so needs no other package to be built.

    :param found: a module with a function of that name, which is called then; the package's module prints what it gave.
    """
    files = {
        "pyproject.toml": b'[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n',
        "backend.py": BACKEND.replace("NAME", name).encode(),
        "found.py": found.encode(),
        "empty.whl": wheel_bytes(name, {}, requires),
        "PKG-INFO": f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1\n".encode(),
    }
    path = folder / f"{name}-0.1.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for file, content in files.items():
            member = tarfile.TarInfo(f"{name}-0.1/{file}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def named() -> str:
    return f"trainer{uuid4().hex[:10]}"


def packaged(bench: Bench, path: Path, image: str = "") -> JobPlan:
    module = f"{path.name.partition('-')[0]}.task"
    plan = bench.plan(Act(("python3", "-m", module), sleeps().script, args=("--epochs", "3")))
    package = Package((str(path),), module)
    return with_last_pool(plan, package=package, **({"image": image} if image else {}))


async def output(bench: Bench, plan: JobPlan) -> list[str]:
    (ref,) = await launch(bench, plan)
    try:
        await bench.ended()
        return await bench.texts(ref)
    finally:
        await bench.engine.remove([ref])


@asynccontextmanager
async def built_from(path: Path, bench: Bench) -> AsyncIterator[Api]:
    """Builders of this package have left nothing but its image, and that goes."""
    api = engine_of(bench)._api
    try:
        yield api
        assert not of_builders(path, [*await api.containers(BUILDS), *await api.volumes(BUILDS)])
    finally:
        for image in of_builders(path, await api.call("GET", "images/json", what="list images")):
            await api.call("DELETE", f"images/{image['Id']}", what="remove", params={"force": "1"})


def of_builders(path: Path, things: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [thing for thing in things if path.name in ((thing["Labels"] or {}).get("customjob.packages") or "")]


def another(bench: Bench, backend: DockerBackend | None = None) -> DockerEngine:
    """As another process has it."""
    return DockerEngine(backend or DockerBackend(), (engine_of(bench)._api._access, None))


def test_a_package_is_built_once_and_runs_at_the_root(tmp_path: Path) -> None:
    path = wheel(tmp_path, named(), "import os, sys; print(os.getcwd(), sys.argv[1:])")

    async def test(bench: Bench) -> None:
        plan = packaged(bench, path)
        said: list[str] = []
        engines = [another(bench) for _ in range(2)]
        async with built_from(path, bench) as api:
            prepared = await asyncio.gather(*(engine.prepare(plan, said.append) for engine in engines))
            assert prepared[0] == prepared[1], "two processes build one image"
            assert len([line for line in said if line == f"Running command: pip3 install --user {path.name}"]) <= 2
            assert any("--force-reinstall --no-deps" in line for line in said)
            assert (await bench.engine.prepare(plan, said.append)) == prepared[0]
            assert any("cache hit" in line for line in said)
            assert f"installed {path.name.split('-')[0]}==0.1" in prepared[0].notes
            assert await output(bench, plan) == ["/ ['--epochs', '3']"]
            image = await api.call("GET", f"images/{prepared[0].artifacts['0']}/json", what="inspect")
            assert path.name in image["Config"]["Labels"]["customjob.packages"]
            layer = await files_of_last_layer(prepared[0].artifacts["0"])
            assert not [name for name in layer if path.name in name or "/.cache" in name or "customjob-build/" in name]
        for engine in engines:
            await engine.close()

    on_docker(test)


def test_two_processes_that_need_one_image_at_once_install_it_once(tmp_path: Path) -> None:
    name = named()
    path = sdist(tmp_path, name, "import time\n\ndef found():\n    time.sleep(4)\n    return 'built'\n")
    spec = {"executorImageUri": IMAGE, "packageUris": [str(path)], "pythonModule": f"{name}.task"}
    pool = {"machineSpec": {"machineType": "n1-standard-4"}, "replicaCount": 1, "pythonPackageSpec": spec}
    job = {"displayName": name, "jobSpec": {"workerPoolSpecs": [pool]}}

    async def test(bench: Bench) -> None:
        async with built_from(path, bench):
            began = time.time()
            ends = await asyncio.to_thread(run_at_once, job, {"name": "docker"})
            assert [ended["state"] for ended, _ in ends] == ["JOB_STATE_SUCCEEDED"] * 2, ends
            assert all(f"installing {path.name} into {IMAGE}" in said for _, said in ends), "neither came late"
            assert ends[0][0]["images"] == ends[1][0]["images"]
            which = (
                "--since",
                f"{began:.3f}",
                "--until",
                f"{time.time():.3f}",
                "--filter",
                "label=customjob.kind=build",
            )
            events = (await _docker("events", *which, "--format", "{{.Action}} {{.Actor.Attributes.name}}")).decode()
            done = [line.split()[0] for line in events.splitlines() if "-gate-" not in line]
            assert (done.count("start"), done.count("commit")) == (1, 1), events

    on_docker(test)


def test_a_tag_that_has_moved_is_another_executor_image(tmp_path: Path) -> None:
    path, tag = (
        wheel(tmp_path, named(), "import os; print(os.environ['WHICH'])"),
        f"customjob-test-{uuid4().hex[:10]}:moving",
    )

    async def test(bench: Bench) -> None:
        said: list[str] = []
        async with built_from(path, bench):
            try:
                for which, known in (("one", False), ("two", False), ("two", True)):
                    made = (await _docker("create", IMAGE)).decode().strip()
                    if not known:
                        await _docker("commit", f"--change=ENV WHICH={which}", made, tag)
                    await _docker("rm", made)
                    said.clear()
                    plan = packaged(bench, path, tag)
                    prepared = await bench.engine.prepare(plan, said.append)
                    assert any("cache hit" in line for line in said) is known
                    run = await _docker(
                        "run", "--rm", prepared.artifacts["0"], "python3", "-m", path.name.split("-")[0] + ".task"
                    )
                    assert run.decode() == f"{which}\n"
            finally:
                await _docker("rmi", "-f", tag)

    on_docker(test)


async def files_of_last_layer(image: str) -> list[str]:
    saved = await asyncio.to_thread(subprocess.run, ["docker", "save", image], capture_output=True, check=True)
    with tarfile.open(fileobj=io.BytesIO(saved.stdout)) as tar:
        manifest = json.load(tar.extractfile("manifest.json") or io.BytesIO())
        with tarfile.open(fileobj=tar.extractfile(manifest[0]["Layers"][-1])) as layer:
            return layer.getnames()


def test_a_builder_whose_packages_take_long_to_send_is_not_taken_for_one_without_a_maker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two processes that sent a large package to Docker, each took the other's builder away."""
    path = wheel(tmp_path, named())
    monkeypatch.setattr(builds, "NOT_STARTED", 0.2)
    monkeypatch.setattr(builds, "SLOWEST", path.stat().st_size / 20.0)
    send, made = Api.call, []

    async def slowly(api: Api, method: str, path: str, **how: Any) -> Any:
        if method == "PUT":
            await asyncio.sleep(1.5)
        answer = await send(api, method, path, **how)
        if path == "containers/create" and "-gate-" not in how["params"]["name"]:
            made.append(answer)
        return answer

    monkeypatch.setattr(Api, "call", slowly)

    async def test(bench: Bench) -> None:
        plan = packaged(bench, path)
        engines = [another(bench) for _ in range(2)]
        async with built_from(path, bench):
            prepared = await asyncio.gather(*(engine.prepare(plan, lambda line: None) for engine in engines))
            assert prepared[0].artifacts == prepared[1].artifacts
            assert len(made) == 1
        for engine in engines:
            await engine.close()

    on_docker(test)


def test_a_package_that_cannot_be_installed_is_refused_with_pips_words(tmp_path: Path) -> None:
    path = tmp_path / "broken-0.1-py3-none-any.whl"
    wheel(tmp_path, "other", "").rename(path)

    async def test(bench: Bench) -> None:
        async with built_from(path, bench):
            with pytest.raises(LaunchRefused, match=r"(?s)could not install broken-0\.1.*(?i:error)"):
                await bench.engine.prepare(packaged(bench, path), lambda line: None)

    on_docker(test)


# -- what packages may not see --------------------------------------------------------------------------------------

SNOOP = """
import glob, os, socket, urllib.request

def found():
    read, seen = [], {}
    for path in [*glob.glob("/proc/[0-9]*/environ"), *glob.glob("/proc/[0-9]*/cmdline"), "/etc/pip.conf"]:
        read.append(path)
    for root in ("/customjob-build", "/root", "/run", "/tmp"):
        for folder, _, files in os.walk(root):
            read += [os.path.join(folder, file) for file in files]
    text = repr(dict(os.environ))
    for path in read:
        try:
            with open(path, errors="replace") as file:
                text += file.read(100000)
        except OSError:
            pass
    seen["socket"] = os.path.exists("/var/run/docker.sock")
    seen["capabilities"] = [line.split()[1] for line in open("/proc/self/status") if line.startswith(("CapEff", "CapBnd"))]
    seen["no_new_privileges"] = [line.split()[1] for line in open("/proc/self/status") if line.startswith("NoNewPrivs")]
    try:
        socket.create_connection(("169.254.169.254", 80), 5)
    except OSError as error:
        seen["metadata"] = error.errno
    for path in ("/0/secretdep/", "/0/../admin", "/file/99/x", "/gate.json"):
        try:
            with urllib.request.urlopen("http://127.0.0.1:8099" + path) as answer:
                text += answer.read().decode() + repr(answer.headers.items())
                seen[path] = answer.status
        except urllib.error.HTTPError as error:
            seen[path] = error.code
    seen["text"] = text
    return seen
"""


class PrivateIndex(BaseHTTPRequestHandler):
    """A package index as servers of artifacts are: a password, and links relative to its own root."""

    package = wheel_bytes("secretdep", {"it.py": ""})
    expects: str | None = "Basic " + base64.b64encode(f"trainer:{PASSWORD}".encode()).decode()

    def do_GET(self) -> None:
        code, kind, body = 404, "text/html", b""
        if self.headers["Authorization"] != self.expects:
            code = 401
        elif self.path == "/simple/secretdep/":
            code, body = 200, b'<!doctype html><a href="/files/secretdep-0.1-py3-none-any.whl">secretdep</a>'
        elif self.path == "/files/secretdep-0.1-py3-none-any.whl":
            code, kind, body = 200, "application/octet-stream", self.package
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@contextmanager
def private_index(folder: Path) -> Iterator[tuple[str, Path]]:
    """``host:port/simple`` of an index that containers reach, and that asks for a password; and the authority behind it."""
    inspected = subprocess.run(["docker", "network", "inspect", "bridge"], capture_output=True, check=True)
    network = json.loads(inspected.stdout)[0]["IPAM"]["Config"][0]
    # a daemon tells it only where the bridge was there before it
    gateway = network.get("Gateway") or str(ipaddress.ip_network(network["Subnet"])[1])
    cert, key = certificate(folder, gateway)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)
    with ThreadingHTTPServer((gateway, 0), PrivateIndex) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever).start()
        yield f"{gateway}:{server.server_port}/simple", cert
        server.shutdown()


def test_no_package_sees_an_indexs_password_nor_does_anything_keep_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = sdist(tmp_path, named(), SNOOP, requires="secretdep")

    async def test(bench: Bench) -> None:
        plan, said = packaged(bench, path), list[str]()
        async with built_from(path, bench) as api:
            watching = asyncio.create_task(everything_of_builders(path, api))
            prepared = await bench.engine.prepare(plan, said.append)
            builders = await stopped(watching)
            (printed,) = await output(bench, plan)
            image = prepared.artifacts["0"]
            kept = b"".join(
                [
                    (await _docker("history", "--no-trunc", image)),
                    (await _docker("inspect", image)),
                    (await _docker("save", image)),
                    builders.encode(),
                    repr((said, prepared, bench.engine)).encode(),
                ]
            )
        found = json.loads(printed)
        assert f"installed secretdep==0.1 {path.name.split('-')[0]}==0.1" in prepared.notes
        assert "customjob-build" in builders
        for secret in (PASSWORD, base64.b64encode(f"trainer:{PASSWORD}".encode()).decode()):
            assert secret not in found["text"]
            assert secret.encode() not in kept
        assert found["metadata"] in (101, 113), "unreachable at once, and no time-out"
        assert found["socket"] is False
        assert found["capabilities"] == ["0000000000000000"] * 2
        assert found["no_new_privileges"] == ["1"]
        assert [found[path] for path in ("/0/secretdep/", "/0/../admin", "/file/99/x", "/gate.json")] == [
            200,
            404,
            404,
            404,
        ]

    with private_index(tmp_path) as (address, authority):
        backend = DockerBackend(index_urls=("env:COMPANY_INDEX",), ca_bundle=str(authority))
        monkeypatch.setenv("COMPANY_INDEX", f"https://trainer:{PASSWORD}@{address}")
        on_docker(test, backend)
        monkeypatch.setenv("COMPANY_INDEX", f"https://trainer:wrong@{address}")

        async def with_a_wrong_one(bench: Bench) -> None:
            again = wheel(tmp_path, named(), requires="secretdep")
            async with built_from(again, bench):
                with pytest.raises(LaunchRefused, match=r"index: https://[^@]*/simple/secretdep/: HTTP 401"):
                    await bench.engine.prepare(packaged(bench, again), lambda line: None)

        on_docker(with_a_wrong_one, backend)


async def everything_of_builders(path: Path, api: Api) -> str:
    """All that Docker shows of builders while there are any."""
    seen = ""
    try:
        while True:
            for container in of_builders(path, await api.containers(BUILDS)):
                seen += json.dumps(await api.inspect(container["Id"]))
                with suppress(Exception):
                    seen += "\n".join(
                        await builds.Builds._last_lines(builds.Builds(api, builds.BuildSettings()), container["Id"])
                    )
            await asyncio.sleep(0.1)
    except asyncio.CancelledError:
        return seen


async def stopped(task: asyncio.Task[str]) -> str:
    task.cancel()
    return await task


async def _docker(*command: str) -> bytes:
    done = await asyncio.to_thread(subprocess.run, ["docker", *command], capture_output=True, check=True)
    return done.stdout


# -- images -----------------------------------------------------------------------------------------------------------

WHERE = "import os, sys, json; print(json.dumps([os.getuid(), sys.prefix, __file__.split('/lib/')[0]]))"
OURS = "/opt/customjob/packages"


@contextmanager
def derived(script: str) -> Iterator[Callable[..., str]]:
    """Images of the base with something done to it, and then with changes that a Dockerfile would make."""
    name, uv = f"customjob-test-{uuid4().hex[:10]}", shutil.which("uv", path=os.path.dirname(sys.executable))

    def cli(*command: str) -> str:
        return subprocess.run(["docker", *command], capture_output=True, check=True, text=True).stdout.strip()

    made: list[str] = []

    def image(*changes: str) -> str:
        made.append(f"{name}:{len(made)}")
        cli("create", "--name", made[-1].replace(":", "-"), name)
        cli("commit", *(f"--change={change}" for change in changes), made[-1].replace(":", "-"), made[-1])
        return made[-1]

    try:
        cli("run", "--name", name, IMAGE, "sh", "-c", script)
        cli("cp", uv or "", f"{name}:/opt/uv")
        cli("commit", name, name)
        yield image
    finally:
        cli("rm", "-f", name, *(each.replace(":", "-") for each in made))
        cli("rmi", "-f", *made, name)


def test_the_executor_image_may_be_of_many_kinds(tmp_path: Path) -> None:
    path = wheel(tmp_path, named(), WHERE)
    module = f"{path.name.partition('-')[0]}.task"

    async def test(bench: Bench) -> None:
        async def installed(image: str, *options: str) -> object:
            prepared = await bench.engine.prepare(packaged(bench, path, image), lambda line: None)
            run = ("run", "--rm", "--network=none", *options, prepared.artifacts["0"], "python3", "-m", module)
            return json.loads(await _docker(*run))

        with derived("python3 -m venv --without-pip /opt/bare; rm /bin/sh") as image:
            async with built_from(path, bench):
                assert await installed(image("USER 12345:12345")) == [12345, "/usr", OURS], "nor has it a sh"
                assert await installed(image(), "--user=54321") == [54321, "/usr", OURS]
                assert await installed(image("ENV PYTHONNOUSERSITE=1")) == [0, "/usr", "/usr/local"]
                assert await installed(image("ENV PATH=/opt/bare/bin:/opt")) == [0, "/opt/bare", "/opt/bare"], "by uv"
                with pytest.raises(LaunchRefused, match="is a python3 on its PATH"):
                    await installed(image("ENV PATH=/nowhere"))
                with pytest.raises(LaunchRefused, match="neither pip nor a uv"):
                    await installed(image("ENV PATH=/opt/bare/bin:/bin"))

    on_docker(test)


def tar_of(text: str, link: str = "") -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        member = tarfile.TarInfo("installed.json")
        member.size, member.linkname = len(text), link
        member.type = tarfile.SYMTYPE if link else tarfile.REGTYPE
        tar.addfile(member, io.BytesIO(text.encode()))
    return data.getvalue()


@pytest.mark.parametrize(
    ("tar", "versions"),
    [
        (tar_of('{"torch": "2.3.0+cu121", "a": "1!2"}'), {"torch": "2.3.0+cu121", "a": "1!2"}),
        (tar_of('{"a": "1\\nJOB_STATE_SUCCEEDED", "": "1", "b": {}, "c c": "1"}'), {}),
        (tar_of("", link="/etc/shadow"), {}),
        (tar_of("[1]"), {}),
        (tar_of("[" * 100_000), {}),
        (tar_of('{"a": "1"}')[:513], {}),
        (b"", {}),
    ],
)
def test_what_a_package_may_have_forged_is_not_told(tar: bytes, versions: dict[str, str]) -> None:
    assert versions_in(tar) == versions


# -- cancelling and time ----------------------------------------------------------------------------------------------


def test_a_cancelled_job_takes_its_builder_away_unless_another_waits_for_it(tmp_path: Path) -> None:
    path = sdist(tmp_path, named(), "import time\ndef found(): time.sleep(100)")

    async def test(bench: Bench) -> None:
        plan, other = packaged(bench, path), another(bench)
        building = asyncio.Event()

        def say(line: str) -> None:
            if line.startswith("Running command: pip3 install --user --upgrade --force-reinstall"):
                building.set()

        async with built_from(path, bench) as api:
            first = asyncio.create_task(bench.engine.prepare(plan, say))
            await asyncio.wait_for(building.wait(), 30)
            building.clear()
            second = asyncio.create_task(other.prepare(plan, say))
            await asyncio.wait_for(building.wait(), 30)
            for task, left in ((first, 2), (second, 0)):
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                assert len(of_builders(path, await api.containers(BUILDS))) == left
        await other.close()

    on_docker(test)


def test_an_installation_that_is_killed_begins_anew_once(tmp_path: Path) -> None:
    path = wheel(tmp_path, named())

    async def test(bench: Bench) -> None:
        said: list[str] = []
        async with built_from(path, bench) as api:

            def say(line: str) -> None:
                said.append(line)
                if line == "Installing the package" and said.count(line) == 1:
                    subprocess.run(["docker", "kill", *builders(path)], check=True, capture_output=True)

            assert (await bench.engine.prepare(packaged(bench, path), say)).artifacts
            assert len([line for line in said if "was killed" in line]) == 1
            assert not of_builders(path, await api.containers(BUILDS))

    on_docker(test)


def builders(path: Path) -> list[str]:
    """Containers that install it now, without their ways out."""
    shown = ["docker", "ps", "--filter", "label=customjob.kind=build", "--format"]
    lines = subprocess.run(
        [*shown, '{{.Names}} {{.Label "customjob.packages"}}'], check=True, capture_output=True, text=True
    ).stdout
    return [line.split()[0] for line in lines.splitlines() if path.name in line and "-gate-" not in line]


def test_an_installation_that_takes_too_long_is_refused(tmp_path: Path) -> None:
    path = sdist(tmp_path, named(), "import time\ndef found(): time.sleep(100)")

    async def test(bench: Bench) -> None:
        async with built_from(path, bench):
            with pytest.raises(LaunchRefused, match="longer than build_timeout, 1 s"):
                await bench.engine.prepare(packaged(bench, path), lambda line: None)

    on_docker(test, DockerBackend(build_timeout=1.0))


# -- cleaning up --------------------------------------------------------------------------------------------------------


def test_gc_removes_images_that_no_job_uses_and_what_a_dead_host_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = wheel(tmp_path, named())

    async def test(bench: Bench) -> None:
        engine, plan = engine_of(bench), packaged(bench, path)
        async with built_from(path, bench) as api:
            plan = replace(plan, prepared=await engine.prepare(plan, lambda line: None))
            image = plan.prepared.artifacts["0"]
            ours = (await api.call("GET", f"images/{image}/json", what="inspect"))["RepoTags"][0]
            left = {"customjob.kind": "build", "customjob.until": "1", "customjob.packages": path.name}
            dead = {"name": f"customjob-test-{path.name}"}
            await api.call(
                "POST", "containers/create", what="create", params=dead, body={"Image": IMAGE, "Labels": left}
            )
            await api.create_volume(dead["name"], left)

            async def prune(*in_use: str) -> set[str]:
                others = {each["Id"] for each in await api.call("GET", "images/json", what="list images")} - {image}
                gone = await engine.prune(Retention(0.0, 0), others | {*in_use}, time.time(), dry_run=False)
                return {each for each in gone if path.name in each or ours in each}

            assert await prune() == {f"builder {dead['name']}", f"mark {dead['name']}"}, "the image has just been used"
            monkeypatch.setattr(base, "ABOUT_TO_USE", 0.0)
            assert await prune(image) == set()
            await engine.create(plan, bench.refs(plan))
            assert await prune() == set(), "a replica is made of it"
            await engine.remove(bench.refs(plan))
            assert await prune() == {f"image {ours}"}

    on_docker(test)
