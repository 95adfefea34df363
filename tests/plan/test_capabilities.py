"""What each backend does with each field: nothing is dropped silently."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from google.protobuf.descriptor import Descriptor

from airflow_customjob.plan.capabilities import capabilities_of
from airflow_customjob.plan.types import JobOptions, Support
from airflow_customjob.spec.message import CustomJob
from airflow_customjob.spec.schema import Behavior, descriptor_of, fields_with, is_map
from tests.plan.requests import container, package, plan, problems

BACKENDS = ("process", "docker", "kubernetes")
POOLS = "job_spec.worker_pool_specs"
HONOURED = {
    "display_name",
    "labels",
    "job_spec",
    POOLS,
    "job_spec.scheduling",
    "job_spec.scheduling.timeout",
    "job_spec.scheduling.restart_job_on_worker_restart",
    "job_spec.scheduling.disable_retries",
    f"{POOLS}.replica_count",
    f"{POOLS}.machine_spec",
    f"{POOLS}.container_spec",
    f"{POOLS}.container_spec.command",
    f"{POOLS}.container_spec.args",
    f"{POOLS}.container_spec.env",
    f"{POOLS}.python_package_spec",
    f"{POOLS}.python_package_spec.package_uris",
    f"{POOLS}.python_package_spec.python_module",
    f"{POOLS}.python_package_spec.args",
    f"{POOLS}.python_package_spec.env",
}
"""Fields that every backend carries out as Vertex AI does; each is tested where it is carried out."""
RUNS_IMAGES = {f"{POOLS}.container_spec.image_uri", f"{POOLS}.python_package_spec.executor_image_uri"}
HONOURED_BY = {
    "process": set[str](),
    "docker": RUNS_IMAGES,
    "kubernetes": RUNS_IMAGES | {f"{POOLS}.machine_spec.accelerator_count", f"{POOLS}.nfs_mounts"},
}


def paths(descriptor: Descriptor, table: set[str], path: str = "") -> Iterator[str]:
    """Every field of an input; what is below a field that a table has is covered by it."""
    output = {field.name for field in fields_with(descriptor, Behavior.OUTPUT_ONLY)}
    for field in descriptor.fields:
        here = f"{path}.{field.name}".lstrip(".")
        if field.name in output:
            continue
        yield here
        below = field.message_type
        if below is not None and not is_map(field) and here not in table and below.name not in ("EnvVar", "Duration"):
            yield from paths(below, table, here)


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_field_of_the_proto_is_honoured_or_in_the_table(backend: str) -> None:
    table = {row.path for row in capabilities_of(backend).fields}
    honoured = HONOURED | HONOURED_BY[backend]
    every = set(paths(descriptor_of(CustomJob), table))
    every -= {path for path in every if path.startswith(f"{POOLS}.nfs_mounts.")}
    assert every - table - honoured == set()
    assert table - every == set(), "the table names fields that there are not"
    assert table & honoured == set()


GIVEN = {
    "network": {"network": "projects/1/global/networks/n"},
    "service_account": {"serviceAccount": "a@b.iam.gserviceaccount.com"},
    "tensorboard": {"tensorboard": "projects/1/locations/l/tensorboards/2"},
    "enable_web_access": {"enableWebAccess": True},
    "psc_interface_config": {"pscInterfaceConfig": {"networkAttachment": "n"}},
    "reserved_ip_ranges": {"reservedIpRanges": ["r"]},
    "persistent_resource_id": {"persistentResourceId": "p"},
    "experiment": {"experiment": "projects/1/locations/l/metadataStores/d/contexts/c"},
    "models": {"models": ["projects/1/locations/l/models/3"]},
}


@pytest.mark.parametrize(
    ("name", "backend"),
    [
        (row.path.removeprefix("job_spec."), backend)
        for backend in BACKENDS
        for row in capabilities_of(backend).fields
        if row.support is Support.REFUSED and row.path.removeprefix("job_spec.") in GIVEN
    ],
)
def test_what_cannot_be_honoured_is_a_problem_unless_it_is_named(name: str, backend: str) -> None:
    pool = container(command=["x"])
    (problem,) = problems(pool, backend=backend, **GIVEN[name])
    assert problem.path == f"job_spec.{name}"
    assert f"cannot be honoured on {backend}" in problem.message
    assert f"add {name!r} to ignore_fields" in problem.message
    ignoring = plan(pool, backend=backend, options=JobOptions(ignore_fields=(name,)), **GIVEN[name])
    assert f"{name}: ignored as you asked" in "\n".join(map(str, ignoring.notes))


def test_every_pool_that_has_it_is_named() -> None:
    pool = {**container(), "nfsMounts": [{"server": "10.0.0.1", "path": "/p", "mountPoint": "m"}]}
    assert [problem.path for problem in problems(pool, pool)] == [
        "job_spec.worker_pool_specs[0].nfs_mounts",
        "job_spec.worker_pool_specs[1].nfs_mounts",
    ]
    assert problems(pool, pool, options=JobOptions(ignore_fields=("nfs_mounts",))) == []


@pytest.mark.parametrize("name", ["nfsMounts", "workerPoolSpecs[].nfsMounts", "jobSpec.workerPoolSpecs.nfs_mounts"])
def test_a_field_to_ignore_may_be_spelled_as_in_the_spec_or_in_the_table(name: str) -> None:
    """Only snake_case was taken, though specs and the documentation's tables are in camelCase."""
    pool = {**container(), "nfsMounts": [{"server": "10.0.0.1", "path": "/p", "mountPoint": "m"}]}
    assert problems(pool, options=JobOptions(ignore_fields=(name,))) == []


