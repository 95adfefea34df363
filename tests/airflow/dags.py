"""DAGs of the running Airflow, each with one task or group ``train``; its fixture copies this file into the DAGs folder."""

from __future__ import annotations

import os
from typing import Any

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, Asset, task

from airflow_customjob import CustomJobOperator, CustomJobSensor, CustomJobTaskGroup, DockerBackend, KubernetesBackend

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
    print(f"line {number} of rank {os.environ.get('RANK', '0')}", flush=True)
time.sleep(float(os.environ.get("LASTS", 1)))
"""
ENDS_LATE = ENDS.replace('"LASTS", 1', '"LASTS", 10')
"""Airflow 3.3.2 fails a deferred task that goes on before the process of its first leg was seen to have ended, which takes it up to
five seconds."""
FAILS = """
import os, sys, time
if os.environ.get("RANK", "0") == "1":
    print("cannot read the data", flush=True)
    sys.exit(3)
time.sleep(60)
"""


def job(code: str, **env: str) -> dict[str, Any]:
    """One primary and two workers."""

    variables = [{"name": name, "value": value} for name, value in env.items()]

    def pool(replicas: int) -> dict[str, Any]:
        return {
            "machineSpec": {"machineType": "n1-standard-4"},
            "replicaCount": replicas,
            "containerSpec": {"imageUri": IMAGE, "command": ["python3", "-c", code], "env": variables},
        }

    return {"displayName": "test", "jobSpec": {"workerPoolSpecs": [pool(1), pool(2)]}}


for backend in ("process", "docker"):
    for name, code, arguments in (
        ("ends_sync", ENDS, {}),
        ("ends_deferred", ENDS_LATE, {"deferrable": True}),
        ("fails_sync", FAILS, {}),
        ("fails_deferred", FAILS, {"deferrable": True}),
        ("ticks_deferred", TICKS, {"deferrable": True}),
    ):
        with DAG(f"{name}_{backend}", schedule=None):
            CustomJobOperator(task_id="train", custom_job=job(code), backend=backend, **arguments)

on_kubernetes = KubernetesBackend(machine_types={"n1-standard-4": {"cpu": "10m", "memory": "16Mi"}})
vast = job(TICKS)
vast["jobSpec"]["workerPoolSpecs"][1]["machineSpec"] = {"machineType": "n1-standard-96"}

for name, spec in (("ends", job(ENDS_LATE)), ("ticks", job(TICKS)), ("vast", vast)):
    with DAG(f"{name}_deferred_kubernetes", schedule=None):
        CustomJobOperator(task_id="train", custom_job=spec, backend=on_kubernetes, deferrable=True)

LATE = {"LASTS": "40"}
"""Of a job that others than its task watch: on a slow machine they begin long after it."""
SAYS_AND_SLEEPS = {"imageUri": IMAGE, "command": ["sh", "-c", "echo I am rank $RANK; sleep 15"]}

for name, spec in (("ends", job(ENDS, **LATE)), ("fails", job(FAILS)), ("ticks", job(TICKS))):
    with DAG(f"group_{name}", schedule=None):
        CustomJobTaskGroup("train", custom_job=spec, backend="process", deferrable=True)

with DAG("group_in_one_slot", schedule=None, max_active_tasks=1):
    CustomJobTaskGroup("train", custom_job=job(ENDS), backend="process", deferrable=False)

with DAG("group_of_forty", schedule=None):
    forty = [
        {"machineSpec": {"machineType": "n1-standard-4"}, "replicaCount": count, "containerSpec": SAYS_AND_SLEEPS}
        for count in (1, 39)
    ]
    CustomJobTaskGroup(
        "train",
        custom_job={"displayName": "forty", "jobSpec": {"workerPoolSpecs": forty}},
        backend="process",
    )

WRITES = """
import os, pathlib
folder = pathlib.Path(os.environ["AIP_MODEL_DIR"])
folder.mkdir(parents=True)
(folder / "metrics.json").write_text('{"accuracy": 0.97}')
"""
MODEL = Asset("model")

with DAG("model", schedule=None):
    spec = job(WRITES)
    spec["jobSpec"]["workerPoolSpecs"].pop()
    spec["jobSpec"]["baseOutputDirectory"] = {"outputUriPrefix": f"{os.environ['AIRFLOW_HOME']}/{{{{ run_id }}}}"}
    CustomJobOperator(task_id="train", custom_job=spec, backend="process", deferrable=True, outlets=[MODEL])

with DAG("model_deploy", schedule=[MODEL]):

    @task(task_id="train")
    def deploy(*, triggering_asset_events: Any) -> Any:
        return triggering_asset_events[MODEL][-1].extra

    deploy()

packaged: dict[str, Any] = {
    "machineSpec": {"machineType": "n1-standard-4"},
    "replicaCount": 1,
    "pythonPackageSpec": {
        "executorImageUri": IMAGE,
        "packageUris": ["{{ dag_run.conf['package'] }}"],
        "pythonModule": "{{ dag_run.conf['module'] }}",
        "args": ["{{ dag_run.conf['code'] }}"],
    },
}

for name, deferrable in (("packaged_sync", False), ("packaged_deferred", True)):
    with DAG(name, schedule=None):
        CustomJobOperator(
            task_id="train",
            custom_job={"displayName": "packaged", "jobSpec": {"workerPoolSpecs": [packaged]}},
            backend=DockerBackend(index_urls=("connection:company",), ca_bundle="{{ dag_run.conf['authority'] }}"),
            secret_env={"TOKEN": "variable:training_token"},
            deferrable=deferrable,
        )

with DAG("plain", schedule=None):
    EmptyOperator(task_id="train")

with DAG("group_over", schedule=None):

    @task
    def specs() -> list[dict[str, Any]]:
        pool = job(ENDS, **LATE)["jobSpec"]["workerPoolSpecs"][0]
        return [{"displayName": name, "jobSpec": {"workerPoolSpecs": [pool]}} for name in ("small", "middle", "large")]

    CustomJobTaskGroup.over(specs(), group_id="train", backend="process", deferrable=True)

with DAG("detached", schedule=None):
    submit = CustomJobOperator(
        task_id="train", custom_job=job(ENDS, **LATE), backend="process", wait_for_completion=False, stop_grace=0.1
    )
    submit >> CustomJobSensor(task_id="wait", external_task_id="train", deferrable=True, poke_interval=1)
