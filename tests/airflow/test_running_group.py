"""The task group and the sensor in the real scheduler and triggerer, on the process backend."""

from __future__ import annotations

import time
from typing import Any

import pytest

from airflow_customjob import CustomJobClient, ProcessBackend
from tests.airflow.remains import remains, replicas
from tests.airflow.running import DagRun, RunningAirflow, wait_for

pytestmark = [pytest.mark.airflow, pytest.mark.slow, pytest.mark.timeout(300)]

REPLICAS = ("workerpool0-0", "workerpool1-0", "workerpool1-1")


def ended(run: DagRun, seconds: float = 120) -> dict[str, dict[str, Any]]:
    wait_for("the run's end", lambda: run.state() in ("success", "failed"), seconds, 0.5)
    return run.tasks()


def states(tasks: dict[str, dict[str, Any]]) -> dict[str, str]:
    return {name: task["state"] for name, task in tasks.items()}


def job_of(run: DagRun) -> str:
    return wait_for("a job", lambda: run.xcom_of("train.run", "custom_job_id"), every=0.2)


def test_each_row_has_its_own_replicas_log(airflow: RunningAirflow) -> None:
    run = airflow.run("group_ends")
    tasks = ended(run)
    assert run.state() == "success", run.log_of(tasks["train.run"])
    assert states(tasks) == dict.fromkeys([*REPLICAS, "train.plan", "train.run", "train.job"], "success")
    for rank, replica in enumerate(REPLICAS):
        lines = [line for line in run.log_of(tasks[replica]) if "of rank" in line]
        assert lines == [f"line {number} of rank {rank}" for number in range(10)]
        assert tasks[replica]["duration"] > 1
    assert run.xcom_of("train.job") == run.xcom_of("train.run")
    assert not remains("process", job_of(run))


def test_one_slot_is_enough(airflow: RunningAirflow) -> None:
    run = airflow.run("group_in_one_slot")
    tasks = ended(run)
    assert run.state() == "success", run.log_of(tasks["train.run"])
    assert states(tasks) == dict.fromkeys([*REPLICAS, "train.plan", "train.run", "train.job"], "success")


def test_a_failing_replica_fails_its_row_and_the_run(airflow: RunningAirflow) -> None:
    run = airflow.run("group_fails")
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
    wait_for("the replicas' end", lambda: not replicas("process", job_id), 30)
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


def ticking(run: DagRun) -> tuple[str, set[str]]:
    """A group whose rows all tell: its job's id, and its replicas' ids."""
    job_id = job_of(run)
    wait_for("three replicas", lambda: len(replicas("process", job_id)) == 3)
    before = set(replicas("process", job_id))
    wait_for(
        "deferred rows",
        lambda: [run.tasks().get(name, {}).get("state") for name in REPLICAS] == ["deferred"] * 3,
        every=0.3,
    )
    return job_id, before


def test_a_group_that_is_cleared_starts_its_job_anew(airflow: RunningAirflow) -> None:
    run = airflow.run("group_ticks")
    job_id, before = ticking(run)
    cleared_at = time.time()
    run.clear(*{task["task_id"] for task in run.tasks().values()})
    wait_for("old replicas gone", lambda: not before & set(replicas("process", job_id)), 30)
    print(f"\ngroup cleared: old replicas gone after {time.time() - cleared_at:.2f} s")
    wait_for("generation 2", lambda: (run.xcom_of("train.run", "custom_job") or {}).get("generation") == 2, 60, 0.3)
    assert ticking(run)[0] == job_id
    wait_for("its log", lambda: "tick 3" in run.log_of(run.tasks()["workerpool1-0"]), every=0.5)
    run.mark(run.tasks()["train.run"], "failed")
    tasks = ended(run)
    assert run.state() == "failed"
    assert states(tasks)["train.job"] == "failed"
    wait_for("nothing left", lambda: not remains("process", job_id), 30)


@pytest.mark.parametrize("dag_id", ["group_ticks", "group_ticks_sync"])
def test_a_run_that_is_marked_as_failed_leaves_nothing(airflow: RunningAirflow, dag_id: str) -> None:
    """Regression: a killed worker kept ended replicas for the rows, and had no time left to remove them."""
    run = airflow.run(dag_id)
    job_id, _ = ticking(run)
    marked_at = time.time()
    run.end("failed")
    wait_for("nothing left", lambda: not remains("process", job_id), 30)
    print(f"\nrun marked failed: all gone after {time.time() - marked_at:.2f} s")
    client = CustomJobClient(ProcessBackend(state_folder=str(airflow.home / "customjob")))
    wait_for("no trace of its replicas", lambda: not client.get(job_id).replicas, 12, 0.5)
    assert run.state() == "failed"
    assert not {"running", "deferred"} & set(states(run.tasks()).values())


def test_a_run_that_times_out_leaves_nothing(airflow: RunningAirflow) -> None:
    run = airflow.run("group_times_out")
    job_id = job_of(run)
    tasks = ended(run)
    ended_at = time.time()
    wait_for("nothing left", lambda: not remains("process", job_id), 30)
    print(f"\ndagrun_timeout: all gone {time.time() - ended_at:.2f} s after the run's end")
    assert run.state() == "failed"
    assert states(tasks)["train.run"] == "skipped"


def test_forty_rows_under_four_slots(airflow: RunningAirflow) -> None:
    """Regression: with tasks that wait for each other, Airflow's limits would starve the gang."""
    run = airflow.run("group_of_forty")
    tasks = ended(run, 240)
    assert run.state() == "success", run.log_of(tasks["train.run"])
    assert list(states(tasks).values()) == ["success"] * 43
    said = [name for name, task in tasks.items() if any("I am rank" in line for line in run.log_of(task))]
    print(f"\n{len(set(said) - {'train.run'})} of 40 rows had their replica's line")
    assert not remains("process", job_of(run))


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
