"""The kit for users' tests, as users have it: the guide's own files, in a folder of their own and a pytest of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FILE = re.compile(r"```python\n# (\S+\.py)\n(.*?)```", re.DOTALL)

ALSO = """
from datetime import timedelta

import pytest
from airflow.sdk import DAG, Asset

from airflow_customjob import CustomJobOperator, DockerBackend
from airflow_customjob.testing import exits
from dags.training import dag, job

DOCKER = DockerBackend(volumes=("/data:/data",))
with DAG("mapped") as mapped:
    CustomJobOperator.partial(
        task_id="train", backend=DOCKER, retries=1, retry_delay=timedelta(hours=1), outlets=[Asset("model")]
    ).expand(custom_job=[job("one", 1), job("two", 1)])


def test_nothing_is_waited_for(fake_jobs):
    fake_jobs.run(dag)
    took = sum(job.record.end_time - job.record.create_time for job in fake_jobs.jobs())
    assert took < 60, "0.1 s on an idle machine"


def test_a_mapped_task_is_tried_again_at_once(fake_jobs):
    fake_jobs.script("workerpool0-0", exits(1), exits(0))
    ran = fake_jobs.run(mapped)
    assert ran.states == {"train[0]": "success", "train[1]": "success"}
    assert len(fake_jobs.jobs()) == 2
    assert [name for name, extra in ran.asset_events() if extra["backend"] == "fake"] == ["model", "model"]
    assert ran.xcom("train", map_index=1)["display_name"] == "two"


def test_no_backend_of_the_dag_is_asked_not_even_one_that_is_mapped_over(fake_jobs):
    with DAG("mapped_backends") as dag:
        CustomJobOperator.partial(task_id="one", custom_job=job("one", 1)).expand(backend=["process", "docker"])
        CustomJobOperator.partial(task_id="two", custom_job=job("two", 1)).expand_kwargs([{"backend": "process"}])
    ran = fake_jobs.run(dag)
    assert set(ran.states.values()) == {"success"}
    assert ran.xcom("two", "custom_job_ref", 0)["backend"]["name"] == "fake"
    assert len(fake_jobs.jobs()) == 3


def test_the_dag_is_what_it_was(fake_jobs):
    arguments = mapped.task_dict["train"].partial_kwargs
    assert (arguments["backend"], arguments["retry_delay"]) == (DOCKER, timedelta(hours=1))
    assert dag.task_dict["train.run"].backend == "kubernetes"


def test_jobs_are_of_one_test(fake_jobs):
    assert fake_jobs.jobs() == []
"""


@pytest.mark.airflow
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_guides_tests_pass(root: Path, tmp_path: Path) -> None:
    files = dict(FILE.findall((root / "docs/guide/testing-dags.md").read_text()))
    assert set(files) == {"conftest.py", "dags/training.py", "tests/test_training.py"}
    for name, text in (files | {"tests/test_also.py": ALSO}).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW_", "PYTEST_"))}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", tmp_path, "tests"],
        cwd=tmp_path,
        env=environ | {"HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=380,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "9 passed" in done.stdout
    assert not (tmp_path / "airflow").exists(), "the user's own Airflow was used"
