"""The task group and the sensor in the real scheduler and triggerer, on the process backend."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.airflow.remains import remains, replicas
from tests.airflow.running import DagRun, RunningAirflow, wait_for

pytestmark = [pytest.mark.airflow, pytest.mark.slow, pytest.mark.timeout(600)]

REPLICAS = ("workerpool0-0", "workerpool1-0", "workerpool1-1")


def ended(run: DagRun, seconds: float = 240) -> dict[str, dict[str, Any]]:
    wait_for("the run's end", lambda: run.state() in ("success", "failed"), seconds, 0.5)
    return run.tasks()


def states(tasks: dict[str, dict[str, Any]]) -> dict[str, str]:
    return {name: task["state"] for name, task in tasks.items()}


def job_of(run: DagRun) -> str:
    return wait_for("a job", lambda: run.xcom_of("train.run", "custom_job_id"), every=0.2)


@pytest.fixture(scope="module")
def runs(airflow: RunningAirflow) -> dict[str, DagRun]:
    """Runs that end by themselves, all started at once; those whose jobs others must reach in time have Airflow for themselves."""
    dag_ids = ("group_of_forty", "group_ends", "group_in_one_slot", "group_fails")
    return {dag_id: airflow.run(dag_id) for dag_id in dag_ids}


def test_each_row_has_its_own_replicas_log(runs: dict[str, DagRun]) -> None:
    run = runs["group_ends"]
    tasks = ended(run)
    assert run.state() == "success", run.log_of(tasks["train.run"])
    assert states(tasks) == dict.fromkeys([*REPLICAS, "train.plan", "train.run", "train.job"], "success")
    for rank, replica in enumerate(REPLICAS):
        lines = [line for line in run.log_of(tasks[replica]) if "of rank" in line]
        assert lines == [f"line {number} of rank {rank}" for number in range(10)]
        assert tasks[replica]["duration"] > 1
    assert run.xcom_of("train.job") == run.xcom_of("train.run")
    assert not remains("process", job_of(run))


def test_one_slot_is_enough(runs: dict[str, DagRun]) -> None:
    run = runs["group_in_one_slot"]
    tasks = ended(run)
    assert run.state() == "success", run.log_of(tasks["train.run"])
    assert states(tasks) == dict.fromkeys([*REPLICAS, "train.plan", "train.run", "train.job"], "success")


def test_a_failing_replica_fails_its_row_and_the_run(runs: dict[str, DagRun]) -> None:
    run = runs["group_fails"]
    tasks = ended(run)
    assert run.state() == "failed"
    assert states(tasks) == {
        "workerpool0-0": "skipped",
        "workerpool1-0": "failed",
        "workerpool1-1": "skipped",
        "train.plan": "success",
        "train.run": "failed",
        "train.job": "failed",
    }
    assert "cannot read the data" in run.log_of(tasks["workerpool1-0"])


def test_a_row_that_is_marked_as_failed_ends_the_job(airflow: RunningAirflow) -> None:
    run = airflow.run("group_ticks")
    job_id = job_of(run)
    wait_for("three replicas", lambda: len(replicas("process", job_id)) == 3)
    wait_for("a row", lambda: run.tasks().get("workerpool1-1", {}).get("state") == "deferred", every=0.2)
    wait_for("its log", lambda: "tick 3" in run.log_of(run.tasks()["workerpool1-1"]), every=0.5)
    marked_at = time.time()
    run.mark(run.tasks()["workerpool1-1"], "failed")
    wait_for("the replicas' end", lambda: not replicas("process", job_id), 120)
    print(f"\nrow marked failed: all gone after {time.time() - marked_at:.2f} s")
    tasks = ended(run)
    assert run.state() == "failed"
    assert states(tasks) == {
        "workerpool0-0": "skipped",
        "workerpool1-0": "skipped",
        "workerpool1-1": "failed",
        "train.plan": "success",
        "train.run": "failed",
        "train.job": "failed",
    }
    assert any("the row of workerpool1-1 was marked as failed" in line for line in run.log_of(tasks["train.run"]))


def test_forty_rows_under_airflows_default_limits(runs: dict[str, DagRun]) -> None:
    """Regression: with tasks that wait for each other, sixteen tasks of a DAG and 32 of all, the gang would starve."""
    run = runs["group_of_forty"]
    tasks = ended(run, 240)
    assert run.state() == "success", run.log_of(tasks["train.run"])
    assert list(states(tasks).values()) == ["success"] * 43
    said = [name for name, task in tasks.items() if any("I am rank" in line for line in run.log_of(task))]
    print(f"\n{len(set(said) - {'train.run'})} of 40 rows had their replica's line")
    assert not remains("process", job_of(run))


def test_a_group_over_three_specs_of_another_task(airflow: RunningAirflow) -> None:
    run = airflow.run("group_over")
    tasks = ended(run, 240)
    assert run.state() == "success", run.log_of(tasks["0"])
    for index, name in enumerate(("small", "middle", "large")):
        assert run.xcom_of("train.job", map_index=index)["display_name"] == name
        row = tasks[f"{index}/workerpool0-0"]
        assert [line for line in run.log_of(row) if "of rank" in line] == [
            f"line {line} of rank 0" for line in range(10)
        ]


def test_a_deferred_sensor_drives_a_job_that_nobody_waits_for(airflow: RunningAirflow) -> None:
    run = airflow.run("detached")
    tasks = ended(run)
    assert states(tasks) == {"train": "success", "wait": "success"}, run.log_of(tasks["wait"])
    assert run.xcom_of("wait")["state"] == 4
    lines = run.log_of(tasks["wait"])
    for rank, replica in enumerate(REPLICAS):
        told = [line for line in lines if line.startswith(f"{replica}: ")]
        assert told == [f"{replica}: line {number} of rank {rank}" for number in range(10)]
    assert not remains("process", run.job_id())
