"""Whole plans, as files: everything that each replica sees, to the letter.

``UPDATE_GOLDEN=1 pytest tests/plan/test_golden.py`` writes them anew; look at the difference before you commit it.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from airflow_customjob.plan.capabilities import capabilities_of
from airflow_customjob.plan.job_plan import make_plan
from airflow_customjob.plan.types import ClusterSpec, JobOptions, JobRequest, Prepared, SingleReplica
from tests.plan.requests import JOB, container, env, package, request

GOLDEN = Path(__file__).parent / "golden"
UPDATE = bool(os.environ.get("UPDATE_GOLDEN"))
NETWORK = {"baseOutputDirectory": {"outputUriPrefix": "gs://b/out"}}
WORKERS = container(3, command=["sh", "-c"], args=["echo $(RANK) of $(WORLD_SIZE) on $HOSTNAME"])

CASES: dict[str, tuple[JobRequest, str, Prepared | None]] = {
    "one_replica": (request(**NETWORK), "docker", None),
    "one_replica_chief": (request(options=JobOptions(single_replica=SingleReplica.CHIEF)), "docker", None),
    "one_replica_unset": (request(options=JobOptions(single_replica=SingleReplica.UNSET)), "docker", None),
    "two_pools": (
        request(container(env=env(A="1", B="$(A)/$(RANK)", AIP_MODEL_DIR="/m/")), WORKERS, **NETWORK),
        "docker",
        None,
    ),
    "skipped_middle_pool": (request(container(), {}, container(2)), "docker", None),
    "four_pools": (request(container(), container(2), container(1), container(1)), "docker", None),
    "python_package": (request(package(args=["--epochs", "3"]), package(1)), "docker", None),
    "trial": (request(container(), container(1), options=JobOptions(trial_id="7"), **NETWORK), "docker", None),
    "image_map": (
        request(
            container(image="gcr.io/p/i:1"),
            package(1),
            options=JobOptions(
                image_map=(("gcr.io/*", "mirror.local/*"), ("europe-docker.pkg.dev/vertex-ai/*", "local/tf:1"))
            ),
        ),
        "docker",
        None,
    ),
    "cluster_spec_file": (
        request(container(), container(1), options=JobOptions(cluster_spec=ClusterSpec.FILE)),
        "docker",
        None,
    ),
    "cluster_spec_none": (
        request(container(), container(1), options=JobOptions(cluster_spec=ClusterSpec.NONE)),
        "docker",
        None,
    ),
    "process_with_ports": (
        request(container(command=["train"]), package(2)),
        "process",
        Prepared(artifacts={"1": "venv:abc"}, ports=(40001, 40002, 40003, 40004)),
    ),
}


def told(value: Any) -> Any:
    """Without what is empty: a new field of the plan changes no file until something has it."""
    if isinstance(value, dict):
        return {key: told(item) for key, item in value.items() if item not in (None, "", [], {})}
    return [told(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("name", CASES)
def test_plan(name: str) -> None:
    asked, backend, prepared = CASES[name]
    plan = make_plan(asked, capabilities_of(backend), job_id=JOB, generation=2, prepared=prepared)
    data = told(json.loads(json.dumps(asdict(plan))))
    path = GOLDEN / f"{name}.json"
    if UPDATE:
        path.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n")
    assert data == json.loads(path.read_text())


def test_no_file_is_left_over() -> None:
    assert {path.stem for path in GOLDEN.glob("*.json")} == set(CASES)
