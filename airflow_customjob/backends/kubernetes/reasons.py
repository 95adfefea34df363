"""What a Pod's own JSON does not tell of its start: since when its node fails to start it, and what only the cluster's events say
(a volume that cannot be mounted, a network that is not there)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from airflow_customjob.backends.base import EngineError, Phase, ReplicaStatus
from airflow_customjob.backends.kubernetes import judge
from airflow_customjob.backends.kubernetes.api import Api
from airflow_customjob.plan.types import JobId

PATIENCE = 10.0
"""Seconds that a node has for a Pod before anybody asks what holds it up."""
ASK_AGAIN = 10.0
"""Seconds between two looks at the events of a namespace."""


class Reasons:
    """Gives up a Pod that its node has failed to start for :data:`~.judge.NODE_PATIENCE`; looks at the events when one is held up for
    long, seldom, and only where that is allowed."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._asked_at = 0.0
        self._warnings: dict[str, str] = {}
        self._failing: dict[JobId, dict[str, float]] = {}

    async def explain(
        self, statuses: Sequence[ReplicaStatus], pods: Iterable[Mapping[str, Any]], now: float
    ) -> list[ReplicaStatus]:
        """The same, with the latest warning for each that waits without saying why.

        :param statuses: of one job; likewise the Pods.
        """
        pods = list(pods)
        statuses = self._given_up(statuses, pods, now)
        since = {pod["metadata"]["name"]: _scheduled_at(pod, now) for pod in pods}
        held_up = {
            status.ref.name
            for status in statuses
            if status.phase is Phase.WAITING
            and status.message == judge.prepares(status.node)
            and now - since[status.ref.name] > PATIENCE
        }
        if held_up and now - self._asked_at > ASK_AGAIN:
            self._asked_at = now
            self._warnings = await self._look()
        return [
            replace(status, message=self._warnings.get(status.ref.name, status.message))
            if status.ref.name in held_up
            else status
            for status in statuses
        ]

    def _given_up(
        self, statuses: Sequence[ReplicaStatus], pods: Sequence[Mapping[str, Any]], now: float
    ) -> Sequence[ReplicaStatus]:
        """Kubernetes does not say since when a container cannot be started, only who looks does: another one counts anew."""
        failing = {pod["metadata"]["name"] for pod in pods if judge.failing_to_start(pod)[0]}
        waiting = [status for status in statuses if status.phase is Phase.WAITING and status.ref.name in failing]
        if not waiting:
            for status in statuses[:1]:
                self._failing.pop(status.ref.job_id, None)
            return statuses
        before = self._failing.get(waiting[0].ref.job_id, {})
        since = {status.ref.name: before.get(status.ref.name, now) for status in waiting}
        self._failing[waiting[0].ref.job_id] = since
        why = f"its node has failed to start it for {judge.NODE_PATIENCE:.0f} s: "
        return [
            judge.given_up(status, why) if now - since.get(status.ref.name, now) > judge.NODE_PATIENCE else status
            for status in statuses
        ]

    async def _look(self) -> dict[str, str]:
        try:
            query = {"fieldSelector": "type=Warning,involvedObject.kind=Pod"}
            listed = await self._api.call("GET", self._api.path("events"), query=query)
        except EngineError:
            return {}
        events = sorted(listed["items"], key=lambda event: event.get("lastTimestamp") or event.get("eventTime") or "")
        return {
            event["involvedObject"]["name"]: f"{event.get('reason', '')}: {event.get('message', '')}".strip(": ")
            for event in events
        }


def _scheduled_at(pod: Mapping[str, Any], now: float) -> float:
    for condition in pod.get("status", {}).get("conditions", ()):
        if condition["type"] == "PodScheduled" and condition["status"] == "True":
            return datetime.fromisoformat(condition["lastTransitionTime"]).timestamp()
    return now
