"""What cannot be read: each with its path, its rule, the value, and what to write instead; all of them at once."""
# ruff: noqa: E501 - tables read as rows

from __future__ import annotations

import copy
import json
import pickle
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from google.cloud.aiplatform_v1 import types as vertex

from airflow_customjob.spec import Problem, SpecError, check, load, parse, to_dict
from airflow_customjob.spec.problem import shown
from tests.spec.samples import CONTAINER, PACKAGE

POOL = "job_spec.worker_pool_specs[0]"


def _with(path: str, value: object, base: dict[str, Any] = CONTAINER) -> dict[str, Any]:
    """The spec with one value put at a dotted path of keys and indexes."""
    spec = copy.deepcopy(base)
    *way, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    at: Any = spec
    for step in way:
        at = at[step]
    at[last] = value
    return spec


C = "jobSpec.workerPoolSpecs.0.containerSpec"
M = "jobSpec.workerPoolSpecs.0.machineSpec"
S = "jobSpec.scheduling"

# Where, what is put there, path of the problem, its rule, a part of its message.
UNREADABLE: list[tuple[str, object, str, str, str]] = [
    (f"{C}.args", ["a", 5], f"{POOL}.container_spec.args[1]", "text", "put it in quotes"),
    (f"{C}.args", [1.5], f"{POOL}.container_spec.args[0]", "text", "put it in quotes"),
    (f"{C}.args", [True], f"{POOL}.container_spec.args[0]", "text", 'write "true" in quotes'),
    (f"{C}.args", ["a", None], f"{POOL}.container_spec.args[1]", "null-element", "leave it out"),
    (f"{C}.args", [["a"]], f"{POOL}.container_spec.args[0]", "text", "a list, where text belongs"),
    (f"{C}.args", {"a": "b"}, f"{POOL}.container_spec.args", "list", "a mapping, where a list belongs"),
    (f"{C}.args", [date(2026, 1, 2).__class__], f"{POOL}.container_spec.args[0]", "text", "a Python type"),
    (f"{C}.args", ["\ud800"], f"{POOL}.container_spec.args[0]", "text", "surrogate"),
    (f"{C}.env", [{"name": "N", "value": 5}], f"{POOL}.container_spec.env[0].value", "text", "put it in quotes"),
    (f"{C}.env", {"A": "b"}, f"{POOL}.container_spec.env", "list", '[{"name": "A", "value": "b"}, ...]'),
    (f"{C}.env", ["A=b"], f"{POOL}.container_spec.env[0]", "mapping", "text, where a EnvVar"),
    (f"{C}.env", [None], f"{POOL}.container_spec.env[0]", "null-element", "leave it out"),
    (f"{C}.image", "x", f"{POOL}.container_spec.image", "unknown-field", "did you mean imageUri?"),
    (f"{C}.image_url", "x", f"{POOL}.container_spec.image_url", "unknown-field", "did you mean image_uri?"),
    (f"{C}.ImageURI", "x", f"{POOL}.container_spec.ImageURI", "unknown-field", "did you mean imageUri?"),
    (f"{C}.image_uri", "x", f"{POOL}.container_spec.image_uri", "duplicate-key", "given twice"),
    (f"{C}.zzz", "x", f"{POOL}.container_spec.zzz", "unknown-field", "unknown field"),
    ("jobSpec.workerPoolSpecs.0.machineType", "x", f"{POOL}.machineType", "unknown-field", "jobSpec.workerPoolSpecs[].machineSpec.machineType"),
    ("jobSpec.workerPoolSpecs.0.replicaCount", "${N}", f"{POOL}.replica_count", "unexpanded", "not expanded"),
    ("jobSpec.workerPoolSpecs.0.replicaCount", "{{ params.n }}", f"{POOL}.replica_count", "unexpanded", "not expanded"),
    ("jobSpec.workerPoolSpecs.0.replicaCount", "two", f"{POOL}.replica_count", "integer", "not an integer"),
    ("jobSpec.workerPoolSpecs.0.replicaCount", 1.5, f"{POOL}.replica_count", "integer", "without a fraction"),
    ("jobSpec.workerPoolSpecs.0.replicaCount", float("nan"), f"{POOL}.replica_count", "integer", "without a fraction"),
    ("jobSpec.workerPoolSpecs.0.replicaCount", True, f"{POOL}.replica_count", "integer", "a boolean"),
    ("jobSpec.workerPoolSpecs.0.replicaCount", 2**63, f"{POOL}.replica_count", "integer", "64 bits"),
    ("jobSpec.workerPoolSpecs.0.replicaCount", 10**5000, f"{POOL}.replica_count", "integer", "64 bits"),
    ("jobSpec.workerPoolSpecs.0.replicaCount", [1], f"{POOL}.replica_count", "integer", "a list"),
    ("jobSpec.workerPoolSpecs.0.pythonPackageSpec", {}, f"{POOL}.python_package_spec", "oneof", "container_spec and python_package_spec"),
    ("jobSpec.workerPoolSpecs.0", None, POOL, "null-element", "leave it out"),
    ("jobSpec.workerPoolSpecs.0", "{{ params.pool }}", POOL, "unexpanded", "template"),
    ("jobSpec.workerPoolSpecs", "{{ params.pools }}", "job_spec.worker_pool_specs", "list", "where a list belongs"),
    (f"{M}.acceleratorType", "nvidia-tesla-t4", f"{POOL}.machine_spec.accelerator_type", "enum", "did you mean NVIDIA_TESLA_T4?"),
    (f"{M}.acceleratorType", "NVIDIA_H100", f"{POOL}.machine_spec.accelerator_type", "enum", "did you mean NVIDIA_H100_80GB?"),
    (f"{M}.acceleratorType", "zz", f"{POOL}.machine_spec.accelerator_type", "enum", "known are"),
    (f"{M}.acceleratorType", 99, f"{POOL}.machine_spec.accelerator_type", "enum", "write the name"),
    (f"{M}.acceleratorType", True, f"{POOL}.machine_spec.accelerator_type", "enum", "a boolean"),
    (f"{M}.acceleratorCount", 2**31, f"{POOL}.machine_spec.accelerator_count", "integer", "32 bits"),
    ("jobSpec.workerPoolSpecs.0.machineSpec", "n1-standard-4", f"{POOL}.machine_spec", "mapping", '{"machineType": "n1-standard-4"}'),
    (f"{S}.timeout", "7d", "job_spec.scheduling.timeout", "duration", 'write "604800s"'),
    (f"{S}.timeout", "1h30m", "job_spec.scheduling.timeout", "duration", 'write "5400s"'),
    (f"{S}.timeout", "1.5 hours", "job_spec.scheduling.timeout", "duration", 'write "5400s"'),
    (f"{S}.timeout", "250ms", "job_spec.scheduling.timeout", "duration", 'write "0.25s"'),
    (f"{S}.timeout", 3600, "job_spec.scheduling.timeout", "duration", 'write "3600s"'),
    (f"{S}.timeout", "3600", "job_spec.scheduling.timeout", "duration", 'write "3600s"'),
    (f"{S}.timeout", "soon", "job_spec.scheduling.timeout", "duration", 'as "3600s"'),
    (f"{S}.timeout", "{{ params.t }}", "job_spec.scheduling.timeout", "unexpanded", "not expanded"),
    (f"{S}.timeout", "999999999999s", "job_spec.scheduling.timeout", "duration", "10,000 years"),
    (f"{S}.timeout", {"seconds": "5"}, "job_spec.scheduling.timeout", "duration", "not a duration"),
    (f"{S}.timeout", {"minutes": 5}, "job_spec.scheduling.timeout", "duration", "not a duration"),
    (f"{S}.timeout", True, "job_spec.scheduling.timeout", "duration", "not a duration"),
    (f"{S}.restartJobOnWorkerRestart", "true", "job_spec.scheduling.restart_job_on_worker_restart", "boolean", "write true without quotes"),
    (f"{S}.restartJobOnWorkerRestart", "off", "job_spec.scheduling.restart_job_on_worker_restart", "boolean", "write false without quotes"),
    (f"{S}.restartJobOnWorkerRestart", 1, "job_spec.scheduling.restart_job_on_worker_restart", "boolean", "a number"),
    ("jobSpec.baseOutputDirectory", "gs://b/x", "job_spec.base_output_directory", "mapping", '{"outputUriPrefix": "gs://b/x"}'),
    ("encryptionSpec", "k", "encryption_spec", "mapping", '{"kmsKeyName": "k"}'),
    ("labels", ["a"], "labels", "mapping", "a list, where a mapping belongs"),
    ("labels", {"a": 5}, "labels[a]", "text", "put it in quotes"),
    ("labels", {"a": None}, "labels[a]", "null-element", "leave it out"),
    ("labels", {5: "a"}, "labels[5]", "key", "put it in quotes"),
    ("createTime", "yesterday", "create_time", "timestamp", "2026-01-31T12:00:00Z"),
    ("error", {"details": [{"@type": "type.googleapis.com/unknown.Type"}]}, "", "json", "unknown.Type"),
    ("error", {"details": ["x"]}, "error.details[0]", "mapping", "with @type"),
    ("jobSpec", "{{ params.spec }}", "job_spec", "unexpanded", "template"),
    ("workerPoolSpecs", [], "workerPoolSpecs", "unknown-field", "jobSpec.workerPoolSpecs"),
    ("display_nam", "x", "display_nam", "unknown-field", "did you mean display_name?"),
]  # fmt: skip


