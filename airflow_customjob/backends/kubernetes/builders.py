"""What is sent to Kubernetes to make an image of packages: a Pod of the executor image. Pure data, but for the archives themselves.

One container installs: it runs code of packages, and has no password, no capability and no service account's token. Another one
alone has the registry's password: it runs nothing of what was installed, and follows no link in it. Where an index needs a
password, a third one alone has that, and answers the first one at 127.0.0.1 (:mod:`airflow_customjob.packaging.gate`). They share a
network namespace, in which a container without capabilities reads nobody's traffic, and no process namespace.
"""

from __future__ import annotations

import base64
import inspect
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_customjob.backends.indexes import Index, is_reference
from airflow_customjob.backends.kubernetes import errands, names
from airflow_customjob.backends.kubernetes.packages import (
    MAX_SECRET,
    ORDER,
    ORDERS,
    WORK,
    installed,
    installer,
    numbered,
    order_of,
)
from airflow_customjob.packaging import Fetched, append_layer, content_key, gate, install

if TYPE_CHECKING:
    from airflow_customjob.backends.kubernetes.backend import KubernetesBackend

SPOOL, LOGIN, GATE = (f"/opt/customjob/{name}" for name in ("spool", "login", "gate"))
"""Folders that one container has: what the one that appends may write to, a registry's login, and those of package indexes."""
APPEND, AUTHORITIES, RESULT = "append.json", "ca.pem", "/dev/termination-log"
MAX_BUILD = 16 * MAX_SECRET
"""Bytes of packages that a builder is brought, in as many Secrets."""
GATE_RESOURCES = {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"cpu": "1", "memory": "256Mi"}}


@dataclass(frozen=True)
class Build:
    """Packages that go into an image.

    :param base: the executor image: its digest is part of the key where that is known, else its name.
    :param platform: of the nodes that the user's Pod is for, ``amd64``; empty: it does not say.
    """

    base: str
    packages: tuple[Fetched, ...]
    backend: KubernetesBackend = field(repr=False)
    platform: str = ""

    @property
    def key(self) -> str:
        options = (self.repository, *self.backend.index_urls, *filter(None, (self.platform,)))
        return content_key(self.base.rpartition("@")[2], self.packages, options=options)[:24]

    @property
    def repository(self) -> str:
        return (self.backend.registry or "").rstrip("/")

    @property
    def name(self) -> str:
        """Of the Pod that builds, and of the ConfigMap that says what came of it."""
        return f"customjob-build-{self.key}"

    @property
    def has_gate(self) -> bool:
        return any(map(is_reference, self.backend.index_urls))

    @property
    def labels(self) -> dict[str, str]:
        return {**names.MANAGED, names.KIND: names.BUILD}

    @property
    def names(self) -> str:
        return ", ".join(item.filename for item in self.packages)

    @property
    def provenance(self) -> dict[str, str]:
        """Labels of the image."""
        hashes = " ".join(f"{item.filename}@sha256:{item.sha256}" for item in self.packages)
        return {f"{names.PREFIX}/executor": self.base, f"{names.PREFIX}/packages": hashes}


def builder(build: Build, template: dict[str, Any], pieces: int) -> dict[str, Any]:
    """The Pod that builds.

    :param template: the user's Pod.
    :param pieces: how many Secrets bring the packages.
    """
    backend = build.backend
    orders = {"name": "customjob-orders", "mountPath": ORDERS, "readOnly": True}
    common = errands.container_of(template, build.base)
    appender: dict[str, Any] = {
        **common,
        "name": names.APPENDER,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "command": ["python3", "-I", "-S", f"{ORDERS}/append_layer.py"],
        "volumeMounts": [
            orders,
            {"name": "customjob-work", "mountPath": WORK, "readOnly": True},
            installed() | {"readOnly": True},
            {"name": "customjob-spool", "mountPath": SPOOL},
        ],
    }
    volumes: list[dict[str, Any]] = [
        {"name": "customjob-orders", "projected": {"sources": _sources(build, pieces)}},
        *({"name": f"customjob-{name}", "emptyDir": {}} for name in ("work", "packages", "spool")),
    ]
    if backend.registry_secret:
        items = [{"key": ".dockerconfigjson", "path": "config.json"}]
        volumes.append({"name": "customjob-login", "secret": {"secretName": backend.registry_secret, "items": items}})
        appender["volumeMounts"].append({"name": "customjob-login", "mountPath": LOGIN, "readOnly": True})
    installs = {**installer(build.base, ()), **errands.powerless(common)}
    gates: list[dict[str, Any]] = []
    if build.has_gate:
        volumes.append({"name": "customjob-gate", "secret": {"secretName": f"{build.name}-gate"}})
        gates.append(
            {
                **common,
                "name": names.INDEXES,
                "restartPolicy": "Always",  # which makes a sidecar of it
                "resources": GATE_RESOURCES,
                "command": ["python3", "-I", f"{GATE}/gate.py"],
                "volumeMounts": [{"name": "customjob-gate", "mountPath": GATE, "readOnly": True}],
            }
        )
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": build.name, "labels": build.labels, "annotations": dict(names.DEFAULTS)},
        "spec": {
            **errands.spec_of(template, backend),
            "schedulingGates": [{"name": names.GATE}],
            "initContainers": [*gates, installs],
            "containers": [appender],
            "volumes": volumes,
        },
    }


