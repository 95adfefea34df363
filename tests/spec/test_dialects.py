"""Every way in which people write a CustomJob: the canonical JSON is that of google-cloud-aiplatform."""
# ruff: noqa: E501 - tables read as rows

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.auth.credentials import AnonymousCredentials
from google.cloud import aiplatform
from google.cloud.aiplatform_v1 import types as vertex
from google.protobuf.duration_pb2 import Duration

from airflow_customjob.spec import SpecError, check, load, parse, to_canonical, to_dict, to_sdk_dict, validate
from tests.spec.samples import CONTAINER, GOOD, google_canonical, google_pb, snake

DIALECTS: dict[str, Callable[[dict[str, Any]], object]] = {
    "camelCase": lambda data: data,
    "snake_case": snake,
    "mixed": lambda data: snake(data, every=2),
    "JSON text": json.dumps,
    "indented JSON text with tabs": lambda data: json.dumps(data, indent="\t"),
    "JSON bytes": lambda data: json.dumps(data).encode(),
    "YAML text": yaml.safe_dump,
    "YAML text with a byte order mark": lambda data: "\ufeff" + yaml.safe_dump(data),
    "YAML flow text": lambda data: yaml.safe_dump(data, default_flow_style=True, width=10**9),
    "Google's protobuf": google_pb,
    "Google's proto-plus": lambda data: vertex.CustomJob.wrap(google_pb(data)),
    "Google's CustomJob.to_dict": lambda data: vertex.CustomJob.to_dict(vertex.CustomJob.wrap(google_pb(data))),
    "Google's CreateCustomJobRequest": lambda data: vertex.CreateCustomJobRequest(
        parent="p", custom_job=vertex.CustomJob.wrap(google_pb(data))
    ),
    "a REST request": lambda data: {"parent": "projects/p/locations/l", "customJob": data},
    "our message": load,
    "our to_sdk_dict": lambda data: to_sdk_dict(load(data)),
    "tuples for lists": lambda data: json.loads(
        json.dumps(data), object_hook=lambda d: {k: tuple(v) if isinstance(v, list) else v for k, v in d.items()}
    ),
}


@pytest.mark.parametrize("spec", GOOD)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_dialect(dialect: str, spec: str) -> None:
    given = DIALECTS[dialect](copy.deepcopy(GOOD[spec]))
    assert to_canonical(load(given)) == google_canonical(GOOD[spec])
    assert to_canonical(parse(to_dict(given))) == google_canonical(GOOD[spec])


@pytest.mark.parametrize("spec", GOOD)
def test_good_specs_are_clean(spec: str) -> None:
    job, problems = check(GOOD[spec])
    assert job is not None
    assert problems == []
    assert validate(job) == []


@pytest.mark.parametrize("spec", GOOD)
@pytest.mark.parametrize("suffix", [".yaml", ".yml", ".json", ""])
@pytest.mark.parametrize("as_text", [True, False])
def test_file(tmp_path: Path, suffix: str, spec: str, as_text: bool) -> None:
    path = tmp_path / f"job{suffix}"
    path.write_text(json.dumps(GOOD[spec]) if suffix == ".json" else yaml.safe_dump(GOOD[spec]))
    assert to_canonical(load(str(path) if as_text else path)) == google_canonical(GOOD[spec])
    assert to_dict(Path(path.name), base=tmp_path) == to_dict(path)


BARE: dict[str, Callable[[dict[str, Any]], object]] = {
    "camelCase": lambda data: data["jobSpec"],
    "snake_case": lambda data: snake(data["jobSpec"]),
    "gcloud --config YAML": lambda data: yaml.safe_dump(data["jobSpec"]),
    "Google's protobuf": lambda data: google_pb(data).job_spec,  # type: ignore[attr-defined]
    "Google's proto-plus": lambda data: vertex.CustomJob.wrap(google_pb(data)).job_spec,
    "our message": lambda data: load(data).job_spec,
}


@pytest.mark.parametrize("spec", GOOD)
@pytest.mark.parametrize("dialect", BARE)
def test_bare_spec(dialect: str, spec: str) -> None:
    expected = google_canonical({"displayName": "named", "jobSpec": GOOD[spec]["jobSpec"]})
    assert to_canonical(load(BARE[dialect](copy.deepcopy(GOOD[spec])), display_name="named")) == expected


def test_bare_spec_has_a_name_by_default() -> None:
    assert load(CONTAINER["jobSpec"]).display_name == "custom-job"


MINIMAL = {"machineSpec": {"machineType": "n1-standard-4"}, "replicaCount": 1, "containerSpec": {"imageUri": "i"}}


def _job(pools: object, **spec: object) -> dict[str, Any]:
    return {"displayName": "d", "jobSpec": {"workerPoolSpecs": pools, **spec}}


def _container(**fields: object) -> dict[str, Any]:
    return _job([{**MINIMAL, "containerSpec": {"imageUri": "i", **fields}}])


def _package(**fields: object) -> dict[str, Any]:
    package = {"executorImageUri": "e", "packageUris": ["gs://b/p.tar.gz"], "pythonModule": "m", **fields}
    return _job([{"machineSpec": {"machineType": "n1-standard-4"}, "replicaCount": 1, "pythonPackageSpec": package}])