@pytest.mark.parametrize("backend", ["process", "docker", "kubernetes"])
@pytest.mark.parametrize(
    "machine",
    [
        {"machineType": "n1-standard-4", "acceleratorType": "NVIDIA_TESLA_T4"},
        {"machineType": "a2-highgpu-1g", "acceleratorType": "NVIDIA_TESLA_A100"},
    ],
)
def test_a_job_with_gpus_can_be_tried_without(backend: str, machine: dict[str, str]) -> None:
    """accelerator_count in ignore_fields was taken, and changed nothing."""
    task = {"containerSpec": {"imageUri": "local/py:1", "command": ["true"]}}
    pool = {**container(), **task, "machineSpec": {**machine, "acceleratorCount": 1}}
    (resources,) = [made.resources for made in plan(pool, backend=backend).pools]
    assert resources.gpus == 1
    without = plan(pool, backend=backend, options=JobOptions(ignore_fields=("acceleratorCount",)))
    assert [(made.resources.gpus, made.resources.gpu_type) for made in without.pools] == [(0, None)]
    assert [made.resources.cpus for made in without.pools] == [resources.cpus]
    assert "accelerator_count: ignored as you asked: replicas get no GPUs" in "\n".join(map(str, without.notes))


def test_a_field_at_its_default_is_not_given() -> None:
    assert problems(enableWebAccess=False, network="") == []


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("netwrok", "network"),
        ("nfsMuonts", "worker_pool_specs.nfs_mounts"),
        ("job_spec.serviceAcount", "service_account"),
    ],
)
def test_a_name_that_is_none_says_what_was_meant(name: str, meant: str) -> None:
    (problem,) = problems(options=JobOptions(ignore_fields=(name,)))
    assert (problem.path, problem.value) == ("ignore_fields", name)
    assert problem.message.endswith(f"; did you mean {meant!r}?")


def test_a_name_that_is_like_nothing_gets_the_list() -> None:
    (problem,) = problems(options=JobOptions(ignore_fields=("qqq",)))
    assert "there are: " in problem.message
    assert "network" in problem.message


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_emulated_is_told(backend: str) -> None:
    notes = "\n".join(map(str, plan(container(command=["x"]), package(), backend=backend).notes))
    assert "worker_pool_specs.machine_spec.machine_type: " in notes
    assert ("image_uri: not run" in notes) == (backend == "process")


def test_the_table_has_a_word_for_each_row() -> None:
    rows = [row for backend in BACKENDS for row in capabilities_of(backend).fields]
    assert all(row.note and row.support is not Support.HONOURED for row in rows)


def test_there_is_no_other_backend() -> None:
    with pytest.raises(KeyError):
        capabilities_of("slurm")
