"""The example DAGs parse, run, and are found by Airflow; the trainer of the demo finds its peers."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

EXAMPLES = {"example_custom_job", "example_digits", "example_task_group"}


def _airflow(root: Path, home: Path, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    home.mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, *args],
        cwd=home,  # not the checkout, which Python would import from
        env=os.environ
        | {
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(root / "example_dags"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CUSTOMJOB__PROCESS_DIR": str(home / "processes"),
        }
        | env,
        capture_output=True,
        text=True,
        timeout=170,
    )


PARSE = """
import json, sys
from airflow.dag_processing.dagbag import DagBag
bag = DagBag()
engines = ("aiodocker", "aiohttp", "docker", "google.cloud.storage", "google.protobuf", "kubernetes")
print(json.dumps([bag.import_errors, {dag_id: dag.doc_md for dag_id, dag in bag.dags.items()},
                  [name for name in engines if name in sys.modules]]))
"""


def test_the_examples_are_all_the_dags_there_are_and_parse_without_an_engine(root: Path, tmp_path: Path) -> None:
    done = _airflow(root, tmp_path, "-c", PARSE)
    assert done.returncode == 0, done.stderr
    import_errors, docs, engines = json.loads(done.stdout.splitlines()[-1])
    assert import_errors == {}
    assert set(docs) == EXAMPLES
    assert all(docs.values())
    assert engines == []


@pytest.mark.airflow
def test_the_quickstart_runs_on_processes(root: Path, tmp_path: Path) -> None:
    assert _airflow(root, tmp_path, "-m", "airflow", "db", "migrate").returncode == 0
    done = _airflow(root, tmp_path, "-m", "airflow", "dags", "test", "example_custom_job")
    log = done.stdout + done.stderr
    said = set(
        re.findall(r"(workerpool\d-\d): Hello in manual__\S+ from rank (\d) of 3, whose primary is 127\.0\.0\.1", log)
    )
    assert said == {("workerpool0-0", "0"), ("workerpool1-0", "1"), ("workerpool1-1", "2")}, log
    assert "JOB_STATE_SUCCEEDED" in log


@pytest.mark.airflow
def test_the_group_runs_on_processes(root: Path, tmp_path: Path) -> None:
    assert _airflow(root, tmp_path, "-m", "airflow", "db", "migrate").returncode == 0
    done = _airflow(root, tmp_path, "-m", "airflow", "dags", "test", "example_task_group")
    log = done.stdout + done.stderr
    for replica, rank in (("workerpool0-0", 0), ("workerpool1-0", 1), ("workerpool1-1", 2)):
        assert f"{replica}: epoch 3 of 3 on rank {rank}" in log
        assert f"{replica} was gone before it could be read here" in log
    assert re.search(r"rows ended at \S+ as projects/0/locations/local/customJobs/\d{18}", log), log


def _demo(root: Path, tmp_path: Path, backend: str) -> str:
    done = _airflow(
        root, tmp_path, str(root / "dev" / "demo"), "--backend", backend, CUSTOMJOB_EXAMPLE_FOLDER=str(tmp_path / "out")
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _check_demo(out: str, tmp_path: Path, backend: str) -> None:
    for replica in ("workerpool0-0", "workerpool1-0", "workerpool1-1"):
        assert f"{replica}: epoch 30 of 30" in out
    fingerprints = re.findall(r"parameters ([0-9a-f]{12})", out)
    assert len(fingerprints) == 3
    assert len(set(fingerprints)) == 1, "the replicas have trained different models"
    accuracy = re.search(r"demo: test accuracy ([\d.]+) of one model trained by 3 replicas", out)
    assert accuracy is not None
    assert float(accuracy[1]) > 0.93
    assert (tmp_path / "out" / backend / "model" / "model.npz").stat().st_size > 10_000
    job = json.loads(out[out.index("\n{") : out.index("\n}") + 2])
    assert job["state"] == "JOB_STATE_SUCCEEDED"
    assert job["startTime"] < job["endTime"]


@pytest.mark.airflow
def test_the_demo_trains_one_model_on_processes(root: Path, tmp_path: Path) -> None:
    _check_demo(_demo(root, tmp_path, "process"), tmp_path, "process")


@pytest.mark.airflow
@pytest.mark.docker
def test_the_demo_trains_one_model_on_docker(root: Path, tmp_path: Path) -> None:
    _check_demo(_demo(root, tmp_path, "docker"), tmp_path, "docker")


@pytest.mark.airflow
@pytest.mark.kubernetes
def test_the_demo_trains_one_model_on_kubernetes(root: Path, tmp_path: Path) -> None:
    _check_demo(_demo(root, tmp_path, "kubernetes"), tmp_path, "kubernetes")


# -- the trainer ----------------------------------------------------------------------------------------------------


def _spec(task: str, index: int, cluster: dict[str, list[str]]) -> dict[str, str]:
    return {"CLUSTER_SPEC": json.dumps({"cluster": cluster, "task": {"type": task, "index": index}})}


@pytest.mark.parametrize(
    ("environ", "rank", "size", "primary"),
    [
        pytest.param({}, 0, 1, ("127.0.0.1", 0), id="alone, without CLUSTER_SPEC"),
        pytest.param(_spec("chief", 0, {"chief": ["a:1"]}), 0, 1, ("a", 1), id="alone, as chief"),
        pytest.param(
            _spec("workerpool1", 1, {"workerpool0": ["a:1"], "workerpool1": ["b:2", "c:3"]}),
            2,
            3,
            ("a", 1),
            id="two pools",
        ),
        pytest.param(
            _spec("workerpool2", 0, {"workerpool0": ["a:1"], "workerpool2": ["b:2"]}),
            1,
            2,
            ("a", 1),
            id="a pool was skipped",
        ),
    ],
)
def test_the_trainer_finds_its_place(
    root: Path, monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], rank: int, size: int, primary: tuple[str, int]
) -> None:
    monkeypatch.syspath_prepend(root / "example_dags" / "digits")
    from trainer.cluster import cluster_of

    cluster = cluster_of(environ)
    assert (cluster.rank, cluster.size, cluster.primary) == (rank, size, primary)


FIND = """
import json
from airflow.dag_processing.bundles.manager import DagBundlesManager
from airflow.dag_processing.dagbag import BundleDagBag
bundle = DagBundlesManager().get_bundle("airflow-customjob-example-dags")
bag = BundleDagBag(bundle.path, bundle_path=bundle.path)
print(json.dumps([str(bundle.path), sorted(bag.dag_ids), bag.import_errors]))
"""


@pytest.mark.slow
def test_airflow_lists_the_examples_of_the_installed_wheel(root: Path, tmp_path: Path) -> None:
    """Regression: a top-level folder of the checkout is not where Airflow looks."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    assert subprocess.run(build, cwd=root, capture_output=True).returncode == 0
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    done = _airflow(
        root, tmp_path / "home", "-c", FIND, PYTHONPATH=str(tmp_path / "site"), AIRFLOW__CORE__LOAD_EXAMPLES="True"
    )
    assert done.returncode == 0, done.stderr
    path, dag_ids, import_errors = json.loads(done.stdout.splitlines()[-1])
    assert path == str(tmp_path / "site" / "airflow_customjob" / "example_dags")
    assert set(dag_ids) == EXAMPLES
    assert import_errors == {}


