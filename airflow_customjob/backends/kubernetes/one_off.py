"""A Pod that installs once and ends: what it says, and why it has not begun. What it is made of, see :mod:`.errands`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any

from airflow_customjob.backends.base import EngineError, LaunchRefused, Say
from airflow_customjob.backends.kubernetes import judge
from airflow_customjob.backends.kubernetes.api import Api, Missing

SILENCE = 60.0
"""Seconds without a line after which its log is opened again."""
LAST_LINES = 20
"""Lines of pip's output that the error of a failed installation tells."""


class OneOffs:
    """Reads them, and takes them away."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def find(self, name: str) -> dict[str, Any] | None:
        with suppress(Missing):
            return await self._api.get("pods", name)
        return None

    async def remove(self, name: str) -> None:
        """One that is gone is fine."""
        await self._api.delete("pods", name, gracePeriodSeconds=0)

    async def tell(self, name: str, container: str, say: Say, **query: Any) -> None:
        """A container's output, until that ends or says nothing for long.

        :param query: as Kubernetes takes it for logs: ``tailLines=0``.
        """
        rest, wanted = b"", {"container": container, "follow": "true", **query}
        with suppress(EngineError):
            async with self._api.stream(self._api.path("pods", name, "log"), wanted, SILENCE) as pieces:
                async for piece in pieces:
                    *lines, rest = (rest + piece).split(b"\n")
                    for line in lines:
                        say(line.decode(errors="replace"))

    async def text(self, name: str, container: str, **query: Any) -> str:
        """What a container has written."""
        data = b""
        async with self._api.stream(
            self._api.path("pods", name, "log"), {"container": container, **query}, SILENCE
        ) as pieces:
            async for piece in pieces:
                data += piece
        return data.decode(errors="replace")

    async def last_lines(self, name: str, container: str) -> list[str]:
        """None where they cannot be read."""
        with suppress(EngineError):
            return (await self.text(name, container, tailLines=LAST_LINES)).splitlines()
        return []


def has_ended(pod: Mapping[str, Any]) -> bool:
    return pod["status"].get("phase") in ("Succeeded", "Failed")


def age(pod: Mapping[str, Any]) -> float:
    """In seconds."""
    return time.time() - datetime.fromisoformat(pod["metadata"]["creationTimestamp"]).timestamp()


def ended_how(pod: Mapping[str, Any], container: str) -> str:
    """Why it failed, in short."""
    ended = judge.container_state(pod, container).get("terminated") or {}
    return pod["status"].get("message") or f"exit code {ended.get('exitCode')}, {ended.get('reason')}"


def waits(pod: Mapping[str, Any], what: str) -> str:
    """Why it has not begun; empty: nobody knows yet.

    :param what: cannot be done then, for people.
    :raises LaunchRefused: it waits for what will not come.
    """
    reason, words = judge.failing_to_start(pod)
    if not reason:
        unheard_of = pod["spec"].get("nodeName") or not pod["status"].get("conditions")
        return "" if unheard_of else judge.held_up(pod)
    if any(word in words.lower() for word in judge.HOPELESS.get(reason, ())) or age(pod) > judge.NODE_PATIENCE:
        raise LaunchRefused(f"{what}: {reason}: {words}")
    return f"{reason}: {words}"
