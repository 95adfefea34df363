"""What the next DAG is told by the asset of a finished model."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG, Asset

from airflow_customjob import CustomJobOperator, CustomJobTaskGroup, ProcessBackend
from airflow_customjob.task import xcoms
from airflow_customjob.task.outlets import MAX_METRICS
from tests.airflow.conftest import Ran

pytestmark = [pytest.mark.airflow, pytest.mark.slow]

RunDag = Callable[..., Ran]
MODEL = Asset("model")

WRITES = 'mkdir -p "$AIP_MODEL_DIR" && printf %s "$METRICS" > "$AIP_MODEL_DIR/metrics.json"'


def job(folder: Path, metrics: str, code: str = WRITES) -> dict[str, Any]:
    pool = {
        "machineSpec": {"machineType": "n1-standard-4"},
        "replicaCount": 1,
        "containerSpec": {
            "imageUri": "local/py:1",
            "command": ["sh", "-c", code],
            "env": [{"name": "METRICS", "value": metrics}],
        },
    }
    directory = {"outputUriPrefix": str(folder)}
    return {"displayName": "model", "jobSpec": {"workerPoolSpecs": [pool], "baseOutputDirectory": directory}}


def events(ran: Ran) -> list[tuple[str, dict[str, Any]]]:
    """Task and extra of each event of this run."""
    from airflow.models.asset import AssetEvent
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        found = session.scalars(select(AssetEvent).where(AssetEvent.source_run_id == ran.run.run_id)).all()
        return [(event.source_task_id, event.extra) for event in found if event.source_dag_id == ran.run.dag_id]


def operator(folder: Path, metrics: str, **arguments: Any) -> DAG:
    with DAG(f"outlets-{folder.name}", schedule=None) as dag:
        CustomJobOperator(
            task_id="train",
            custom_job=job(folder, metrics),
            backend=ProcessBackend(str(folder / "state")),
            outlets=[MODEL],
            **arguments,
        )
    return dag


@pytest.mark.parametrize("deferrable", [False, True], ids=["sync", "deferrable"])
def test_the_event_tells_where_the_model_is_and_how_good(run_dag: RunDag, tmp_path: Path, deferrable: bool) -> None:
    ran = run_dag(operator(tmp_path, '{"accuracy": 0.97}', deferrable=deferrable, trial_id="7"))
    ((task_id, extra),) = events(ran)
    assert task_id == "train"
    assert extra == {
        "custom_job": f"projects/0/locations/local/customJobs/{ran.xcom('train', xcoms.ID)}",
        "display_name": "model",
        "state": "JOB_STATE_SUCCEEDED",
        "backend": "process",
        "model_dir": f"{tmp_path}/7/model/",
        "model_files": ["metrics.json"],
        "model_count": 1,
        "model_bytes": 18,
        "metrics_file": f"{tmp_path}/7/model/metrics.json",
        "metrics": {"accuracy": 0.97},
    }
    assert ran.xcom("train", xcoms.OUTPUT) == extra


def test_a_group_tells_it_once_by_its_last_task(run_dag: RunDag, tmp_path: Path) -> None:
    with DAG("outlets-group", schedule=None) as dag:
        CustomJobTaskGroup(
            "train",
            custom_job=job(tmp_path, '{"accuracy": 0.5}'),
            backend=ProcessBackend(str(tmp_path / "state")),
            outlets=[MODEL],
        )
    ((task_id, extra),) = events(run_dag(dag))
    assert task_id == "train.job"
    assert extra["metrics"] == {"accuracy": 0.5}


def test_what_lies_in_a_bucket_is_read_where_a_folder_stands_for_it(run_dag: RunDag, tmp_path: Path) -> None:
    spec = job(tmp_path, '{"accuracy": 0.5}')
    spec["jobSpec"]["baseOutputDirectory"] = {"outputUriPrefix": "gs://models/run"}
    with DAG("outlets-bucket", schedule=None) as dag:
        CustomJobOperator(
            task_id="train",
            custom_job=spec,
            backend=ProcessBackend(str(tmp_path / "state"), bucket_root=str(tmp_path)),
            outlets=[MODEL],
        )
    ((_, extra),) = events(run_dag(dag))
    assert extra["model_dir"] == "gs://models/run/model/"
    assert extra["metrics_file"] == f"{tmp_path}/models/run/model/metrics.json"


@pytest.mark.parametrize("metrics", ["[1, 2]", "{", json.dumps({"loss": "9" * MAX_METRICS})])
def test_what_is_no_small_object_is_left_out(run_dag: RunDag, tmp_path: Path, metrics: str) -> None:
    ran = run_dag(operator(tmp_path, metrics))
    ((_, extra),) = events(ran)
    assert extra["model_dir"] == f"{tmp_path}/model/"
    assert "metrics" not in extra
    assert "metrics.json is passed over" in ran.log


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("os.mkfifo(model / 'metrics.json')", ["metrics.json"]),
        ("(model / 'metrics.json').write_text('[' * 16000)", ["metrics.json"]),
        (
            "(base / 'not-its-own').write_text('{}'); (model / 'metrics.json').symlink_to(base / 'not-its-own')",
            ["metrics.json"],
        ),
        (
            "model.rename(base / 'other'); (base / 'other' / 'metrics.json').write_text('{}'); model.symlink_to(base / 'other')",
            None,
        ),
        ("open(os.fsencode(model) + b'/b\\xff', 'w')", ["b\ufffd"]),
    ],
    ids=["pipe", "deep", "link", "link-to-folder", "no-text"],
)
def test_whatever_a_replica_leaves_there_its_task_succeeds(
    run_dag: RunDag, tmp_path: Path, code: str, names: list[str] | None
) -> None:
    """Its task waited for a pipe, failed on brackets, and told what a link of the replica leads to."""
    here = "import os, pathlib; model = pathlib.Path(os.environ['AIP_MODEL_DIR']); model.mkdir(); base = model.parent"
    with DAG(f"outlets-odd-{tmp_path.name}", schedule=None) as dag:
        CustomJobOperator(
            task_id="train",
            custom_job=job(tmp_path, "", code=f'python3 -c "{here}; {code}"'),
            backend=ProcessBackend(str(tmp_path / "state")),
            outlets=[MODEL],
        )
    ran = run_dag(dag)
    assert ran.states() == {"train": "success"}, ran.log
    ((_, extra),) = events(ran)
    assert "metrics" not in extra
    assert extra.get("model_files") == names


def test_the_metrics_of_an_earlier_job_are_not_this_ones(run_dag: RunDag, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    old = tmp_path / "model" / "metrics.json"
    old.write_text('{"accuracy": 1.0}')
    os.utime(old, (1_000_000_000, 1_000_000_000))
    with DAG("outlets-earlier", schedule=None) as dag:
        CustomJobOperator(
            task_id="train",
            custom_job=job(tmp_path, "", code="true"),
            backend=ProcessBackend(str(tmp_path / "state")),
            outlets=[MODEL],
        )
    ((_, extra),) = events(run_dag(dag))
    assert "metrics" not in extra
