"""Vertex AI's rules, one row each: what breaks it, and what just does not."""
# ruff: noqa: E501 - tables read as rows

from __future__ import annotations

import copy
from typing import Any

import pytest

from airflow_customjob.spec import CustomJob, check, load, validate
from airflow_customjob.spec.rules import Rule
from airflow_customjob.spec.validator import ALL_RULES
from tests.spec.samples import CONTAINER, PACKAGE

POOL = "job_spec.worker_pool_specs[0]"
MACHINE = {"machineType": "n1-standard-4"}
WORKER = {"machineSpec": MACHINE, "replicaCount": 1, "containerSpec": {"imageUri": "i"}}
MASTER_SENTENCE = "Replica count for master worker pool (worker_pool_specs[0].replica_count) should be 1."
BOTH_SENTENCE = "Both or none of `machine_spec` and `replica_count` should be specified."
PAIR_SENTENCE = "Both `accelerator_type` and `accelerator_count` should be specified or none."


def _at(path: str, value: object, base: dict[str, Any]) -> dict[str, Any]:
    spec = copy.deepcopy(base)
    *way, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    at: Any = spec
    for step in way:
        at = at[step]
    at[last] = value
    return spec


def job(path: str, value: object) -> dict[str, Any]:
    return _at(path, value, {"displayName": "d", "jobSpec": {"workerPoolSpecs": [copy.deepcopy(WORKER)]}})


def pools(*given: object) -> dict[str, Any]:
    return job("jobSpec.workerPoolSpecs", list(given))


def machine(**fields: object) -> dict[str, Any]:
    return pools({**WORKER, "machineSpec": {**MACHINE, **fields}})


def container(**fields: object) -> dict[str, Any]:
    return pools({**WORKER, "containerSpec": {"imageUri": "i", **fields}})


def package(**fields: object) -> dict[str, Any]:
    spec = {"executorImageUri": "e", "packageUris": ["gs://b/p.tar.gz"], "pythonModule": "m", **fields}
    return pools({"machineSpec": MACHINE, "replicaCount": 1, "pythonPackageSpec": spec})


def scheduling(**fields: object) -> dict[str, Any]:
    return job("jobSpec.scheduling", fields)


def env(*names: str) -> list[dict[str, str]]:
    return [{"name": name, "value": "v"} for name in names]


