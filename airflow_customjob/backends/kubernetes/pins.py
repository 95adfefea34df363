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
from typing import Any

from airflow_customjob.backends.base import EngineBusy, LaunchRefused, Say
from airflow_customjob.backends.kubernetes import judge, names
from airflow_customjob.backends.kubernetes.api import Api, ApiError, Conflict
from airflow_customjob.backends.kubernetes.one_off import OneOffs, ended_how, has_ended, waits
from airflow_customjob.backends.kubernetes.refusals import refusal
from airflow_customjob.backends.kubernetes.watcher import Watcher

AGAIN = 2.0
"""Seconds after which a Pod is looked at again that nothing was heard of."""
BUSY = 5.0
"""Seconds until it is made again, where a quota has no room for it."""
TRIES = 5
"""Pods that the cluster may take away before that counts as a failure."""
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
        self.pods = OneOffs(api)
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
                found = await self.pods.find(name)
                if found is None or found["metadata"].get("deletionTimestamp"):
                    why = await self._make(pod, what)
                elif settled := await self._read(found, what):
                    say(f"settled the versions for all replicas in {time.monotonic() - began:.1f} s")
                    return settled
                elif has_ended(found):
                    lost, why = lost + 1, judge.disturbed(found) or _unread(found)
                    if not why or lost == TRIES:
                        raise await self._failure(found, what, image)
                    say(f"the Pod {name} was lost: {why}; once more")
                    await self.pods.remove(name)
                    continue
                elif "running" in judge.container_state(found, names.INSTALLER):
                    why, uid = "", found["metadata"]["uid"]
                    await self.pods.tell(name, names.INSTALLER, say, tailLines=0 if uid == followed else None)
                    followed = uid
                else:
                    why = waits(found, f"{what} cannot be installed into {image}")
                if why not in ("", told):
                    say(f"the Pod {name} waits: {why}")
                    told = why
                with suppress(TimeoutError):
                    async with asyncio.timeout(AGAIN):
                        await changed.wait()

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
        text = await self.pods.text(pod["metadata"]["name"], names.PINS, limitBytes=MAX_BYTES + 1)
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

    async def _failure(self, pod: Mapping[str, Any], what: str, image: str) -> LaunchRefused:
        lines = await self.pods.last_lines(pod["metadata"]["name"], names.INSTALLER)
        why = ended_how(pod, names.INSTALLER)
        return LaunchRefused("\n".join([f"{what} cannot be installed into {image} ({why}):", *lines]))


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
