"""What is sent to Kubernetes for Python packages that an init container of each replica installs. Pure data, but for the archives
themselves. Where an image is made of them, see :mod:`airflow_customjob.backends.kubernetes.builders`.
"""

from __future__ import annotations

import base64
import inspect
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from airflow_customjob.backends.base import LaunchRefused
from airflow_customjob.backends.kubernetes import errands, names
from airflow_customjob.packaging import Fetched, install
from airflow_customjob.plan.types import JobPlan, PoolPlan

if TYPE_CHECKING:
    from airflow_customjob.backends.kubernetes.backend import KubernetesBackend

ORDERS, WORK = "/opt/customjob/orders", "/opt/customjob/work"
"""Folders of a container that installs: what it is told, and what it may write to."""
ORDER = "order.json"
MAX_SECRET = 900_000
"""Bytes of packages in one Secret, which with all that is around them takes 1 MiB."""
_TELL = f"import time; print(open('{WORK}/out/{install.PINS}').read(), flush=True); time.sleep(2)"
"""What it prints just before it ends some runtimes lose."""
_URL = "%/:?#[]@!$&'()*+,;=~"
"""What of a URL is to stay as it is."""


def is_built(plan: JobPlan, pool: PoolPlan) -> bool:
    """Whether its packages are in an image already."""
    return "@" in plan.prepared.artifacts.get(str(pool.index), "") and pool.package is not None


def image_of(plan: JobPlan, pool: PoolPlan) -> str:
    return plan.prepared.artifacts[str(pool.index)] if is_built(plan, pool) else pool.image


def installed_by_replicas(plan: JobPlan) -> list[PoolPlan]:
    """Of the pools that install alike, one each."""
    return [pool for pool, *_ in plan.alike() if pool.package is not None and not is_built(plan, pool)]


def pins_of(plan: JobPlan, pool: PoolPlan) -> tuple[Mapping[str, str], ...] | None:
    """What was settled of the versions of its dependencies; None: nothing has to be, or was yet."""
    return plan.prepared.pins.get(str(_first(plan, pool).index))


def by_uri(pool: PoolPlan, fetched: Sequence[Fetched]) -> dict[int, str]:
    """The URL of each package that is fetched by those who install, by its place in the list: none where all fit into a Secret, else
    whatever a URL without a login leads to.

    :raises LaunchRefused: the others are too large.
    """
    if sum(package.size for package in fetched) <= MAX_SECRET or pool.package is None:
        return {}
    urls = {number: quote(uri, safe=_URL) for number, uri in enumerate(pool.package.uris) if _leads_there(uri)}
    left = [package for number, package in enumerate(fetched) if number not in urls]
    if (size := sum(package.size for package in left)) > MAX_SECRET:
        uris = ", ".join(package.uri for package in left)
        raise LaunchRefused(
            f"the packages of {pool.name} have {size:,} bytes ({uris}); {MAX_SECRET:,} can be brought to Pods by a Secret: name them by "
            "an http(s):// URL without a login that the cluster reaches (https://storage.googleapis.com/BUCKET/NAME of a public "
            "object), give the backend a registry=, or let them depend on what an index has"
        )
    return urls


def _leads_there(uri: str) -> bool:
    try:
        parts = urlsplit(uri)
    except ValueError:
        return False
    return parts.scheme.lower() in ("http", "https") and "@" not in parts.netloc


def archives_of(
    plan: JobPlan, pool: PoolPlan, fetched: Sequence[Fetched], archives: Iterable[bytes], backend: KubernetesBackend
) -> dict[str, Any]:
    """A Secret with a pool's packages, and with how they are had and installed.

    :param archives: in order, each package that is not fetched by its URI.
    """
    urls = by_uri(pool, fetched)
    paths = [f"{WORK}/{path}" for path in numbered(package.filename for package in fetched)]
    order = order_of(
        paths,
        backend,
        compile=False,
        parts={path: [str(number)] for number, path in enumerate(paths) if number not in urls},
        fetch={
            paths[number]: {
                "url": url,
                "shown": fetched[number].uri,
                "sha256": fetched[number].sha256,
                "size": fetched[number].size,
            }
            for number, url in urls.items()
        },
    )
    brought = (str(number) for number in range(len(fetched)) if number not in urls)
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": _secret_name(plan, pool), "labels": names.job_labels(plan.job_id, names.PACKAGE)},
        "stringData": {"install.py": inspect.getsource(install), ORDER: json.dumps(order)},
        "data": {key: base64.b64encode(archive).decode() for key, archive in zip(brought, archives, strict=True)},
    }


def volumes_of(plan: JobPlan, pool: PoolPlan, *, pinned: bool) -> list[dict[str, Any]]:
    """Of a Pod whose init container installs.

    :param pinned: what it depends on comes to versions that were settled before.
    """
    sources: list[dict[str, Any]] = [{"secret": {"name": _secret_name(plan, pool)}}]
    if pinned:
        sources.append({"configMap": {"name": pins_name(plan, pool)}})
    return [
        {"name": "customjob-orders", "projected": {"sources": sources}},
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


def resolver(
    plan: JobPlan, pool: PoolPlan, env: Sequence[dict[str, Any]], template: dict[str, Any], backend: KubernetesBackend
) -> dict[str, Any]:
    """The Pod that installs once, to settle the versions that all replicas then have. One container installs; the other one tells
    what it came to, and nothing else.

    :param env: of the replicas.
    :param template: the user's Pod.
    """
    common = errands.container_of(template, pool.image)
    installs = installer(pool.image, env)
    installs["command"] = [*installs["command"], "--pin"]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": pins_name(plan, pool),
            "labels": {**backend.mapping("labels"), **names.job_labels(plan.job_id, names.PINS)},
            "annotations": {**names.DEFAULTS, **backend.mapping("annotations")},
        },
        "spec": {
            **errands.spec_of(template, backend),
            "initContainers": [{**installs, **errands.powerless(common)}],
            "containers": [
                {
                    **common,
                    "name": names.PINS,
                    "command": ["python3", "-I", "-S", "-c", _TELL],
                    "volumeMounts": [{"name": "customjob-work", "mountPath": WORK, "readOnly": True}],
                }
            ],
            "volumes": volumes_of(plan, pool, pinned=False),
        },
    }


def config_map_of(plan: JobPlan, pool: PoolPlan, pins: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """What :func:`resolver` came to, for those who install after it."""
    metadata = {"name": pins_name(plan, pool), "labels": names.job_labels(plan.job_id, names.PINS)}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata,
        "data": {install.PINS: json.dumps(list(pins))},
    }


def installed() -> dict[str, Any]:
    """How a container has what was installed."""
    return {"name": "customjob-packages", "mountPath": install.USER_BASE}


def numbered(filenames: Iterable[str]) -> list[str]:
    return [f"{number}/{filename}" for number, filename in enumerate(filenames)]


def order_of(packages: Sequence[str], backend: KubernetesBackend, **more: Any) -> dict[str, Any]:
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


def pins_name(plan: JobPlan, pool: PoolPlan) -> str:
    """Of the Pod that settles versions, and of the ConfigMap that holds them."""
    return names.object_name(plan.job_id, plan.generation, names.PINS, _first(plan, pool).index)


def _secret_name(plan: JobPlan, pool: PoolPlan) -> str:
    return names.object_name(plan.job_id, plan.generation, names.PACKAGE, _first(plan, pool).index)


def _first(plan: JobPlan, pool: PoolPlan) -> PoolPlan:
    """Of those that install alike."""
    return next(group[0] for group in plan.alike() if any(pool.index == other.index for other in group))
