"""What a service account must be allowed to do, and what of it it is not: asked before anything is created."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

from airflow_customjob.backends.base import LaunchRefused
from airflow_customjob.backends.kubernetes.api import Api, ApiError
from airflow_customjob.backends.kubernetes.refusals import PERMISSION_DENIED

NEEDED: dict[str, tuple[str, ...]] = {
    "pods": ("create", "get", "list", "watch", "patch", "delete"),
    "pods/log": ("get",),
    "configmaps": ("create", "get", "list", "watch", "update", "delete", "deletecollection"),
    "services": ("create", "list", "delete"),
    "secrets": ("create", "deletecollection"),
    "namespaces": ("get",),
}
"""Verbs by resource; the documentation's Role."""

Wish = tuple[str, str]
"""Resource and verb."""


async def check(api: Api) -> None:
    """:raises LaunchRefused: verbs are missing; with all of them."""
    missing = await _missing(api)
    if missing:
        listed = ", ".join(f"{verb} {resource}" for resource, verb in missing)
        raise LaunchRefused(
            f"the account that is used in namespace {api.namespace} lacks (RBAC): {listed}; give it the Role of the "
            "documentation's Kubernetes page",
            code=PERMISSION_DENIED,
        )


async def _missing(api: Api) -> list[Wish]:
    """The list of rules may be incomplete (clusters with authorizers of their own): what it lacks is asked one by one."""
    rules: list[dict[str, Any]] = []
    try:
        answer = await _review(api, "selfsubjectrulesreviews", {"namespace": api.namespace})
        rules = answer["status"].get("resourceRules", [])
    except ApiError:
        pass
    doubtful = [
        (resource, verb) for resource, verbs in NEEDED.items() for verb in verbs if not _allows(rules, resource, verb)
    ]
    answers = await asyncio.gather(*(_may(api, *wish) for wish in doubtful))
    return [wish for wish, allowed in zip(doubtful, answers, strict=True) if not allowed]


async def _may(api: Api, resource: str, verb: str) -> bool:
    """True also where nobody says."""
    kind, _, part = resource.partition("/")
    attributes = {"namespace": api.namespace, "verb": verb, "resource": kind, "subresource": part}
    if kind == "namespaces":
        attributes["name"] = api.namespace
    try:
        answer = await _review(api, "selfsubjectaccessreviews", {"resourceAttributes": attributes})
    except ApiError:
        return True
    return bool(answer["status"]["allowed"])


async def _review(api: Api, kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    return await api.call("POST", f"/apis/authorization.k8s.io/v1/{kind}", body={"spec": spec})


def _allows(rules: Iterable[Mapping[str, Any]], resource: str, verb: str) -> bool:
    part = resource.partition("/")[2]
    names = {resource, "*"} | ({f"*/{part}"} if part else set())
    return any(
        not rule.get("resourceNames")
        and {verb, "*"} & set(rule.get("verbs", ()))
        and {"", "*"} & set(rule.get("apiGroups", ()))
        and names & set(rule.get("resources", ()))
        for rule in rules
    )
