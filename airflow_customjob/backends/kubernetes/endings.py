"""How Pods are stopped and removed: each is told, then a job's events say when all of them have done so."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from airflow_customjob.backends.base import EngineError, Phase, ReplicaRef, ReplicaStatus
from airflow_customjob.backends.kubernetes import names
from airflow_customjob.backends.kubernetes.api import MERGE, STRATEGIC, Api, Missing
from airflow_customjob.backends.kubernetes.at_once import each
from airflow_customjob.backends.kubernetes.watcher import Watcher
from airflow_customjob.plan.types import JobId

PATIENCE = 30.0
"""Seconds past their grace after which Pods that do not go are told of as an error, and asked again."""
LOOK_AGAIN = 2.0
"""Seconds after which Pods are looked at again that nothing was heard of."""


class Endings:
    """
    :param observe: a fresh list of a job's Pods.
    :param forcibly: a Pod goes without waiting for its node.
    """

    def __init__(
        self,
        api: Api,
        watcher: Watcher,
        observe: Callable[[JobId], Awaitable[Sequence[ReplicaStatus]]],
        *,
        forcibly: bool,
    ) -> None:
        self._api = api
        self._watcher = watcher
        self._observe = observe
        self._forcibly = forcibly

    async def stop(self, refs: Sequence[ReplicaRef], grace: float) -> None:
        """A Pod that outlives its deadline is ended by its node, and stays with its log and exit codes; deleting it would
        take them along. Its grace was settled when it was created, in whole seconds, of which its node gives two at least.
        """
        wanted = set(refs)
        await each(await self._at_work(wanted), self._end)
        await self._until(wanted, self._at_work, max(grace, 2.0) + PATIENCE, "end")

    async def _at_work(self, refs: set[ReplicaRef]) -> list[ReplicaRef]:
        statuses = await self._seen(refs)
        return [status.ref for status in statuses if status.phase in (Phase.RUNNING, Phase.WAITING)]

    async def _end(self, ref: ReplicaRef) -> None:
        body = {
            "metadata": {"annotations": {names.STOPPED: datetime.now(UTC).isoformat(timespec="seconds")}},
            "spec": {"activeDeadlineSeconds": 1},
        }
        with suppress(Missing):
            patched = await self._api.patch("pods", ref.name, body, MERGE)
            if not patched["spec"].get("nodeName"):  # nobody's deadline: it never ran, and now never will
                await self._delete(ref)

    async def remove(self, refs: Sequence[ReplicaRef]) -> None:
        wanted = set(refs)

        async def one(ref: ReplicaRef) -> None:
            await self._delete(ref, gracePeriodSeconds=0 if self._forcibly else 1)

        async def left(refs: set[ReplicaRef]) -> list[ReplicaRef]:
            return [status.ref for status in await self._seen(refs)]

        await each(await left(wanted), one)
        await self._until(wanted, left, PATIENCE, "go")

    async def _delete(self, ref: ReplicaRef, **options: Any) -> None:
        """Kueue would keep it until another one takes its place, which for us comes only after it is gone."""
        deleted = await self._api.delete("pods", ref.name, **options)
        if names.KUEUE_FINALIZER in deleted.get("metadata", {}).get("finalizers", ()):
            body = {"metadata": {"$deleteFromPrimitiveList/finalizers": [names.KUEUE_FINALIZER]}}
            with suppress(Missing):
                await self._api.patch("pods", ref.name, body, STRATEGIC)

    async def _seen(self, refs: set[ReplicaRef]) -> list[ReplicaStatus]:
        statuses: list[ReplicaStatus] = []
        for job_id in {ref.job_id for ref in refs}:
            statuses += [status for status in await self._observe(job_id) if status.ref in refs]
        return statuses

    async def _until(
        self,
        refs: set[ReplicaRef],
        left: Callable[[set[ReplicaRef]], Awaitable[list[ReplicaRef]]],
        seconds: float,
        what: str,
    ) -> None:
        """Wait until none is left.

        :raises EngineError: some are, after this time.
        """
        end = time.monotonic() + seconds
        heard = asyncio.Event()
        listening = [self._watcher.listening(job_id, heard) for job_id in {ref.job_id for ref in refs}]
        try:
            for waiting in listening:
                waiting.__enter__()
            while True:
                heard.clear()
                there = await left(refs)
                if not there:
                    return
                if time.monotonic() > end:
                    raise EngineError(_still_there(there, await self._seen(set(there)), what, seconds))
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_AGAIN):
                        await heard.wait()
        finally:
            for waiting in listening:
                waiting.__exit__(None, None, None)


def _still_there(refs: Sequence[ReplicaRef], statuses: Sequence[ReplicaStatus], what: str, seconds: float) -> str:
    nodes = {status.ref: status.node for status in statuses}
    ref = refs[0]
    return (
        f"{len(refs)} Pods did not {what} within {seconds:.0f} s, the first is {ref.name} on {nodes.get(ref) or 'no node'}. If that "
        "node is gone for good, taint it (kubectl taint node NODE node.kubernetes.io/out-of-service=lost:NoExecute), or set force_delete"
    )
