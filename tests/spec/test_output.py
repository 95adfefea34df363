"""Output in both forms equals google-cloud-aiplatform's, in this process, for any CustomJob that the proto allows."""

from __future__ import annotations

from typing import Any

import pytest
from google.cloud.aiplatform_v1 import types as vertex
from google.protobuf.json_format import MessageToDict
from hypothesis import given, settings

from airflow_customjob.spec import CustomJob, load, to_canonical, to_sdk_dict
from tests.spec.samples import GOOD, google_pb
from tests.spec.strategies import JOBS


def _both(data: dict[str, Any]) -> None:
    theirs = google_pb(data)
    ours = load(data)
    assert to_canonical(ours) == MessageToDict(theirs)
    assert to_sdk_dict(ours) == vertex.CustomJob.to_dict(vertex.CustomJob.wrap(theirs))
    assert ours.SerializeToString(deterministic=True) == theirs.SerializeToString(deterministic=True)


@pytest.mark.parametrize("spec", GOOD)
def test_good_spec(spec: str) -> None:
    _both(GOOD[spec])


@settings(max_examples=300, deadline=None)
@given(JOBS)
def test_any_job(data: dict[str, Any]) -> None:
    _both(data)


@settings(max_examples=150, deadline=None)
@given(JOBS)
def test_both_outputs_read_back_as_the_same_job(data: dict[str, Any]) -> None:
    job = load(data)
    assert load(to_canonical(job)) == job
    assert load(to_sdk_dict(job)) == job


def test_defaults_of_the_sdk_form_are_those_of_an_empty_job() -> None:
    empty = to_sdk_dict(CustomJob())
    assert empty == vertex.CustomJob.to_dict(vertex.CustomJob())
    assert empty == {
        "name": "",
        "display_name": "",
        "state": 0,
        "labels": {},
        "web_access_uris": {},
        "satisfies_pzs": False,
        "satisfies_pzi": False,
    }
