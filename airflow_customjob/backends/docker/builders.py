"""What is sent to Docker to install packages: a container of the executor image that installs, and one that is its way out.

The two share a network namespace and nothing else. What installs runs code of packages: it has no capabilities, no volume of
the user, no password, and no way to the cloud's metadata. What it is sent, and what it caches, lies in an anonymous volume, of
which no image is made. Pure data.
"""

from __future__ import annotations

import inspect
import io
import json
import re
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from airflow_customjob.backends.docker.body import BuildSettings, Host
from airflow_customjob.backends.docker.labels import EXECUTOR, KIND, KIND_BUILD, PACKAGES, UNTIL, VERSIONS
from airflow_customjob.backends.indexes import Index
from airflow_customjob.packaging import Fetched, content_key, gate, install

REPOSITORY = "customjob"
"""Of the images that are built here; their tag is the key."""
FOLDER = "/customjob-build"
INSTALLED = f"{FOLDER}/out/installed.json"
"""Versions by project, of what was installed."""
PIDS = 4096
"""Processes and threads of a compiler that is run on every core of a large machine."""
MARGIN = 60.0
"""Seconds beyond ``build_timeout`` after which a builder that still runs was made to."""
LOG_CONFIG = {"Type": "json-file", "Config": {"max-size": "20m", "max-file": "1"}}
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+!-]{0,127}")
DROPPED = {"CapDrop": ["ALL"], "SecurityOpt": ["no-new-privileges"]}


@dataclass(frozen=True)
class Build:
    """Packages that go into an executor image.

    :param base: the executor image, as inspected.
    :param image: its name, for people.
    """

    base: dict[str, Any] = field(repr=False)
    image: str
    packages: tuple[Fetched, ...]
    settings: BuildSettings

    @property
    def key(self) -> str:
        platform = "/".join(filter(None, (self.base.get(name) for name in ("Os", "Architecture", "Variant"))))
        return content_key(self.base["Id"], self.packages, platform=platform, options=self.settings.index_urls)[:24]

    @property
    def tag(self) -> str:
        return f"{REPOSITORY}:{self.key}"

    @property
    def name(self) -> str:
        """Of the container that installs: there is one at a time, whoever asks."""
        return f"customjob-build-{self.key}"

    @property
    def names(self) -> str:
        return ", ".join(item.filename for item in self.packages)

    def until(self, now: float) -> dict[str, str]:
        """Labels of what is there only while packages are installed."""
        return {**self.labels, UNTIL: f"{now + self.settings.timeout + MARGIN:.0f}"}

    @property
    def labels(self) -> dict[str, str]:
        return {
            KIND: KIND_BUILD,
            EXECUTOR: self.image,
            PACKAGES: " ".join(f"{item.filename}@sha256:{item.sha256}" for item in self.packages),
        }


def gate_body(build: Build, now: float) -> dict[str, Any]:
    """The way out. As root, since what it must do first is root's alone."""
    return _body(build, gate, ["-I"], now) | {
        "User": "0:0",
        "HostConfig": {
            **_host_config(),
            "CapAdd": ["NET_ADMIN"],
            "Memory": 256 * 2**20,
            "PidsLimit": 256,
        },
    }


def builder_body(build: Build, gate_id: str, memory: int, host: Host, now: float) -> dict[str, Any]:
    """What installs, as the image's own user."""
    return _body(build, install, [], now) | {
        "HostConfig": {
            **_host_config(),
            "NetworkMode": f"container:{gate_id}",
            "NanoCpus": int(min(build.settings.cpus or host.cpus, host.cpus) * 1e9),
            "Memory": memory,
            "MemorySwap": memory,
            "PidsLimit": PIDS,
        }
    }


def _body(build: Build, script: Any, options: list[str], now: float) -> dict[str, Any]:
    return {
        "Image": build.base["Id"],
        "Entrypoint": [],
        "Cmd": ["python3", *options, _path_of(script)],
        "WorkingDir": "/",
        "Labels": build.until(now),
    }


