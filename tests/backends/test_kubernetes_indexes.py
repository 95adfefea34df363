"""Package indexes with passwords, where packages are installed in a real cluster: who sees what."""

from __future__ import annotations

import base64
import gzip
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import pytest

from airflow_customjob.backends.kubernetes import KubernetesBackend
from airflow_customjob.spec.job_state import JobState
from tests.backends.test_docker_packages import PASSWORD, PrivateIndex, sdist, wheel
from tests.backends.test_kubernetes import api_call, job_of, left_of, namespace, run  # noqa: F401 - a fixture among them
from tests.backends.test_kubernetes_packages import backend, prepared, served, task_of  # noqa: F401 - likewise
from tests.packaging.serving import certificate
from tests.registry import Registry

pytestmark = pytest.mark.kubernetes

SECRETS = (PASSWORD, base64.b64encode(f"trainer:{PASSWORD}".encode()).decode())

SNOOP = f"""
import glob, os, socket, threading, urllib.error, urllib.request

SECRETS = {[secret[::-1] for secret in SECRETS]}  # backwards, so that they do not find themselves

def found():
    seen, text, heard = {{}}, repr(dict(os.environ)), []
    for pattern in ("/proc/[0-9]*/environ", "/proc/[0-9]*/cmdline", "/opt/customjob/**", "/run/**", "/tmp/**", "/dev/shm/**"):
        for path in glob.glob(pattern, recursive=True):
            try:
                with open(path, errors="replace") as file:
                    text += file.read(1000000)
            except OSError:
                pass
    seen["processes"] = sorted(
        name for path in glob.glob("/proc/[0-9]*/cmdline") for name in open(path).read().split(chr(0)) if name.endswith(".py")
    )
    try:
        ear = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.ntohs(3))
        ear.settimeout(3)
        def listen():
            while True:
                heard.append(ear.recv(65535))
        threading.Thread(target=listen, daemon=True).start()
        seen["listens"] = True
    except PermissionError:
        seen["listens"] = False
    for path in ("/0/secretdep/", "/0/../admin", "/file/99/x", "/gate.json"):
        try:
            with urllib.request.urlopen("http://127.0.0.1:8099" + path) as answer:
                text += answer.read().decode() + repr(answer.headers.items())
                seen[path] = answer.status
        except urllib.error.HTTPError as error:
            seen[path] = error.code
    text += b"".join(heard).decode(errors="replace")
    seen["capabilities"] = [line.split()[1] for line in open("/proc/self/status") if line.startswith(("CapEff", "CapBnd"))]
    seen["token"] = os.path.exists("/var/run/secrets/kubernetes.io")
    seen["gate"] = os.path.exists("/opt/customjob/gate")
    seen["secret"] = any(secret[::-1] in text for secret in SECRETS)
    return seen
"""


class OpenIndex(PrivateIndex):
    expects = None


def host_of(served: Registry) -> str:  # noqa: F811
    return served.address.partition(":")[0]


@contextmanager
def private_index(
    served: Registry,  # noqa: F811
    kind: type[PrivateIndex] = PrivateIndex,
    pair: tuple[Path, Path] | None = None,
) -> Iterator[str]:
    """``host:port/simple``. Without TLS whoever may listen on the way hears the password.

    :param pair: a certificate and its key.
    """
    with ThreadingHTTPServer((host_of(served), 0), kind) as server:
        if pair:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(*pair)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever).start()
        yield f"{server.server_address[0]!s}:{server.server_port}/simple"
        server.shutdown()


class Onlooker:
    """Reads all objects of a namespace but Secrets, and those without their data, again and again."""

    def __init__(self, namespace: str) -> None:  # noqa: F811
        self._path = f"/api/v1/namespaces/{namespace}"
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.seen: dict[str, Any] = {}

    def _look(self) -> None:
        while not self._over.wait(0.1):
            for kind in ("pods", "configmaps", "events", "services", "secrets"):
                for item in api_call("GET", f"{self._path}/{kind}")["items"]:
                    if kind == "secrets":
                        item["data"] = sorted(item["data"])
                    version = item["metadata"]["resourceVersion"]
                    self.seen[f"{kind}/{item['metadata']['name']}/{version}"] = item

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def blobs(served: Registry) -> bytes:  # noqa: F811
    """All that a registry keeps, unpacked."""
    found = b""
    for path in served.folder.glob("data/**/blobs/**/data"):
        if path.stat().st_size < 50_000_000:  # but for the base image, which was there before
            data = path.read_bytes()
            found += gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data
    return found


