"""What a test of a DAG takes with ``airflow_customjob.testing``: ``dag.test()`` of three tasks, one of them a custom job."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from bench.job import compile_package

EMPTY, OURS = "dag.test() of 3 EmptyOperators", "dag.test() of 2 tasks and a CustomJobOperator"
TARGET = 1.0
"""Seconds."""

TIMES = """
import json, time
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, task
from airflow_customjob import CustomJobOperator

JOB = {job!r}
ROUNDS = {rounds}

def empty(dag_id):
    with DAG(dag_id, schedule=None) as dag:
        EmptyOperator(task_id="one") >> EmptyOperator(task_id="two") >> EmptyOperator(task_id="three")
    return dag

def ours(dag_id):
    @task
    def prepare():
        return "s3://data"

    @task
    def evaluate(job):
        return job["state"]

    with DAG(dag_id, schedule=None) as dag:
        train = CustomJobOperator(task_id="train", custom_job=JOB, backend="docker")
        prepare() >> train
        evaluate(train.output)
    return dag

def test_times(fake_jobs):
    taken = {{"empty": [], "ours": []}}
    for number in range(ROUNDS + 1):
        for make in (empty, ours):
            dag = make(f"{{make.__name__}}_{{number}}")
            started = time.perf_counter()
            ran = fake_jobs.run(dag)
            seconds = time.perf_counter() - started
            assert ran.state == "success"
            if number:  # the first ones import Airflow's server, and this package
                taken[make.__name__].append(seconds)
    with open({out!r}, "w") as file:
        json.dump(taken, file)
"""


def measure(job: dict[str, Any], rounds: int) -> dict[str, list[float]]:
    """In a test session of its own, as users have it, in turns."""
    compile_package()
    with tempfile.TemporaryDirectory(prefix="customjob-bench-") as folder:
        out = Path(folder) / "taken.json"
        (Path(folder) / "test_times.py").write_text(TIMES.format(job=job, rounds=rounds, out=str(out)))
        plugins = ["-p", "airflow_customjob.testing.fixtures", "-p", "no:cacheprovider"]
        command = [sys.executable, "-m", "pytest", "-q", *plugins, "--rootdir", folder, folder]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stdout + done.stderr)
        taken = json.loads(out.read_text())
    return {EMPTY: taken["empty"], OURS: taken["ours"]}


def show(samples: dict[str, list[float]]) -> None:
    seconds = median(samples[OURS])
    verdict = "met" if seconds <= TARGET else "MISSED"
    print(
        f"{OURS}: {seconds:.2f} s, three EmptyOperators {median(samples[EMPTY]):.2f} s; target {TARGET:g} s: {verdict}"
    )
