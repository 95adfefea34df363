"""Versions that are settled once for all replicas: by a Pod of the executor image, before any replica exists.

The Pod is the job's own and has a name that follows from the job, so that whoever prepares the job finds the one that somebody else
has made, however that one has ended. What it came to goes into the job's record; from then on it is asked no more.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from airflow_customjob.backends.base import EngineBusy, EngineError, LaunchRefused, Say
from airflow_customjob.backends.kubernetes import judge, names
from airflow_customjob.backends.kubernetes.api import Api, ApiError, Conflict, Missing
from airflow_customjob.backends.kubernetes.refusals import refusal
from airflow_customjob.backends.kubernetes.watcher import Watcher

AGAIN = 2.0
"""Seconds after which a Pod is looked at again that nothing was heard of."""
BUSY = 5.0
"""Seconds until it is made again, where a quota has no room for it."""
TRIES = 5
"""Pods that the cluster may take away before that counts as a failure."""
SILENCE = 60.0
"""Seconds without a line after which its log is opened again."""
LAST_LINES = 20
"""Lines of pip's output that the error of a failed installation tells."""
MAX_VERSIONS = 100
"""Versions that the job's notes tell."""
MAX_BYTES = 500_000
"""Of all that is settled, which the job's record has to hold."""
_VERSION = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?==[A-Za-z0-9.!+_-]*")


@dataclass(frozen=True)
class Settled:
    """:param pins: for each package in order, versions by project: what is to be held from then on, nothing where empty.
    :param notes: for people.
    """

    pins: tuple[dict[str, str], ...]
    notes: tuple[str, ...]


