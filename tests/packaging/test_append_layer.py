"""The script that adds a layer to an image in a registry: run as in a builder, against a real one."""

from __future__ import annotations

import inspect
import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_customjob.packaging import append_layer
from airflow_customjob.packaging.append_layer import Image, login_for
from tests.packaging.serving import certificate
from tests.registry import INDEX, LOGIN, Registry, registry

pytestmark = pytest.mark.kubernetes  # whoever has brought a cluster up for the tests has brought the registry as well


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture(scope="module", params=["", LOGIN], ids=["open", "login"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    if shutil.which("docker-registry") is None:
        pytest.skip(
            "docker-registry is not installed (dev/engines up kubernetes does, where it makes a cluster of its own)"
        )
    with registry(tmp_path_factory.mktemp("registry"), free_address(), request.param) as made:
        yield made


@pytest.fixture
def base(served: Registry, tmp_path: Path) -> str:
    layer = tmp_path / "base.tar"
    with tarfile.open(layer, "w") as tar:
        tar.add(__file__, "etc/base")
    served.push(
        "base/py", "1", [layer], {"Env": ["PATH=/bin", "PYTHONUSERBASE=/old"], "Entrypoint": ["serve"], "User": "7"}
    )
    return f"{served.address}/base/py:1"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    made = tmp_path / "tree"
    (made / "lib").mkdir(parents=True)
    (made / "lib" / "trainer.py").write_text("print('trained')\n")
    (made / "bin").mkdir()
    (made / "bin" / "train").write_text("#!/bin/sh\n")
    (made / "bin" / "train").chmod(0o4755)
    return made


def append(folder: Path, served: Registry, base: str, tree: Path, **more: Any) -> subprocess.CompletedProcess[str]:
    place = folder / "orders"
    place.mkdir(exist_ok=True)
    (place / "append_layer.py").write_text(inspect.getsource(append_layer))
    (folder / "docker.json").write_text(served.docker_config)
    order = {
        "base": base,
        "target": f"{served.address}/team/customjob:key",
        "tree": str(tree),
        "at": "/opt/customjob/packages",
        "env": {"PYTHONUSERBASE": "/opt/customjob/packages"},
        "labels": {"a": "b"},
        "notes": None,
        "noted_as": "versions",
        "auths": str(folder / "docker.json") if served.login else None,
        "plain_http": [served.address],
        "certificates": None,
        "spool": str(folder),
        "result": str(folder / "result"),
        **more,
    }
    (place / "append.json").write_text(json.dumps(order))
    command = [sys.executable, "-I", "-S", str(place / "append_layer.py")]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def appended(folder: Path, served: Registry, base: str, tree: Path, **more: Any) -> dict[str, Any]:
    """The new image's manifest."""
    done = append(folder, served, base, tree, **more)
    assert done.returncode == 0, done.stdout + done.stderr
    digest = json.loads((folder / "result").read_text())["digest"]
    return served.json(f"/v2/team/customjob/manifests/{digest}")


def test_the_image_is_its_base_and_one_layer(served: Registry, base: str, tree: Path, tmp_path: Path) -> None:
    notes = tmp_path / "installed.json"
    notes.write_text('{"trainer": "0.1", "a b": "no name", "x": ["no version"]}')
    made = appended(tmp_path, served, base, tree, notes=str(notes))
    old = served.json("/v2/base/py/manifests/1")
    assert made["layers"][:-1] == old["layers"]
    config = served.json(f"/v2/team/customjob/blobs/{made['config']['digest']}")
    assert config["config"] == {
        "Env": ["PATH=/bin", "PYTHONUSERBASE=/opt/customjob/packages"],
        "Entrypoint": ["serve"],
        "User": "7",
        "Labels": {"a": "b", "versions": "trainer==0.1"},
    }
    assert len(config["rootfs"]["diff_ids"]) == 2
    files = served.layer("team/customjob", made["layers"][-1]["digest"])
    assert files["opt/customjob/packages/lib/trainer.py"][1] == b"print('trained')\n"
    assert files["opt/customjob/packages/bin/train"][0].mode == 0o755
    assert {(member.uid, member.mtime, member.uname) for member, _ in files.values()} == {(0, 0, "")}
    assert f"mount={old['layers'][0]['digest'].replace(':', '%3A')}" in served.log.read_text()


def test_a_registry_is_trusted_by_the_authorities_that_are_given(tree: Path, tmp_path: Path) -> None:
    layer, folder = tmp_path / "base.tar", tmp_path / "registry"
    with tarfile.open(layer, "w") as tar:
        tar.add(__file__, "etc/base")
    pair = certificate(tmp_path, "127.0.0.1")
    with registry(folder, free_address(), certificate=pair) as served:
        served.push("base/py", "1", [layer], {})
        base = f"{served.address}/base/py:1"
        refused = append(tmp_path, served, base, tree, plain_http=[])
        assert refused.returncode == 1
        assert "CERTIFICATE_VERIFY_FAILED" in refused.stderr
        made = appended(tmp_path, served, base, tree, plain_http=[], certificates=str(pair[0]))
        assert len(made["layers"]) == 2


def test_the_same_files_make_the_same_image(served: Registry, base: str, tree: Path, tmp_path: Path) -> None:
    first = appended(tmp_path, served, base, tree)
    other = tmp_path / "other"
    shutil.copytree(tree, other)
    os.utime(other / "lib" / "trainer.py", (1, 1))
    assert appended(tmp_path, served, base, other) == first


def test_nothing_but_the_folder_gets_into_the_layer(served: Registry, base: str, tree: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("password")
    (tree / "lib" / "link").symlink_to(tmp_path / "secret")
    (tree / "folder").symlink_to(tmp_path)
    (tree / "out").symlink_to("../../../../etc")
    os.mkfifo(tree / "lib" / "pipe")
    (tree / "lib" / "same").hardlink_to(tree / "lib" / "trainer.py")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tree / "sock"))
        made = appended(tmp_path, served, base, tree)
    files = served.layer("team/customjob", made["layers"][-1]["digest"])
    assert b"password" not in b"".join(content for _, content in files.values())
    assert all(name.startswith("opt/customjob/packages") for name in files)
    inside = {name.removeprefix("opt/customjob/packages/"): member for name, (member, _) in files.items()}
    assert inside["lib/link"].issym()
    assert inside["folder"].issym()
    assert inside["out"].linkname == "../../../../etc"
    assert inside["lib/same"].isreg()
    assert "lib/pipe" not in inside
    assert "sock" not in inside


def test_notes_that_are_a_link_are_not_read(served: Registry, base: str, tree: Path, tmp_path: Path) -> None:
    (tmp_path / "real.json").write_text('{"stolen": "1"}')
    (tmp_path / "notes.json").symlink_to(tmp_path / "real.json")
    made = appended(tmp_path, served, base, tree, notes=str(tmp_path / "notes.json"))
    config = served.json(f"/v2/team/customjob/blobs/{made['config']['digest']}")
    assert config["config"]["Labels"] == {"a": "b"}


def test_of_an_index_this_machines_image_is_taken(served: Registry, base: str, tree: Path, tmp_path: Path) -> None:
    real = served.json("/v2/base/py/manifests/1")
    digest = served.put_manifest("base/py", "1", real)
    size = len(json.dumps(real))
    here = append_layer.ARCHITECTURES.get(os.uname().machine, os.uname().machine)
    entry = {"mediaType": real["mediaType"], "digest": digest, "size": size}
    mine = {**entry, "platform": {"os": "linux", "architecture": here}}
    served.put_manifest("base/py", "many", {"schemaVersion": 2, "mediaType": INDEX, "manifests": [mine]})
    made = appended(tmp_path, served, f"{served.address}/base/py:many", tree)
    assert made["layers"][:-1] == real["layers"]


def test_what_the_registry_refuses_is_told(served: Registry, base: str, tree: Path, tmp_path: Path) -> None:
    done = append(tmp_path, served, f"{served.address}/base/py:missing", tree)
    assert done.returncode == 1
    assert "/v2/base/py/manifests/missing: HTTP 404" in done.stderr
    assert "Traceback" not in done.stderr
    if served.login:
        done = append(tmp_path, served, base, tree, auths=None)
        assert done.returncode == 1
        assert "HTTP 401, without a login" in done.stderr
        assert "registry_secret" in done.stderr


@pytest.mark.parametrize(
    ("name", "host", "repository", "reference"),
    [
        ("python:3.11", "docker.io", "library/python", "3.11"),
        ("me/app", "docker.io", "me/app", "latest"),
        ("127.0.0.1:5000/a/b", "127.0.0.1:5000", "a/b", "latest"),
        ("localhost/a:1@sha256:00", "localhost", "a", "sha256:00"),
    ],
)
def test_names_are_read_as_docker_reads_them(name: str, host: str, repository: str, reference: str) -> None:
    image = Image(name)
    assert (image.host, image.repository, image.reference) == (host, repository, reference)


def test_a_login_is_found_in_each_spelling() -> None:
    hub = {
        "https://index.docker.io/v1/": {"auth": "bWU6c2VjcmV0"},
        "eu.example:5000": {"username": "a", "password": "b"},
    }
    assert login_for("docker.io", hub) == "me:secret"
    assert login_for("eu.example:5000", hub) == "a:b"
    assert login_for("example:5000", hub) == ""