def builder_secrets(
    build: Build,
    archives: Sequence[bytes],
    indexes: Sequence[Index],
    owner: dict[str, Any],
    authorities: bytes | None = None,
) -> list[dict[str, Any]]:
    """What the builder is brought: the first one with its orders, then packages in pieces, and the passwords. They go with
    their Pod.

    :param indexes: with their passwords.
    :param owner: a reference to the Pod.
    :param authorities: what ``ca_bundle`` holds.
    """
    pieces = [
        (path, cut)
        for path, archive in zip(numbered(item.filename for item in build.packages), archives, strict=True)
        for cut in cuts(archive)
    ]
    parts: dict[str, list[str]] = {}
    for number, (path, _) in enumerate(pieces):
        parts.setdefault(f"{WORK}/{path}", []).append(_piece(number))
    certificates = f"{ORDERS}/{AUTHORITIES}" if authorities else None
    order = order_of(list(parts), build.backend, compile=True, parts=parts, certificates=certificates)
    if build.has_gate:
        here = [f"http://127.0.0.1:{gate.PORT}/{number}" for number in range(len(indexes))]
        order.update(indexes=here, gate=gate.PORT, certificates=None)
    append = {
        "base": build.base,
        "target": f"{build.repository}:{build.key}",
        "tree": install.USER_BASE,
        "at": install.USER_BASE,
        "env": {"PYTHONUSERBASE": install.USER_BASE},
        "labels": build.provenance,
        "notes": f"{WORK}/out/installed.json",
        "noted_as": f"{names.PREFIX}/versions",
        "auths": f"{LOGIN}/config.json" if build.backend.registry_secret else None,
        "plain_http": [build.repository.partition("/")[0]] if build.backend.registry_plain_http else [],
        "certificates": certificates,
        "spool": SPOOL,
        "result": RESULT,
    }
    trusted = {AUTHORITIES: authorities.decode(errors="replace")} if authorities else {}
    texts = {
        "install.py": inspect.getsource(install),
        "append_layer.py": inspect.getsource(append_layer),
        ORDER: json.dumps(order),
        APPEND: json.dumps(append),
        **trusted,
    }
    secrets: dict[str, dict[str, Any]] = {"0": {"stringData": texts}}
    for number, (_, piece) in enumerate(pieces, 1):
        secrets[str(number)] = {"data": {"piece": base64.b64encode(piece).decode()}}
    if build.has_gate:
        ways = {
            "indexes": [{"url": index.url, "login": index.login} for index in indexes],
            "certificates": f"{GATE}/{AUTHORITIES}" if authorities else None,
            "seconds": build.backend.build_timeout + errands.MARGIN,
            "kept": True,
            "closes": [],
        }
        secrets["gate"] = {"stringData": {"gate.py": inspect.getsource(gate), "gate.json": json.dumps(ways), **trusted}}
    return [
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": f"{build.name}-{part}", "labels": build.labels, "ownerReferences": [owner]},
            **secret,
        }
        for part, secret in secrets.items()
    ]


def cuts(archive: bytes) -> list[bytes]:
    return [archive[start : start + MAX_SECRET] for start in range(0, len(archive), MAX_SECRET)]


def _sources(build: Build, pieces: int) -> list[dict[str, Any]]:
    texts = ["install.py", "append_layer.py", ORDER, APPEND, *([AUTHORITIES] if build.backend.ca_bundle else [])]
    return [
        {"secret": {"name": f"{build.name}-0", "items": [{"key": text, "path": text} for text in texts]}},
        *(
            {"secret": {"name": f"{build.name}-{number + 1}", "items": [{"key": "piece", "path": _piece(number)}]}}
            for number in range(pieces)
        ),
    ]


def _piece(number: int) -> str:
    return f"pieces/{number:04}"
