"""All rules, applied: every problem of a job that could be read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from google.protobuf.message import Message

from airflow_customjob.spec import rules_job, rules_pool
from airflow_customjob.spec.message import CustomJob, WorkerPoolSpec
from airflow_customjob.spec.problem import Problem, shown
from airflow_customjob.spec.rules import Rule, apply
from airflow_customjob.spec.scalars import TEMPLATE
from airflow_customjob.spec.schema import Behavior, descriptor_of, fields_with, is_map

ALL_RULES: tuple[Rule[Any], ...] = (
    *rules_job.JOB,
    *rules_job.SPEC,
    *rules_job.SCHEDULING,
    *rules_pool.POOL,
    *rules_pool.MACHINE,
    *rules_pool.DISK,
    *rules_pool.NFS,
    *rules_pool.TASK,
    *rules_pool.PACKAGE,
)
"""Every rule that has a function; beside these, REQUIRED of the proto is 'required', and 'unexpanded' guards names."""

NO_SHELL = (
    "image_uri", "executor_image_uri", "package_uris", "python_module", "machine_type", "boot_disk_type",
    "output_uri_prefix", "service_account", "network", "tensorboard", "kms_key_name", "persistent_resource_id",
)  # fmt: skip
"""Text that no shell will ever see: ``${NAME}`` and ``{{ name }}`` there are left-overs, and mean nothing."""

MAY_BE_EMPTY = {"EnvVar.value"}
"""REQUIRED in the proto, and yet an empty text is a value."""


def validate(job: CustomJob) -> list[Problem]:
    """Every problem of a job: REQUIRED fields as the proto marks them, then the rules of each part.

    :param job: as :func:`~airflow_customjob.spec.load` gave it.
    """
    return [*_fields(job, ""), *_rules(job)]


def _rules(job: CustomJob) -> Iterator[Problem]:
    spec = job.job_spec
    yield from apply(rules_job.JOB, job, "")
    yield from apply(rules_job.SPEC, spec, "job_spec")
    if spec.HasField("scheduling"):
        yield from apply(rules_job.SCHEDULING, spec.scheduling, "job_spec.scheduling")
    for index, pool in enumerate(spec.worker_pool_specs):
        if not rules_job.is_empty(pool):
            yield from _pool_rules(pool, f"job_spec.worker_pool_specs[{index}]")


def _pool_rules(pool: WorkerPoolSpec, path: str) -> Iterator[Problem]:
    yield from apply(rules_pool.POOL, pool, path)
    if pool.HasField("machine_spec"):
        yield from apply(rules_pool.MACHINE, pool.machine_spec, f"{path}.machine_spec")
    yield from apply(rules_pool.DISK, pool.disk_spec, f"{path}.disk_spec")
    for index, mount in enumerate(pool.nfs_mounts):
        yield from apply(rules_pool.NFS, mount, f"{path}.nfs_mounts[{index}]")
    if pool.HasField("container_spec"):
        yield from apply(rules_pool.TASK, pool.container_spec, f"{path}.container_spec")
    if pool.HasField("python_package_spec"):
        yield from apply(rules_pool.TASK, pool.python_package_spec, f"{path}.python_package_spec")
        yield from apply(rules_pool.PACKAGE, pool.python_package_spec, f"{path}.python_package_spec")


def _fields(message: Message, path: str) -> Iterator[Problem]:
    """What the proto itself says of each field that is there, and of each that is not."""
    given = dict(message.ListFields())
    prefix = f"{path}." if path else ""
    for field in fields_with(descriptor_of(message), Behavior.REQUIRED):
        if field not in given and f"{message.DESCRIPTOR.name}.{field.name}" not in MAY_BE_EMPTY:
            yield Problem(f"{prefix}{field.name}", "is required", None, "required")
    for field, value in given.items():
        below = f"{prefix}{field.name}"
        if is_map(field) or (field.message_type is not None and field.message_type.file.name != "custom_job.proto"):
            continue
        for index, item in enumerate(value if field.is_repeated else [value]):
            at = f"{below}[{index}]" if field.is_repeated else below
            if isinstance(item, Message):
                yield from _fields(item, at)
            elif field.name in NO_SHELL and TEMPLATE.search(item):
                yield Problem(at, "a template that was not expanded", shown(item), "unexpanded")
