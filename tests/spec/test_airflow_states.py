"""Airflow's task states as states of a job."""

from __future__ import annotations

import pytest

from airflow_customjob.spec.airflow_states import TASK_STATES, aggregated, job_state_of, replica_state
from airflow_customjob.spec.job_state import JobState

STATES = {state.short: state for state in JobState}
QUEUED, PENDING, RUNNING = (STATES[name] for name in ("QUEUED", "PENDING", "RUNNING"))
SUCCEEDED, FAILED, EXPIRED = (STATES[name] for name in ("SUCCEEDED", "FAILED", "EXPIRED"))
CANCELLED = JobState.JOB_STATE_CANCELLED


def test_every_task_state_of_airflow_and_none_is_in_the_table_and_no_other() -> None:
    from airflow.utils.state import TaskInstanceState

    assert set(TASK_STATES) == {None, *(state.value for state in TaskInstanceState)}


def test_a_task_state_has_ended_exactly_where_the_replicas_state_has() -> None:
    from airflow_customjob.supervisor.ownership import ENDED_TASK, GONE

    ended = {name for name, meaning in TASK_STATES.items() if meaning.state.terminal}
    assert ended == ENDED_TASK - {GONE}


@pytest.mark.parametrize(
    ("task_state", "state"),
    [
        (None, QUEUED),
        ("queued", PENDING),
        ("deferred", RUNNING),
        ("up_for_retry", PENDING),
        ("success", SUCCEEDED),
        ("upstream_failed", FAILED),
        ("skipped", CANCELLED),
        ("a later Airflow's", JobState.JOB_STATE_UNSPECIFIED),
    ],
)
def test_what_a_task_says_of_its_replica(task_state: str | None, state: JobState) -> None:
    assert replica_state(task_state) is state


@pytest.mark.parametrize(
    ("primary", "others", "job"),
    [
        ("SUCCEEDED", "RUNNING RUNNING", "SUCCEEDED"),
        ("SUCCEEDED", "CANCELLED SUCCEEDED", "SUCCEEDED"),
        ("SUCCEEDED", "FAILED RUNNING", "FAILED"),
        ("RUNNING", "FAILED RUNNING", "FAILED"),
        ("CANCELLED", "RUNNING RUNNING", "CANCELLED"),
        ("CANCELLED", "CANCELLED CANCELLED", "CANCELLED"),
        ("RUNNING", "CANCELLED RUNNING", "CANCELLING"),
        ("RUNNING", "SUCCEEDED RUNNING", "RUNNING"),
        ("RUNNING", "", "RUNNING"),
        ("RUNNING", "RUNNING PENDING", "PENDING"),
        ("RUNNING", "RUNNING QUEUED", "PENDING"),
        ("QUEUED", "QUEUED PENDING", "PENDING"),
        ("QUEUED", "QUEUED QUEUED", "QUEUED"),
        ("UNSPECIFIED", "RUNNING", "PENDING"),
    ],
)
def test_what_the_replicas_say_of_their_job(primary: str, others: str, job: str) -> None:
    assert aggregated(STATES[primary], [STATES[name] for name in others.split()]) is STATES[job]


@pytest.mark.parametrize(
    ("primary", "job"), [(RUNNING, EXPIRED), (QUEUED, EXPIRED), (SUCCEEDED, SUCCEEDED), (FAILED, FAILED)]
)
def test_the_timeout_ends_what_has_not_ended_in_the_configured_state(primary: JobState, job: JobState) -> None:
    assert aggregated(primary, [RUNNING], timed_out=True, timeout_state=EXPIRED) is job


def test_the_primary_is_the_first_of_the_first_pool() -> None:
    tasks = {f"train.workerpool{pool}_{index}": "running" for pool in (0, 2, 10) for index in (0, 2, 10)}
    assert job_state_of(tasks | {"train.workerpool0_0": "success"}) is SUCCEEDED
    assert job_state_of(tasks | {"train.workerpool0_10": "success"}) is RUNNING
    assert job_state_of(tasks | {"train.workerpool2_0": "success"}, primary="train.workerpool2_0") is SUCCEEDED


def test_a_mapped_task_before_it_is_expanded_does_not_run() -> None:
    assert job_state_of({"train": None}, expected=3) is QUEUED
    assert job_state_of({"train_0": "running", "train_1": "running"}, expected=3) is PENDING
    assert job_state_of({f"train_{index}": "running" for index in range(3)}, expected=3) is RUNNING


def test_no_task_is_a_job_that_waits() -> None:
    assert job_state_of({}) is QUEUED
