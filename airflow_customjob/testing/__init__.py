"""The kit for testing DAGs: their custom jobs run on an engine in memory, whose replicas follow scripts.

Nothing here needs pytest. With it, :mod:`airflow_customjob.testing.fixtures` gives all of this as one fixture::

    pytest_plugins = ["airflow_customjob.testing.fixtures"]  # in conftest.py

    def test_a_worker_without_data_fails_the_run(fake_jobs):
        fake_jobs.script("workerpool1-0", exits(1, says="no data"))
        ran = fake_jobs.run(dag)
        assert ran.states == {"train": "failed", "report": "upstream_failed"}
"""

from airflow_customjob.backends.fake import (
    FakeBackend,
    FakeWorld,
    Script,
    cannot_start,
    exits,
    is_lost,
    killed_by,
    out_of_memory,
    run_in_virtual_time,
    runs_for_ever,
)
from airflow_customjob.testing.dags import FakeJobs, Ran, run_dag

__all__ = [
    "FakeBackend",
    "FakeJobs",
    "FakeWorld",
    "Ran",
    "Script",
    "cannot_start",
    "exits",
    "is_lost",
    "killed_by",
    "out_of_memory",
    "run_dag",
    "run_in_virtual_time",
    "runs_for_ever",
]