# Rule, severity, spec that breaks it, path of the problem, part of the message.
BROKEN: list[tuple[str, str, dict[str, Any], str, str]] = [
    ("required", "error", {"jobSpec": {"workerPoolSpecs": [WORKER]}}, "display_name", "is required"),
    ("required", "error", {"displayName": "d"}, "job_spec", "is required"),
    ("required", "error", pools(), "job_spec.worker_pool_specs", "is required"),
    ("required", "error", container(imageUri=""), f"{POOL}.container_spec.image_uri", "is required"),
    ("required", "error", container(env=[{"value": "v"}]), f"{POOL}.container_spec.env[0].name", "is required"),
    ("required", "error", package(executorImageUri=None), f"{POOL}.python_package_spec.executor_image_uri", "is required"),
    ("required", "error", package(packageUris=[]), f"{POOL}.python_package_spec.package_uris", "is required"),
    ("required", "error", package(pythonModule=""), f"{POOL}.python_package_spec.python_module", "is required"),
    ("required", "error", job("jobSpec.baseOutputDirectory", {}), "job_spec.base_output_directory.output_uri_prefix", "is required"),
    ("required", "error", job("encryptionSpec", {}), "encryption_spec.kms_key_name", "is required"),
    ("required", "error", pools({**WORKER, "nfsMounts": [{"path": "/x", "mountPoint": "m"}]}), f"{POOL}.nfs_mounts[0].server", "is required"),
    ("display-name", "error", job("displayName", "é" * 129), "display_name", "longer than 128"),
    ("labels", "error", job("labels", {"Team": "x"}), "labels[Team]", "key may hold lower-case"),
    ("labels", "error", job("labels", {"a": "b c"}), "labels[a]", "value may hold lower-case"),
    ("labels", "error", job("labels", {"a" * 65: "b"}), f"labels[{'a' * 65}]", "longer than 64"),
    ("labels", "error", job("labels", {"a": "b" * 65}), "labels[a]", "longer than 64"),
    ("labels", "error", job("labels", {"": "b"}), "labels[]", "may not be empty"),
    ("label-count", "warning", job("labels", {f"k{n}": "" for n in range(65)}), "labels", "more than 64"),
    ("output-only", "warning", job("state", "JOB_STATE_FAILED"), "state", "ignored"),
    ("first-pool", "error", pools({}, WORKER), POOL, "may not be empty"),
    ("first-pool", "error", pools({**WORKER, "replicaCount": 3}), f"{POOL}.replica_count", MASTER_SENTENCE),
    ("first-pool", "error", pools({"containerSpec": {"imageUri": "i"}}), f"{POOL}.replica_count", MASTER_SENTENCE),
    ("pool-count", "warning", pools(*[WORKER] * 5), "job_spec.worker_pool_specs", "4 positions"),
    ("tpu-single-replica", "warning", pools({**WORKER, "machineSpec": {"machineType": "ct5lp-hightpu-4t"}}, WORKER), "job_spec.worker_pool_specs[1]", "single worker pool"),
    *(
        ("output-place", "error", job("jobSpec.baseOutputDirectory", {"outputUriPrefix": uri}), "job_spec.base_output_directory.output_uri_prefix", "absolute path")
        for uri in ("out/rel", "~/out", "/", "file:out", "file://host/x", "s3://bucket/x", "gs:///x")
    ),
    ("output-uri", "warning", job("jobSpec.baseOutputDirectory", {"outputUriPrefix": "file:/tmp/x"}), "job_spec.base_output_directory.output_uri_prefix", "gs:// only"),
    ("output-uri", "warning", job("jobSpec.baseOutputDirectory", {"outputUriPrefix": "/tmp/x"}), "job_spec.base_output_directory.output_uri_prefix", "gs:// only"),
    ("duration-range", "error", scheduling(timeout="0s"), "job_spec.scheduling.timeout", "7 days"),
    ("duration-range", "error", scheduling(timeout="-1s"), "job_spec.scheduling.timeout", "longer than zero"),
    ("duration-range", "error", scheduling(strategy="FLEX_START", maxWaitDuration="-1s"), "job_spec.scheduling.max_wait_duration", "negative"),
    ("flex-start-timeout", "error", scheduling(strategy="FLEX_START", timeout="604801s"), "job_spec.scheduling.timeout", "7 days"),
    ("max-wait-duration", "warning", scheduling(maxWaitDuration="5s"), "job_spec.scheduling.max_wait_duration", "FLEX_START only"),
    ("strategy", "warning", scheduling(strategy="LOW_COST"), "job_spec.scheduling.strategy", "write SPOT"),
    ("disable-retries", "warning", scheduling(disableRetries=True, restartJobOnWorkerRestart=True), "job_spec.scheduling.restart_job_on_worker_restart", "overridden"),
    ("machine-and-replicas", "error", pools(WORKER, {"machineSpec": MACHINE, "containerSpec": {"imageUri": "i"}}), "job_spec.worker_pool_specs[1].replica_count", BOTH_SENTENCE),
    ("machine-and-replicas", "error", pools({"replicaCount": 1, "containerSpec": {"imageUri": "i"}}), f"{POOL}.machine_spec", BOTH_SENTENCE),
    ("replica-count", "error", pools(WORKER, {**WORKER, "replicaCount": -1}), "job_spec.worker_pool_specs[1].replica_count", "negative"),
    ("task", "error", pools({"machineSpec": MACHINE, "replicaCount": 1}), f"{POOL}.container_spec", "exactly one of"),
    ("no-replicas", "warning", pools(WORKER, {"containerSpec": {"imageUri": "i"}}), "job_spec.worker_pool_specs[1].replica_count", "skipped"),
    ("machine-type", "error", pools({**WORKER, "machineSpec": {}}), f"{POOL}.machine_spec.machine_type", "is required"),
    ("unknown-machine-type", "warning", machine(machineType="n1-standart-4"), f"{POOL}.machine_spec.machine_type", "did you mean n1-standard-4?"),
    ("accelerator-pair", "error", machine(acceleratorType="NVIDIA_TESLA_T4"), f"{POOL}.machine_spec.accelerator_count", PAIR_SENTENCE),
    ("accelerator-pair", "error", machine(acceleratorCount=1), f"{POOL}.machine_spec.accelerator_type", PAIR_SENTENCE),
    ("accelerator-pair", "error", machine(acceleratorType="NVIDIA_TESLA_T4", acceleratorCount=-1), f"{POOL}.machine_spec.accelerator_count", "negative"),
    ("accelerator-fit", "warning", machine(acceleratorType="NVIDIA_TESLA_T4", acceleratorCount=3), f"{POOL}.machine_spec.accelerator_count", "1, 2, 4"),
    ("accelerator-fit", "warning", machine(machineType="n1-standard-64", acceleratorType="NVIDIA_TESLA_V100", acceleratorCount=4), f"{POOL}.machine_spec.accelerator_count", "by 8"),
    ("accelerator-fit", "warning", machine(acceleratorType="NVIDIA_L4", acceleratorCount=1), f"{POOL}.machine_spec.accelerator_type", "N1 machines take"),
    ("accelerator-fit", "warning", machine(machineType="e2-standard-4", acceleratorType="NVIDIA_L4", acceleratorCount=1), f"{POOL}.machine_spec.accelerator_type", "no accelerators"),
    ("accelerator-fit", "warning", machine(machineType="a2-highgpu-2g"), f"{POOL}.machine_spec.accelerator_type", "needs NVIDIA_TESLA_A100 with accelerator_count 2"),
    ("accelerator-fit", "warning", machine(machineType="a2-highgpu-2g", acceleratorType="NVIDIA_TESLA_A100", acceleratorCount=1), f"{POOL}.machine_spec.accelerator_count", "has 2"),
    ("accelerator-fit", "warning", machine(machineType="g2-standard-4", acceleratorType="NVIDIA_TESLA_T4", acceleratorCount=1), f"{POOL}.machine_spec.accelerator_type", "has NVIDIA_L4"),
    ("deprecated-accelerator", "warning", machine(acceleratorType="NVIDIA_TESLA_K80", acceleratorCount=1), f"{POOL}.machine_spec.accelerator_type", "deprecated"),
    ("disk", "error", pools({**WORKER, "diskSpec": {"bootDiskType": "ssd"}}), f"{POOL}.disk_spec.boot_disk_type", "pd-ssd"),
    ("disk", "error", pools({**WORKER, "diskSpec": {"bootDiskSizeGb": 99}}), f"{POOL}.disk_spec.boot_disk_size_gb", "64,000"),
    ("disk", "error", pools({**WORKER, "diskSpec": {"bootDiskSizeGb": 64001}}), f"{POOL}.disk_spec.boot_disk_size_gb", "64,000"),
    ("nfs-path", "error", pools({**WORKER, "nfsMounts": [{"server": "s", "path": "x", "mountPoint": "m"}]}), f"{POOL}.nfs_mounts[0].path", "slash"),
    ("args-size", "error", container(args=["a" * 50_000, "a" * 50_001]), f"{POOL}.container_spec.args", "100,001"),
    ("env-count", "error", container(env=env(*[f"V{n}" for n in range(101)])), f"{POOL}.container_spec.env", "more than 100"),
    ("env-name", "error", container(env=env("1A")), f"{POOL}.container_spec.env[0].name", "C identifier"),
    ("env-name", "error", package(env=env("A", "B-C")), f"{POOL}.python_package_spec.env[1].name", "C identifier"),
    ("env-twice", "warning", container(env=env("A", "B", "A")), f"{POOL}.container_spec.env[2].name", "env[0]"),
    ("env-override", "warning", container(env=env("AIP_MODEL_DIR")), f"{POOL}.container_spec.env[0].name", "overrides"),
    ("nul", "error", container(args=["a\0"]), f"{POOL}.container_spec.args[0]", "NUL"),
    ("nul", "error", container(env=[{"name": "A", "value": "\0"}]), f"{POOL}.container_spec.env[0].value", "NUL"),
    ("split-text", "warning", container(command=list("trainer")), f"{POOL}.container_spec.command", '["trainer"]'),
    ("package-count", "error", package(packageUris=["gs://b/p.whl"] * 101), f"{POOL}.python_package_spec.package_uris", "more than 100"),
    ("package-kind", "warning", package(packageUris=["gs://b/p.zip"]), f"{POOL}.python_package_spec.package_uris[0]", ".tar.gz"),
    ("package-empty", "error", package(packageUris=["gs://b/p.whl", ""]), f"{POOL}.python_package_spec.package_uris[1]", "is empty"),
    ("module", "error", package(pythonModule="trainer/task"), f"{POOL}.python_package_spec.python_module", "dotted name"),
    ("module", "error", package(pythonModule="task.py"), f"{POOL}.python_package_spec.python_module", "did you mean task?"),
    ("unexpanded", "error", container(imageUri="${IMAGE}"), f"{POOL}.container_spec.image_uri", "not expanded"),
    ("unexpanded", "error", machine(machineType="{{ params.m }}"), f"{POOL}.machine_spec.machine_type", "not expanded"),
    ("unexpanded", "error", package(packageUris=["gs://{{ b }}/p.whl"]), f"{POOL}.python_package_spec.package_uris[0]", "not expanded"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "severity", "spec", "path", "part"), BROKEN, ids=[f"{row[0]}-{row[3]}"[-70:] for row in BROKEN]
)
def test_broken(rule: str, severity: str, spec: dict[str, Any], path: str, part: str) -> None:
    problems = validate(load(spec))
    found = [problem for problem in problems if problem.rule == rule]
    assert [(problem.path, problem.severity) for problem in found] == [(path, severity)], problems
    assert part in found[0].message
    # What else is said of the same place is no other error, and check says the same as load and validate.
    assert [problem for problem in problems if problem.severity == "error" and problem not in found] == []
    assert check(spec)[1] == sorted(problems, key=lambda problem: problem.severity != "error")


