"""A replica object of a fake engine, and what happens to such objects."""

from __future__ import annotations

from dataclasses import dataclass, field

from airflow_customjob.backends.base import Phase, ReplicaRef, ReplicaStatus, StoredRecord
from airflow_customjob.backends.fake.script import Ending, Script
from airflow_customjob.plan.types import JobId


@dataclass(frozen=True)
class Happening:
    """One thing that truly happened on the engine, whatever anybody was told of it.

    :param at: seconds since the epoch.
    :param what: ``created``, ``told to start``, ``started``, ``ended``, ``removed``, ``released``, ``refused``,
        ``record written`` or ``record deleted``.
    :param by: the connection through which it was asked for, or caused; empty: it happened by itself.
    :param ref: the replica, if it is about one.
    :param status: of that replica, thereafter.
    :param record: as it was written.
    """

    at: float
    what: str
    job_id: JobId
    by: str = ""
    ref: ReplicaRef | None = None
    status: ReplicaStatus | None = None
    record: StoredRecord | None = None


@dataclass(eq=False)
class FakeReplica:
    """One replica object."""

    ref: ReplicaRef
    digest: str
    phase: Phase = Phase.CREATED
    script: Script = field(default_factory=Script)
    ending: Ending | None = None
    message: str = ""
    started_at: float | None = None
    finished_at: float | None = None
    told_to_end: bool = False
    removed: bool = False
    lines: list[tuple[float, str]] = field(default_factory=list)
    partial: str = ""

    @property
    def status(self) -> ReplicaStatus:
        return ReplicaStatus(
            ref=self.ref,
            phase=self.phase,
            exit_code=self.ending.exit_code if self.ending else None,
            reason=self.ending.reason if self.ending else None,
            message=self.message,
            queued=self.phase is Phase.WAITING and self.script.queued,
            node="fake",
            started_at=self.started_at,
            finished_at=self.finished_at,
            digest=self.digest,
        )

    def print(self, text: str, at: float) -> None:
        *whole, self.partial = (self.partial + text).split("\n")
        self.lines += [(at, line) for line in whole]

    def end(self, ending: Ending, at: float) -> None:
        if ending.says:
            self.print(ending.says, at)
        if self.partial:
            self.print("\n", at)
        self.phase, self.ending, self.message, self.finished_at = ending.phase, ending, ending.message, at
