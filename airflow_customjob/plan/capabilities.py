"""What each backend does with each field of the spec, as tables; and the problems and notes that follow for one job.

A field that is not in a table is honoured. One that a backend cannot honour is a problem unless the user names it in
``ignore_fields``; what is emulated is a note of the plan. Nothing is dropped silently.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING

from airflow_customjob.plan.types import Capabilities, FieldSupport, Note, Support
from airflow_customjob.spec.problem import Problem

if TYPE_CHECKING:  # a DAG that configures a backend imports this module
    from google.protobuf.message import Message

    from airflow_customjob.spec.message import CustomJob

POOLS = "job_spec.worker_pool_specs"
GPU_COUNT = f"{POOLS}.machine_spec.accelerator_count"
"""May be ignored on every backend: a job is tried where there are no GPUs."""

# Path and what it would take: nobody but Vertex AI's own service has these.
_REFUSED_EVERYWHERE = {
    "encryption_spec": "Cloud KMS encrypts what Vertex AI stores; nothing here does",
    "job_spec.network": "no VPC is peered here: replicas use the network of their engine",
    "job_spec.reserved_ip_ranges": "no VPC is peered here: replicas use the network of their engine",
    "job_spec.psc_interface_config": "no VPC is attached here: replicas use the network of their engine",
    "job_spec.persistent_resource_id": "there is no persistent resource here: replicas run on the engine itself",
    "job_spec.protected_artifact_location_id": "nothing is stored in Vertex AI's artifact locations here",
    "job_spec.tensorboard": "no Vertex AI TensorBoard receives the logs; write them below AIP_TENSORBOARD_LOG_DIR",
    "job_spec.enable_web_access": "there is no web shell; use the engine's own (docker exec)",
    "job_spec.enable_dashboard_access": "there is no dashboard",
    "job_spec.experiment": "no Vertex AI Experiments context is written",
    "job_spec.experiment_run": "no Vertex AI Experiments context is written",
    "job_spec.models": "no Vertex AI Model is uploaded",
    f"{POOLS}.machine_spec.tpu_topology": "there are no TPUs here",
    f"{POOLS}.machine_spec.reservation_affinity": "Compute Engine reservations mean nothing here",
    f"{POOLS}.machine_spec.gpu_partition_size": "GPUs are given whole here",
    f"{POOLS}.lustre_mounts": "no Lustre file system is mounted",
}
_REFUSED_ON_ONE_HOST = {
    "job_spec.service_account": "replicas get no Google identity: give them credentials by a volume or secret_env",
    f"{POOLS}.nfs_mounts": "no NFS share is mounted: mount it on the host, and give it to replicas by the backend's volumes",
}
_EMULATED_EVERYWHERE = {
    "job_spec.base_output_directory": "AIP_MODEL_DIR, AIP_CHECKPOINT_DIR and AIP_TENSORBOARD_LOG_DIR are set as on "
    "Vertex AI; buckets are under /gcs where the backend's bucket_root says what they are",
    "job_spec.scheduling.strategy": "replicas start as soon as their engine has room; nothing is bought or preempted",
    "job_spec.scheduling.max_wait_duration": "the job waits in its queue until it is cancelled",
    f"{POOLS}.disk_spec": "replicas have the disk of their host",
}
_EMULATED = {
    "process": {
        "job_spec.base_output_directory": "AIP_MODEL_DIR, AIP_CHECKPOINT_DIR and AIP_TENSORBOARD_LOG_DIR are set as on Vertex AI; "
        "with the backend's bucket_root they hold the folder that stands for the bucket, since there is no /gcs on this host",
        f"{POOLS}.machine_spec.machine_type": "replicas share this host's CPUs and memory, without limits",
        f"{POOLS}.machine_spec.accelerator_type": "the GPUs are those of the backend's gpus, of whatever type",
        f"{POOLS}.machine_spec.accelerator_count": "GPUs are leased from the backend's gpus by CUDA_VISIBLE_DEVICES",
        f"{POOLS}.container_spec.image_uri": "not run: command and args run on this host as they are",
        f"{POOLS}.python_package_spec.executor_image_uri": "not run: the package runs in a virtual environment on this host",
    },
    "docker": {
        "job_spec.base_output_directory": "AIP_MODEL_DIR, AIP_CHECKPOINT_DIR and AIP_TENSORBOARD_LOG_DIR are set as on Vertex AI; "
        "a local path is mounted into each replica, and buckets are under /gcs where the backend's bucket_root says what they are",
        f"{POOLS}.machine_spec.machine_type": "its vCPUs, as far as the host has them, limit each replica; memory is "
        "limited with memory_limits only",
        f"{POOLS}.machine_spec.accelerator_type": "the GPUs are those of the backend's gpus, of whatever type",
        f"{POOLS}.machine_spec.accelerator_count": "GPUs are leased from the backend's gpus, distinct across jobs",
    },
    "kubernetes": {
        "job_spec.service_account": "replicas run as the ServiceAccount of the namespace that is called what stands before the @",
        f"{POOLS}.machine_spec.machine_type": "its vCPUs and memory, times the backend's request_share, are requested of the "
        "node, or what machine_types says; memory is limited with memory_limits only",
        f"{POOLS}.machine_spec.accelerator_type": "the GPUs are those of whatever nodes machine_types or pod_template select",
        f"{POOLS}.disk_spec": "its size is an ephemeral-storage request; its type is the node's",
    },
}
_BACKENDS: dict[str, tuple[bool, bool, dict[str, str], dict[str, str]]] = {
    # name: loopback, isolated, refused, emulated
    "process": (
        True,
        False,
        {**_REFUSED_EVERYWHERE, **_REFUSED_ON_ONE_HOST},
        {**_EMULATED_EVERYWHERE, **_EMULATED["process"]},
    ),
    "docker": (
        False,
        True,
        {**_REFUSED_EVERYWHERE, **_REFUSED_ON_ONE_HOST},
        {**_EMULATED_EVERYWHERE, **_EMULATED["docker"]},
    ),
    "kubernetes": (False, True, _REFUSED_EVERYWHERE, {**_EMULATED_EVERYWHERE, **_EMULATED["kubernetes"]}),
    "fake": (False, True, {}, {}),
}


@cache
def capabilities_of(backend: str) -> Capabilities:
    """What a backend of this name can do.

    :raises KeyError: there is no such backend.
    """
    loopback, isolated, refused, emulated = _BACKENDS[backend]
    rows = [FieldSupport(path, Support.REFUSED, note) for path, note in refused.items()]
    rows += [FieldSupport(path, Support.EMULATED, note) for path, note in emulated.items()]
    return Capabilities(backend, loopback, isolated, tuple(rows), fetches=backend != "fake")


def support_problems(job: CustomJob, capabilities: Capabilities, ignore_fields: tuple[str, ...]) -> list[Problem]:
    """Each field of the job that the backend cannot honour and the user did not name."""
    table = {row.path: row for row in capabilities.fields if row.support is Support.REFUSED}
    known = {row.path for row in capabilities.fields} | {GPU_COUNT}
    names = sorted(map(short_path, known))
    problems = [
        Problem(
            "ignore_fields",
            f"{name!r} is no field that {capabilities.backend} treats differently from Vertex AI{_meant(name, names)}",
            name,
            "ignore-fields",
        )
        for name in ignore_fields
        if not any(_names(name, path) for path in known)
    ]
    for shown, path in _given(job):
        row = table.get(path)
        if row is not None and not any(_names(name, path) for name in ignore_fields):
            hint = f"; to run without it, add {short_path(path)!r} to ignore_fields"
            problems.append(
                Problem(shown, f"cannot be honoured on {capabilities.backend}: {row.note}{hint}", None, "not-honoured")
            )
    return problems


def _meant(name: str, names: list[str]) -> str:
    from airflow_customjob.spec.schema import nearest_name

    last = {known.rpartition(".")[2]: known for known in names}
    near = nearest_name(name.rpartition(".")[2], list(last))
    return f"; did you mean {last[near]!r}?" if near else f"; there are: {', '.join(names) or 'none'}"


def support_notes(job: CustomJob, capabilities: Capabilities, ignore_fields: tuple[str, ...]) -> list[Note]:
    """Each field of the job that is emulated, and each that is ignored because the user said so."""
    table = {row.path: row for row in capabilities.fields}
    notes: dict[str, Note] = {}
    for _, path in _given(job):
        row = table.get(path)
        if path == GPU_COUNT and without_gpus(ignore_fields):
            row = FieldSupport(path, Support.REFUSED, "replicas get no GPUs")
        if row is None:
            continue
        ignored = "ignored as you asked: " if row.support is Support.REFUSED else ""
        if not ignored or any(_names(name, path) for name in ignore_fields):
            notes.setdefault(path, Note(short_path(path), f"{ignored}{row.note}"))
    return list(notes.values())


def without_gpus(ignore_fields: tuple[str, ...]) -> bool:
    """Whether the user wants the job to run without the GPUs that it asks for."""
    return any(_names(name, GPU_COUNT) for name in ignore_fields)


def short_path(path: str) -> str:
    """As users name it in ``ignore_fields``: below ``job_spec``."""
    return path.removeprefix("job_spec.")


def _names(name: str, path: str) -> bool:
    """``network``, ``job_spec.network``, ``nfs_mounts``, ``workerPoolSpecs[].nfsMounts`` all name what they end with."""
    from airflow_customjob.spec.schema import squash

    path, name = squash(path), squash(name.replace("[]", ""))
    return path == name or path.endswith(f".{name}")


def _given(message: Message, shown: str = "", path: str = "") -> Iterator[tuple[str, str]]:
    """Every field that is set: its path with indexes, and without."""
    for field, value in message.ListFields():
        here = f"{path}.{field.name}" if path else field.name
        here_shown = f"{shown}.{field.name}" if shown else field.name
        yield here_shown, here
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        if field.is_repeated:
            for index, item in enumerate(value):
                yield from _given(item, f"{here_shown}[{index}]", here)
        else:
            yield from _given(value, here_shown, here)
