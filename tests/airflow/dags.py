"""DAGs of the running Airflow, each with one task ``train``; ``running.py`` copies this file into its DAGs folder."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG

from airflow_customjob import CustomJobOperator

IMAGE = "local/py:1"

TICKS = """
import itertools, time
for number in itertools.count():
    print(f"tick {number}", flush=True)
    time.sleep(0.1)
"""
ENDS = """
import os, time
for number in range(10):
    print(f"line {number} of rank {os.environ['RANK']}", flush=True)
time.sleep(float(os.environ.get("LASTS", 1)))
"""
FAILS = """
import os, sys, time
if os.environ["RANK"] == "1":
    print("cannot read the data", flush=True)
    sys.exit(3)
time.sleep(60)
"""


def job(code: str) -> dict[str, Any]:
    """One primary and two workers."""

    def pool(replicas: int) -> dict[str, Any]:
        return {
            "machineSpec": {"machineType": "n1-standard-4"},
            "replicaCount": replicas,
            "containerSpec": {"imageUri": IMAGE, "command": ["python3", "-c", code]},
        }

    return {"displayName": "test", "jobSpec": {"workerPoolSpecs": [pool(1), pool(2)]}}


for backend in ("process", "docker"):
    for name, code, arguments in (
        ("ends_sync", ENDS, {}),
        ("ends_deferred", ENDS, {"deferrable": True}),
        ("fails_sync", FAILS, {}),
        ("fails_deferred", FAILS, {"deferrable": True}),
        ("ticks_sync", TICKS, {"retries": 2, "retry_delay": timedelta(0)}),
        ("ticks_deferred", TICKS, {"deferrable": True}),
        ("times_out_deferred", TICKS, {"deferrable": True, "execution_timeout": timedelta(seconds=8)}),
        ("times_out_sync", TICKS, {"execution_timeout": timedelta(seconds=6)}),
    ):
        with DAG(f"{name}_{backend}", schedule=None):
            CustomJobOperator(task_id="train", custom_job=job(code), backend=backend, **arguments)
