"""Why Kubernetes will not have a replica, and whose rule that is: told from the API server's own words. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

from airflow_customjob.backends.base import EngineBusy, EngineError, LaunchRefused
from airflow_customjob.backends.kubernetes.api import ApiError

RESOURCES_EXHAUSTED, PERMISSION_DENIED, INVALID_ARGUMENT = 8, 7, 3
"""google.rpc codes."""
_QUOTA = re.compile(
    r"exceeded quota: (?P<quota>\S+), requested: (?P<requested>\S+), used: (?P<used>\S+), limited: (?P<limited>\S+)"
)
_RBAC = re.compile(r'User "(?P<user>[^"]+)" cannot (?P<verb>\S+) resource "(?P<resource>[^"]+)"')
_SUFFIXES = {
    "": Decimal(1),
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("0.001"),
    **{suffix: Decimal(1000) ** power for power, suffix in enumerate(("k", "M", "G", "T", "P", "E"), 1)},
    **{suffix: Decimal(1024) ** power for power, suffix in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), 1)},
}
_NUMBER = re.compile(r"([+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?)([A-Za-z]{0,2})")


def refusal(error: ApiError, what: str, replica: str, pods: Iterable[Mapping[str, Any]] = ()) -> EngineError:
    """What is to be raised for an error of a creation.

    :param what: the object, for people.
    :param pods: the whole gang's manifests: a quota that it does not fit into is no matter of waiting.
    """
    if (quota := _QUOTA.search(error.said)) is not None:
        return _over_quota(quota, what, replica, list(pods))
    if (denied := _RBAC.search(error.said)) is not None:
        return LaunchRefused(
            f"{what} cannot be created: {denied['user']} lacks the verb {denied['verb']!r} on {denied['resource']!r} in this "
            "namespace (RBAC): give it the Role of the documentation's Kubernetes page",
            replica=replica,
            code=PERMISSION_DENIED,
        )
    if error.status in (400, 403, 404, 422):
        whose = "an admission webhook" if "admission webhook" in error.said else "the API server"
        return LaunchRefused(f"{what} was refused by {whose}: {error.said}", replica=replica, code=INVALID_ARGUMENT)
    return error


def lacking(error: ApiError) -> str | None:
    """The verb and resource that RBAC has refused; None: it was something else."""
    denied = _RBAC.search(error.said)
    return None if denied is None else f"{denied['verb']} {denied['resource']}"


def _over_quota(quota: re.Match[str], what: str, replica: str, pods: list[Mapping[str, Any]]) -> EngineError:
    message = (
        f"{what} does not fit into the ResourceQuota {quota['quota']}: it requests {quota['requested']}, "
        f"{quota['used']} are used, the limit is {quota['limited']}"
    )
    limits = _amounts(quota["limited"])
    for resource, limit in limits.items():
        needed = sum((_need(pod, resource) for pod in pods), Decimal(0))
        if needed > limit:
            return LaunchRefused(
                f"{message}. All {len(pods)} replicas need {needed.normalize():f} of {resource}, more than the quota ever "
                "gives: raise it, or ask for fewer replicas or smaller machines",
                replica=replica,
                code=RESOURCES_EXHAUSTED,
            )
    return EngineBusy(f"{message}; the job waits until there is room")


def _need(pod: Mapping[str, Any], resource: str) -> Decimal:
    if resource in ("pods", "count/pods"):
        return Decimal(1)
    section, dot, name = resource.partition(".")
    if not dot or section not in ("requests", "limits"):
        section, name = "requests", resource
    total = Decimal(0)
    for container in pod["spec"]["containers"]:
        resources = container.get("resources", {})
        value = resources.get(section, {}).get(name) or resources.get("limits", {}).get(name)
        total += quantity(value) if value is not None else Decimal(0)
    return total


def _amounts(text: str) -> dict[str, Decimal]:
    """Of ``pods=2,requests.cpu=500m``."""
    pairs = (item.partition("=") for item in text.split(","))
    return {name: quantity(value) for name, _, value in pairs if value}


def quantity(text: str) -> Decimal:
    """Of ``500m``, ``1Gi``, ``2``, ``1e3``.

    :raises ValueError: it is none.
    """
    match = _NUMBER.fullmatch(text)
    if match is None or match[2] not in _SUFFIXES:
        raise ValueError(f"{text!r} is no quantity")
    return Decimal(match[1]) * _SUFFIXES[match[2]]