_IDS = [f"{where}={shown(value)}"[-60:] for where, value, *_ in UNREADABLE]


@pytest.mark.parametrize(("where", "value", "path", "rule", "part"), UNREADABLE, ids=_IDS)
def test_unreadable(where: str, value: object, path: str, rule: str, part: str) -> None:
    job, problems = check(_with(where, value))
    if rule == "list" and isinstance(value, str):  # read as a list of one, whose element is then refused
        problems = [problem for problem in problems if problem.rule == "list"]
    found = [problem for problem in problems if problem.path == path and problem.rule == rule]
    assert job is None
    assert len(found) == 1, problems
    assert part in found[0].message
    assert part in str(found[0])
    json.dumps(found[0].value, allow_nan=False)
    with pytest.raises(SpecError):
        load(_with(where, value))


@pytest.mark.parametrize(("where", "value", "path", "rule", "part"), UNREADABLE, ids=_IDS)
def test_one_mistake_is_one_error(where: str, value: object, path: str, rule: str, part: str) -> None:
    _, problems = check(_with(where, value))
    assert [
        problem for problem in problems if problem.severity == "error" and problem.path != path
    ] == [] or rule == "list"


TEN_ERRORS = """
displayName: ''
labels: {Team: x}
jobSpec:
  workerPoolSpecs:
  - machineSpec: {machineType: n1-standard-4, acceleratorType: T4}
    replicaCount: 2
    containerSpec: {imageUri: i, args: [--n, 5], imagePullPolicy: Always}
  - machineSpec: {machineType: n1-standard-4}
    pythonPackageSpec: {executorImageUri: e, packageUris: [], pythonModule: m, env: [{name: 1A, value: x}]}
  scheduling: {timeout: 7d}
  baseOutputDirectory: gs://b
"""


