"""A pytest plugin: ``pytest_plugins = ["airflow_customjob.testing.fixtures"]`` in the topmost ``conftest.py``.

Without AIRFLOW_HOME in the environment the tests get one of their own, which is gone when they have ended. Otherwise its
database is used as it is, or made where there is none.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable

import pytest

from airflow_customjob.testing.dags import FakeJobs


def pytest_configure(config: pytest.Config) -> None:
    """Before any test module imports Airflow, which reads its home once."""
    if "AIRFLOW_HOME" not in os.environ and "airflow" not in sys.modules:
        home = tempfile.TemporaryDirectory(prefix="airflow-customjob-tests-")
        config.add_cleanup(home.cleanup)
        os.environ["AIRFLOW_HOME"] = home.name
        os.environ.setdefault("AIRFLOW__CORE__LOAD_EXAMPLES", "False")


@pytest.fixture(scope="session")
def airflow_database() -> None:
    """Airflow's database, which ``dag.test()`` needs; made once, in some seconds."""
    from airflow.utils.session import create_session
    from sqlalchemy import inspect

    with create_session() as session:
        if inspect(session.get_bind()).has_table("dag_run"):
            return
    command = [sys.executable, "-m", "airflow", "db", "migrate"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        raise RuntimeError(
            f"airflow db migrate failed in {os.environ.get('AIRFLOW_HOME')}: {done.stderr or done.stdout}"
        )


@pytest.fixture
def task_log(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> Callable[[], str]:
    """Gives what tasks have logged since it was called last, for :func:`~airflow_customjob.testing.run_dag`."""

    def take() -> str:
        out, err = capsys.readouterr()
        log = out + err + caplog.text
        caplog.clear()
        return log

    return take


@pytest.fixture
def fake_jobs(airflow_database: None, task_log: Callable[[], str]) -> FakeJobs:
    """Runs DAGs whose custom jobs follow scripts: :class:`~airflow_customjob.testing.FakeJobs`, on an engine of this test's own."""
    return FakeJobs(take_log=task_log)
