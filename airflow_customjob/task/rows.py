"""A row of a group: one replica (or one pool) of a job that another task owns. It reads, and changes nothing.

All rows of a job in one process share one look at it, however many they are.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any
from weakref import WeakValueDictionary

from airflow_customjob.backends import backend_of
from airflow_customjob.backends.base import Backend, EngineError, Phase, ReplicaRef, ReplicaStatus
from airflow_customjob.backends.secrets import Redact, redactor
from airflow_customjob.plan.types import JobId
from airflow_customjob.spec.airflow_states import replica_state
from airflow_customjob.spec.job_state import JobState
from airflow_customjob.supervisor.follow import RETRY, Sink, in_bursts, redacted
from airflow_customjob.supervisor.ownership import ENDED_TASK
from airflow_customjob.supervisor.record import JobRecord, decode
from airflow_customjob.task.comms import ask_airflow
from airflow_customjob.task.identity import state_at
from airflow_customjob.task.xcoms import REF, REPLICAS, xcom_at

LOOK_EVERY = 2.0
"""Seconds between two looks at one job by one process."""
DRAIN = 10.0
"""Seconds that a row reads on after its job has ended."""


@dataclass(frozen=True)
class Look:
    """The job at one moment.

    :param ref: None: its owner has submitted nothing yet.
    :param task_state: of the owner's task; None also while the job runs, when nobody asks.
    :param over: the owner's task has ended: there will be no further generation.
    :param trouble: what kept the job from being read; for people.
    :param redact: hides what is secret of what its replicas print.
    """

    ref: dict[str, Any] | None = None
    record: JobRecord | None = None
    replicas: Sequence[ReplicaStatus] = ()
    task_state: str | None = None
    over: bool = False
    trouble: str = ""
    redact: Redact = str


class SharedLook:
    """What all rows of a job see."""

    def __init__(self, run: Mapping[str, str]) -> None:
        self._run = run
        self._lock = asyncio.Lock()
        self._at = -LOOK_EVERY
        self._seen = Look()
        self._redact: Redact = str

    async def __call__(self) -> Look:
        async with self._lock:
            if time.monotonic() - self._at >= LOOK_EVERY:
                try:
                    self._seen = await self._look()
                except Exception as error:  # noqa: BLE001 - a row only reads: whatever hinders it, the job goes on
                    self._seen = await self._without_the_job(f"the job cannot be read: {error}; trying again")
                self._at = time.monotonic()
            return self._seen

    async def _without_the_job(self, trouble: str) -> Look:
        state = await ask_airflow(state_at, self._run)
        return Look(self._seen.ref, None, (), state, state in ENDED_TASK, trouble, self._redact)

    async def _look(self) -> Look:
        ref = self._seen.ref or await xcom_at(self._run, REF)
        record: JobRecord | None = None
        replicas: tuple[ReplicaStatus, ...] = ()
        if ref is not None:
            async with backend_of(ref["backend"]).open() as engine:
                stored = await engine.read_record(JobId(ref["custom_job_id"]))
                record = decode(stored.data) if stored else None
                if record is not None and self._seen.record is None:
                    self._redact = await redactor(record.request.options)
                replicas = tuple(await engine.observe(JobId(ref["custom_job_id"])))
        if record is not None and not record.state.terminal:
            return Look(ref, record, replicas, redact=self._redact)
        state = await ask_airflow(state_at, self._run)
        return Look(ref, record, replicas, state, state in ENDED_TASK, redact=self._redact)


_looks: WeakValueDictionary[tuple[int, str], SharedLook] = WeakValueDictionary()


def shared_look(run: Mapping[str, str]) -> SharedLook:
    """The one of this event loop."""
    key = (id(asyncio.get_running_loop()), json.dumps(run, sort_keys=True))
    look = _looks.get(key)
    if look is None:
        look = _looks[key] = SharedLook(run)
    return look


@dataclass(frozen=True)
class RowEnd:
    """How a row ends.

    :param state: name of the state of its replica: SUCCEEDED, FAILED, or CANCELLED for one that was stopped or never started.
    :param replicas: what was seen last of each of its replicas.
    """

    state: str
    text: str
    replicas: list[dict[str, Any]]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class RowWatch:
    """
    :param run: where the task is that owns the job.
    :param row: name of a replica, or of a pool for all of its replicas.
    :param positions: of log lines that were told, kept up to date.
    """

    def __init__(
        self,
        run: Mapping[str, str],
        row: str,
        *,
        sink: Sink,
        say: Callable[[str], None],
        positions: dict[str, str] | None = None,
    ) -> None:
        self._run = run
        self._row = row
        self._sink = sink
        self._say = say
        self._positions = {} if positions is None else positions
        self._readers: dict[ReplicaRef, asyncio.Task[None]] = {}
        self._look = shared_look(run)
        self._statuses: dict[ReplicaRef, ReplicaStatus] = {}
        self._told = ""

    async def to_its_end(self) -> RowEnd:
        """Tell the replica's log, of every generation, until the owner's task has ended."""
        try:
            while True:
                look = await self._look()
                if look.trouble:
                    self._tell(look.trouble)
                await self._follow(look)
                if look.over:
                    return await self._end(look)
                await asyncio.sleep(LOOK_EVERY)
        finally:
            for reader in self._readers.values():
                reader.cancel()
            await asyncio.gather(*self._readers.values(), return_exceptions=True)

    def is_mine(self, replica: str) -> bool:
        return replica == self._row or replica.rpartition("-")[0] == self._row

    async def _follow(self, look: Look) -> None:
        for status in look.replicas:
            if not self.is_mine(status.ref.replica):
                continue
            self._statuses[status.ref] = status
            self._tell(look.redact(_said(status)))
            started = status.phase is not Phase.CREATED
            if started and status.ref not in self._readers and look.ref is not None:
                backend = backend_of(look.ref["backend"])
                self._readers[status.ref] = asyncio.create_task(self._read(backend, status.ref, look.redact))

    async def _read(self, backend: Backend, ref: ReplicaRef, redact: Redact) -> None:
        async with backend.open() as engine:
            while True:
                with suppress(EngineError):
                    async for line in in_bursts(engine.logs(ref, after=self._positions.get(ref.name))):
                        self._sink(redacted(line, redact))
                        self._positions[ref.name] = line.position
                    return
                await asyncio.sleep(RETRY)

    async def _end(self, look: Look) -> RowEnd:
        if self._readers:
            await asyncio.wait(self._readers.values(), timeout=DRAIN)
        elif look.ref is not None:
            self._say(
                f"{self._row} was gone before it could be read here: its output is in the log of {self._run['task_id']}"
            )
        replicas = [shown for shown in await self._last_seen() if self.is_mine(shown["replica"])]
        state = end_of(look.task_state, look.record, self.is_mine, [shown["exit_code"] for shown in replicas])
        text = "; ".join(_told_of(shown) for shown in replicas) or f"{self._row} was never started"
        if state is JobState.JOB_STATE_CANCELLED and look.record is None:
            text += f": {self._run['task_id']} is {look.task_state}, and has no job"
        return RowEnd(state.name, text, replicas)

    async def _last_seen(self) -> list[dict[str, Any]]:
        try:
            document = await xcom_at(self._run, REPLICAS) or {}
        except Exception as error:  # noqa: BLE001 - a row only reads: how its replica ended is in its log all the same
            self._say(f"how the replicas ended cannot be read: {error}")
            return []
        columns = ("attempt", "restart", "exit_code", "started_after", "finished_after")
        rows = zip(document.get("replica", ()), *(document.get(name, ()) for name in columns), strict=False)
        latest = {
            row[0]: dict(zip(("replica", *columns), row, strict=True)) for row in rows
        }  # in order of incarnations
        return list(latest.values())

    def _tell(self, text: str) -> None:
        if text != self._told:
            self._told = text
            self._say(text)


def end_of(
    task_state: str | None, record: JobRecord | None, is_mine: Callable[[str], bool], exit_codes: Sequence[int | None]
) -> JobState:
    """How a row ends. The first line that fits decides; whoever was stopped because the primary had succeeded has succeeded.

    :param task_state: of the task that owns the job, which has ended.
    :param is_mine: whether a replica is the row's.
    :param exit_codes: of the row's replicas.
    """
    job = record.state if record is not None else None
    culprit = record is not None and any(is_mine(status.ref.replica) for status in record.failed)
    rows = (
        (job is None and replica_state(task_state) is JobState.JOB_STATE_SUCCEEDED, JobState.JOB_STATE_SUCCEEDED),
        (job is JobState.JOB_STATE_SUCCEEDED, JobState.JOB_STATE_SUCCEEDED),
        (job is JobState.JOB_STATE_FAILED and culprit, JobState.JOB_STATE_FAILED),
        (bool(exit_codes) and all(code == 0 for code in exit_codes), JobState.JOB_STATE_SUCCEEDED),
    )
    return next((state for fits, state in rows if fits), JobState.JOB_STATE_CANCELLED)


def _said(status: ReplicaStatus) -> str:
    again = f" (start {status.ref.restart + 1})" if status.ref.restart else ""
    code = "" if status.exit_code is None else f" with {status.exit_code}"
    why = f": {status.message}" if status.message else ""
    return f"{status.ref.replica}{again} {status.phase.value}{code}{why}"


def _told_of(shown: Mapping[str, Any]) -> str:
    if shown["exit_code"] is None:
        return f"{shown['replica']} was stopped"
    started, finished = shown["started_after"], shown["finished_after"]
    took = "" if started is None or finished is None else f" after {finished - started} s"
    return f"{shown['replica']} exited with {shown['exit_code']}{took}"