KEPT: dict[str, dict[str, Any]] = {
    "name of 128 characters": job("displayName", "é" * 128),
    "international labels": job("labels", {"größe_1": "小-1", "a" * 64: "b" * 64}),
    "empty label value": job("labels", {"a": ""}),
    "empty pools in between": pools(WORKER, {}, {}, WORKER),
    "trailing empty pool": pools(WORKER, {}),
    "defaults written out in a skipped pool": pools(WORKER, {"replicaCount": 0, "nfsMounts": []}),
    "UNSPECIFIED and 0": machine(acceleratorType="ACCELERATOR_TYPE_UNSPECIFIED", acceleratorCount=0),
    "V100 by 8": machine(machineType="n1-standard-96", acceleratorType="NVIDIA_TESLA_V100", acceleratorCount=8),
    "T4 on 64 vCPUs, where the source is unclear": machine(
        machineType="n1-standard-64", acceleratorType="NVIDIA_TESLA_T4", acceleratorCount=2
    ),
    "GPUs of the type": machine(machineType="g2-standard-24", acceleratorType="NVIDIA_L4", acceleratorCount=2),
    "TPU": machine(machineType="ct5lp-hightpu-1t"),
    "disk of 100 GB": pools({**WORKER, "diskSpec": {"bootDiskType": "hyperdisk-balanced", "bootDiskSizeGb": 100}}),
    "FLEX_START": scheduling(strategy="FLEX_START", timeout="604800s", maxWaitDuration="0s"),
    "100,000 characters": container(args=["a" * 100_000]),
    "100 variables": container(env=env(*[f"V{n}" for n in range(100)])),
    "shell variables": container(command=["bash", "-c"], args=["echo ${HOME:-<unset>} $A {{.State}} ${#a[@]}"]),
    "short flags": container(args=["-", "v"]),
    "empty value": container(env=[{"name": "A", "value": ""}]),
    "dotted module": package(pythonModule="a.b_c.d1"),
    "local package": package(packageUris=["dist/p-1.0-py3-none-any.whl", "https://h/p.tar.gz"]),
    "signed package": package(packageUris=["https://h/p.whl?signature=s3cret", "https://h/p.tar.gz#sha256=0"]),
}


