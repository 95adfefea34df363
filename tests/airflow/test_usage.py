"""What a task tells of its job for its tab."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise
from typing import Any

import pytest

from airflow_customjob.backends.base import ReplicaRef, Usage
from airflow_customjob.backends.fake import FakeBackend
from airflow_customjob.links import browsable, page_of
from airflow_customjob.plan.types import JobId, JobRequest, Prepared
from airflow_customjob.plugin import react_apps
from airflow_customjob.spec.job_state import JobState
from airflow_customjob.supervisor.record import JobRecord, Owner, new_record, touched
from airflow_customjob.task import xcoms
from airflow_customjob.task.provenance import plan_document
from airflow_customjob.task.usage import LEVELS, MAX_SAMPLES, UsageHistory
from tests.airflow.conftest import JOB

GIB = 2**30


def usages(at: float, count: int, cpus: float = 1.0, memory: int = GIB) -> list[Usage]:
    refs = [ReplicaRef(JobId("1"), 1, 0, f"workerpool1-{index}", 0) for index in range(count)]
    return [Usage(ref, at, cpus * (1 + index), memory * (1 + index)) for index, ref in enumerate(refs)]


def history_of(samples: int, replicas: int, every: float = 10.0) -> UsageHistory:
    history = UsageHistory(1)
    for number in range(samples):
        history.add(usages(1.7e9 + number * every, replicas, cpus=0.1 * (1 + number % 7)))
    return history


@pytest.mark.parametrize("samples", [1, 13, 500])
def test_a_thousand_replicas_take_64_kilobytes(samples: int) -> None:
    document = history_of(samples, 1000).document(1.7e9)
    assert len(json.dumps(document)) < 64 * 1024
    assert len(document["cpus"]) == 1000


def test_a_long_life_is_told_whole_and_the_latest_exactly() -> None:
    history = history_of(8640, 4)  # a day
    document = history.document(1.7e9)
    after = document["after"]
    assert MAX_SAMPLES / 2 <= len(after) <= MAX_SAMPLES
    assert (after[0], after[-1]) == (0, 86390)
    steps = [later - earlier for earlier, later in pairwise(after)]
    assert max(steps) <= 4 * 86400 / MAX_SAMPLES
    assert document["cpus_latest"] == [0.2, 0.4, 0.6, 0.8]
    assert document["memory_mib_latest"] == [1020, 2050, 3070, 4100]


def test_another_process_goes_on_with_what_was_told() -> None:
    told = history_of(40, 3).document(1.7e9)
    history = UsageHistory.of_document(told)
    history.add(usages(1.7e9 + 1000, 2))
    again = history.document(1.7e9)
    assert again["after"] == [*told["after"], 1000]
    assert [column[:40] for column in again["memory_mib"]] == told["memory_mib"]
    assert [column[-1] for column in again["memory_mib"]] == [LEVELS[21], LEVELS[42], "."]
    assert again["memory_mib_latest"][2] is None


def test_a_sample_of_another_generation_is_none() -> None:
    history = UsageHistory(2)
    history.add(usages(1.7e9, 3))
    assert history.document(1.7e9)["after"] == []


# -- the states, across processes ----------------------------------------------------------------------------------------


def a_record(state: JobState = JobState.JOB_STATE_QUEUED, **changes: Any) -> JobRecord:
    record = new_record(JobId("1"), Owner("o"), "e", JobRequest({"displayName": "j", **JOB}), "d", 1.7e9)
    return touched(record, 1.7e9, state=state, **changes)


def test_the_states_are_told_across_processes() -> None:
    stored: dict[str, Any] = {}

    async def push(key: str, value: Any) -> None:
        stored[key] = value

    async def pull(key: str) -> Any:
        return stored.get(key)

    async def process(*records: JobRecord) -> None:
        publisher = xcoms.Publisher(push, pull=pull)
        running = asyncio.create_task(publisher.run())
        for record in records:
            publisher.on_change(record, [])
        publisher.close()
        await running

    queued = a_record()
    pending = touched(queued, 1.7e9 + 1, state=JobState.JOB_STATE_PENDING)
    running = touched(pending, 1.7e9 + 2, state=JobState.JOB_STATE_RUNNING)
    again = touched(running, 1.7e9 + 3, state=JobState.JOB_STATE_RUNNING, message="a word")
    ended = touched(again, 1.7e9 + 4, state=JobState.JOB_STATE_SUCCEEDED)
    asyncio.run(process(queued, pending, running))
    asyncio.run(process(again, ended))
    states = stored[xcoms.JOB]["states"]
    assert [(entry["state"].removeprefix("JOB_STATE_"), entry["at"] - 1_700_000_000_000) for entry in states] == [
        ("QUEUED", 0),
        ("PENDING", 1000),
        ("RUNNING", 2000),
        ("SUCCEEDED", 4000),
    ]


def test_what_a_job_runs_is_told_with_its_provenance(fake: FakeBackend) -> None:
    record = touched(a_record(), 1.7e9, prepared=Prepared(notes=("image local/py:1 is sha256:4711",)))
    document = plan_document(record, fake.capabilities(), 1.7e9)
    assert document["provenance"] == ["image local/py:1 is sha256:4711"]
    (pool,) = document["pools"]
    assert (pool["name"], pool["replicas"], pool["image"]) == ("workerpool0", 1, "local/py:1")


# -- links ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("directory", "address"),
    [
        ("gs://models/run 7/", "https://console.cloud.google.com/storage/browser/models/run%207"),
        ("/mnt/models", "file:///mnt/models"),
        ("", ""),
    ],
)
def test_an_output_directory_can_be_looked_at(directory: str, address: str) -> None:
    assert browsable(directory) == address


def test_a_page_is_below_the_base_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://airflow.example.com/team/")
    where = {"dag_id": "d", "run_id": "manual__2026-01-01T00:00:00+00:00", "task_id": "g.run", "map_index": "3"}
    page = "https://airflow.example.com/team/dags/d/runs/manual__2026-01-01T00%3A00%3A00%2B00%3A00/tasks/g.run"
    assert page_of(where) == f"{page}/mapped/3"
    assert page_of({**where, "map_index": -1}) == page


def test_the_tab_is_where_the_option_says() -> None:
    assert [app["destination"] for app in react_apps("task_instance, dag_run")] == ["task_instance", "dag_run"]
    assert react_apps("") == []
    with pytest.raises(ValueError, match="'task' is none of task_instance, dag_run"):
        react_apps("task")
