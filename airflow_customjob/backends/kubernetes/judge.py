"""What a Pod is, in the contract's words: a pure function of its JSON. The Pod's own phase is not asked: it follows a
second later, and calls a replica that has ended running while a sidecar of it does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, TypedDict

import msgspec

from airflow_customjob.backends.base import Phase, Reason, ReplicaRef, ReplicaStatus
from airflow_customjob.backends.kubernetes import names

CANNOT_START = 128
"""Exit code of a replica that could not be started, as containerd gives it."""
START_ERRORS = frozenset({"StartError", "ContainerCannotRun"})
NO_SUCH_IMAGE = (
    "not found",
    "manifest unknown",
    "does not exist",
    "unauthorized",
    "authentication required",
    "denied",
    "forbidden",
    "no basic auth",
)
"""Words of a registry that has answered: it has no such image for us. Anything else may pass."""
HOPELESS = {
    "InvalidImageName": ("",),
    "ErrImageNeverPull": ("",),
    "ErrImagePull": NO_SUCH_IMAGE,
    "ImagePullBackOff": NO_SUCH_IMAGE,
    "CreateContainerConfigError": ("not found", "couldn't find key", "non-root", "non-numeric user"),
}
"""Why a container waits, and with which words, where waiting will not help."""
NODE_PATIENCE = 600.0
"""Seconds that a node may fail to start a container for any other reason (a registry does not answer, or nobody has its name). By then
it has tried six times, and a retried pull of a large image had nine minutes."""
NO_ROOM = "no node has room for what it requests (the backend's machine_types says how much that is)"
SILENT_NODE = 30.0
"""Seconds past a deleted Pod's grace after which its node counts as lost."""

Json = Mapping[str, Any]


class _Metadata(TypedDict, total=False):
    name: str
    labels: dict[str, str]
    annotations: dict[str, str]
    creationTimestamp: str
    deletionTimestamp: str
    deletionGracePeriodSeconds: int


class _Spec(TypedDict, total=False):
    nodeName: str
    schedulingGates: list[dict[str, str]]


class _Pod(TypedDict, total=False):
    metadata: _Metadata
    spec: _Spec
    status: dict[str, Any]


class Pods(TypedDict):
    """What is read of a list of Pods: a tenth of it. Whatever is asked of a Pod below has to be named here."""

    items: list[_Pod]


read_pods = msgspec.json.Decoder(Pods).decode


def status_of(pod: Json, now: float) -> ReplicaStatus | None:
    """None: it is no replica of ours.

    :param now: seconds since the epoch.
    """
    metadata, spec, status = pod["metadata"], pod.get("spec", {}), pod.get("status", {})
    ref = names.ref_of(metadata)
    if ref is None:
        return None
    common: dict[str, Any] = {
        "node": spec.get("nodeName", ""),
        "digest": (metadata.get("annotations") or {}).get(names.DIGEST, ""),
    }
    if names.GATE in _gates(pod):
        return ReplicaStatus(ref, Phase.CREATED, **common)
    container = _container(status.get("containerStatuses", ()))
    state = container.get("state", {})
    if ended := state.get("terminated"):
        return _ended(ref, pod, ended, common)
    if lost := _lost(pod, now):
        return ReplicaStatus(ref, Phase.LOST, reason=Reason.LOST, message=lost, **common)
    if failed := _failed_installer(status):
        name, code, said = failed
        message = f"its init container {name} failed: {said}".rstrip(": ")
        return ReplicaStatus(ref, Phase.EXITED, exit_code=code, reason=Reason.ERROR, message=message, **common)
    if status.get("phase") in ("Failed", "Succeeded"):
        message = _said(status.get("reason"), status.get("message")) or "it ended without having run"
        return ReplicaStatus(ref, Phase.LOST, reason=Reason.LOST, message=message, **common)
    if "running" in state:
        return ReplicaStatus(ref, Phase.RUNNING, started_at=_seconds(state["running"].get("startedAt")), **common)
    return _waiting(ref, pod, common)


def is_stopped(pod: Json) -> bool:
    """Whether we have told it to stop."""
    return names.STOPPED in (pod["metadata"].get("annotations") or {})


def container_state(pod: Json, name: str) -> Json:
    """``{"running": ...}``, ``{"terminated": ...}``, ``{"waiting": ...}``; empty: nothing is known of it yet."""
    statuses = pod.get("status", {})
    for status in (*statuses.get("initContainerStatuses", ()), *statuses.get("containerStatuses", ())):
        if status["name"] == name:
            return status.get("state") or {}
    return {}


def _container(statuses: Sequence[Json]) -> Json:
    return next((status for status in statuses if status["name"] == names.CONTAINER), {})


def _ended(ref: ReplicaRef, pod: Json, ended: Json, common: dict[str, Any]) -> ReplicaStatus:
    code, finished = ended["exitCode"], _seconds(ended.get("finishedAt"))
    common |= {
        "exit_code": code,
        "started_at": _seconds(ended.get("startedAt")),
        "finished_at": finished,
    }
    if common["started_at"] == 0:  # it never ran
        common["started_at"] = finished
    reason = ended.get("reason")
    if reason in START_ERRORS:
        return ReplicaStatus(ref, Phase.EXITED, reason=Reason.START_ERROR, message=ended.get("message", ""), **common)
    if taken := _taken_away(pod, finished):
        return ReplicaStatus(ref, Phase.LOST, reason=Reason.LOST, message=taken, **common)
    if reason == "ContainerStatusUnknown":
        message = _said(reason, ended.get("message"))
        return ReplicaStatus(ref, Phase.LOST, reason=Reason.LOST, message=message, **common)
    if reason == "OOMKilled":
        return ReplicaStatus(ref, Phase.EXITED, reason=Reason.OOM_KILLED, **common)
    return ReplicaStatus(ref, Phase.EXITED, reason=Reason.ERROR if code else Reason.COMPLETED, **common)


