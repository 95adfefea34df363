"""A finished model schedules the next DAG, in a real scheduler and triggerer."""

from __future__ import annotations

import pytest

from tests.airflow.running import DagRun, RunningAirflow, wait_for

pytestmark = [pytest.mark.airflow, pytest.mark.slow, pytest.mark.timeout(600)]


def test_the_next_dag_is_scheduled_and_told_which_model_it_is(airflow: RunningAirflow) -> None:
    trained = airflow.run("model")
    trained.wait_until("success")
    (found,) = wait_for(
        "a run of the next DAG", lambda: airflow.call("GET", "/dags/model_deploy/dagRuns")["dag_runs"], every=0.5
    )
    deployed = DagRun(airflow, "model_deploy", found["dag_run_id"])
    deployed.wait_until("success")
    told = deployed.xcom("return_value")
    assert told == trained.xcom("custom_job_output")
    assert told["metrics"] == {"accuracy": 0.97}
    assert told["custom_job"].endswith(trained.job_id())
