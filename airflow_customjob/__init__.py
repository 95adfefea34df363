"""The ``CustomJob`` you submit to Vertex AI, unchanged, on your own machines: from Airflow and from the command line.

Importing this package costs nothing: each public name is loaded from its module when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "CreateCustomJobOperator": "operators.custom_job",
    "CustomJobClient": "client",
    "CustomJobOperator": "operators.custom_job",
    "CustomJobSensor": "sensors.custom_job",
    "CustomJobTaskGroup": "task_group",
    "DockerBackend": "backends.docker",
    "FakeBackend": "backends.fake",
    "JobState": "spec",
    "KubernetesBackend": "backends.kubernetes",
    "ProcessBackend": "backends.process",
    "SpecError": "spec",
}
"""The module that each public name lives in."""

if TYPE_CHECKING:
    from airflow_customjob.backends.docker import DockerBackend
    from airflow_customjob.backends.fake import FakeBackend
    from airflow_customjob.backends.kubernetes import KubernetesBackend
    from airflow_customjob.backends.process import ProcessBackend
    from airflow_customjob.client import CustomJobClient
    from airflow_customjob.operators.custom_job import CreateCustomJobOperator, CustomJobOperator
    from airflow_customjob.sensors.custom_job import CustomJobSensor
    from airflow_customjob.spec import JobState, SpecError
    from airflow_customjob.task_group import CustomJobTaskGroup

__all__ = [
    "CreateCustomJobOperator",
    "CustomJobClient",
    "CustomJobOperator",
    "CustomJobSensor",
    "CustomJobTaskGroup",
    "DockerBackend",
    "FakeBackend",
    "JobState",
    "KubernetesBackend",
    "ProcessBackend",
    "SpecError",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
