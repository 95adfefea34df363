"""Retrain a model every week, and let the finished model schedule the DAG that deploys it.

Three custom jobs share one output directory a run: `preprocess` writes the data, `train` a checkpoint for each epoch and
the model, `evaluate` its metrics. A retry of `train` goes on from AIP_CHECKPOINT_DIR, as it would on Vertex AI. `evaluate` has
the asset as its outlet: a model that is not good enough fails it and publishes nothing.

`[customjob] default_backend` chooses where the jobs run. On Vertex AI the directory is a bucket, and nothing else changes.
"""

from __future__ import annotations

import os
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

from airflow.sdk import DAG, Asset, Param, task

from airflow_customjob import CustomJobOperator

# What the jobs run. In earnest it is in the image.
SOURCE = Path(__file__).parent / "churn"
FOLDER = os.environ.get("CUSTOMJOB_EXAMPLE_FOLDER") or f"{tempfile.gettempdir()}/customjob-{os.getuid()}"
MODEL = Asset("example-churn-model")


def step(name: str, env: dict[str, str] | None = None, **arguments) -> CustomJobOperator:
    container = {
        "imageUri": "python:3.11-slim",
        "command": ["python3", "-c", (SOURCE / f"{name}.py").read_text()],
        "env": [{"name": key, "value": value} for key, value in (env or {}).items()],
    }
    machine = {"machineType": "n1-standard-4"}
    return CustomJobOperator(
        task_id=name,
        custom_job={
            "displayName": f"churn-{name}",
            "jobSpec": {
                "workerPoolSpecs": [{"machineSpec": machine, "replicaCount": 1, "containerSpec": container}],
                "baseOutputDirectory": {"outputUriPrefix": f"{FOLDER}/churn/{{{{ run_id }}}}"},
                "scheduling": {"timeout": "900s"},
            },
        },
        **arguments,
    )


with DAG(
    dag_id="example_retraining",
    description="Preprocess, train with checkpoints, evaluate, publish",
    doc_md=__doc__,
    schedule="@weekly",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    params={
        "interrupt_at": Param(
            0, type="integer", minimum=0, description="Epoch after which the first try of `train` dies; 0: none"
        ),
        "at_least": Param(0.8, type="number", description="Accuracy below which a model is not published"),
    },
    tags=["example", "customjob"],
) as dag:
    train = step("train", {"INTERRUPT_AT": "{{ params.interrupt_at }}"}, retries=2, retry_delay=timedelta(seconds=1))
    step("preprocess") >> train >> step("evaluate", {"AT_LEAST": "{{ params.at_least }}"}, outlets=[MODEL])


@task
def deploy(*, triggering_asset_events) -> str:
    """The event says which model it is: nothing is guessed, and nothing looked for."""
    model = triggering_asset_events[MODEL][-1].extra
    return f"{model['model_dir']} with an accuracy of {model['metrics']['accuracy']:.3f}, by {model['custom_job']}"


with DAG(
    dag_id="example_retraining_deploy",
    description="Runs whenever a good model is there",
    doc_md=__doc__,
    schedule=[MODEL],
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    tags=["example", "customjob"],
):
    deploy()
