"""What is sent to Kubernetes for Python packages: an init container of each replica that installs them, or one Pod that makes an
image of them. Pure data, but for the archives themselves.

In the builder Pod one container installs: it runs code of packages, and has no password and no service account's token. The
other one alone has the registry's password: it runs nothing of what was installed, and follows no link in it.
"""

from __future__ import annotations

import base64
import inspect
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_customjob.backends.kubernetes import names
from airflow_customjob.packaging import Fetched, append_layer, content_key, install
from airflow_customjob.packaging.recipe import filename_of
from airflow_customjob.plan.types import JobPlan, PoolPlan

if TYPE_CHECKING:
    from airflow_customjob.backends.kubernetes.backend import KubernetesBackend

ORDERS, WORK, SPOOL, LOGIN = (f"/opt/customjob/{name}" for name in ("orders", "work", "spool", "login"))
"""Folders of the containers that install and append: what they are told, what they may write to, and a registry's login."""
ORDER, APPEND = "order.json", "append.json"
MAX_SECRET = 900_000
"""Bytes of packages in one Secret, which with all that is around them takes 1 MiB."""
MAX_BUILD = 16 * MAX_SECRET
"""Bytes of packages that a builder is brought, in as many Secrets."""
RESULT = "/dev/termination-log"
REQUESTS = {"requests": {"cpu": "100m", "memory": "256Mi"}}
"""Of a builder, where the template says nothing."""
_PLACING = (
    "affinity", "hostAliases", "imagePullSecrets", "nodeSelector", "priorityClassName", "runtimeClassName", "securityContext",
    "tolerations",
)  # fmt: skip
"""What of the user's Pod a builder has too: where it may run, and as whom."""
_CONTAINERS = ("imagePullPolicy", "resources", "securityContext")


# -- in each replica ------------------------------------------------------------------------------------------------


def is_built(plan: JobPlan, pool: PoolPlan) -> bool:
    """Whether its packages are in an image already."""
    return "@" in plan.prepared.artifacts.get(str(pool.index), "") and pool.package is not None


def image_of(plan: JobPlan, pool: PoolPlan) -> str:
    return plan.prepared.artifacts[str(pool.index)] if is_built(plan, pool) else pool.image


def archive_names(plan: JobPlan, pool: PoolPlan) -> list[str]:
    """File names of a pool's packages, as ``prepare`` settled them; before that, as its URIs have them."""
    if settled := plan.prepared.artifacts.get(str(pool.index), ""):
        return settled.split("/")[1:]
    return [filename_of(uri) for uri in (pool.package.uris if pool.package else ())]


def archives_of(plan: JobPlan, pool: PoolPlan, archives: Iterable[bytes], backend: KubernetesBackend) -> dict[str, Any]:
    """A Secret with a pool's packages, and with how they are installed.

    :param archives: each package, in order.
    """
    order = _order(_paths(archive_names(plan, pool)), backend, compile=False)
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": _secret_name(plan, pool),
            "labels": names.job_labels(plan.job_id, names.PACKAGE),
            "annotations": {names.DIGEST: plan.prepared.artifacts.get(str(pool.index), "")},
        },
        "stringData": {"install.py": inspect.getsource(install), ORDER: json.dumps(order)},
        "data": {str(number): base64.b64encode(archive).decode() for number, archive in enumerate(archives)},
    }


def volumes_of(plan: JobPlan, pool: PoolPlan) -> list[dict[str, Any]]:
    """Of a Pod whose init container installs."""
    paths = {"install.py": "install.py", ORDER: ORDER} | {
        str(number): path for number, path in enumerate(_paths(archive_names(plan, pool)))
    }
    items = [{"key": key, "path": path} for key, path in paths.items()]
    return [
        {"name": "customjob-orders", "secret": {"secretName": _secret_name(plan, pool), "items": items}},
        {"name": "customjob-work", "emptyDir": {}},
        {"name": "customjob-packages", "emptyDir": {}},
    ]


def installer(image: str, env: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Installs the packages as Vertex AI's executor does, into a folder that the replica then has."""
    return {
        "name": names.INSTALLER,
        "image": image,
        "command": ["python3", f"{ORDERS}/install.py"],
        "env": list(env),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": "customjob-orders", "mountPath": ORDERS, "readOnly": True},
            {"name": "customjob-work", "mountPath": WORK},
            installed(),
        ],
    }


