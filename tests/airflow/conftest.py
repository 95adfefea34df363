"""A migrated Airflow database, and DAGs that run in this process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from airflow_customjob.backends.fake import FakeBackend, FakeWorld
from tests.airflow.remains import remove_containers
from tests.airflow.running import RunningAirflow
from tests.engines import why_not

_numbers = count(1)

JOB: dict[str, Any] = {
    "displayName": "hello",
    "jobSpec": {
        "workerPoolSpecs": [
            {
                "machineSpec": {"machineType": "n1-standard-4"},
                "replicaCount": "1",
                "containerSpec": {"imageUri": "local/py:1", "command": ["python3", "-c", "print('hello')"]},
            }
        ]
    },
}
"""One replica."""


@pytest.fixture(scope="session")
def airflow_db() -> None:
    """The database of this test run's AIRFLOW_HOME, which ``dag.test()`` needs: a copy of one that was migrated once."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "airflow-customjob"
    kept, here = cache / f"airflow-{version('apache-airflow-core')}.db", Path(os.environ["AIRFLOW_HOME"], "airflow.db")
    if kept.exists():
        shutil.copy(kept, here)
        return
    command = [sys.executable, "-m", "airflow", "db", "migrate"]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    cache.mkdir(parents=True, exist_ok=True)
    shutil.copy(here, part := kept.with_suffix(f".{os.getpid()}"))
    part.rename(kept)


@dataclass
class Ran:
    """A DAG that ran to its end.

    :param log: what its tasks logged.
    """

    run: Any
    log: str = ""

    def states(self) -> dict[str, str]:
        return {ti.task_id: ti.state for ti in self.run.get_task_instances()}

    def xcom(self, task_id: str, key: str = "return_value", map_index: int = -1) -> Any:
        from airflow.models.xcom import XComModel
        from airflow.utils.session import create_session

        with create_session() as session:
            query = XComModel.get_many(
                run_id=self.run.run_id, key=key, task_ids=task_id, map_indexes=map_index, dag_ids=self.run.dag_id
            )
            found = session.scalars(query).first()
            return None if found is None else found.value


@pytest.fixture
def world() -> FakeWorld:
    """A fake engine of this test's own."""
    return FakeWorld(f"airflow-{next(_numbers)}")


@pytest.fixture
def fake(world: FakeWorld) -> FakeBackend:
    return world.backend()


@pytest.fixture
def run_dag(
    airflow_db: None, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Ran]:
    """Runs a DAG in this process, once its serialized form is in the database, as ``dag.test()`` demands."""

    def run(dag: Any, **how: Any) -> Ran:
        from airflow.models.dagbundle import DagBundleModel
        from airflow.models.serialized_dag import SerializedDagModel
        from airflow.serialization.serialized_objects import LazyDeserializedDAG, SerializedDAG
        from airflow.utils.session import create_session

        with create_session() as session:
            session.merge(DagBundleModel(name="testing"))
            session.flush()
            lazy = LazyDeserializedDAG.from_dag(dag)
            SerializedDAG.bulk_write_to_db("testing", None, [lazy], session=session)
            SerializedDagModel.write_dag(lazy, bundle_name="testing", session=session)
        capsys.readouterr()
        done = dag.test(**how)
        captured = capsys.readouterr()
        return Ran(done, captured.out + captured.err + caplog.text)

    return run


def airflow_home(home: Path) -> Path:
    """A folder made an AIRFLOW_HOME with the DAGs of these tests."""
    (home / "dags").mkdir(parents=True)
    for name in ("dags.py", "kill_dags.py"):
        shutil.copy(Path(__file__).with_name(name), home / "dags" / name)
    return home


@pytest.fixture(scope="session")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningAirflow]:
    if why := why_not("postgres"):
        pytest.skip(why)
    home = airflow_home(tmp_path_factory.mktemp("airflow"))
    started = time.monotonic()
    with RunningAirflow(home).up() as running:
        print(f"\nAirflow was up in {time.monotonic() - started:.1f} s")
        yield running
        jobs = [job_id for run in running.runs if (job_id := run.xcom("custom_job_id"))]
    if not why_not("docker"):
        for job_id in jobs:
            remove_containers(job_id)
