"""The smallest custom job: one dict, two worker pools, and the replicas say who they are.

The dict is what Vertex AI takes. ``backend`` is where it runs here; without it, ``[customjob] default_backend`` decides.
"""

from __future__ import annotations

from datetime import UTC, datetime

from airflow.sdk import DAG

from airflow_customjob import CustomJobOperator

# Replicas find each other by CLUSTER_SPEC, TF_CONFIG or RANK, WORLD_SIZE and MASTER_ADDR: whatever their framework reads.
# The job ends when its primary does, so that one leaves the others time to speak.
SAY_WHO = 'echo "$GREETING from rank $RANK of $WORLD_SIZE, whose primary is $MASTER_ADDR"; [ "$RANK" != 0 ] || sleep 2'


def pool(replicas: int) -> dict:
    return {
        "machineSpec": {"machineType": "n1-standard-4"},
        "replicaCount": replicas,
        "containerSpec": {
            "imageUri": "python:3.11-slim",
            "command": ["sh", "-c"],
            "args": [SAY_WHO],
            # Templates are rendered in every text of the spec.
            "env": [{"name": "GREETING", "value": "Hello in {{ run_id }}"}],
        },
    }


with DAG(
    dag_id="example_custom_job",
    description="Two pools say who they are",
    doc_md=__doc__,
    schedule="@daily",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    tags=["example", "customjob"],
) as dag:
    CustomJobOperator(
        task_id="hello",
        custom_job={
            "displayName": "hello",
            "jobSpec": {
                "workerPoolSpecs": [pool(1), pool(2)],
                "scheduling": {"timeout": "300s"},
            },
        },
    )
