"""Somebody else's job, watched: found by its reference or by its task, driven where nobody waits for it, never cancelled."""

from __future__ import annotations

import ast
import asyncio
import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from airflow.sdk.exceptions import AirflowRuntimeError

from airflow_customjob.backends.base import EngineError
from airflow_customjob.client import AsyncCustomJobClient
from airflow_customjob.job import Job, NoSuchJob
from airflow_customjob.spec.airflow_states import job_state_of
from airflow_customjob.spec.job_state import JobState
from airflow_customjob.supervisor.follow import Sink
from airflow_customjob.supervisor.ownership import ENDED_TASK
from airflow_customjob.supervisor.record import JobRecord
from airflow_customjob.supervisor.result import ends_by
from airflow_customjob.supervisor.supervise import Fenced
from airflow_customjob.task.comms import ask_airflow
from airflow_customjob.task.drive import WrongEngine
from airflow_customjob.task.identity import DETACHED, RUN, installation_id, state_at
from airflow_customjob.task.xcoms import REF, xcom_at

OVERDUE = 60.0
"""Seconds after a job's timeout when a watcher gives it up: whoever drives it should have ended it long before."""
ENGINE_AGAIN = 5.0
"""Seconds between two attempts to reach an engine that does not answer."""


class Verdict(StrEnum):
    MET = "met"
    FAILED = "failed"
    """The job, or what it belongs to, has ended otherwise."""
    TIMED_OUT = "timed out"


@dataclass(frozen=True)
class Outcome:
    """What came of the watching.

    :param state: name of the job's state.
    :param result: the CustomJob as ``to_dict`` gives it.
    :param why: where the verdict is not MET.
    """

    verdict: Verdict
    state: str
    result: dict[str, Any]
    why: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Outcome:
        return cls(**{**data, "verdict": Verdict(data["verdict"])})


@dataclass(frozen=True)
class Watched:
    """Which job it is. Its form is JSON.

    :param ref: what the XCom ``custom_job_ref`` holds; empty: it is looked up where the task is.
    :param where: dag_id, run_id, map_index, and task_id or task_group_id.
    :param targets: names of the states that are waited for.
    """

    ref: dict[str, Any] = field(default_factory=dict)
    where: dict[str, str] = field(default_factory=dict)
    targets: tuple[str, ...] = (JobState.JOB_STATE_SUCCEEDED.name,)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "targets": list(self.targets)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Watched:
        return cls(**{**data, "targets": tuple(data["targets"])})


class RefError(ValueError):
    """It is no reference to a job."""


def parse_ref(value: object) -> dict[str, Any]:
    """The reference in a mapping, in JSON, or in what a template makes of a mapping (Python's own notation).

    :raises RefError: it is none.
    """
    found: object = value
    if isinstance(value, str):
        for read in (json.loads, ast.literal_eval):
            with suppress(ValueError, SyntaxError):
                found = read(value)
                break
    if isinstance(found, Mapping) and isinstance(found.get("custom_job_id"), str) and found.get("backend"):
        return dict(found)
    raise RefError(
        f"custom_job={value!r} is no reference to a job: give the XCom `{REF}` of the task that submitted it, a mapping with "
        "`custom_job_id` and `backend`. None: has that task run, and is its id right?"
    )


@dataclass(frozen=True)
class Sight:
    """The job at one moment.

    :param final: its state will not change any more.
    :param result: what its task has returned, where the job itself is not known.
    """

    state: JobState
    job: Job | None = None
    final: bool = False
    why: str = ""
    result: dict[str, Any] | None = None