@pytest.mark.parametrize("case", KEPT)
def test_kept(case: str) -> None:
    assert validate(load(KEPT[case])) == []


def test_a_packages_login_and_signature_are_not_told() -> None:
    """A signed URL of a wheel was taken for something else, and stood in the log with its signature."""
    (problem,) = validate(load(package(packageUris=["https://me:s3cret@h/p.zip?signature=s3cret"])))
    assert problem.value == "p.zip"
    for uri in ("https://bob:s3cret#@h/x-1.tar.gz", "https://bob:s3/cret@h/x.zip", "https://bob:12?s3cret@h/x"):
        assert "s3" not in str(problem := validate(load(package(packageUris=[uri]))))
        assert "cret" not in str(problem)


def test_every_rule_has_a_row_and_a_source() -> None:
    assert {rule.id for rule in ALL_RULES} | {"required", "unexpanded"} == {row[0] for row in BROKEN}
    assert all(rule.source for rule in ALL_RULES)
    assert len({rule.id for rule in ALL_RULES}) == len(ALL_RULES)


@pytest.mark.parametrize("rule", ALL_RULES, ids=lambda rule: rule.id)
def test_severity_is_the_rules(rule: Rule[Any]) -> None:
    assert {row[1] for row in BROKEN if row[0] == rule.id} == {rule.severity}


def test_a_message_made_by_hand() -> None:
    made = CustomJob(display_name="d")
    made.job_spec.worker_pool_specs.add().machine_spec.accelerator_type = 99
    assert {problem.rule for problem in validate(made)} >= {"first-pool", "task", "machine-type", "accelerator-pair"}
    assert [problem.path for problem in validate(CustomJob())] == ["display_name", "job_spec"]


@pytest.mark.parametrize("spec", [CONTAINER, PACKAGE])
def test_good_specs_break_no_rule(spec: dict[str, Any]) -> None:
    assert validate(load(spec)) == []