PACK = """
import hashlib, os, pathlib, sys, tarfile
from example_digits import SOURCE, build
hashes = []
for moment in (1_000_000_000, 1_700_000_000):
    for path in SOURCE.rglob("*.py"):
        os.utime(path, (moment, moment))
    (SOURCE / "trainer" / "__pycache__").mkdir(exist_ok=True)
    package = pathlib.Path(build.function())
    hashes.append(hashlib.sha256(package.read_bytes()).hexdigest())
assert hashes[0] == hashes[1], hashes
print(*tarfile.open(package).getnames())
"""


def test_the_demos_package_is_the_same_bytes_each_time(root: Path, tmp_path: Path) -> None:
    """Or it would be installed anew at each run."""
    shutil.copytree(root / "example_dags", tmp_path / "dags")
    out = {"CUSTOMJOB_EXAMPLE_FOLDER": str(tmp_path / "out"), "PYTHONPATH": str(tmp_path / "dags")}
    done = _airflow(root, tmp_path / "home", "-c", PACK, **out)
    assert done.returncode == 0, done.stderr
    names = done.stdout.splitlines()[-1].split()
    assert {"digits-1.0/pyproject.toml", "digits-1.0/trainer/task.py"} <= set(names)
    assert not any("__pycache__" in name for name in names)