def installed() -> dict[str, Any]:
    """How a container has what was installed."""
    return {"name": "customjob-packages", "mountPath": install.USER_BASE}


def _paths(filenames: Iterable[str]) -> list[str]:
    return [f"{number}/{filename}" for number, filename in enumerate(filenames)]


def _order(packages: Sequence[str], backend: KubernetesBackend, **more: Any) -> dict[str, Any]:
    return {
        "packages": packages,
        "indexes": list(backend.index_urls),
        "certificates": None,
        "seconds": backend.build_timeout,
        "gate": None,
        "work": WORK,
        "only_user_base": True,
        **more,
    }


def _secret_name(plan: JobPlan, pool: PoolPlan) -> str:
    return names.object_name(plan.job_id, plan.generation, names.PACKAGE, pool.index)


# -- in an image of their own ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Build:
    """Packages that go into an image.

    :param base: the executor image's name: its digest is part of the key where the name has one.
    """

    base: str
    packages: tuple[Fetched, ...]
    backend: KubernetesBackend = field(repr=False)

    @property
    def key(self) -> str:
        return content_key(self.base, self.packages, options=(self.repository, *self.backend.index_urls))[:24]

    @property
    def repository(self) -> str:
        return (self.backend.registry or "").rstrip("/")

    @property
    def name(self) -> str:
        """Of the Pod that builds, and of the ConfigMap that says what came of it."""
        return f"customjob-build-{self.key}"

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
    backend, spec = build.backend, template.get("spec", {})
    orders = {"name": "customjob-orders", "mountPath": ORDERS, "readOnly": True}
    user: dict[str, Any] = next((item for item in spec.get("containers", ()) if item["name"] == names.CONTAINER), {})
    common = {"image": build.base, "resources": REQUESTS, **{key: user[key] for key in _CONTAINERS if key in user}}
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
    placed = {key: spec[key] for key in _PLACING if key in spec}
    if backend.image_pull_secrets:
        placed["imagePullSecrets"] = [{"name": secret} for secret in backend.image_pull_secrets]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": build.name, "labels": build.labels, "annotations": dict(names.DEFAULTS)},
        "spec": {
            **placed,
            "restartPolicy": "Never",
            "activeDeadlineSeconds": int(backend.build_timeout) + 60,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "initContainers": [{**installer(build.base, ()), **common}],
            "containers": [appender],
            "volumes": volumes,
        },
    }


def builder_secrets(build: Build, archives: Sequence[bytes], owner: dict[str, Any]) -> list[dict[str, Any]]:
    """What the builder is brought: the first one with its orders, then packages in pieces. They go with their Pod.

    :param owner: a reference to the Pod.
    """
    pieces = [(path, cut) for path, archive in zip(_paths_of(build), archives, strict=True) for cut in cuts(archive)]
    parts: dict[str, list[str]] = {}
    for number, (path, _) in enumerate(pieces):
        parts.setdefault(f"{WORK}/{path}", []).append(_piece(number))
    order = _order(list(parts), build.backend, compile=True, parts=parts)
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
        "certificates": None,
        "spool": SPOOL,
        "result": RESULT,
    }
    texts = {
        "install.py": inspect.getsource(install),
        "append_layer.py": inspect.getsource(append_layer),
        ORDER: json.dumps(order),
        APPEND: json.dumps(append),
    }
    secrets: list[dict[str, Any]] = [{"stringData": texts}]
    secrets += [{"data": {"piece": base64.b64encode(piece).decode()}} for _, piece in pieces]
    return [
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": f"{build.name}-{number}", "labels": build.labels, "ownerReferences": [owner]},
            **secret,
        }
        for number, secret in enumerate(secrets)
    ]


def cuts(archive: bytes) -> list[bytes]:
    return [archive[start : start + MAX_SECRET] for start in range(0, len(archive), MAX_SECRET)]


def _sources(build: Build, pieces: int) -> list[dict[str, Any]]:
    texts = ["install.py", "append_layer.py", ORDER, APPEND]
    return [
        {"secret": {"name": f"{build.name}-0", "items": [{"key": text, "path": text} for text in texts]}},
        *(
            {"secret": {"name": f"{build.name}-{number + 1}", "items": [{"key": "piece", "path": _piece(number)}]}}
            for number in range(pieces)
        ),
    ]


def _paths_of(build: Build) -> list[str]:
    return _paths(item.filename for item in build.packages)


def _piece(number: int) -> str:
    return f"pieces/{number:04}"