def test_ten_errors_are_all_reported() -> None:
    job, problems = check(TEN_ERRORS)
    assert job is None
    assert {problem.path for problem in problems if problem.severity == "error"} == {
        "display_name",
        "labels[Team]",
        f"{POOL}.machine_spec.accelerator_type",
        f"{POOL}.replica_count",
        f"{POOL}.container_spec.args[1]",
        f"{POOL}.container_spec.imagePullPolicy",
        "job_spec.worker_pool_specs[1].replica_count",
        "job_spec.worker_pool_specs[1].python_package_spec.package_uris",
        "job_spec.worker_pool_specs[1].python_package_spec.env[0].name",
        "job_spec.scheduling.timeout",
        "job_spec.base_output_directory",
    }


def test_a_vaguely_like_name_does_not_hide_that_the_field_is_missing() -> None:
    _, problems = check(_with(C, {"imagePullPolicy": "Always"}))
    assert {problem.path for problem in problems} == {
        f"{POOL}.container_spec.imagePullPolicy",
        f"{POOL}.container_spec.image_uri",
    }
    _, problems = check(_with(C, {"imageUrl": "x"}))
    assert {problem.path for problem in problems} == {f"{POOL}.container_spec.imageUrl"}


def test_the_exception_names_every_problem() -> None:
    with pytest.raises(SpecError) as caught:
        load(TEN_ERRORS)
    assert all(str(problem) in str(caught.value) for problem in caught.value.problems)
    assert len(caught.value.problems) == 5
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


