"""One CustomJob on Vertex AI or on your own machines, as an Airflow Variable says at run time.

`airflow variables set train_on vertex` sends the next run to the cloud, `own` brings it back. Both operators take the same dict and
return the same one, so that what comes after does not know where it ran. The first needs apache-airflow-providers-google
and a project; where it is not installed, the DAG runs on your own machines only.
"""

from __future__ import annotations

from datetime import UTC, datetime

from airflow.sdk import DAG, Variable, task

from airflow_customjob import CustomJobOperator

try:
    from airflow.providers.google.cloud.operators.vertex_ai.custom_job import CreateCustomJobOperator
except ImportError:  # not there, or older than this operator
    CreateCustomJobOperator = None

PLACE = {"project_id": "{{ var.value.get('gcp_project', '0') }}", "region": "europe-west4"}
JOB = {
    "display_name": "anywhere",
    "job_spec": {
        "worker_pool_specs": [
            {
                "machine_spec": {"machine_type": "n1-standard-4"},
                "replica_count": count,
                "container_spec": {
                    "image_uri": "python:3.11-slim",
                    "command": ["sh", "-c", 'echo "rank $RANK in $CLOUD_ML_REGION"; [ "$RANK" != 0 ] || sleep 1'],
                },
            }
            for count in (1, 2)
        ],
        "scheduling": {"timeout": {"seconds": 600}},
    },
}


@task.branch
def where() -> str:
    place = Variable.get("train_on", default="own")
    if place == "vertex" and CreateCustomJobOperator is None:
        raise ValueError("train_on is vertex: install a recent apache-airflow-providers-google, or set it to own")
    return f"train_on_{place}"


@task(trigger_rule="none_failed_min_one_success")
def report(here: dict | None, there: dict | None = None) -> str:
    job = here or there
    return f"{job['name']} ended as {job['state']}"  # 4 is JOB_STATE_SUCCEEDED


with DAG(
    dag_id="example_anywhere",
    description="Vertex AI or own machines, by one variable",
    doc_md=__doc__,
    schedule=None,
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    tags=["example", "customjob"],
) as dag:
    own = CustomJobOperator(task_id="train_on_own", custom_job=JOB, **PLACE)
    ways = [own]
    if CreateCustomJobOperator is not None:
        ways.append(CreateCustomJobOperator(task_id="train_on_vertex", custom_job=JOB, deferrable=True, **PLACE))
    where() >> ways
    report(*(way.output for way in ways))