class JobWatch:
    """
    :param say: takes lines of progress.
    :param sink: takes the log lines of a job that is driven from here.
    :param positions: of those lines, kept up to date.
    """

    def __init__(
        self,
        watched: Watched,
        *,
        say: Callable[[str], None],
        sink: Sink | None = None,
        positions: dict[str, str] | None = None,
    ) -> None:
        self._watched = watched
        self._say = say
        self._sink = sink
        self._positions = positions
        self._told: tuple[int, JobState] | None = None
        self._last = JobState.JOB_STATE_UNSPECIFIED

    async def until_decided(self, poll: float) -> Outcome:
        """Watch until there is a verdict.

        :param poll: seconds between two looks.
        """
        while True:
            outcome = await self.once()
            if outcome is not None:
                return outcome
            await asyncio.sleep(poll)

    async def once(self, drive_for: float | None = None) -> Outcome | None:
        """Look, and drive the job where that is left to others; None: there is no verdict yet.

        :param drive_for: so many seconds at most; None: to its end.
        """
        try:
            return await self._once(drive_for)
        except (EngineError, AirflowRuntimeError) as error:
            who = "the job's engine" if isinstance(error, EngineError) else "Airflow"
            self._say(f"{who} does not answer: {error}; trying again")
            await asyncio.sleep(ENGINE_AGAIN)
            return None
        except (NoSuchJob, WrongEngine, RefError) as error:
            return Outcome(Verdict.FAILED, self._last.name, {}, str(error))

    async def _once(self, drive_for: float | None) -> Outcome | None:
        ref = self._watched.ref or await self._look_up()
        if ref is None:
            return self._judged(await self._by_tasks())
        client = AsyncCustomJobClient(ref["backend"])
        async with client.backend.open() as engine:
            here = await engine.identity()
            if here != ref.get("engine", here):
                raise WrongEngine(
                    f"job {ref['custom_job_id']} runs on the engine {ref['engine']}, and {client.backend!r} leads to {here} on "
                    "this host: point the backend of workers and triggerers at one and the same engine"
                )
            try:
                job = await client.get(ref["custom_job_id"])
            except NoSuchJob:
                if not self._watched.where:
                    raise
                return self._judged(await self._by_tasks())  # its record's time is over; Airflow knows how it ended
            if drive_for != 0.0 and await _is_left_to_others(job.record):
                job = await self._drive(client, job, drive_for)
        return self._judged(await self._sight(job))

    async def _drive(self, client: AsyncCustomJobClient, job: Job, drive_for: float | None) -> Job:
        with suppress(Fenced, TimeoutError):
            async with asyncio.timeout(drive_for):
                return await client.supervise(
                    job.job_id,
                    owner=job.record.owner,
                    generation=job.record.generation,
                    sink=self._sink,
                    say=self._say,
                    positions=self._positions,
                    until=lambda record: record.state.name in self._watched.targets and not record.state.terminal,
                )
        return await client.get(job.job_id)

    def _owner(self) -> dict[str, str]:
        """Where the task is that runs the job."""
        where = self._watched.where
        return {**where, "task_id": where.get("task_id") or f"{where['task_group_id']}.{RUN}"}

    async def _look_up(self) -> dict[str, Any] | None:
        ref = await xcom_at(self._owner(), REF)
        return None if ref is None else parse_ref(ref)

    async def _sight(self, job: Job) -> Sight:
        """A job of a task that is going to be tried again, or was cleared, is not the end: of whoever asks for a task's job, even one that
        has succeeded."""
        where = job.record.owner.where
        final = job.state.terminal
        last = job.state.succeeded and not self._watched.where
        if final and not last and "dag_id" in where and await _is_of_this_installation(job.record):
            final = await ask_airflow(state_at, where) in ENDED_TASK
        return Sight(job.state, job, final, job.error)

    async def _by_tasks(self) -> Sight:
        """:raises RefError: they are of several jobs."""
        where, owner = self._watched.where, self._owner()
        states = await ask_airflow(_task_states, where)
        key, is_mapped = owner["task_id"], int(where["map_index"]) >= 0
        if not is_mapped and key not in states and f"{key}_0" in states and "task_group_id" in where:
            raise RefError(f"{where['task_group_id']} runs several jobs: say by external_map_index which one is meant")
        key = f"{key}_{where['map_index']}" if is_mapped else key
        state = job_state_of({key: states[key]} if key in states else states)
        why = f"no job was submitted, or its record is gone; its tasks: {states}"
        result = await xcom_at(owner, "return_value") if state.succeeded else None
        return Sight(state, None, bool(states) and state.terminal, why, result if isinstance(result, dict) else None)

    def _judged(self, sight: Sight) -> Outcome | None:
        self._tell(sight)
        state, job = sight.state, sight.job
        reached = {state.name} | ({JobState.JOB_STATE_RUNNING.name} if state.succeeded else set())
        result = _result(sight)
        is_stale = self._watched.where and state.terminal and not sight.final
        if reached & set(self._watched.targets) and not is_stale:
            return Outcome(Verdict.MET, state.name, result)
        if sight.final:
            name = f"job {job.job_id}" if job else "the job"
            return Outcome(Verdict.FAILED, state.name, result, f"{name} ended as {state.name}: {sight.why}")
        by = ends_by(job.record) if job and not state.terminal else None
        if job and by is not None and time.time() > by + OVERDUE:
            late = (
                f"job {job.job_id} is {state.name}, {OVERDUE:g} s after its scheduling.timeout has passed: nobody drives it. "
                f"Cancel it (`customjob cancel --backend {job.backend['name']} {job.job_id}`), or clear its task"
            )
            return Outcome(Verdict.TIMED_OUT, state.name, result, late)
        return None

    def _tell(self, sight: Sight) -> None:
        self._last = sight.state
        generation = sight.job.record.generation if sight.job else 0
        if self._told != (generation, sight.state):
            self._told = (generation, sight.state)
            self._say(f"{f'job {sight.job.job_id}' if sight.job else 'the job'}: {sight.state.name}")


async def _is_left_to_others(record: JobRecord) -> bool:
    """Its task did not wait for it; another installation's jobs are its own to drive."""
    return DETACHED in record.owner.where and await _is_of_this_installation(record)


async def _is_of_this_installation(record: JobRecord) -> bool:
    return record.owner.where.get("installation") == await ask_airflow(installation_id)


def _result(sight: Sight) -> dict[str, Any]:
    from airflow_customjob.spec.message import CustomJob
    from airflow_customjob.spec.output import to_sdk_dict

    if sight.job:
        return sight.job.to_dict()
    return sight.result or to_sdk_dict(CustomJob(state=int(sight.state)))  # type: ignore[arg-type]


def _task_states(where: Mapping[str, str]) -> dict[str, str | None]:
    """Blocks: it asks Airflow."""
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    group = where.get("task_group_id")
    states = RuntimeTaskInstance.get_task_states(
        dag_id=where["dag_id"],
        run_ids=[where["run_id"]],
        **({"task_group_id": group} if group else {"task_ids": [where["task_id"]]}),
        map_index=None if group else int(where["map_index"]),
    )
    found = states.get(where["run_id"], {})
    return {key: None if state is None else str(state) for key, state in found.items()}
