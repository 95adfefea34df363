"""What a task shows of its job while it runs, as XComs: readers keep the highest ``(generation, revision)``.

========================  ============================================================================
key                       value
========================  ============================================================================
``custom_job_id``         the job's id
``custom_job_ref``        the job's id, backend and engine: enough to find it from elsewhere
``custom_job``            the CustomJob as Vertex AI's REST API gives it, and :data:`OURS`
``custom_job_replicas``   one list a property, one element a replica
``custom_job_usage``      what the replicas use, see :mod:`~airflow_customjob.task.usage`
``custom_job_plan``       its images, packages and notes, see :mod:`~airflow_customjob.task.provenance`
``custom_job_output``     where its model is and how good: what assets are told, see :mod:`~airflow_customjob.task.outlets`
``custom_job_positions``  of the log lines that were told already; for the next triggerer
========================  ============================================================================
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

from airflow_customjob.backends.base import ReplicaStatus, Usage
from airflow_customjob.spec.job_state import JobState
from airflow_customjob.spec.output import to_canonical
from airflow_customjob.supervisor.record import JobRecord
from airflow_customjob.supervisor.result import custom_job_of
from airflow_customjob.task.comms import ask_airflow
from airflow_customjob.task.usage import UsageHistory

log = logging.getLogger(__name__)

ID, REF, JOB, REPLICAS, USAGE, PLAN, OUTPUT, POSITIONS = (
    "custom_job_id",
    "custom_job_ref",
    "custom_job",
    "custom_job_replicas",
    "custom_job_usage",
    "custom_job_plan",
    "custom_job_output",
    "custom_job_positions",
)
_SHOWN = frozenset({JOB, REPLICAS, USAGE, PLAN})
OURS = ("generation", "attempt", "revision", "message", "states")
"""Beside a CustomJob's own fields: how often the job was started anew, and restarted; milliseconds since the epoch when
this was so; why it waits; the states it has been in, each with its milliseconds since the epoch."""
EVERY = 2.0
"""Seconds between two values of one key, unless the job's state changes."""
SETTLE = 1.0
"""Seconds that a change of state waits for the next one, unless it is the last: a short job has been through all of them by then."""
ASK_AGAIN = 0.3
"""Seconds after which it is asked again whether a later generation has told its state."""
SHARE, SELDOM = 5.0, 20.0
"""A job shows itself for one part in so many of its time, but once in so many seconds."""
REPEAT = 30.0
"""Seconds after which a value is stored again although nothing has changed: a try before this one may have written over it
in the moment in which it was being stopped."""

LAST_PAUSES = (0.5, 2.0, 5.0, 0.0)
"""Seconds after each attempt to store the last values: no turn comes after it."""

MAX_STATES = 50
"""The first state and the latest ones are told, of a job that was restarted very often."""

Push = Callable[[str, Any], Awaitable[None]]
Pull = Callable[[str], Awaitable[Any]]


def pause_after(took: float) -> float:
    """Seconds until the next turn, by those that the last one took: longer, the more jobs ask the same Airflow, whose answers all
    of a triggerer's questions wait for, one after the other."""
    return min(max(EVERY, took * SHARE), SELDOM)


