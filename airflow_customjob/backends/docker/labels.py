"""Names and labels of everything that this package makes on a Docker host."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from datetime import datetime

from airflow_customjob.backends.base import ReplicaRef
from airflow_customjob.plan.types import JobId, JobPlan

PREFIX = "customjob."
JOB = f"{PREFIX}job-id"
"""On every object that belongs to a job: containers, networks, volumes."""
KIND = f"{PREFIX}kind"
GENERATION = f"{PREFIX}generation"
ATTEMPT = f"{PREFIX}attempt"
REPLICA = f"{PREFIX}replica"
RESTART = f"{PREFIX}restart"
DIGEST = f"{PREFIX}digest"
DISPLAY_NAME = f"{PREFIX}display-name"
USER = f"{PREFIX}label."
"""Before the names of the user's own labels."""
NONCE = f"{PREFIX}nonce"
"""Random; tells the creator of a create-once volume from those who came second."""
NUMBER = f"{PREFIX}number"
"""Of a revision, in a sequence of create-once volumes."""
RECORD = f"{PREFIX}record"
"""A record's data."""
CHAIN = f"{PREFIX}chain"
"""Nonces of the revisions before this one, the latest first."""
DELETED = f"{PREFIX}deleted"
DEVICE = f"{PREFIX}device"
STATE = f"{PREFIX}state"
EXECUTOR = f"{PREFIX}executor-image"
PACKAGES = f"{PREFIX}packages"
VERSIONS = f"{PREFIX}versions"
"""What was installed, as ``pip freeze`` writes it."""
UNTIL = f"{PREFIX}until"
"""Seconds since the epoch when whatever installs has ended, or was kept from it."""
WAITS_FOR = f"{PREFIX}waits-for"
"""The key of an image, on the mark of somebody who waits for it."""

KIND_REPLICA, KIND_NETWORK, KIND_RECORD, KIND_START, KIND_END, KIND_GPU, KIND_BUILD = (
    "replica",
    "network",
    "record",
    "start",
    "end",
    "gpu",
    "build",
)


def replica_labels(plan: JobPlan, ref: ReplicaRef) -> dict[str, str]:
    """All that is needed to know a container again, and to rebuild a lost record."""
    own = {
        KIND: KIND_REPLICA,
        JOB: ref.job_id,
        GENERATION: str(ref.generation),
        ATTEMPT: str(ref.attempt),
        REPLICA: ref.replica,
        RESTART: str(ref.restart),
        DIGEST: plan.digest,
        DISPLAY_NAME: plan.display_name,
    }
    return {f"{USER}{key}": value for key, value in plan.labels} | own


def ref_of(labels: Mapping[str, str]) -> ReplicaRef | None:
    """The incarnation that these labels name; None: they are no replica's."""
    if labels.get(KIND) != KIND_REPLICA:
        return None
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


def network_name(job_id: JobId, generation: int) -> str:
    return f"customjob-{job_id}-{generation}"


def bridge_name(network: str) -> str:
    """Of the Linux interface behind a network: at most 15 characters, a pure function of the network's name."""
    return f"cj{hashlib.sha256(network.encode()).hexdigest()[:13]}"


def start_name(ref: ReplicaRef, turn: int) -> str:
    return f"{ref.name}-start-{turn}"


def end_name(ref: ReplicaRef) -> str:
    return f"{ref.name}-end"


def record_name(job_id: JobId) -> str:
    return f"customjob-{job_id}-record"


def job_of_record(volume: str) -> str:
    """The job whose record a volume of this name is part of; empty: it is none. Docker's events tell no volume's labels."""
    found = re.fullmatch(r"customjob-(\d+)-record-\d+", volume)
    return found[1] if found else ""


def seconds(timestamp: str) -> float | None:
    """Docker's RFC 3339 time as seconds since the epoch; None for its zero time."""
    if not timestamp or timestamp.startswith("0001-"):
        return None
    return datetime.fromisoformat(timestamp).timestamp()
