"""A real registry for images (Debian's ``docker-registry``), of a test session's own."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import io
import json
import socket
import ssl
import subprocess
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OCI = "application/vnd.oci.image.{}.v1{}"
LOGIN, HASHED = "robot:pass:word", "$2y$04$abcdefghijklmnopqrstuu7govE5p0NSk1WUEk5C2Qm3hpPC6VJ66"
"""The only login that a registry of the tests knows, and its password as bcrypt has it."""
MANIFEST, INDEX = OCI.format("manifest", "+json"), OCI.format("index", "+json")


@dataclass(frozen=True)
class Registry:
    """
    :param address: ``host:port``.
    :param login: ``user:password``; empty: it asks for none.
    :param log: what it was asked for.
    """

    address: str
    login: str
    folder: Path
    log: Path
    authority: Path | None = None
    """By which its TLS is trusted; None: it has none."""

    @property
    def docker_config(self) -> str:
        """A ``.dockerconfigjson``."""
        return json.dumps({"auths": {self.address: {"auth": base64.b64encode(self.login.encode()).decode()}}})

    def call(self, method: str, path: str, data: Any = None, size: int | None = None, **headers: str) -> Any:
        url = path if "://" in path else f"{'https' if self.authority else 'http'}://{self.address}{path}"
        request = urllib.request.Request(url, data, method=method)
        for name, value in headers.items():
            request.add_header(name.replace("_", "-"), value)
        if size is not None:
            request.add_header("Content-Length", str(size))
        if self.login:
            request.add_header("Authorization", "Basic " + base64.b64encode(self.login.encode()).decode())
        trusting = ssl.create_default_context(cafile=self.authority) if self.authority else None
        return urllib.request.urlopen(request, timeout=60, context=trusting)

    def json(self, path: str) -> dict[str, Any]:
        with self.call("GET", path, Accept=f"{MANIFEST}, {INDEX}") as answer:
            return dict(json.load(answer))

    def push(self, repository: str, tag: str, layers: list[Path], config: dict[str, Any]) -> str:
        """An image of these tars; its digest."""
        kinds = OCI.format("layer", ".tar")
        made = [
            {"mediaType": kinds, "digest": self._blob(repository, layer), "size": layer.stat().st_size}
            for layer in layers
        ]
        return self.put_image(repository, tag, made, config)

    def put_image(self, repository: str, tag: str, layers: list[dict[str, Any]], config: dict[str, Any]) -> str:
        """:param layers: plain tars that the repository has, as a manifest names them."""
        whole = {
            "architecture": "amd64",
            "os": "linux",
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": [layer["digest"] for layer in layers]},
        }
        place = self.folder / "config.json"
        place.write_text(json.dumps(whole))
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {
                "mediaType": OCI.format("config", "+json"),
                "digest": self._blob(repository, place),
                "size": place.stat().st_size,
            },
            "layers": layers,
        }
        return self.put_manifest(repository, tag, manifest)

    def put_manifest(self, repository: str, tag: str, manifest: dict[str, Any]) -> str:
        body = json.dumps(manifest).encode()
        self.call("PUT", f"/v2/{repository}/manifests/{tag}", body, Content_Type=manifest["mediaType"]).close()
        return f"sha256:{hashlib.sha256(body).hexdigest()}"

    def _blob(self, repository: str, path: Path) -> str:
        with path.open("rb") as file:
            digest = "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
        with self.call("POST", f"/v2/{repository}/blobs/uploads/", b"") as begun:
            place = begun.headers["Location"]
        join = "&" if "?" in place else "?"
        with path.open("rb") as file:
            self.call(
                "PUT",
                f"{place}{join}digest={digest}",
                file,
                path.stat().st_size,
                Content_Type="application/octet-stream",
            ).close()
        return digest

    def layer(self, repository: str, digest: str) -> dict[str, tuple[tarfile.TarInfo, bytes]]:
        """What is in one, by path."""
        with self.call("GET", f"/v2/{repository}/blobs/{digest}") as answer:
            data = answer.read()
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            return {
                member.name: (member, tar.extractfile(member).read() if member.isreg() else b"")  # type: ignore[union-attr]
                for member in tar
            }


@contextmanager
def registry(
    folder: Path, address: str, login: str = "", certificate: tuple[Path, Path] | None = None
) -> Iterator[Registry]:
    """One that is gone afterwards, with all that it holds; another test session of this machine that wants the same address waits.

    :param certificate: and its key, for TLS.
    """
    folder.mkdir(parents=True, exist_ok=True)
    auth = ""
    if login:
        assert login == LOGIN
        (folder / "htpasswd").write_text(f"{login.partition(':')[0]}:{HASHED}\n")
        auth = f"auth:\n  htpasswd:\n    realm: tests\n    path: {folder}/htpasswd\n"
    tls = f"  tls:\n    certificate: {certificate[0]}\n    key: {certificate[1]}\n" if certificate else ""
    config = folder / "registry.yml"
    config.write_text(
        f"version: 0.1\nlog:\n  level: info\nstorage:\n  filesystem:\n    rootdirectory: {folder}/data\n"
        f"http:\n  addr: {address}\n{tls}{auth}"
    )
    with _only_at(address):
        log = folder / "registry.log"
        with log.open("wb") as output:
            process = subprocess.Popen(["docker-registry", "serve", config], stdout=output, stderr=output)
        try:
            made = Registry(address, login, folder, log, certificate and certificate[0])
            _wait_for(made, process)
            yield made
        finally:
            process.kill()
            process.wait()


@contextmanager
def _only_at(address: str) -> Iterator[None]:
    host, _, port = address.partition(":")
    with (Path(tempfile.gettempdir()) / f"customjob-registry-{address}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with socket.socket() as probe:
            assert probe.connect_ex((host, int(port))), f"another registry answers at {address}"
        yield


def _wait_for(made: Registry, process: subprocess.Popen[bytes]) -> None:
    for _ in range(200):
        try:
            made.call("GET", "/v2/").close()
        except urllib.error.HTTPError:
            raise
        except OSError:
            assert process.poll() is None, made.log.read_text()
            time.sleep(0.05)
        else:
            return
    raise AssertionError(f"no registry answers at {made.address}: {made.log.read_text()}")
