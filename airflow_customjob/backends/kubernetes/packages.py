"""What is sent to Kubernetes for Python packages that an init container of each replica installs. Pure data, but for the archives
themselves. Where an image is made of them, see :mod:`airflow_customjob.backends.kubernetes.builders`.
"""

from __future__ import annotations

import base64
import inspect
import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from airflow_customjob.backends.kubernetes import names
from airflow_customjob.packaging import install
from airflow_customjob.packaging.recipe import filename_of
from airflow_customjob.plan.types import JobPlan, PoolPlan

if TYPE_CHECKING:
    from airflow_customjob.backends.kubernetes.backend import KubernetesBackend

ORDERS, WORK = "/opt/customjob/orders", "/opt/customjob/work"
"""Folders of a container that installs: what it is told, and what it may write to."""
ORDER = "order.json"
MAX_SECRET = 900_000
"""Bytes of packages in one Secret, which with all that is around them takes 1 MiB."""


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
    order = order_of(numbered(archive_names(plan, pool)), backend, compile=False)
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
        str(number): path for number, path in enumerate(numbered(archive_names(plan, pool)))
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


def _secret_name(plan: JobPlan, pool: PoolPlan) -> str:
    return names.object_name(plan.job_id, plan.generation, names.PACKAGE, pool.index)
