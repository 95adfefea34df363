"""Why a node cannot start a Pod that it has: only the cluster's events say so (a volume that cannot be mounted, a network
that is not there)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from airflow_customjob.backends.base import EngineError, Phase, ReplicaStatus
from airflow_customjob.backends.kubernetes.api import Api
from airflow_customjob.backends.kubernetes.judge import prepares

PATIENCE = 10.0
"""Seconds that a node has for a Pod before anybody asks what holds it up."""
ASK_AGAIN = 10.0
"""Seconds between two looks at the events of a namespace."""


class Reasons:
    """Looks at the events when a Pod is held up for long, seldom, and only where that is allowed."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._asked_at = 0.0
        self._warnings: dict[str, str] = {}

    async def explain(
        self, statuses: Sequence[ReplicaStatus], pods: Iterable[Mapping[str, Any]], now: float
    ) -> list[ReplicaStatus]:
        """The same, with the latest warning for each that waits without saying why."""
        since = {pod["metadata"]["name"]: _scheduled_at(pod, now) for pod in pods}
        held_up = {
            status.ref.name
            for status in statuses
            if status.phase is Phase.WAITING
            and status.message == prepares(status.node)
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
