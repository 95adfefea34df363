"""An engine in memory: scripted replicas, faults, virtual time. The package's test kit."""

from airflow_customjob.backends.fake.backend import FakeBackend
from airflow_customjob.backends.fake.engine import FakeEngine
from airflow_customjob.backends.fake.faults import Call, Fault, Faults, NoFaults, ScriptedFaults
from airflow_customjob.backends.fake.replica import FakeReplica, Happening
from airflow_customjob.backends.fake.script import (
    Ending,
    Script,
    cannot_start,
    exits,
    is_lost,
    killed_by,
    out_of_memory,
    runs_for_ever,
)
from airflow_customjob.backends.fake.virtual_time import Stuck, VirtualLoop, run_in_virtual_time
from airflow_customjob.backends.fake.world import FakeWorld

__all__ = [
    "Call",
    "Ending",
    "FakeBackend",
    "FakeEngine",
    "FakeReplica",
    "FakeWorld",
    "Fault",
    "Faults",
    "Happening",
    "NoFaults",
    "Script",
    "ScriptedFaults",
    "Stuck",
    "VirtualLoop",
    "cannot_start",
    "exits",
    "is_lost",
    "killed_by",
    "out_of_memory",
    "run_in_virtual_time",
    "runs_for_ever",
]
