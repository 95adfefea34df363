"""What a Pod that only installs has of the user's own Pod (``pod_template``), and what it has not. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_customjob.backends.kubernetes import names

if TYPE_CHECKING:
    from airflow_customjob.backends.kubernetes.backend import KubernetesBackend

REQUESTS = {"requests": {"cpu": "100m", "memory": "256Mi"}}
"""Of each container, where the template says nothing."""
MARGIN = 60
"""Seconds beyond ``build_timeout`` after which the cluster ends the Pod."""
_PLACING = (
    "affinity", "hostAliases", "imagePullSecrets", "nodeSelector", "priorityClassName", "runtimeClassName", "securityContext",
    "tolerations",
)  # fmt: skip
"""Where it may run, and as whom."""
_CONTAINERS = ("imagePullPolicy", "resources", "securityContext")


def spec_of(template: dict[str, Any], backend: KubernetesBackend) -> dict[str, Any]:
    """Of a Pod that runs once: without any token of the cluster."""
    user = template.get("spec", {})
    placed = {key: user[key] for key in _PLACING if key in user}
    if backend.image_pull_secrets:
        placed["imagePullSecrets"] = [{"name": secret} for secret in backend.image_pull_secrets]
    return {
        **placed,
        "restartPolicy": "Never",
        "activeDeadlineSeconds": int(backend.build_timeout) + MARGIN,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
    }


def container_of(template: dict[str, Any], image: str) -> dict[str, Any]:
    """What its containers have of the replica's container."""
    containers = template.get("spec", {}).get("containers", ())
    user: dict[str, Any] = next((item for item in containers if item["name"] == names.CONTAINER), {})
    return {"image": image, "resources": REQUESTS, **{key: user[key] for key in _CONTAINERS if key in user}}


def powerless(container: dict[str, Any]) -> dict[str, Any]:
    """The same without any capability, for code that is nobody's to trust."""
    given = container.get("securityContext", {})
    kept = {key: value for key, value in given.items() if key not in ("privileged", "procMount")}
    return {
        **container,
        "securityContext": {**kept, "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