OTHER_KINDS: dict[str, object] = {
    "HyperparameterTuningJob": {
        "displayName": "h",
        "studySpec": {"metrics": []},
        "maxTrialCount": 3,
        "trialJobSpec": CONTAINER["jobSpec"],
    },
    "HyperparameterTuningJob in snake_case": {"display_name": "h", "study_spec": {}, "trial_job_spec": {}},
    "TrainingPipeline": {"displayName": "t", "trainingTaskDefinition": "gs://x", "trainingTaskInputs": {}},
    "PipelineJob": {"displayName": "p", "pipelineSpec": {}, "runtimeConfig": {}},
    "Kubernetes object": {"apiVersion": "batch/v1", "kind": "Job", "metadata": {}, "spec": {}},
    "google.cloud.aiplatform.v1.HyperparameterTuningJob": vertex.HyperparameterTuningJob(display_name="h"),
    "google.cloud.aiplatform.v1.TrainingPipeline": vertex.TrainingPipeline.pb(vertex.TrainingPipeline()),
}


@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_another_kind_is_refused_by_its_name_alone(kind: str) -> None:
    job, problems = check(OTHER_KINDS[kind])
    assert job is None
    assert [problem.rule for problem in problems] == ["kind"]
    assert kind.removesuffix(" in snake_case") in problems[0].message


@pytest.mark.parametrize(
    "source",
    [
        None,
        5,
        True,
        [],
        "",
        "  \n",
        "just words",
        b"\xff",
        object(),
        CONTAINER.keys(),
        lambda: None,
        vertex.CustomJob,
        Problem,
    ],
)
def test_what_is_no_mapping(source: object) -> None:
    job, problems = check(source)
    assert job is None
    assert len(problems) == 1
    with pytest.raises(SpecError):
        to_dict(source)


def test_parse_takes_a_mapping_only() -> None:
    with pytest.raises(SpecError, match="a CustomJob is a mapping; this is text"):
        parse("displayName: x")  # type: ignore[arg-type]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for source in (tmp_path / "no.yaml", str(tmp_path / "no.yaml"), tmp_path, "a\0b.yaml", "x" * 5000 + ".json"):
        _, problems = check(source)
        assert [problem.rule for problem in problems] == ["file"]


def test_an_endless_spec_is_refused() -> None:
    endless: dict[str, Any] = {}
    endless["jobSpec"] = endless
    bomb: Any = "x"
    for _ in range(30):
        bomb = [bomb] * 10
    for source in (endless, {"jobSpec": bomb}):
        _, problems = check(source)
        assert [problem.rule for problem in problems] == ["size"]


def test_values_of_variables_with_sensitive_names_are_not_shown() -> None:
    spec = _with(f"{C}.env", [{"name": "DB_PASSWORD", "value": 31337, "valeu": "hunter2"}, {"name": "N", "value": 42}])
    _, problems = check(spec)
    text = "\n".join(map(str, problems))
    assert "31337" not in text
    assert "hunter2" not in text
    assert "42" in text


def test_a_container_is_shown_in_outline() -> None:
    _, problems = check(
        _with("jobSpec.workerPoolSpecs.0.contanerSpec", {"env": [{"name": "TOKEN", "value": "hunter2"}]})
    )
    assert "hunter2" not in "\n".join(map(str, problems))


def test_wrapped_scalars_are_warned_of() -> None:
    job, problems = check(_with("jobSpec.workerPoolSpecs.0.pythonPackageSpec.args", "--a=1 --b=2", PACKAGE))
    assert job is not None
    assert [(problem.severity, problem.rule, problem.value) for problem in problems] == [
        ("warning", "list", "--a=1 --b=2")
    ]
