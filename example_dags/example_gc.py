"""Every night, remove what dead hosts have left on each engine that jobs run on.

While jobs run, each looks after the others once a minute; this is for an engine that nobody has used since. Jobs under way, and records
that are within their `record_ttl`, are left alone, so the DAG may run at any time and anywhere.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.sdk import DAG, task
from airflow.sdk.configuration import conf

# Name every engine that your DAGs use: ["docker", "kubernetes"].
BACKENDS = [conf.get("customjob", "default_backend", fallback="process")]


@task(retries=3, retry_delay=timedelta(minutes=10), map_index_template="{{ task.op_kwargs['backend'] }}")
def collect(backend: str) -> list[str]:
    from airflow_customjob import CustomJobClient  # costs nothing where DAGs are parsed

    return [str(removed) for removed in CustomJobClient(backend).gc(say=print)]


with DAG(
    dag_id="example_gc",
    description="Nightly clean-up of the engines",
    doc_md=__doc__,
    schedule="30 3 * * *",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    tags=["example", "customjob"],
) as dag:
    collect.expand(backend=BACKENDS)
