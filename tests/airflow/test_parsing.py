"""What a DAG file with the operator costs, and what of it Airflow stores."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG

from airflow_customjob import CreateCustomJobOperator, CustomJobOperator
from airflow_customjob.backends.docker import DockerBackend
from tests.airflow.conftest import JOB

HEAVY = (
    "aiodocker",
    "aiohttp",
    "docker",
    "google.cloud",
    "google.protobuf",
    "kubernetes",
    "kubernetes_asyncio",
    "yaml",
)

DAG_FILE = """
import sys
import airflow.sdk, airflow.triggers.base, airflow.serialization.serialized_objects
bare = set(sys.modules)
from airflow.sdk import DAG
from airflow_customjob import CreateCustomJobOperator, CustomJobOperator

with DAG("parsed", schedule=None):
    CustomJobOperator(task_id="train", custom_job={"jobSpec": {"workerPoolSpecs": []}}, backend="docker")
    CustomJobOperator.partial(task_id="mapped", backend="process").expand(custom_job=["a.yaml", {"jobSpec": {}}])
    CreateCustomJobOperator(task_id="create", project_id="p", region="r", custom_job={"jobSpec": {}})
print(*(set(sys.modules) - bare))
"""


def serialized(dag: DAG) -> str:
    from airflow.serialization.serialized_objects import DagSerialization

    return json.dumps(DagSerialization.to_dict(dag), sort_keys=True, default=str)


def protobuf() -> Any:
    from google.cloud.aiplatform_v1 import CustomJob

    return CustomJob(job_spec={"worker_pool_specs": [{"replica_count": 1, "container_spec": {"image_uri": "a"}}]})


def test_parsing_imports_no_engine_and_no_protobuf() -> None:
    done = subprocess.run([sys.executable, "-c", DAG_FILE], env=os.environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded = done.stdout.splitlines()[-1].split()
    assert "airflow_customjob.operators.custom_job" in loaded
    assert not [name for name in loaded if name.startswith(HEAVY)]


@pytest.mark.parametrize(
    "custom_job", [JOB, protobuf, Path("job.yaml"), "jobs/job.yaml"], ids=lambda job: type(job).__name__
)
def test_a_dag_is_stored_the_same_at_each_parse(custom_job: Any) -> None:
    def parse() -> str:
        with DAG("stored", schedule=None) as dag:
            backend = DockerBackend(conn_id="registry", volumes=("/data:/data",))
            given = custom_job() if callable(custom_job) else custom_job
            CustomJobOperator(task_id="train", custom_job=given, backend=backend)
        return serialized(dag)

    stored = parse()
    assert stored == parse()
    assert " at 0x" not in stored
    assert '"conn_id": "registry"' in stored


def test_a_message_is_stored_as_a_dict() -> None:
    operator = CustomJobOperator(task_id="train", custom_job=protobuf())
    assert operator.custom_job["jobSpec"]["workerPoolSpecs"][0]["containerSpec"] == {"imageUri": "a"}


def test_a_dict_with_a_message_in_it_is_stored_as_a_dict() -> None:
    operator = CustomJobOperator(task_id="train", custom_job={"jobSpec": protobuf().job_spec})
    assert operator.custom_job["jobSpec"]["workerPoolSpecs"][0]["containerSpec"] == {"imageUri": "a"}


@pytest.mark.parametrize(
    ("name", "make"), [("custom_job", protobuf), ("backend", DockerBackend)], ids=["message", "backend"]
)
def test_mapping_over_what_cannot_be_stored_is_refused(name: str, make: Callable[[], Any]) -> None:
    value = make()
    fixed = {"custom_job": JOB, "backend": "process"} | {name: None}
    del fixed[name]
    with DAG("mapped", schedule=None), pytest.raises(TypeError, match=rf"expand\({name}=...\): element 1 is a "):
        CustomJobOperator.partial(task_id="train", **fixed).expand(**{name: [JOB, value]})
    with DAG("mapped", schedule=None), pytest.raises(TypeError, match=rf"expand\({name}=...\): element 0 is a "):
        CustomJobOperator.partial(task_id="train", **fixed).expand_kwargs([{name: value}])


def test_what_is_fixed_beside_a_mapping_may_be_a_message() -> None:
    with DAG("mapped", schedule=None) as dag:
        CustomJobOperator.partial(task_id="train", custom_job=protobuf()).expand(backend=["process", "docker"])
    assert '"imageUri": "a"' in serialized(dag)


def test_the_google_operators_arguments_are_taken() -> None:
    operator = CreateCustomJobOperator(
        task_id="train",
        region="europe-west4",
        project_id="acme",
        custom_job=JOB,
        deferrable=True,
        poll_interval=60,
        gcp_conn_id="google",
        impersonation_chain=["a", "b"],
        retry=None,
        timeout=3.0,
        metadata=(),
    )
    assert operator.unused == ("timeout", "impersonation_chain")
    assert operator.gcp_conn_id == "google"
    assert (operator.region, operator.project_id, operator.deferrable) == ("europe-west4", "acme", True)


def test_an_unknown_argument_is_refused() -> None:
    with pytest.raises(TypeError, match="staging_bucket"):
        CustomJobOperator(task_id="train", custom_job=JOB, staging_bucket="gs://a")
