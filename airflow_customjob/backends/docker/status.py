"""What a daemon shows of containers, as phases, reasons and exit codes that can be trusted.

An exit code is trusted only while the daemon that saw the container end was up. One that stops takes its containers with
it, and a replica that handles SIGTERM then reads as exit 0; one that was killed finds them on its next start, and ends
them. So each ending is *vouched for* once, by whoever sees it first in the daemon's own lifetime (its *epoch*), and what
nobody vouched for before the epoch changed is LOST, 0 included. That is kept on the daemon, as an empty volume for each
ended replica of a job that goes on.

The epoch begins when the default network ``bridge`` was created: every start of a daemon makes it anew, after it has
dealt with the containers that it found.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from airflow_customjob.backends.base import Phase, Reason, ReplicaRef, ReplicaStatus
from airflow_customjob.backends.docker.api import Api, Missing, of_job
from airflow_customjob.backends.docker.events import EventHub
from airflow_customjob.backends.docker.follow import said_by_init
from airflow_customjob.backends.docker.labels import (
    DIGEST,
    JOB,
    KIND,
    KIND_END,
    KIND_REPLICA,
    end_name,
    ref_of,
    seconds,
)
from airflow_customjob.backends.docker.logs import entries
from airflow_customjob.plan.types import JobId

_AT_WORK = ("running", "paused", "restarting")
_GOING = ("removing", "dead")
REMEMBERED = 10_000
"""Containers whose ending is remembered, so that nobody asks for it twice."""
SETTLED = 5.0
"""Seconds after its creation from which a container that has not started is looked at more closely: another process may
have tried to start it, and failed."""
_NOT_THE_USERS = re.compile(
    r"context canceled|daemon is shutting down|transport is closing|connection refused", re.IGNORECASE
)
"""A start that failed by these words would succeed on a daemon that is well."""


@dataclass(frozen=True)
class Ending:
    """How a container ended; never changes."""

    phase: Phase
    exit_code: int | None
    reason: Reason
    message: str
    started_at: float | None
    finished_at: float | None


class Statuses:
    """What is known of containers over one connection."""

    def __init__(self, api: Api, hub: EventHub) -> None:
        self._api = api
        self._hub = hub
        self._endings: dict[str, Ending] = {}
        self._refused: set[str] = set()
        self._dismissed: set[str] = set()

    def start_refused(self, container_id: str) -> None:
        """The daemon would not start it: what it says of it is worth a look."""
        self._refused.add(container_id)

    def dismiss(self, name: str) -> None:
        """It is stopped because its part is over: nobody will ask again how it ended, so nothing vouches for it."""
        self._dismissed.add(name)

    async def of_job(self, job_id: JobId) -> list[ReplicaStatus]:
        containers = await self._api.containers(of_job(job_id, KIND_REPLICA))
        known = [(ref, container) for container in containers if (ref := ref_of(container["Labels"]))]
        node = (await self._api.info()).get("Name", "")
        found = await asyncio.gather(*(self._status(ref, container, node) for ref, container in known))
        fresh = [(status, ident) for status, ident in found if status is not None and ident]
        vouched = await self._vouch(job_id, [status for status, _ in fresh])
        for (_, ident), status in zip(fresh, vouched, strict=True):
            self._remember(ident, status)
        by_ref = {status.ref: status for status in vouched}
        return [by_ref.get(status.ref, status) for status, _ in found if status is not None]

    async def _status(self, ref: ReplicaRef, container: dict[str, Any], node: str) -> tuple[ReplicaStatus | None, str]:
        """The status; and the container's id where it has ended in a way that was not known yet."""
        ident, state = container["Id"], container["State"]
        base = ReplicaStatus(ref, Phase.CREATED, node=node, digest=container["Labels"].get(DIGEST, ""))
        if state in _GOING:
            return replace(base, phase=Phase.LOST, reason=Reason.LOST, message="its container is being removed"), ""
        if ident in self._endings:
            return _ended(base, self._endings[ident]), ""
        ended = not self._hub.died.isdisjoint({ident, ref.name})
        if state in _AT_WORK and ident in self._hub.started and not ended:
            return replace(base, phase=Phase.RUNNING, started_at=self._hub.started[ident]), ""
        if state == "created" and ident not in self._refused and not _is_old(container):
            return base, ""
        inspected = await self._api.inspect(ident)
        if inspected is None:
            return None, ""
        details = inspected["State"]
        if details["Status"] in _AT_WORK:
            started = self._hub.started[ident] = seconds(details["StartedAt"]) or 0.0
            return replace(base, phase=Phase.RUNNING, started_at=started), ""
        if details["Status"] == "created" and not details["Error"]:
            return base, ""
        return _ended(base, await self._ending(ident, details)), ident

    async def _ending(self, ident: str, state: dict[str, Any]) -> Ending:
        code = int(state["ExitCode"])
        started, finished = seconds(state["StartedAt"]), seconds(state["FinishedAt"])
        if started is not None and finished is not None:
            started = min(started, finished)  # Docker notes the start of a short command after its end
        error = state["Error"]
        if started is None and _NOT_THE_USERS.search(error):
            return Ending(Phase.LOST, None, Reason.LOST, f"it could not be started: {error}", None, None)
        if started is None:
            return Ending(Phase.EXITED, code or 128, Reason.START_ERROR, _start_error(error), None, finished)
        if state["OOMKilled"] and code:
            return Ending(Phase.EXITED, code, Reason.OOM_KILLED, "a process ran out of memory", started, finished)
        if code in (126, 127) and (words := await self._words_of_init(ident)):
            return Ending(Phase.EXITED, code, Reason.START_ERROR, words, started, finished)
        reason = Reason.ERROR if code else Reason.COMPLETED
        return Ending(Phase.EXITED, code, reason, error, started, finished)

    async def _words_of_init(self, ident: str) -> str:
        """What Docker's init said, if the first thing in the log is that it found no such command."""
        params = {"stdout": "1", "stderr": "1", "timestamps": "1", "follow": "0", "tail": "1"}
        try:
            async with self._api.stream("GET", f"containers/{ident}/logs", what="give a log", params=params) as content:
                async for bunch in entries(content):
                    said = said_by_init(bunch[0])
                    return f"exec: {said['command'].decode()}: {said['why'].decode()}" if said else ""
        except Missing:
            pass
        return ""

    async def _vouch(self, job_id: JobId, ended: Sequence[ReplicaStatus]) -> list[ReplicaStatus]:
        """The same endings, those that cannot be trusted as LOST."""
        doubtful = [s for s in ended if s.phase is Phase.EXITED and s.finished_at is not None]
        if not doubtful:
            return list(ended)
        epoch = await self._epoch()
        witnessed: set[str] = set()
        if any((s.finished_at or 0.0) <= epoch for s in doubtful):
            witnessed = {volume["Name"] for volume in await self._api.volumes(of_job(job_id, KIND_END))}

        async def judge(status: ReplicaStatus) -> ReplicaStatus:
            if status not in doubtful or end_name(status.ref) in witnessed:
                return status
            if (status.finished_at or 0.0) > epoch:
                if status.ref.name not in self._dismissed:
                    await self._api.create_volume(end_name(status.ref), {JOB: job_id, KIND: KIND_END})
                return status
            message = (
                f"Docker was restarted under it; the exit code {status.exit_code} that it reads now cannot be trusted"
            )
            return replace(status, phase=Phase.LOST, exit_code=None, reason=Reason.LOST, message=message)

        return list(await asyncio.gather(*map(judge, ended)))

    async def _epoch(self) -> float:
        """When the daemon that answers now had finished its start, in seconds; 0 where it has no default network."""
        try:
            bridge = await self._api.ask_anew("networks/bridge", what="show its default network")
        except Missing:
            return 0.0
        return seconds(bridge["Created"]) or 0.0

    def _remember(self, ident: str, status: ReplicaStatus) -> None:
        while len(self._endings) >= REMEMBERED:
            self._endings.pop(next(iter(self._endings)))
        self._endings[ident] = Ending(
            status.phase,
            status.exit_code,
            status.reason or Reason.ERROR,
            status.message,
            status.started_at,
            status.finished_at,
        )
        self._refused.discard(ident)
        self._dismissed.discard(status.ref.name)


def _ended(base: ReplicaStatus, ending: Ending) -> ReplicaStatus:
    return replace(
        base,
        phase=ending.phase,
        exit_code=ending.exit_code,
        reason=ending.reason,
        message=ending.message,
        started_at=ending.started_at,
        finished_at=ending.finished_at,
    )


def _is_old(container: dict[str, Any]) -> bool:
    import time

    return time.time() - float(container["Created"]) > SETTLED


def _start_error(error: str) -> str:
    """The end of the chain of components that Docker names before the cause."""
    return error.removesuffix(": unknown").rpartition("unable to start container process: ")[2]
