"""In a running Airflow: one CustomJobOperator beside one DockerOperator with the same trivial container, and what a deferred one holds."""

from __future__ import annotations

import time
from datetime import datetime
from statistics import median
from typing import Any

from bench.airflow_launch import Airflow, running_airflow
from bench.job import compile_package

THEIR_DAG = """
from airflow.providers.docker.operators.docker import DockerOperator
from airflow.sdk import DAG

with DAG("theirs", schedule=None):
    DockerOperator(task_id="job", image={image!r}, command="true", auto_remove="force", mount_tmp_dir=False)
"""
OUR_DAGS = """
from airflow.sdk import DAG
from airflow_customjob import CustomJobOperator

def job(*command):
    container = {{"imageUri": {image!r}, "command": list(command)}}
    pool = {{"machineSpec": {{"machineType": "n1-standard-4"}}, "replicaCount": 1, "containerSpec": container}}
    return {{"displayName": "bench-overhead", "jobSpec": {{"workerPoolSpecs": [pool]}}}}

with DAG("ours", schedule=None):
    CustomJobOperator(task_id="job", custom_job=job("true"), backend="docker")

with DAG("deferred", schedule=None):
    CustomJobOperator(task_id="job", custom_job=job("sleep", "15"), backend="docker", deferrable=True)
"""
THEIRS, OURS = "DockerOperator, a trivial container", "CustomJobOperator, the same"


def measure(image: str, pairs: int) -> dict[str, list[float]]:
    """Seconds from a task's start to its end, in turns; one pair before them warms up."""
    samples: dict[str, list[float]] = {THEIRS: [], OURS: []}
    compile_package()
    with running_airflow(THEIR_DAG.format(image=image), OUR_DAGS.format(image=image)) as airflow:
        airflow.wait_for("theirs", "ours", "deferred")
        for pair in range(pairs + 1):
            for dag_id, name in (("theirs", THEIRS), ("ours", OURS)):
                task = _ended(airflow, dag_id)
                if pair:
                    samples[name].append(_at(task["end_date"]) - _at(task["start_date"]))
        _show_slots(airflow)
    return samples


def show(samples: dict[str, list[float]]) -> None:
    ratio = median(ours / theirs for theirs, ours in zip(samples[THEIRS], samples[OURS], strict=True))
    print(f"one CustomJobOperator to one DockerOperator, the same container: {ratio:.2f}, target 1.1")


def _ended(airflow: Airflow, dag_id: str) -> dict[str, Any]:
    task = airflow.start(dag_id)
    while True:
        found: dict[str, Any] = airflow.ask("GET", task)
        if found["state"] in ("success", "failed"):
            if found["state"] == "failed":
                raise RuntimeError(f"{dag_id} failed")
            return found
        time.sleep(0.3)


def _show_slots(airflow: Airflow) -> None:
    """Worker slots that are taken while a deferred task's container runs."""
    task = airflow.start("deferred")
    while airflow.ask("GET", task)["state"] != "deferred":
        time.sleep(0.2)
    time.sleep(5)
    pool = airflow.ask("GET", "pools/default_pool")
    print(
        f"while a deferred task's container runs: {pool['running_slots']} worker slots, {pool['deferred_slots']} deferred"
    )


def _at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