def _host_config() -> dict[str, Any]:
    volume = {"Type": "volume", "Target": FOLDER, "VolumeOptions": {"NoCopy": True}}
    return {"Init": True, "LogConfig": LOG_CONFIG, "Mounts": [volume], **DROPPED}


def _path_of(script: Any) -> str:
    return f"{FOLDER}/{script.__name__.rpartition('.')[2]}.py"


def gate_files(build: Build, indexes: Sequence[Index], certificates: bytes | None) -> bytes:
    """:param indexes: with their passwords."""
    order = {
        "indexes": [{"url": index.url, "login": index.login} for index in indexes],
        "certificates": f"{FOLDER}/ca.pem" if certificates else None,
        "seconds": build.settings.timeout + MARGIN,
        "kept": False,
        "closes": [gate.LINK_LOCAL],
    }
    return _tar(_scripts(gate, "gate.json", order, certificates))


def builder_files(build: Build, certificates: bytes | None) -> bytes:
    """A tar for ``/``; the installation's own folder may be written to by the image's user, whoever that is."""
    paths = [f"{number}/{item.filename}" for number, item in enumerate(build.packages)]
    order = {
        "packages": paths,
        "indexes": [f"http://127.0.0.1:{gate.PORT}/{number}" for number in range(len(build.settings.index_urls))],
        "certificates": f"{FOLDER}/ca.pem" if certificates and not build.settings.index_urls else None,
        "seconds": build.settings.timeout,
        "gate": gate.PORT,
    }
    files = _scripts(install, "order.json", order, certificates)
    files += [(f"{FOLDER}/{path}", item.path.read_bytes()) for path, item in zip(paths, build.packages, strict=True)]
    return _tar(files, open_to_all=(install.USER_BASE, *(f"{FOLDER}/{name}" for name in ("out", "tmp"))))


def _scripts(script: Any, name: str, order: dict[str, Any], certificates: bytes | None) -> list[tuple[str, bytes]]:
    files = [(_path_of(script), inspect.getsource(script).encode()), (f"{FOLDER}/{name}", json.dumps(order).encode())]
    return files + ([(f"{FOLDER}/ca.pem", certificates)] if certificates else [])


def _tar(files: Sequence[tuple[str, bytes]], open_to_all: Sequence[str] = ()) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for path in open_to_all:
            folder = tarfile.TarInfo(path.lstrip("/"))
            folder.type, folder.mode = tarfile.DIRTYPE, 0o777
            tar.addfile(folder)
        for path, content in files:
            member = tarfile.TarInfo(path.lstrip("/"))
            member.size, member.mode = len(content), 0o444
            tar.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def versions_in(tar: bytes) -> dict[str, str]:
    """Versions by project, of the file :data:`INSTALLED` as Docker gives it; a package's code may have put anything there."""
    try:
        with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
            member = archive.next()
            file = archive.extractfile(member) if member is not None and member.isfile() else None
            found = json.loads(file.read()) if file else None
    except (tarfile.TarError, ValueError, EOFError, RecursionError):
        return {}
    pairs = found.items() if isinstance(found, dict) else ()
    return {name: str(version) for name, version in pairs if _WORD.fullmatch(name) and _WORD.fullmatch(str(version))}


def image_config(build: Build, installed: dict[str, str]) -> dict[str, Any]:
    """The executor image's own configuration, where the packages are, and where all of it came from."""
    config = build.base.get("Config") or {}
    env = [value for value in config.get("Env") or [] if not value.startswith("PYTHONUSERBASE=")]
    versions = " ".join(f"{name}=={version}" for name, version in sorted(installed.items()))
    labels = {**(config.get("Labels") or {}), **build.labels, f"{EXECUTOR}-id": build.base["Id"], VERSIONS: versions}
    return {**config, "Env": [*env, f"PYTHONUSERBASE={install.USER_BASE}"], "Labels": labels}
