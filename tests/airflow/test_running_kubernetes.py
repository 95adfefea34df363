"""What a running Airflow does to a job on a real cluster; how it ends jobs is the same on every engine, and tested on the others."""

from __future__ import annotations

import time

import pytest

from tests.airflow.remains import remains, replicas, why_unscheduled
from tests.airflow.running import RunningAirflow, wait_for
from tests.engines import STALL

pytestmark = [pytest.mark.airflow, pytest.mark.kubernetes, pytest.mark.slow, pytest.mark.timeout(600)]

REPLICAS = ("workerpool0-0", "workerpool1-0", "workerpool1-1")


def test_a_deferred_job_succeeds_with_its_log_in_the_task(airflow: RunningAirflow) -> None:
    run = airflow.run("ends_deferred_kubernetes")
    assert run.wait_until("success", "failed", seconds=240)["state"] == "success", run.log()
    assert run.job_state() == "JOB_STATE_SUCCEEDED"
    lines = run.log()
    for rank, replica in enumerate(REPLICAS):
        told = [line for line in lines if line.startswith(f"{replica}: ")]
        assert told == [f"{replica}: line {number} of rank {rank}" for number in range(10)]
    assert not remains("kubernetes", run.job_id())


def test_a_deferred_task_that_is_marked_failed_leaves_no_pod(airflow: RunningAirflow) -> None:
    run = airflow.run("ticks_deferred_kubernetes")
    job_id = run.wait_until_running()
    assert len(replicas("kubernetes", job_id)) == len(REPLICAS)
    marked_at = time.time()
    run.mark_failed()
    wait_for("the job is gone", lambda: not remains("kubernetes", job_id), STALL)
    took = time.time() - marked_at
    print(f"\nkubernetes: deferred, marked failed: all gone after {took:.2f} s")
    wait_for("the last XCom", lambda: run.job_state() == "JOB_STATE_CANCELLED", STALL)


def test_a_replica_that_no_node_has_room_for_says_why_in_the_task_log(airflow: RunningAirflow) -> None:
    run = airflow.run("vast_deferred_kubernetes")
    job_id = run.job_id()
    wait_for("the scheduler's words", lambda: why_unscheduled(job_id), 2 * STALL)
    known_at = time.time()
    wait_for("them in the log", lambda: "Insufficient cpu" in "\n".join(run.log()), STALL, 0.2)
    took = time.time() - known_at
    print(f"\nkubernetes: deferred, no room: told in the task log after {took:.2f} s")
    run.mark_failed()
    wait_for("the job is gone", lambda: not remains("kubernetes", job_id), STALL)
