"""The record's form on the engine: what an older version wrote stays readable, a newer one's is refused by name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_customjob.backends.base import Phase, Reason, ReplicaRef, ReplicaStatus
from airflow_customjob.plan.types import ClusterSpec, JobId, JobOptions, JobRequest, Prepared
from airflow_customjob.supervisor.record import (
    FORMAT,
    JobError,
    JobRecord,
    Owner,
    RecordError,
    decode,
    encode,
)
from tests.supervisor.jobs import F, new_job

GOLDEN = Path(__file__).parent / "golden"
JOB = JobId("100000000000000001")
FULL = JobRecord(
    job_id=JOB,
    generation=2,
    owner=Owner("0199-7", 3, 4, 1, {"dag_id": "train", "map_index": "-1"}),
    engine="docker:ABCD",
    request=JobRequest(
        {"displayName": "träin", "jobSpec": {"workerPoolSpecs": [{"replicaCount": "1"}]}},
        JobOptions(
            cluster_spec=ClusterSpec.FILE,
            image_map=(("a", "b"),),
            ignore_fields=("network",),
            secret_env=(("TOKEN", "env:TOKEN"),),
        ),
    ),
    digest="d" * 64,
    create_time=1_000.5,
    update_time=1_003.0,
    attempt=1,
    state=F,
    prepared=Prepared({"0": "sha256:1"}, (40001, 40002), ("a note",)),
    unlaunched=("workerpool1-0",),
    restarts={"workerpool1-0": 2},
    failed=(
        ReplicaStatus(
            ReplicaRef(JOB, 2, 1, "workerpool1-0", 2),
            Phase.EXITED,
            1,
            Reason.ERROR,
            "its own words",
            "node1",
            1_001.0,
            1_002.0,
            "d" * 64,
            ("one", "two"),
        ),
    ),
    message="why",
    start_time=1_001.0,
    end_time=1_003.0,
    error=JobError(3, "The replica workerpool1-0 ..."),
)


def test_what_is_written_is_read() -> None:
    assert decode(encode(FULL)) == FULL


def test_a_new_record_is_small() -> None:
    record = new_job(pools=(1, 1999)).record
    assert decode(encode(record)) == record
    assert len(encode(record)) < 2_000


def test_written_by_format_1() -> None:
    """The file was written once by the first release and is never written again: records on engines look like it."""
    assert decode((GOLDEN / "record-1.json").read_text()) == FULL


def known(written: Any, first: Any) -> Any:
    """What an older version reads of it: it passes over fields that it does not know, which may stand there unset only."""
    if isinstance(first, list) and isinstance(written, list) and len(first) == len(written):
        return [known(*both) for both in zip(written, first, strict=True)]
    if not isinstance(first, dict) or not isinstance(written, dict):
        return written
    assert not any(value for key, value in written.items() if key not in first)
    return {key: known(written.get(key), value) for key, value in first.items()}


def test_format_1_is_still_what_is_written() -> None:
    """If this fails, old versions read what this one writes wrongly, or not: raise FORMAT."""
    first = json.loads((GOLDEN / "record-1.json").read_text())
    assert (FORMAT, known(json.loads(encode(FULL)), first)) == (1, first)


def test_fields_that_an_older_version_did_not_write_have_their_defaults() -> None:
    data = json.loads(encode(FULL))
    for name in ("failed", "message", "restarts", "error"):
        del data[name]
    assert decode(json.dumps(data)) == replace(FULL, failed=(), message="", restarts={}, error=None)


def test_a_newer_format_is_refused_by_name() -> None:
    with pytest.raises(RecordError, match=f"has format {FORMAT + 1}, this version reads up to {FORMAT}: upgrade"):
        decode(encode(replace(FULL, format=FORMAT + 1)))


@pytest.mark.parametrize("data", ["", "{}", "[]", "no JSON", '{"job_id": 5}', encode(FULL)[:-1]])
def test_what_is_no_record_is_refused(data: str) -> None:
    with pytest.raises(RecordError, match="cannot be read"):
        decode(data)


@given(
    st.builds(
        ReplicaStatus,
        ref=st.builds(ReplicaRef, st.just(JOB), st.integers(1), st.integers(0), st.text(), st.integers(0)),
        phase=st.sampled_from(Phase),
        exit_code=st.none() | st.integers(0, 255),
        reason=st.none() | st.sampled_from(Reason),
        message=st.text(st.characters(codec="utf-8")),
        last_lines=st.lists(st.text(st.characters(codec="utf-8"))).map(tuple),
    )
)
def test_any_failed_replica_is_read_as_it_was_written(status: ReplicaStatus) -> None:
    record = replace(FULL, failed=(status,))
    assert decode(encode(record)) == record
