"""Distributed training as a group of tasks: one job, and a row of the grid for each of its replicas.

``train`` is a group of tasks: its ``run`` owns the job, and beside it each replica has a row with its own log, state and
duration. Rows hold no worker slot, so a job of any size runs on a small Airflow. ``announce`` waits for the job's state as
another DAG would, and ``report`` reads the CustomJob that the group returns.

``[customjob] default_backend`` chooses where it runs.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from airflow.sdk import DAG, Param, task

from airflow_customjob import CustomJobSensor, CustomJobTaskGroup

# What each replica runs. In earnest it is in the image.
TRAIN = (Path(__file__).parent / "averaging" / "train.py").read_text()


def pool(replicas: int) -> dict:
    return {
        "machineSpec": {"machineType": "n1-standard-4"},
        "replicaCount": replicas,
        "containerSpec": {
            "imageUri": "python:3.11-slim",
            "command": ["python3", "-c", TRAIN],
            "env": [{"name": "EPOCHS", "value": "{{ params.epochs }}"}],
        },
    }


@task
def report(custom_job: dict) -> str:
    """The group's output is the CustomJob, as ``CustomJob.to_dict`` of google-cloud-aiplatform gives it."""
    return f"{custom_job['display_name']} ended at {custom_job['end_time']} as {custom_job['name']}"


with DAG(
    dag_id="example_task_group",
    description="A row for each replica",
    doc_md=__doc__,
    schedule="@daily",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    params={"epochs": Param(50, type="integer", minimum=1, description="Passes over the data")},
    tags=["example", "customjob"],
) as dag:
    train = CustomJobTaskGroup(
        group_id="train",
        custom_job={
            "displayName": "line",
            "jobSpec": {
                # The numbers of replicas stand here, so each pool is a group of its own in the grid.
                "workerPoolSpecs": [pool(1), pool(2)],
                "scheduling": {"timeout": "300s"},
            },
        },
        retries=1,  # of `run`: a retry takes over a job that still runs, and starts a failed one anew
    )
    # By DAG, run and group it finds the job of any DAG; without them, that of this run.
    announce = CustomJobSensor(
        task_id="announce", external_task_group_id="train", target_states=["RUNNING", "SUCCEEDED"], poke_interval=2
    )
    train >> announce
    report(train.output)
