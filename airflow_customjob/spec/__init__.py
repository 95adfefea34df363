"""A CustomJob in whatever form people have it, to one message, with every problem at once.

    >>> job = load({"displayName": "hello", "jobSpec": {...}})  # a dict; or text, a path, a protobuf, an SDK object
    >>> problems = validate(job)
    >>> job, problems = check("job.yaml")  # both in one, and no exception

Names are loaded when they are first used: :class:`JobState` alone costs no protobuf.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_customjob.spec.job_state import JobState as JobState
    from airflow_customjob.spec.job_state import StatusCode as StatusCode
    from airflow_customjob.spec.loader import check as check
    from airflow_customjob.spec.loader import load as load
    from airflow_customjob.spec.machines import Machine as Machine
    from airflow_customjob.spec.machines import machine as machine
    from airflow_customjob.spec.message import CustomJob as CustomJob
    from airflow_customjob.spec.message import CustomJobSpec as CustomJobSpec
    from airflow_customjob.spec.output import to_canonical as to_canonical
    from airflow_customjob.spec.output import to_sdk_dict as to_sdk_dict
    from airflow_customjob.spec.parser import parse as parse
    from airflow_customjob.spec.problem import Problem as Problem
    from airflow_customjob.spec.problem import SpecError as SpecError
    from airflow_customjob.spec.source import to_dict as to_dict
    from airflow_customjob.spec.validator import validate as validate

_HOMES = {
    "CustomJob": "message",
    "CustomJobSpec": "message",
    "JobState": "job_state",
    "Machine": "machines",
    "Problem": "problem",
    "SpecError": "problem",
    "StatusCode": "job_state",
    "check": "loader",
    "load": "loader",
    "machine": "machines",
    "parse": "parser",
    "to_canonical": "output",
    "to_dict": "source",
    "to_sdk_dict": "output",
    "validate": "validator",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