# What Google's own parser refuses or reads, and the strict form that means the same.
LENIENT: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "a mapping of one pool (as in Google's documentation)": (_job(MINIMAL), _job([MINIMAL])),
    "a scalar for args": (_container(args="--a"), _container(args=["--a"])),
    "a scalar for command": (_container(command="train"), _container(command=["train"])),
    "a scalar for packageUris": (_package(packageUris="gs://b/p.whl"), _package(packageUris=["gs://b/p.whl"])),
    "a mapping of one variable": (_container(env={"name": "A", "value": "b"}), _container(env=[{"name": "A", "value": "b"}])),
    "a Duration as a proto-plus dict": (_job([MINIMAL], scheduling={"timeout": {"seconds": 5}}), _job([MINIMAL], scheduling={"timeout": "5s"})),
    "a timedelta": (_job([MINIMAL], scheduling={"timeout": timedelta(days=7, microseconds=5)}), _job([MINIMAL], scheduling={"timeout": "604800.000005s"})),
    "a Duration": (_job([MINIMAL], scheduling={"timeout": Duration(seconds=3, nanos=5)}), _job([MINIMAL], scheduling={"timeout": "3.000000005s"})),
    "a Python enum": (
        _job([{**MINIMAL, "machineSpec": {"machineType": "m", "acceleratorType": vertex.AcceleratorType.NVIDIA_L4, "acceleratorCount": 1}}]),
        _job([{**MINIMAL, "machineSpec": {"machineType": "m", "acceleratorType": "NVIDIA_L4", "acceleratorCount": 1}}]),
    ),
    "a proto-plus message inside a dict": (_job([vertex.WorkerPoolSpec(replica_count=2, container_spec={"image_uri": "i"})]), _job([{"replicaCount": 2, "containerSpec": {"imageUri": "i"}}])),
}  # fmt: skip

STRICT: dict[str, dict[str, Any]] = {
    "env: null": _container(env=None),
    "args: null": _container(args=None),
    "an empty pool": _job([MINIMAL, {}, MINIMAL]),
    "replicaCount as text": _job([{**MINIMAL, "replicaCount": "2"}]),
    "replicaCount as a whole float": _job([{**MINIMAL, "replicaCount": 1.0}]),
    "acceleratorType as a number": _job([{**MINIMAL, "machineSpec": {"acceleratorType": 7, "acceleratorCount": 1}}]),
    "UNSPECIFIED and 0": _job([{**MINIMAL, "machineSpec": {"acceleratorType": "ACCELERATOR_TYPE_UNSPECIFIED", "acceleratorCount": 0}}]),
    "a fraction of a second": _job([MINIMAL], scheduling={"timeout": "3.5s"}),
    "what the service returns": {
        **_job([MINIMAL]),
        "name": "projects/1/locations/l/customJobs/2",
        "state": "JOB_STATE_FAILED",
        "createTime": "2026-01-02T03:04:05.678901Z",
        "endTime": "2026-01-02T03:04:05Z",
        "error": {"code": 3, "message": "m", "details": [{"@type": "type.googleapis.com/google.protobuf.Duration", "value": "1s"}]},
        "webAccessUris": {"workerpool0-0": "https://x"},
        "satisfiesPzs": True,
    },
}  # fmt: skip


@pytest.mark.parametrize("case", LENIENT)
def test_lenient_dialect(case: str) -> None:
    given, meant = LENIENT[case]
    assert to_canonical(load(given)) == google_canonical(meant)


@pytest.mark.parametrize(
    "case",
    ["a mapping of one pool (as in Google's documentation)", "a scalar for args", "a Duration as a proto-plus dict"],
)
def test_strict_mode_refuses_what_the_api_refuses(case: str) -> None:
    with pytest.raises(SpecError):
        load(LENIENT[case][0], strict=True)


@pytest.mark.parametrize("case", STRICT)
@pytest.mark.parametrize("strict", [True, False])
def test_strict_dialect(case: str, strict: bool) -> None:
    assert to_canonical(load(STRICT[case], strict=strict)) == google_canonical(STRICT[case])


def test_the_sdks_own_object() -> None:
    aiplatform.init(project="p", staging_bucket="gs://b")
    job = aiplatform.CustomJob(
        display_name="sdk",
        worker_pool_specs=[snake(MINIMAL)],
        base_output_dir="gs://b/out",
        labels={"a": "b"},
        credentials=AnonymousCredentials(),  # type: ignore[no-untyped-call]
    )
    expected = google_canonical(
        {
            **_job([MINIMAL], baseOutputDirectory={"outputUriPrefix": "gs://b/out"}),
            "displayName": "sdk",
            "labels": {"a": "b"},
        }
    )
    assert to_canonical(load(job)) == expected


def test_leaves_are_the_users_own_before_rendering() -> None:
    leaf = object()
    given = {"jobSpec": {"workerPoolSpecs": "{{ params.pools }}", "scheduling": {"timeout": leaf}}}
    assert to_dict(given) == given
    assert to_dict(given)["jobSpec"]["scheduling"]["timeout"] is leaf


def test_the_input_is_not_changed() -> None:
    given = copy.deepcopy(CONTAINER)
    load(given)
    assert given == CONTAINER