def _taken_away(pod: Json, finished: float | None) -> str:
    """Why the end of this replica was not its own doing; empty: it was. An exit code after a polite signal tells nothing."""
    if is_stopped(pod):
        return ""
    for said, since in _disturbances(pod):
        if finished is None or since is None or finished >= since:
            return said
    return ""


def _disturbances(pod: Json) -> Iterator[tuple[str, float | None]]:
    metadata, status = pod["metadata"], pod.get("status", {})
    for condition in status.get("conditions", ()):
        if condition["type"] == "DisruptionTarget" and condition["status"] == "True":
            yield (
                _said(condition.get("reason"), condition.get("message")),
                _seconds(condition.get("lastTransitionTime")),
            )
    if status.get("reason") in (
        "Evicted",
        "Preempting",
        "NodeLost",
        "NodeShutdown",
        "Shutdown",
        "Terminated",
        "DeadlineExceeded",
    ):
        yield _said(status["reason"], status.get("message")), None
    if deleted := metadata.get("deletionTimestamp"):
        at = _seconds(deleted)
        grace = metadata.get("deletionGracePeriodSeconds") or 0
        yield "its Pod was deleted", None if at is None else at - grace


def disturbed(pod: Json) -> str:
    """What the cluster did to a Pod that has ended, and not the Pod itself; empty: nothing."""
    return next((said for said, _ in _disturbances(pod) if not said.startswith("DeadlineExceeded")), "")


def _lost(pod: Json, now: float) -> str:
    """Why a replica that nobody has seen end counts as lost; empty: it does not."""
    deleted = _seconds(pod["metadata"].get("deletionTimestamp"))
    if deleted is None or is_stopped(pod) or now < deleted + SILENT_NODE:
        return ""
    node = pod.get("spec", {}).get("nodeName", "")
    why = next(iter(said for said, _ in _disturbances(pod)), "")
    return f"its node {node} does not answer: {why}"


def _failed_installer(status: Json) -> tuple[str, int, str] | None:
    for init in status.get("initContainerStatuses", ()):
        ended = (init.get("state") or {}).get("terminated")
        if ended and ended["exitCode"]:
            said = ended.get("message", "") if ended.get("reason") in START_ERRORS else ended.get("reason", "")
            return init["name"], ended["exitCode"], said
    return None


def _waiting(ref: ReplicaRef, pod: Json, common: dict[str, Any]) -> ReplicaStatus:
    reason, said = failing_to_start(pod)
    if not reason:
        return ReplicaStatus(ref, Phase.WAITING, message=held_up(pod), queued=bool(_gates(pod)), **common)
    waits = ReplicaStatus(ref, Phase.WAITING, message=_said(reason, said), **common)
    return given_up(waits) if any(words in said.lower() for words in HOPELESS.get(reason, ())) else waits


def failing_to_start(pod: Json) -> tuple[str, str]:
    """Why its node cannot start one of the Pod's containers, in a word and in full; empty: it has not said that it cannot."""
    status = pod.get("status", {})
    containers = (*status.get("initContainerStatuses", ()), _container(status.get("containerStatuses", ())))
    for container in containers:
        waiting = (container.get("state") or {}).get("waiting") or {}
        if (reason := waiting.get("reason", "")) not in ("", "PodInitializing", "ContainerCreating"):
            return reason, waiting.get("message", "")
    return "", ""


def given_up(status: ReplicaStatus, why: str = "") -> ReplicaStatus:
    """A replica that waits for what will not come: it counts as one that could not be started.

    :param why: beside its node's own words.
    """
    message = f"{why}{status.message}"
    return replace(status, phase=Phase.EXITED, exit_code=CANNOT_START, reason=Reason.START_ERROR, message=message)


def held_up(pod: Json) -> str:
    """Why it has no node yet; or what its node is about to do."""
    if names.KUEUE_GATE in (gates := _gates(pod)):
        return "Kueue has not admitted the job yet (kubectl describe workload says why)"
    if gates:
        return f"it is held back by {', '.join(gates)}"
    for condition in pod.get("status", {}).get("conditions", ()):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            said = _said(condition.get("reason"), condition.get("message"))
            return f"{NO_ROOM}: {said}" if "Insufficient" in said else said
    node = pod.get("spec", {}).get("nodeName")
    return prepares(node) if node else "it has no node yet"


def _gates(pod: Json) -> list[str]:
    """By whom the scheduler is kept from it, once our own gate is gone."""
    return [gate["name"] for gate in pod.get("spec", {}).get("schedulingGates", ())]


def prepares(node: str) -> str:
    """What is said of a replica whose node has it and says nothing."""
    return f"{node} prepares it"


def _said(reason: str | None, message: str | None) -> str:
    return ": ".join(part for part in (reason, (message or "").strip()) if part)


def _seconds(text: str | None) -> float | None:
    """Of a time as Kubernetes writes it, since the epoch."""
    return None if not text else datetime.fromisoformat(text).timestamp()
