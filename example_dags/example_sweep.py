"""A hyperparameter sweep: one mapped task, a custom job for each trial, and the best of them.

`trial_id` gives each trial what Vertex AI's own tuning gives it: CLOUD_ML_TRIAL_ID, and directories of its own below the shared
output directory. What a trial has reached is in its `custom_job_output`: no path has to be put together.
"""

from __future__ import annotations

import os
import tempfile
from datetime import UTC, datetime
from itertools import product

from airflow.sdk import DAG, task

from airflow_customjob import CustomJobOperator

FOLDER = os.environ.get("CUSTOMJOB_EXAMPLE_FOLDER") or f"{tempfile.gettempdir()}/customjob-{os.getuid()}"

# Gradient descent with momentum down a long, bent valley (Rosenbrock's): a bad rate diverges, a timid one arrives too late.
TRIAL = """
import json, math, os, pathlib, sys

rate, momentum = float(sys.argv[1]), float(sys.argv[2])
x, y, dx, dy = -1.0, 1.0, 0.0, 0.0
for step in range(3000):
    slope_x = -2 * (1 - x) - 40 * x * (y - x * x)
    slope_y = 20 * (y - x * x)
    dx, dy = momentum * dx - rate * slope_x, momentum * dy - rate * slope_y
    x, y = max(-1e3, min(1e3, x + dx)), max(-1e3, min(1e3, y + dy))
loss = (1 - x) ** 2 + 10 * (y - x * x) ** 2
print(f"trial {os.environ['CLOUD_ML_TRIAL_ID']}: loss {loss:.3g}")
folder = pathlib.Path(os.environ["AIP_MODEL_DIR"].replace("gs://", "/gcs/", 1))
folder.mkdir(parents=True, exist_ok=True)
(folder / "metrics.json").write_text(json.dumps({"loss": loss}))
"""


@task
def trials() -> list[dict]:
    """The arguments in which the trials differ; a search that learns from the runs before would choose them here."""
    return [
        {"trial_id": str(number), "custom_job": job(f"--rate={rate}", rate, momentum)}
        for number, (rate, momentum) in enumerate(product((0.001, 0.05), (0.5, 0.9)), start=1)
    ]


def job(name: str, rate: float, momentum: float) -> dict:
    container = {
        "imageUri": "python:3.11-slim",
        "command": ["python3", "-c", TRIAL],
        "args": [str(rate), str(momentum)],
    }
    return {
        "displayName": name,
        "labels": {"sweep": "example"},
        "jobSpec": {
            "workerPoolSpecs": [
                {"machineSpec": {"machineType": "n1-standard-4"}, "replicaCount": 1, "containerSpec": container}
            ],
            "baseOutputDirectory": {"outputUriPrefix": f"{FOLDER}/sweep/{{{{ run_id }}}}"},
            "scheduling": {"timeout": "300s"},
        },
    }


@task
def best(outputs: list[dict]) -> dict:
    for output in outputs:
        print(output["model_dir"], output["metrics"])
    return min(outputs, key=lambda output: output["metrics"]["loss"])


with DAG(
    dag_id="example_sweep",
    description="Four trials, and the best of them",
    doc_md=__doc__,
    schedule=None,
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    tags=["example", "customjob"],
) as dag:
    trial = CustomJobOperator.partial(
        task_id="trial",
        map_index_template="{{ task.trial_id }}",
        max_active_tis_per_dagrun=3,  # Vertex AI's parallelTrialCount
    ).expand_kwargs(trials())
    best(trial.output["custom_job_output"])
