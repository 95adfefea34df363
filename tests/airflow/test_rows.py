"""A row of a group: how it ends, what it tells, and what a mark on it does; on the fake engine, without Airflow."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from airflow_customjob.backends.base import Phase, ReplicaRef, ReplicaStatus
from airflow_customjob.backends.fake import FakeBackend, FakeWorld, exits, runs_for_ever
from airflow_customjob.client import AsyncCustomJobClient
from airflow_customjob.job import Job, new_owner
from airflow_customjob.plan.types import JobOptions
from airflow_customjob.spec.job_state import JobState
from airflow_customjob.supervisor.ownership import UNKNOWN
from airflow_customjob.task import rows
from airflow_customjob.task.rows import RowWatch, end_of
from airflow_customjob.triggers import row as row_trigger
from airflow_customjob.triggers.row import ReplicaRowTrigger
from tests.airflow.conftest import JOB

RUN = {"installation": "default", "dag_id": "d", "run_id": "r", "task_id": "train.run", "map_index": "-1"}
ME = {**RUN, "task_id": "train.workerpool0.replica", "map_index": "0"}


class Airflow:
    """What Airflow would answer."""

    def __init__(self) -> None:
        self.states: dict[str, list[str | None]] = {}
        self.xcoms: dict[str, Any] = {}
        self.refuses = ""

    def state_at(self, where: Mapping[str, str]) -> str | None:
        states = self.states[where["task_id"]]
        return states.pop(0) if len(states) > 1 else states[0]

    async def xcom_at(self, where: Mapping[str, str], key: str) -> Any:
        assert where == RUN
        if key == self.refuses:
            raise RuntimeError("no answer")
        return self.xcoms.get(key)


@pytest.fixture
def airflow(monkeypatch: pytest.MonkeyPatch) -> Airflow:
    airflow = Airflow()
    monkeypatch.setattr("airflow_customjob.task.identity.state_at", airflow.state_at)
    monkeypatch.setattr("airflow_customjob.task.xcoms.xcom_at", airflow.xcom_at)
    monkeypatch.setattr(rows, "state_at", airflow.state_at)
    monkeypatch.setattr(rows, "xcom_at", airflow.xcom_at)
    monkeypatch.setattr(rows, "LOOK_EVERY", 0.05)
    monkeypatch.setattr(row_trigger, "ASK_AGAIN", 0.01)
    return airflow


OPTIONS = JobOptions(secret_env=(("TOKEN", "env:HIDDEN"),))


def job_of_two() -> dict[str, Any]:
    (pool,) = JOB["jobSpec"]["workerPoolSpecs"]
    return {**JOB, "jobSpec": {"workerPoolSpecs": [pool, pool]}}


async def running(fake: FakeBackend) -> tuple[AsyncCustomJobClient, Job]:
    client = AsyncCustomJobClient(fake)
    _, job = await client.submit(job_of_two(), OPTIONS, owner=new_owner())
    return client, await client.supervise(
        job.job_id, until=lambda record: record.state is JobState.JOB_STATE_RUNNING, hold_removal=0.0
    )


def test_a_row_tells_its_replicas_lines_of_every_generation_once(
    fake: FakeBackend, world: FakeWorld, airflow: Airflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HIDDEN", "hunter2")
    world.script("workerpool0-0", exits(1, says="first hunter2", after=0.3), exits(0, says="second", after=0.3))
    world.script("workerpool1-0", runs_for_ever(says="not mine"))
    airflow.states["train.run"] = ["queued", "up_for_retry", "running", "running"]
    lines, positions = [], {}

    async def main() -> None:
        watch = RowWatch(
            RUN, "workerpool0-0", sink=lambda line: lines.append(line.text), say=lambda _: None, positions=positions
        )
        watching = asyncio.create_task(watch.to_its_end())
        client, job = await running(fake)
        airflow.xcoms[rows.REF] = job.ref()
        await client.supervise(job.job_id, hold_removal=0.5)
        _, again = await client.submit(job_of_two(), OPTIONS, job_id=job.job_id, owner=new_owner())
        assert again.record.generation == 2
        await client.supervise(job.job_id, hold_removal=0.5)
        airflow.states["train.run"] = ["success"]
        end = await watching
        assert end.state == "JOB_STATE_SUCCEEDED"

    asyncio.run(asyncio.wait_for(main(), 30))
    assert lines == ["first ***", "second"]
    assert len(positions) == 2


def test_all_rows_of_a_job_share_one_look(fake: FakeBackend, world: FakeWorld, airflow: Airflow) -> None:
    world.script("workerpool0-0", runs_for_ever())
    airflow.states["train.run"] = ["running"]
    asked = []

    async def main() -> None:
        _, job = await running(fake)
        airflow.xcoms[rows.REF] = job.ref()
        observe = rows.SharedLook._look

        async def counted(self: rows.SharedLook) -> rows.Look:
            asked.append(1)
            return await observe(self)

        rows.SharedLook._look = counted  # type: ignore[method-assign]
        try:
            watches = [RowWatch(RUN, f"workerpool1-{i}", sink=print, say=lambda _: None) for i in range(40)]
            watching = [asyncio.create_task(watch.to_its_end()) for watch in watches]
            await asyncio.sleep(0.3)
        finally:
            rows.SharedLook._look = observe  # type: ignore[method-assign]
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)

    asyncio.run(asyncio.wait_for(main(), 30))
    assert 2 <= len(asked) <= 12


def test_a_row_reads_on_when_engine_or_airflow_did_not_answer(
    fake: FakeBackend, world: FakeWorld, airflow: Airflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.script("workerpool0-0", exits(0, says="trained", after=0.5))
    airflow.states["train.run"] = ["running"]
    told: list[str] = []
    lines: list[str] = []

    async def main() -> str:
        watch = RowWatch(RUN, "workerpool0-0", sink=lambda line: lines.append(line.text), say=told.append)
        watching = asyncio.create_task(watch.to_its_end())
        client, job = await running(fake)
        airflow.xcoms[rows.REF] = job.ref()
        with monkeypatch.context() as broken:
            broken.setattr(rows, "xcom_at", None)
            broken.setattr(rows, "backend_of", lambda _: 1 / 0)
            await asyncio.sleep(0.2)
        await client.supervise(job.job_id, hold_removal=0.5)
        monkeypatch.setattr(airflow, "refuses", rows.REPLICAS)
        airflow.states["train.run"] = ["success"]
        return (await watching).state

    assert asyncio.run(asyncio.wait_for(main(), 30)) == "JOB_STATE_SUCCEEDED"
    assert lines == ["trained"]
    for words in ("the job cannot be read: ", "how the replicas ended cannot be read: "):
        assert any(text.startswith(words) for text in told)


@pytest.mark.parametrize(
    ("states", "cancelled"),
    [
        (["failed"], True),
        ([UNKNOWN, UNKNOWN, "failed"], True),
        (["deferred"], False),
        ([None], False),
        (["scheduled"], False),
        (["success"], False),
        (["skipped"], False),
        (["gone"], False),
    ],
)
def test_only_a_row_that_is_marked_as_failed_cancels_its_job(
    fake: FakeBackend, world: FakeWorld, airflow: Airflow, states: list[str | None], cancelled: bool
) -> None:
    world.script("workerpool0-0", runs_for_ever())
    world.script("workerpool1-0", runs_for_ever())
    airflow.states[ME["task_id"]] = states

    async def main() -> Job:
        client, job = await running(fake)
        airflow.xcoms[rows.REF] = job.ref()
        await ReplicaRowTrigger(RUN, ME, "workerpool0-0").on_kill()
        return await client.get(job.job_id)

    job = asyncio.run(asyncio.wait_for(main(), 30))
    assert job.state is (JobState.JOB_STATE_CANCELLING if cancelled else JobState.JOB_STATE_RUNNING)
    if cancelled:
        assert job.record.error is not None
        assert "the row of workerpool0-0 was marked as failed" in job.record.error.message


def test_a_mark_before_there_is_a_job_does_nothing(airflow: Airflow) -> None:
    airflow.states[ME["task_id"]] = ["failed"]
    asyncio.run(asyncio.wait_for(ReplicaRowTrigger(RUN, ME, "workerpool0-0").on_kill(), 5))


@pytest.mark.parametrize(
    ("task_state", "job", "culprit", "exit_codes", "end"),
    [
        ("success", "SUCCEEDED", False, [143], "SUCCEEDED"),
        ("failed", "SUCCEEDED", False, [0], "SUCCEEDED"),
        ("failed", "FAILED", True, [3], "FAILED"),
        ("failed", "FAILED", False, [143], "CANCELLED"),
        ("failed", "FAILED", False, [0], "SUCCEEDED"),
        ("failed", "FAILED", False, [0, 143], "CANCELLED"),
        ("failed", "CANCELLED", True, [143], "CANCELLED"),
        ("failed", "EXPIRED", False, [0], "SUCCEEDED"),
        ("failed", "FAILED", False, [], "CANCELLED"),
        ("upstream_failed", None, False, [], "CANCELLED"),
        ("skipped", None, False, [], "CANCELLED"),
        ("success", None, False, [], "SUCCEEDED"),
    ],
)
def test_how_a_row_ends(
    fake: FakeBackend, task_state: str, job: str | None, culprit: bool, exit_codes: list[int], end: str
) -> None:
    record = None
    if job is not None:
        made = asyncio.run(running(fake))[1].record
        failed = ReplicaStatus(ReplicaRef(made.job_id, 1, 0, "workerpool1-0", 0), Phase.EXITED, 3)
        record = replace(made, state=JobState[f"JOB_STATE_{job}"], failed=(failed,) if culprit else ())
    found = end_of(task_state, record, lambda replica: replica == "workerpool1-0", exit_codes)
    assert found.short == end


def test_a_trigger_is_what_it_says_of_itself() -> None:
    path, kwargs = ReplicaRowTrigger(RUN, ME, "workerpool0-0").serialize()
    assert path == "airflow_customjob.triggers.row.ReplicaRowTrigger"
    assert ReplicaRowTrigger(**kwargs).serialize() == (path, kwargs)
