"""DAGs that are killed in every way, named ``{kind}_{task or group}_{mode}_{backend}``; each runs one job for ever, of two replicas.
Those that count end when there is a file ``stop`` in AIRFLOW_HOME."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import DAG

from airflow_customjob import CustomJobOperator, CustomJobTaskGroup

TICKS = """
import itertools, time
for number in itertools.count():
    print(f"tick {number}", flush=True)
    time.sleep(0.2)
"""
STOP = str(Path(__file__).parents[1] / "stop")
COUNTS = f"""
import itertools, os, time
for number in itertools.count():
    print("tick", number, flush=True)
    time.sleep(1)
    if os.path.exists({STOP!r}):
        break
print("last", number, flush=True)
"""
IGNORES = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)"


def job(code: str) -> dict[str, Any]:
    """Two replicas."""
    pool = {
        "machineSpec": {"machineType": "n1-standard-4"},
        "replicaCount": 1,
        "containerSpec": {"imageUri": "local/py:1", "command": ["python3", "-c", code]},
    }
    return {"displayName": "killed", "jobSpec": {"workerPoolSpecs": [pool, pool]}}


KINDS: dict[str, dict[str, Any]] = {
    "once": {},
    "retried": {"retries": 1, "retry_delay": timedelta(0)},
    "timed": {"execution_timeout": timedelta(seconds=100)},
    "run_timed": {},
    "patient": {"custom_job": job(IGNORES + TICKS), "stop_grace": 8.0},
}

for backend in ("process", "docker"):
    for mode in ("sync", "deferred"):
        for kind, arguments in KINDS.items():
            timeout = timedelta(seconds=120) if kind == "run_timed" else None
            how: dict[str, Any] = {
                "custom_job": job(TICKS),
                "backend": backend,
                "deferrable": mode == "deferred",
                **arguments,
            }
            with DAG(f"{kind}_task_{mode}_{backend}", schedule=None, dagrun_timeout=timeout):
                CustomJobOperator(task_id="train", **how)
            with DAG(f"{kind}_group_{mode}_{backend}", schedule=None, dagrun_timeout=timeout):
                CustomJobTaskGroup("train", **how)

        with DAG(f"counts_{mode}_{backend}", schedule=None, max_active_runs=30):
            CustomJobOperator(
                task_id="train",
                custom_job=job(COUNTS),
                backend=backend,
                deferrable=mode == "deferred",
                retries=3,
                retry_delay=timedelta(0),
            )
