"""The operator in ``dag.test()``, on the fake engine."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from airflow.sdk import DAG

from airflow_customjob import CustomJobOperator
from airflow_customjob.backends.fake import FakeBackend, FakeWorld, exits
from tests.airflow.conftest import JOB, Ran

pytestmark = [pytest.mark.airflow, pytest.mark.slow]


@pytest.mark.parametrize("deferrable", [False, True], ids=["sync", "deferrable"])
def test_a_job_runs_and_its_custom_job_is_returned(
    run_dag: Callable[..., Ran], fake: FakeBackend, world: FakeWorld, deferrable: bool
) -> None:
    world.script("workerpool0-0", exits(0, says="hello from the primary"))
    with DAG(f"runs_{'deferrable' if deferrable else 'sync'}", schedule=None) as dag:
        CustomJobOperator(task_id="train", custom_job=JOB, backend=fake, deferrable=deferrable)
    ran = run_dag(dag)
    assert ran.states() == {"train": "success"}, ran.log
    assert ran.xcom("train")["state"] == 4
    assert "workerpool0-0: hello from the primary" in ran.log