def test_no_package_sees_an_indexs_password_nor_does_anything_keep_it(
    namespace: str,  # noqa: F811
    backend: KubernetesBackend,  # noqa: F811
    served: Registry,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = job_of(task_of(sdist(tmp_path, "greeter", SNOOP, requires="secretdep"), f"{served.address}/base/py:1"))
    mine = replace(backend, index_urls=("env:COMPANY_INDEX",))
    with private_index(served) as address, Onlooker(namespace) as onlooker:
        monkeypatch.setenv("COMPANY_INDEX", f"http://trainer:{PASSWORD}@{address}")
        ended, told = run(namespace, job, backend=mine)
    assert ended.state is JobState.JOB_STATE_SUCCEEDED, (ended.error, told.said, told.texts)
    found = json.loads(told.of("workerpool0-0")[-1])
    assert found == {
        "processes": found["processes"],
        "listens": False,
        "/0/secretdep/": 200,
        "/0/../admin": 404,
        "/file/99/x": 404,
        "/gate.json": 404,
        "capabilities": ["0000000000000000"] * 2,
        "token": False,
        "gate": False,
        "secret": False,
    }
    assert not any("gate" in name for name in found["processes"])
    assert "installed greeter==0.1 secretdep==0.1" in prepared(ended).notes
    gates = [item for key, item in onlooker.seen.items() if key.startswith("secrets/") and "-gate/" in key]
    assert [(gate["data"], gate["metadata"]["ownerReferences"][0]["kind"]) for gate in gates] == [
        (["gate.json", "gate.py"], "Pod")
    ]
    assert any(key.startswith("pods/customjob-build-") for key in onlooker.seen)
    for secret in SECRETS:
        assert secret not in json.dumps(onlooker.seen)
        assert secret not in repr((ended, told.said, told.texts, mine, mine.serialize()))
        assert secret.encode() not in blobs(served)
    assert left_of(namespace, "pods") == []
    assert left_of(namespace, "secrets") == ["login"]


def test_what_an_index_refuses_is_told_without_the_password(
    namespace: str,  # noqa: F811
    backend: KubernetesBackend,  # noqa: F811
    served: Registry,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = job_of(task_of(wheel(tmp_path, "greeter", requires="secretdep"), f"{served.address}/base/py:1"))
    pair = certificate(tmp_path, host_of(served))
    with private_index(served, pair=pair) as address:
        monkeypatch.setenv("COMPANY_INDEX", f"https://trainer:wrong@{address}")
        mine = replace(backend, index_urls=("env:COMPANY_INDEX",), ca_bundle=str(pair[0]))
        ended, _ = run(namespace, job, backend=mine)
        assert ended.state is JobState.JOB_STATE_FAILED
        assert f"index: https://{address}/secretdep/: HTTP 401" in ended.error
        assert "wrong" not in ended.error
    monkeypatch.delenv("COMPANY_INDEX")
    ended, _ = run(namespace, job, backend=replace(backend, index_urls=("env:COMPANY_INDEX",)))
    assert "index_urls[0] refers to env:COMPANY_INDEX" in ended.error
    assert left_of(namespace, "pods") == []
    assert left_of(namespace, "secrets") == ["login"]


def test_an_index_without_a_password_is_trusted_by_the_authorities_of_ca_bundle(
    namespace: str,  # noqa: F811
    backend: KubernetesBackend,  # noqa: F811
    served: Registry,  # noqa: F811
    tmp_path: Path,
) -> None:
    job = job_of(task_of(wheel(tmp_path, "greeter", requires="secretdep"), f"{served.address}/base/py:1"))
    pair = certificate(tmp_path, host_of(served))
    with private_index(served, OpenIndex, pair) as address:
        mine = replace(backend, index_urls=(f"https://{address}",), ca_bundle=str(pair[0]))
        ended, told = run(namespace, job, backend=mine)
    assert ended.state is JobState.JOB_STATE_SUCCEEDED, (ended.error, told.said)
    assert "installed greeter==0.1 secretdep==0.1" in prepared(ended).notes
