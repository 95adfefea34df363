"""What can go wrong between a supervisor and an engine."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from airflow_customjob.backends.base import ReplicaRef
from airflow_customjob.plan.types import JobId


@dataclass(frozen=True)
class Call:
    """A call that an engine gets.

    :param connection: name of the connection.
    :param method: name of the engine's method.
    :param ref: the replica; calls for several replicas are one each.
    """

    connection: str
    method: str
    job_id: JobId | None = None
    ref: ReplicaRef | None = None


@dataclass(frozen=True)
class Fault:
    """How a call goes.

    :param before: seconds from the call to its effect.
    :param after: seconds from the effect to the answer; the answer tells what was so at the effect.
    :param error: raised in the place of an answer.
    :param takes_effect: whether a call that fails is carried out all the same.
    :param late: seconds after the failure at which the effect takes place; 0: at its own time, before the failure.
    :param outlives: a call whose caller dies before its effect is carried out all the same.
    """

    before: float = 0.0
    after: float = 0.0
    error: Exception | None = None
    takes_effect: bool = True
    late: float = 0.0
    outlives: bool = False


class Faults(Protocol):
    """Decides how each call goes, and what becomes of each event."""

    def of(self, call: Call) -> Fault | None:
        """None: at once, without a fault."""
        ...

    def event(self, connection: str, job_id: JobId) -> Sequence[float]:
        """Seconds after which a watcher is told of a change; empty: the event is lost."""
        ...


class NoFaults:
    """Everything goes well, at once."""

    def of(self, call: Call) -> Fault | None:
        return None

    def event(self, connection: str, job_id: JobId) -> Sequence[float]:
        return (0.0,)


class ScriptedFaults(NoFaults):
    """Lets the next calls of a method fail; then all goes well again."""

    def __init__(self) -> None:
        self._next: dict[str, list[Fault]] = defaultdict(list)

    def add(self, method: str, fault: Fault, times: int = 1) -> None:
        self._next[method] += [fault] * times

    def of(self, call: Call) -> Fault | None:
        return self._next[call.method].pop(0) if self._next[call.method] else None
