"""Train a classifier of handwritten digits on three replicas that exchange their gradients over TCP.

The trainer beside this file, ``digits/trainer``, is an ordinary Python package: it finds its peers by CLUSTER_SPEC and
writes its model to AIP_MODEL_DIR. It runs unchanged on Vertex AI, where ``baseOutputDirectory`` is a bucket and
``packageUris`` is in one.

``[customjob] default_backend`` chooses where it runs: ``process`` needs nothing more, ``docker`` needs a Docker that answers,
``kubernetes`` a cluster whose nodes see this machine's folders (a node that is this machine, a shared file system).
Everything is written below the folder that CUSTOMJOB_EXAMPLE_FOLDER names.
"""

from __future__ import annotations

import gzip
import json
import os
import tarfile
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from airflow.sdk import DAG, task
from airflow.sdk.configuration import conf

from airflow_customjob import CustomJobOperator, DockerBackend, KubernetesBackend, ProcessBackend

SOURCE = Path(__file__).parent / "digits"
FOLDER = Path(
    os.environ.get("CUSTOMJOB_EXAMPLE_FOLDER") or Path(tempfile.gettempdir(), f"customjob-digits-{os.getuid()}")
)
BACKEND = conf.get("customjob", "default_backend", fallback="process")
OUTPUT = FOLDER / BACKEND
# On Vertex AI the output goes to a bucket. Here it is a folder of this machine, which containers see under the same path.
SHARED = {
    "volumes": [{"name": "output", "hostPath": {"path": str(OUTPUT), "type": "Directory"}}],
    "containers": [{"name": "replica", "volumeMounts": [{"name": "output", "mountPath": str(OUTPUT)}]}],
}
BACKENDS = {
    "process": ProcessBackend(),
    "docker": DockerBackend(volumes=(f"{OUTPUT}:{OUTPUT}",)),
    # A small cluster need not have four vCPUs free for each replica.
    "kubernetes": KubernetesBackend(machine_types={"*": {}}, pod_template={"spec": SHARED}),
}
# Any image with Python and pip: on Vertex AI one of its prebuilt training images.
IMAGE = os.environ.get("CUSTOMJOB_EXAMPLE_IMAGE", "python:3.11-slim")


def pool(replicas: int) -> dict:
    return {
        "machineSpec": {"machineType": "n1-standard-4"},
        "replicaCount": replicas,
        "pythonPackageSpec": {
            "executorImageUri": "us-docker.pkg.dev/vertex-ai/training/sklearn-cpu.1-6.py310:latest",
            "packageUris": ["{{ ti.xcom_pull(task_ids='build') }}"],
            "pythonModule": "trainer.task",
            "args": ["--epochs", "30"],
            # The matrices are small: threads would only wait for each other.
            "env": [{"name": "OPENBLAS_NUM_THREADS", "value": "1"}],
        },
    }


@task
def build() -> str:
    """Pack the trainer as a source distribution, byte for byte the same each time, so that it is installed once."""

    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        member.uid = member.gid = member.mtime = 0
        member.uname = member.gname = ""
        return None if "__pycache__" in member.name else member

    OUTPUT.mkdir(parents=True, exist_ok=True)
    package = FOLDER / "digits-1.0.tar.gz"
    with (
        gzip.GzipFile(package, "wb", mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        archive.add(SOURCE, "digits-1.0", filter=plain)
    return str(package)


@task
def report() -> dict:
    """Read what the primary replica has written to AIP_MODEL_DIR."""
    metrics = json.loads((OUTPUT / "model" / "metrics.json").read_text())
    if metrics["accuracy"] <= 0.93:
        raise ValueError(f"the model is right in {metrics['accuracy']:.1%} of the test images only")
    return {**metrics, "model": str(OUTPUT / "model" / "model.npz")}


with DAG(
    dag_id="example_digits",
    description="Three replicas train one classifier",
    doc_md=__doc__,
    schedule="@weekly",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,  # all runs write to one folder
    tags=["example", "customjob"],
) as dag:
    train = CustomJobOperator(
        task_id="train",
        custom_job={
            "displayName": "digits",
            "jobSpec": {
                "workerPoolSpecs": [pool(1), pool(2)],
                "baseOutputDirectory": {"outputUriPrefix": str(OUTPUT)},
                "scheduling": {"timeout": "900s"},
            },
        },
        backend=BACKENDS.get(BACKEND, BACKEND),
        image_map={"us-docker.pkg.dev/vertex-ai/training/*": IMAGE},
    )
    build() >> train >> report()
