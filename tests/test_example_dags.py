"""The example DAGs parse, run, and are found by Airflow; the trainer of the demo finds its peers."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from airflow_customjob import CustomJobClient, ProcessBackend
from airflow_customjob.plan.types import JobOptions
from airflow_customjob.testing import Ran, run_dag
from airflow_customjob.testing.fixtures import airflow_database, task_log  # noqa: F401 - fixtures

EXAMPLES = {
    "example_anywhere",
    "example_custom_job",
    "example_digits",
    "example_gc",
    "example_gpu",
    "example_retraining",
    "example_retraining_deploy",
    "example_sweep",
    "example_task_group",
}


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


Run = Callable[..., Ran]


@pytest.fixture
def run(
    root: Path,
    tmp_path: Path,
    airflow_database: None,  # noqa: F811
    task_log: Callable[[], str],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> Run:
    """Runs an example in this process, and its jobs as processes."""
    monkeypatch.setenv("CUSTOMJOB_EXAMPLE_FOLDER", str(tmp_path / "out"))
    monkeypatch.setenv("AIRFLOW__CUSTOMJOB__PROCESS_DIR", str(tmp_path / "processes"))

    def run(dag_id: str, **conf: object) -> Ran:
        return run_dag(runpy.run_path(str(root / "example_dags" / f"{dag_id}.py"))["dag"], task_log, run_conf=conf)

    return run


@pytest.mark.airflow
def test_the_quickstart_runs(run: Run) -> None:
    ran = run("example_custom_job")
    said = re.findall(
        r"(workerpool\d-\d): Hello in manual__\S+ from rank (\d) of 3, whose primary is 127\.0\.0\.1", ran.log
    )
    assert set(said) == {("workerpool0-0", "0"), ("workerpool1-0", "1"), ("workerpool1-1", "2")}, ran.log
    assert ran.state == "success"


@pytest.mark.airflow
def test_the_group_runs(run: Run) -> None:
    ran = run("example_task_group")
    models = dict(re.findall(r"(workerpool\d-\d): after epoch 50: y = (\S+ x \+ \S+)", ran.log))
    assert set(models) == {"workerpool0-0", "workerpool1-0", "workerpool1-1"}, ran.log
    assert len(set(models.values())) == 1, "the replicas have fitted different lines"
    slope, height = re.findall(r"[\d.]+", models["workerpool0-0"])
    assert (float(slope), float(height)) == (pytest.approx(3, abs=0.05), pytest.approx(2, abs=0.05))
    for replica in models:
        assert f"{replica} was gone before it could be read here" in ran.log
    assert re.fullmatch(r"line ended at \S+ as projects/0/locations/local/customJobs/\d{18}", ran.xcom("report"))


@pytest.mark.airflow
def test_the_retraining_goes_on_where_its_first_try_died(run: Run, tmp_path: Path) -> None:
    ran = run("example_retraining", interrupt_at=12)
    assert ran.states == {"preprocess": "success", "train": "success", "evaluate": "success"}, ran.log
    assert "interrupted after epoch 12" in ran.log
    assert "goes on after epoch 12" in ran.log
    assert ran.log.count("workerpool0-0: epoch 12 of 20") == 1
    ((asset, extra),) = ran.asset_events()
    assert (asset, extra["metrics"]["accuracy"] > 0.8) == ("example-churn-model", True)
    assert json.loads((Path(extra["model_dir"]) / "model.json").read_text())


@pytest.mark.airflow
def test_a_model_that_is_not_good_enough_is_not_published(run: Run) -> None:
    ran = run("example_retraining", at_least=1.0)
    assert ran.states["evaluate"] == "failed"
    assert ran.asset_events() == []


@pytest.mark.airflow
def test_the_sweep_finds_the_best_trial(run: Run) -> None:
    ran = run("example_sweep")
    best = ran.xcom("best")
    losses = [ran.xcom("trial", "custom_job_output", map_index)["metrics"]["loss"] for map_index in range(4)]
    assert len(set(losses)) == 4
    assert best["metrics"]["loss"] == min(losses) < 1e-6 < max(losses)
    assert re.search(r"/sweep/manual__[^/]+/\d/model/$", best["model_dir"])
    assert "trial[1]" in ran.states, "rows are named by their trial"


@pytest.mark.airflow
def test_what_runs_anywhere_runs_on_own_machines_without_googles_provider(run: Run) -> None:
    ran = run("example_anywhere")
    assert "workerpool1-1: rank 2 in europe-west4" in ran.log
    assert re.fullmatch(r"projects/0/locations/europe-west4/customJobs/\d+ ended as 4", ran.xcom("report"))


@pytest.mark.airflow
def test_the_gpu_jobs_are_given_gpus(run: Run) -> None:
    ran = run("example_gpu")
    assert set(ran.states.values()) == {"success"}
    assert len(re.findall(r"workerpool0-0: GPU [01]\b", ran.log)) == 3


@pytest.mark.airflow
def test_the_nightly_clean_up_removes_what_is_past_its_time(run: Run, tmp_path: Path) -> None:
    client = CustomJobClient(ProcessBackend(str(tmp_path / "processes")))
    job = client.run(json.loads(SLEEPER), JobOptions(record_ttl=0))
    ran = run("example_gc")
    assert ran.states == {"collect[process]": "success"}
    assert job.job_id in str(ran.xcom("collect", map_index=0))
    assert client.list() == []


SLEEPER = """{"worker_pool_specs": [{"machine_spec": {"machine_type": "n1-standard-4"}, "replica_count": 1,
              "container_spec": {"image_uri": "python:3.11-slim", "command": ["true"]}}]}"""


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