def job_document(record: JobRecord, now: float, states: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """
    :param states: it has been in, as :func:`state_entry` gives them; none: only the present one is known.
    """
    return {
        **to_canonical(custom_job_of(record)),
        "generation": record.generation,
        "attempt": record.attempt,
        "revision": int(now * 1000),
        "message": record.message,
        "states": list(states or [state_entry(record)]),
    }


def state_entry(record: JobRecord) -> dict[str, Any]:
    """The state that the record has just come to."""
    return {"state": record.state.name, "attempt": record.attempt, "at": int(record.update_time * 1000)}


def replicas_document(record: JobRecord, replicas: Sequence[ReplicaStatus], now: float) -> dict[str, Any]:
    """At most 64 KB for 1,000 replicas: phases, reasons and nodes are told once and pointed at; times are whole seconds after
    ``since``.
    """
    shown = sorted((s for s in replicas if s.ref.generation == record.generation), key=_in_rank_order)
    since = int(record.create_time)
    document: dict[str, Any] = {
        "generation": record.generation,
        "revision": int(now * 1000),
        "since": since,
        "replica": [s.ref.replica for s in shown],
        "attempt": [s.ref.attempt for s in shown],
        "restart": [s.ref.restart for s in shown],
        "exit_code": [s.exit_code for s in shown],
        "started_after": [s.started_at and int(s.started_at) - since for s in shown],
        "finished_after": [s.finished_at and int(s.finished_at) - since for s in shown],
    }
    for name, values in (
        ("phase", [s.phase.value for s in shown]),
        ("reason", [s.reason.value if s.reason else "" for s in shown]),
        ("node", [s.node for s in shown]),
    ):
        words = sorted(set(values))
        document[f"{name}s"], document[name] = words, [words.index(value) for value in values]
    return document


def _in_rank_order(status: ReplicaStatus) -> tuple[list[int], int, int]:
    return [int(number) for number in re.findall(r"\d+", status.ref.replica)], status.ref.attempt, status.ref.restart


class Publisher:
    """Pushes the newest state of a job, and the positions of its log, while :meth:`run` runs.

    Positions go out one turn late: a line that was told just before its process died may not have reached the log, and
    telling it twice is better than not at all.

    :param push: stores one XCom.
    :param positions: kept up to date by the supervisor; None: nobody will need them.
    :param pull: reads one XCom; what the process before has told of the same generation is gone on with.
    :param describe: makes the value of :data:`PLAN`; it may take its time.
    :param opening: what is stored before all else, by key.
    :param links: what is stored while the job goes on; at a task's end Airflow does so itself.
    """

    def __init__(
        self,
        push: Push,
        positions: Mapping[str, str] | None = None,
        *,
        pull: Pull | None = None,
        describe: Callable[[JobRecord], dict[str, Any]] | None = None,
        opening: Mapping[str, Any] | None = None,
        links: Mapping[str, str] | None = None,
    ) -> None:
        self._opening = opening or {}
        self._links = links or {}
        self._push = push
        self._pull = pull
        self._describe = describe
        self._states: list[dict[str, Any]] = []
        self._usage: UsageHistory | None = None
        self._positions = positions
        self._older = dict(positions or {})
        self._latest: tuple[JobRecord, Sequence[ReplicaStatus]] | None = None
        self._news = asyncio.Event()
        self._closed = False
        self._failed = False
        self._is_last = asyncio.Event()
        self._pushed: dict[str, tuple[Any, float]] = {POSITIONS: (dict(positions or {}), math.inf)}

    def on_change(self, record: JobRecord, replicas: Sequence[ReplicaStatus]) -> None:
        """For the supervisor."""
        if self._latest is None or self._latest[0].state is not record.state:
            self._news.set()
        if record.state.terminal:
            self._is_last.set()
        entry = state_entry(record)
        if not self._states or not _is_same_state(self._states[-1], entry):
            self._states = [*self._states[:1], *self._states[1:][-(MAX_STATES - 2) :], entry]
        if (
            self._latest is not None and record.state.terminal
        ):  # the last sight of each replica stays when it is removed
            replicas = list(({s.ref: s for s in self._latest[1]} | {s.ref: s for s in replicas}).values())
        self._latest = (record, replicas)

    def on_usage(self, usages: Sequence[Usage]) -> None:
        """A sample of the replicas."""
        if self._latest is not None:
            self._usage = self._usage or UsageHistory(self._latest[0].generation)
            self._usage.add(usages)

    def close(self) -> None:
        """Let :meth:`run` push what is left, and return."""
        self._closed = True
        self._is_last.set()
        self._news.set()

    async def run(self) -> None:
        took = 0.0
        await self._push_all(self._opening)
        while not self._closed:
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_after(took)):
                    await self._news.wait()
                async with asyncio.timeout(SETTLE):
                    await self._is_last.wait()
            started = time.monotonic()
            if not self._news.is_set():
                await self._push_positions()
            self._news.clear()
            await self._push_latest()
            if not self._closed:
                await self._push_all(self._links)
            self._older = dict(self._positions or {})
            took = time.monotonic() - started
        for pause in LAST_PAUSES:
            self._failed = False
            await self._push_all(self._opening)
            await self._push_latest()
            if not self._failed:
                break
            await asyncio.sleep(pause)

    async def _push_all(self, values: Mapping[str, Any]) -> None:
        for key, value in values.items():
            await self._changed(key, value, partial(_same, value))

    async def _resume(self, pull: Pull, generation: int) -> None:
        """Go on with what another process has told of this generation."""
        try:
            job = await pull(JOB)
            has_run = any("RUNNING" in entry["state"] for entry in (job or {}).get("states", ()))
            usage = await pull(USAGE) if has_run else {}
        except Exception as error:  # noqa: BLE001 - it would only have been shown
            log.warning("what was shown of the job before cannot be read: %s", error)
            return
        if _generation(job) == generation:
            before = [entry for entry in job.get("states", ()) if entry["at"] < self._states[0]["at"]]
            known = before and _is_same_state(before[-1], self._states[0])
            self._states = [*before, *self._states[1 if known else 0 :]]
        if _generation(usage) == generation and self._usage is None:
            self._usage = UsageHistory.of_document(usage)

    async def _push_latest(self) -> None:
        if self._latest is None:
            return
        record, replicas = self._latest
        if self._pull is not None:
            pull, self._pull = self._pull, None
            await self._resume(pull, record.generation)
        now = time.time()
        await self._changed(JOB, record, lambda: job_document(record, now, self._states))
        if replicas or not record.state.terminal:
            await self._changed(REPLICAS, tuple(replicas), lambda: replicas_document(record, replicas, now))
        if (usage := self._usage) is not None:
            await self._changed(USAGE, usage.latest_at, lambda: usage.document(now))
        if (describe := self._describe) is not None:
            await self._changed(PLAN, (record.prepared,), lambda: describe(record))

    async def _push_positions(self) -> None:
        if self._positions is not None:
            await self._changed(POSITIONS, self._older, lambda: self._older)

    async def _changed(self, key: str, version: object, value: Callable[[], Any]) -> None:
        pushed, again_at = self._pushed.get(key, (None, 0.0))
        if pushed == version and time.monotonic() < again_at:
            return
        try:
            await self._push(key, value())
        except Exception as error:  # noqa: BLE001 - what is shown must not hinder the job; the next turn tries again
            log.warning("XCom %s could not be pushed (%s); trying again", key, error)
            self._failed = True
        else:
            self._pushed[key] = version, time.monotonic() + REPEAT if key in _SHOWN else math.inf


