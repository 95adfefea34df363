"""Every name, label and annotation that this engine gives, and how a Pod's labels are read back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_customjob.backends.base import ReplicaRef
from airflow_customjob.plan.types import JobId

PREFIX = "airflow-customjob"
MANAGED = {"app.kubernetes.io/managed-by": PREFIX}
MANAGED_SELECTOR = f"app.kubernetes.io/managed-by={PREFIX}"

JOB, KIND = f"{PREFIX}/job-id", f"{PREFIX}/kind"
GENERATION, ATTEMPT, REPLICA, RESTART = (f"{PREFIX}/{name}" for name in ("generation", "attempt", "replica", "restart"))
STATE = f"{PREFIX}/state"
"""Label of a record: for ``kubectl get configmaps -L``."""

DIGEST, DISPLAY_NAME, STOPPED = (f"{PREFIX}/{name}" for name in ("digest", "display-name", "stopped"))
"""Annotations; a Pod that we have told to stop has the last one: its end is its own, whatever its node calls it."""

DEFAULTS = {
    "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
    "karpenter.sh/do-not-disrupt": "true",
    "kubectl.kubernetes.io/default-container": "replica",
}
"""Annotations of every Pod unless the user gives others: an autoscaler that empties a half-used node would cost a restart."""

GATE = f"{PREFIX}/gang"
"""The scheduling gate that keeps a created Pod from running."""

KUEUE_GATE, KUEUE_FINALIZER = "kueue.x-k8s.io/admission", "kueue.x-k8s.io/managed"
"""What Kueue holds a Pod back by, and keeps it by until somebody replaces it or its whole group has succeeded."""

RECORD, NETWORK, FILES, PACKAGE, PINS, SECRET, BUILD = (
    "record", "network", "files", "package", "pins", "secret", "build",
)  # fmt: skip
"""What the label ``kind`` says of objects that are no replicas."""

CONTAINER = "replica"
"""The replica's own container; any other one of its Pod is a sidecar of ``pod_template``."""
INSTALLER = "packages"
"""The init container that installs a Python package."""
INDEXES = "indexes"
"""The sidecar of a builder that alone knows the passwords of package indexes."""
APPENDER = "image"
"""The container of a builder that makes an image of what was installed."""


def object_name(job_id: JobId, *parts: object) -> str:
    """The record and the Service of a job have its plain name."""
    return "-".join(["customjob", job_id, *map(str, parts)])


def job_labels(job_id: JobId, kind: str) -> dict[str, str]:
    return {**MANAGED, JOB: job_id, KIND: kind}


def replica_labels(ref: ReplicaRef) -> dict[str, str]:
    return {
        **MANAGED,
        JOB: ref.job_id,
        GENERATION: str(ref.generation),
        ATTEMPT: str(ref.attempt),
        REPLICA: ref.replica,
        RESTART: str(ref.restart),
    }


def ref_of(metadata: Mapping[str, Any]) -> ReplicaRef | None:
    """Which incarnation a Pod is; None: somebody else's."""
    labels = metadata.get("labels") or {}
    try:
        return ReplicaRef(
            JobId(labels[JOB]),
            int(labels[GENERATION]),
            int(labels[ATTEMPT]),
            labels[REPLICA],
            int(labels[RESTART]),
        )
    except (KeyError, ValueError):
        return None
