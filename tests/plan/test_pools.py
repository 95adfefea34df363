"""Pools, images, commands, resources, and plans of any size."""

from __future__ import annotations

import pickle
import time
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_customjob.plan.job_plan import DEFAULT_TIMEOUT, map_image
from airflow_customjob.plan.types import ClusterSpec, JobOptions, Package
from tests.plan.requests import container, package, plan, problems

MAPS = [
    ("a:1", (("a:1", "b:2"),), "b:2"),
    ("a:1", (("a:2", "b:2"),), "a:1"),
    ("gcr.io/p/i:1", (("gcr.io/*", "mirror/*"),), "mirror/p/i:1"),
    ("gcr.io/p/i:1", (("gcr.io/*", "one:1"),), "one:1"),
    ("gcr.io/p/i:1", (("gcr.io/p/*", "x/*"), ("gcr.io/*", "y/*")), "x/i:1"),
    ("a", (("*", "all"),), "all"),
    ("a", (), "a"),
]


@pytest.mark.parametrize(("image", "pairs", "mapped"), MAPS)
def test_image_map(image: str, pairs: tuple[tuple[str, str], ...], mapped: str) -> None:
    assert map_image(image, pairs) == mapped


def test_the_plan_shows_both_names() -> None:
    made = plan(container(image="gcr.io/p/i:1"), options=JobOptions(image_map=(("gcr.io/*", "mirror/*"),)))
    assert (made.pools[0].image, made.pools[0].image_requested) == ("mirror/p/i:1", "gcr.io/p/i:1")
    assert "worker_pool_specs[0]: gcr.io/p/i:1 is replaced by mirror/p/i:1" in map(str, made.notes)


def test_a_package_runs_its_module() -> None:
    made = plan(package(args=["--a", "b"]))
    assert (made.primary.command, made.primary.args) == (("python3", "-m", "trainer.task"), ("--a", "b"))
    assert made.pools[0].package == Package(("gs://b/one-1.tar.gz", "gs://b/two-2.whl"), "trainer.task")


@pytest.mark.parametrize("task", [{}, {"command": ["c"]}, {"args": ["a"]}, {"command": ["c"], "args": ["a"]}])
def test_a_container_s_command_and_args(task: dict[str, list[str]]) -> None:
    replica = plan(container(**task)).primary
    assert (replica.command, replica.args) == (tuple(task.get("command", ())), tuple(task.get("args", ())))


def test_resources() -> None:
    machine = {"machineType": "n1-standard-8", "acceleratorType": "NVIDIA_TESLA_T4", "acceleratorCount": 2}
    resources = plan({**container(), "machineSpec": machine}).pools[0].resources
    assert (resources.cpus, resources.memory_bytes) == (8.0, 30 * 2**30)
    assert (resources.gpus, resources.gpu_type) == (2, "NVIDIA_TESLA_T4")


def test_a_machine_nobody_knows_has_no_wishes() -> None:
    resources = plan({**container(), "machineSpec": {"machineType": "z9-huge-1"}}).pools[0].resources
    assert (resources.cpus, resources.memory_bytes, resources.gpus) == (None, None, 0)


def test_a_machine_with_built_in_gpus_has_them() -> None:
    resources = plan({**container(), "machineSpec": {"machineType": "a2-highgpu-1g"}}).pools[0].resources
    assert resources.gpus == 1


@pytest.mark.parametrize(
    ("scheduling", "expected"),
    [
        ({}, (DEFAULT_TIMEOUT, False, False)),
        ({"timeout": "3.5s"}, (3.5, False, False)),
        ({"restartJobOnWorkerRestart": True}, (DEFAULT_TIMEOUT, False, True)),
        ({"restartJobOnWorkerRestart": True, "disableRetries": True}, (DEFAULT_TIMEOUT, True, False)),
    ],
)
def test_scheduling(scheduling: dict[str, object], expected: tuple[float, bool, bool]) -> None:
    made = plan(scheduling=scheduling)
    assert (made.timeout, made.disable_retries, made.restart_job_on_worker_restart) == expected


@settings(max_examples=50)
@given(st.lists(st.integers(0, 5), max_size=3))
def test_any_pools(counts: list[int]) -> None:
    made = plan(container(), *({} if count == 0 else container(count) for count in counts))
    assert [replica.rank for replica in made.replicas] == list(range(1 + sum(counts)))
    names = [f"workerpool{pool}-{index}" for pool, count in enumerate((1, *counts)) for index in range(count)]
    assert [replica.name for replica in made.replicas] == names
    assert len({replica.host for replica in made.replicas}) == len(names)
    assert all(made.replica(name).name == name for name in names)
    assert all(len(dict(replica.env)) == len(replica.env) for replica in made.replicas)


def test_a_plan_with_files_grows_with_its_replicas_and_not_with_their_square() -> None:
    def size(count: int) -> int:
        return len(pickle.dumps(plan(container(count), options=JobOptions(cluster_spec=ClusterSpec.FILE))))

    assert size(3000) < 3.2 * size(1000)


def test_what_is_too_long_is_found_before_there_are_a_thousand_of_it() -> None:
    tracemalloc.start()
    assert problems(container(), container(2999))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50_000_000  # all of it would be 850 MB


@pytest.mark.parametrize(("count", "form"), [(1000, ClusterSpec.ENV), (3000, ClusterSpec.FILE)])
def test_the_time_for_a_plan_does_not_grow_with_the_square_of_its_replicas(count: int, form: ClusterSpec) -> None:
    began = time.process_time()
    made = plan(container(), container(count - 1, args=["--rank=$(RANK)"]), options=JobOptions(cluster_spec=form))
    assert made.replicas[-1].args == (f"--rank={count - 1}",)
    assert time.process_time() - began < 5.0, "0.1 s on an idle machine; seconds where it grows with the square"