def _same(value: Any) -> Any:
    return value


def _is_same_state(entry: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return (entry["state"], entry["attempt"]) == (other["state"], other["attempt"])


def is_older(value: Any, stored: Any) -> bool:
    """Whether a later generation has told its state already, or somebody the end of this one: this is a try that is being stopped,
    or a triggerer that stood still, and too late."""
    if _generation(value) == _generation(stored):
        return _has_ended(stored) and not _has_ended(value) and "state" in value
    return 0 < _generation(value) < _generation(stored)


def _has_ended(job: Any) -> bool:
    return isinstance(job, Mapping) and "state" in job and JobState[job["state"]].terminal


def _generation(value: Any) -> int:
    """0: it has none."""
    return int(value.get("generation", 0)) if isinstance(value, Mapping) else 0


def push_at(where: Mapping[str, str], claims: Iterable[str] = ()) -> Push:
    """Stores XComs of the task instance there, unless those of a later generation are there.

    That is asked once a turn, of one key that the claim has stored: of one that is missing Airflow writes an error into the
    task's log.

    :param claims: keys whose first value is that of a process that has just claimed the job: nobody can have said anything later.
    """
    unsaid = set(claims)
    stored, asked_at = None, -math.inf

    async def push(key: str, value: Any) -> None:
        nonlocal stored, asked_at
        if key == JOB and key in unsaid:
            stored, asked_at = value, time.monotonic()
        elif _generation(value) and time.monotonic() - asked_at > ASK_AGAIN:
            stored = await xcom_at(where, JOB)
            asked_at = time.monotonic()
        if not is_older(value, stored):
            await push_claim(where, key, value)
            unsaid.discard(key)

    return push


async def push_claim(where: Mapping[str, str], key: str, value: Any) -> None:
    """As :func:`push_claims`, of one key."""
    from airflow.sdk.execution_time.xcom import XCom

    await ask_airflow(XCom.set, key=key, value=value, **_address(where))


async def push_claims(where: Mapping[str, str], values: Mapping[str, Any]) -> None:
    """Stores what whoever has just claimed the job says first, by key."""
    for key, value in values.items():
        await push_claim(where, key, value)


def pull_at(where: Mapping[str, str]) -> Pull:
    """Reads XComs of the task instance there."""
    return partial(xcom_at, where)


async def xcom_at(where: Mapping[str, str], key: str) -> Any:
    """An XCom of the task instance there; None: it has none of that key (yet)."""
    from airflow.sdk.execution_time.xcom import XCom

    return await ask_airflow(XCom.get_one, key=key, **_address(where))


@asynccontextmanager
async def positions_kept(where: Mapping[str, str], every: float = EVERY) -> AsyncIterator[dict[str, str]]:
    """Positions as the task instance there has them; inside, what becomes of them is stored, one turn late, as above.

    :param every: seconds between two values.
    """
    positions = await positions_at(where)

    async def store_again_and_again() -> None:
        push, stored, older = push_at(where), dict(positions), dict(positions)
        while True:
            await asyncio.sleep(every)
            if older != stored:
                try:
                    await push(POSITIONS, older)
                    stored = older
                except Exception as error:  # noqa: BLE001 - lines may be told again, nothing else
                    log.warning("the positions of the job's log could not be stored (%s); trying again", error)
            older = dict(positions)

    storing = asyncio.create_task(store_again_and_again())
    try:
        yield positions
    finally:
        storing.cancel()
        await asyncio.gather(storing, return_exceptions=True)


async def positions_at(where: Mapping[str, str]) -> dict[str, str]:
    """Positions of the log lines that this try's user was told already; empty where that cannot be read: lines may repeat."""
    try:
        return dict(await xcom_at(where, POSITIONS) or {})
    except Exception as error:  # noqa: BLE001 - whatever it is: the log is told again, and the job goes on
        log.warning("the positions of the job's log could not be read (%s): lines may be told again", error)
        return {}


def _address(where: Mapping[str, str]) -> dict[str, Any]:
    return {
        "dag_id": where["dag_id"],
        "task_id": where["task_id"],
        "run_id": where["run_id"],
        "map_index": int(where["map_index"]),
    }
