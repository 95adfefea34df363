"""Names and digests: the same asker finds the same job, another one never does."""

from __future__ import annotations

import re
from dataclasses import fields, replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from airflow_customjob.backends.base import ReplicaRef
from airflow_customjob.plan.capabilities import capabilities_of
from airflow_customjob.plan.identity import host_of, job_id_of, network_of, new_job_id
from airflow_customjob.plan.job_plan import make_plan, request_digest
from airflow_customjob.plan.types import ClusterSpec, JobOptions, Prepared, SingleReplica
from tests.plan.requests import JOB, container, plan, request

PARTS = st.lists(st.text(max_size=8), min_size=1, max_size=5)
DNS_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


@given(PARTS)
def test_an_id_is_eighteen_digits_and_always_the_same(parts: list[str]) -> None:
    assert job_id_of(*parts) == job_id_of(*parts)
    assert re.fullmatch(r"[1-9]\d{17}", job_id_of(*parts))


@given(PARTS, PARTS)
def test_other_parts_give_another_id(one: list[str], other: list[str]) -> None:
    assume(one != other and not any("\0" in part for part in one + other))
    assert job_id_of(*one) != job_id_of(*other)


def test_new_ids_are_new() -> None:
    assert len({new_job_id() for _ in range(1000)}) == 1000


@given(st.integers(1, 999), st.integers(0, 9), st.integers(0, 99_999))
def test_hosts_are_dns_labels(generation: int, pool: int, index: int) -> None:
    assert DNS_LABEL.fullmatch(host_of(network_of(JOB, generation), pool, index))
    assert re.fullmatch(r"[0-9a-f]{10}", network_of(JOB, generation))


@given(st.integers(1, 999), st.integers(0, 99), st.integers(0, 9), st.integers(0, 9999), st.integers(0, 999))
def test_replica_objects_have_dns_labels(generation: int, attempt: int, pool: int, index: int, restart: int) -> None:
    assert DNS_LABEL.fullmatch(ReplicaRef(JOB, generation, attempt, f"workerpool{pool}-{index}", restart).name)


def test_another_generation_has_other_hosts() -> None:
    assert network_of(JOB, 1) != network_of(JOB, 2)


OTHER_OPTIONS = {
    "stop_grace": 7.0,
    "timeout_state": "EXPIRED",
    "ignore_fields": ("network",),
    "image_map": (("a", "b"),),
    "cluster_spec": ClusterSpec.FILE,
    "single_replica": SingleReplica.CHIEF,
    "expand_args": False,
    "trial_id": "1",
    "gang": False,
    "project": "p",
    "region": "r",
    "memory_limits": True,
    "record_ttl": 1.0,
    "gcp_conn_id": "gcp",
    "google_credentials": "/key.json",
    "secret_env": (("A", "b"),),
}


def test_every_option_is_in_the_list() -> None:
    assert OTHER_OPTIONS.keys() == {field.name for field in fields(JobOptions)}


@pytest.mark.parametrize("name", OTHER_OPTIONS)
def test_another_option_is_another_request(name: str) -> None:
    other = replace(JobOptions(), **{name: OTHER_OPTIONS[name]})  # type: ignore[arg-type]
    assert request_digest(request(options=other)) != request_digest(request())


def test_another_spec_is_another_request() -> None:
    digests = {
        request_digest(asked)
        for asked in (request(), request(container(args=["a"])), request(container(), container()))
    }
    assert len(digests) == 3


def test_spelling_makes_no_other_request() -> None:
    snake = {"machine_spec": {"machine_type": "n1-standard-4"}, "replica_count": "1"}
    task = {"container_spec": {"image_uri": "europe-docker.pkg.dev/p/r/i:1"}}
    assert request_digest(request(snake | task)) == request_digest(request(container()))


def test_the_digest_is_no_matter_of_generation_backend_or_ports() -> None:
    asked = request(container(command=["x"]))
    digests = {
        make_plan(asked, capabilities_of(backend), job_id=JOB, generation=generation, prepared=prepared).digest
        for backend in ("fake", "docker", "process")
        for generation in (1, 2)
        for prepared in (None, Prepared(ports=(1, 2)))
    }
    assert digests == {request_digest(asked)}


def test_an_option_that_was_not_chosen_is_not_in_the_digest() -> None:
    """A later version with more options still finds the jobs of this one: the digest must never change by itself."""
    assert request_digest(request()) == plan().digest
    assert plan().digest == "541a66c03ac6dc2c139c3f3b062ea532eadec494ecbda55a17fb79d944296daa"