class Pins:
    def __init__(self, api: Api, watcher: Watcher) -> None:
        self._api = api
        self._watcher = watcher

    async def settle(self, pod: dict[str, Any], what: str, say: Say) -> Settled:
        """
        :param pod: the manifest of the one that settles them; it stays until somebody removes it.
        :param what: is installed, for people.
        :raises LaunchRefused: it cannot be installed.
        """
        name, image = pod["metadata"]["name"], pod["spec"]["containers"][0]["image"]
        began, lost, told, followed = time.monotonic(), 0, "", ""
        say(f"settling the versions of what {what} depends on, in the Pod {name}")
        with self._watcher.listening(name) as changed:
            while True:
                changed.clear()
                found = await self._pod(name)
                if found is None:
                    waits = await self._make(pod, what)
                elif settled := await self._read(found, what):
                    say(f"settled the versions for all replicas in {time.monotonic() - began:.1f} s")
                    return settled
                elif found["status"].get("phase") in ("Failed", "Succeeded"):
                    lost, why = lost + 1, judge.disturbed(found) or _unread(found)
                    if not why or lost == TRIES:
                        raise await self._failure(found, what, image)
                    say(f"the Pod {name} was lost: {why}; once more")
                    await self.remove(name)
                    continue
                elif "running" in judge.container_state(found, names.INSTALLER):
                    waits, uid = "", found["metadata"]["uid"]
                    await self._tell(name, say, again=uid == followed)
                    followed = uid
                else:
                    waits = _waits(found, f"{what} cannot be installed into {image}")
                if waits not in ("", told):
                    say(f"the Pod {name} waits: {waits}")
                    told = waits
                with suppress(TimeoutError):
                    async with asyncio.timeout(AGAIN):
                        await changed.wait()

    async def remove(self, name: str) -> None:
        """One that is gone is fine."""
        await self._api.delete("pods", name, gracePeriodSeconds=0)

    async def _pod(self, name: str) -> dict[str, Any] | None:
        with suppress(Missing):
            found = await self._api.get("pods", name)
            return None if found["metadata"].get("deletionTimestamp") else found
        return None

    async def _make(self, pod: dict[str, Any], what: str) -> str:
        """Why it cannot be made now; empty: it is there, or the one before it has not gone yet."""
        try:
            await self._api.create("pods", pod)
        except Conflict as error:
            if error.reason != "AlreadyExists":
                raise
        except ApiError as error:
            refused = refusal(error, f"the Pod {pod['metadata']['name']} that installs {what}", "", [pod])
            if not isinstance(refused, EngineBusy):
                raise refused from error
            await asyncio.sleep(BUSY)
            return str(refused)
        return ""

    async def _read(self, pod: Mapping[str, Any], what: str) -> Settled | None:
        """What it came to, which one of its containers does nothing but tell; None: it has not yet.

        :raises LaunchRefused: it is nothing that can be held.
        """
        state = judge.container_state(pod, names.PINS)
        if "running" not in state and "terminated" not in state:
            return None
        text = await self._log(pod["metadata"]["name"], names.PINS)
        if len(text) > MAX_BYTES:
            raise LaunchRefused(f"{what} depends on more than a job's record holds: give the backend a registry=")
        try:
            told = json.loads(text)
            *pins, installed = ({**each} for each in (*told["pins"], told["installed"]))
        except (ValueError, KeyError, TypeError, RecursionError):
            return None  # a part of it: some runtimes are late with what a container has written
        _check(what, [*pins, installed])
        versions = [f"{name}=={version}" for name, version in sorted(installed.items())]
        more = f" and {len(versions) - MAX_VERSIONS} more" if len(versions) > MAX_VERSIONS else ""
        notes = (f"installed {' '.join(versions[:MAX_VERSIONS])}{more}",) if versions else ()
        return Settled(tuple(pins), notes)

    async def _tell(self, name: str, say: Say, *, again: bool) -> None:
        """Its installer's output, until that ends or says nothing for long.

        :param again: what it has said so far was told.
        """
        rest, query = b"", {"container": names.INSTALLER, "follow": "true", "tailLines": 0 if again else None}
        with suppress(EngineError):
            async with self._api.stream(self._api.path("pods", name, "log"), query, SILENCE) as pieces:
                async for piece in pieces:
                    *lines, rest = (rest + piece).split(b"\n")
                    for line in lines:
                        say(line.decode(errors="replace"))

    async def _failure(self, pod: Mapping[str, Any], what: str, image: str) -> LaunchRefused:
        ended = judge.container_state(pod, names.INSTALLER).get("terminated") or {}
        why = pod["status"].get("message") or f"exit code {ended.get('exitCode')}, {ended.get('reason')}"
        lines: list[str] = []
        with suppress(EngineError):
            lines = (await self._log(pod["metadata"]["name"], names.INSTALLER, tailLines=LAST_LINES)).splitlines()
        return LaunchRefused("\n".join([f"{what} cannot be installed into {image} ({why}):", *lines]))

    async def _log(self, name: str, container: str, **query: Any) -> str:
        data, wanted = b"", {"container": container, "limitBytes": MAX_BYTES + 1, **query}
        async with self._api.stream(self._api.path("pods", name, "log"), wanted, SILENCE) as pieces:
            async for piece in pieces:
                data += piece
        return data.decode(errors="replace")


def _waits(pod: Mapping[str, Any], what: str) -> str:
    """Why it has not begun.

    :param what: it is about, for people.
    :raises LaunchRefused: it waits for what will not come.
    """
    reason, words = judge.failing_to_start(pod)
    if not reason:
        unheard_of = pod["spec"].get("nodeName") or not pod["status"].get("conditions")
        return "" if unheard_of else judge.held_up(pod)
    age = time.time() - datetime.fromisoformat(pod["metadata"]["creationTimestamp"]).timestamp()
    if any(word in words.lower() for word in judge.HOPELESS.get(reason, ())) or age > judge.NODE_PATIENCE:
        raise LaunchRefused(f"{what}: {reason}: {words}")
    return f"{reason}: {words}"


def _unread(pod: Mapping[str, Any]) -> str:
    return "what it had to tell is not there any more" if pod["status"]["phase"] == "Succeeded" else ""


def _check(what: str, versions: Sequence[Mapping[str, Any]]) -> None:
    """It comes from where code of packages runs, and goes where pip reads it.

    :raises LaunchRefused: some of it is no version of a project.
    """
    for name, version in (item for each in versions for item in each.items()):
        if not isinstance(version, str) or not _VERSION.fullmatch(f"{name}=={version}"):
            text = f"{name}=={version}"[:200]
            raise LaunchRefused(f"{what} installs {text!r}, which is no version of a project: mend that one's metadata")
