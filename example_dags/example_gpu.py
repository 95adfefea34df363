"""Three jobs want one GPU each of a host that has two: two run, and the third waits as QUEUED until one is free.

`acceleratorCount` is what a job takes on Vertex AI. Here Docker and processes lease that many of the backend's `gpus`, each to one
job at a time whichever DAG, Airflow or terminal it comes from; on Kubernetes the nodes' device plugin gives them.

A host without GPUs runs it too: as processes the numbers are only handed out, in CUDA_VISIBLE_DEVICES. Where `nvidia-smi` is
there, each job lists what it sees.
"""

from __future__ import annotations

from datetime import UTC, datetime

from airflow.sdk import DAG
from airflow.sdk.configuration import conf

from airflow_customjob import CustomJobOperator, DockerBackend, KubernetesBackend, ProcessBackend

BACKEND = conf.get("customjob", "default_backend", fallback="process")
BACKENDS = {
    "process": ProcessBackend(gpus=("0", "1")),
    "docker": DockerBackend(gpus=("0", "1"), shm_size="8g"),
    "kubernetes": KubernetesBackend(machine_types={"g2-standard-4": {"node_selector": {"gpu": "l4"}}}),
}
LOOK = 'echo "GPU ${CUDA_VISIBLE_DEVICES:-of the device plugin}"; nvidia-smi -L 2>/dev/null || true; sleep 1'

with DAG(
    dag_id="example_gpu",
    description="Jobs that share the GPUs of a host",
    doc_md=__doc__,
    schedule=None,
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    tags=["example", "customjob"],
) as dag:
    for number in range(3):
        CustomJobOperator(
            task_id=f"train_{number}",
            custom_job={
                "displayName": f"gpu-{number}",
                "jobSpec": {
                    "workerPoolSpecs": [
                        {
                            "machineSpec": {
                                "machineType": "g2-standard-4",
                                "acceleratorType": "NVIDIA_L4",
                                "acceleratorCount": 1,
                            },
                            "replicaCount": 1,
                            "containerSpec": {
                                "imageUri": "nvidia/cuda:12.6.3-base-ubuntu24.04",
                                "command": ["sh", "-c", LOOK],
                            },
                        }
                    ],
                    "scheduling": {"timeout": "600s"},
                },
            },
            backend=BACKENDS[BACKEND],
        )
