"""What a rule of validation is, and the walk that applies the tables of them to a job.

A rule is an error where Vertex AI refuses the job or where it cannot run; a warning where Vertex AI's own word is
uncertain, or changes with its offer of machines, or where the job runs but hardly as meant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from airflow_customjob.spec.problem import Problem, Severity, shown

Finding = tuple[str, str, Any]
"""Path below the rule's subject, message, offending value."""

T = TypeVar("T")

PROTO = "custom_job.proto and the files it imports"
SERVER = "the service's own error text"
COMPUTE = "Vertex AI documentation, Configure compute resources"
CONTAINER = "Vertex AI documentation, Configure container settings"
TRAINING = "Vertex AI documentation, Distributed training"
DWS = "Vertex AI documentation, Schedule training jobs with Dynamic Workload Scheduler"
HERE = "this package"


@dataclass(frozen=True)
class Rule(Generic[T]):
    """One rule.

    :param id: stable name, part of every problem that it finds.
    :param source: where Vertex AI says so.
    :param check: yields what breaks the rule.
    """

    id: str
    source: str
    check: Callable[[T], Iterator[Finding]]
    severity: Severity = "error"

    def problems(self, subject: T, path: str) -> Iterator[Problem]:
        for below, message, value in self.check(subject):
            joint = "" if not path or not below or below.startswith("[") else "."
            yield Problem(f"{path}{joint}{below}", message, shown(value), self.id, self.severity)


def apply(rules: tuple[Rule[T], ...], subject: T, path: str) -> Iterator[Problem]:
    for rule in rules:
        yield from rule.problems(subject, path)
