"""The one contract between this package and an engine that runs replicas.

A :class:`Backend` is configuration: frozen, without secrets, kept in serialized DAGs. Its :meth:`Backend.open` gives an
:class:`Engine`: a live connection, used inside one event loop. The supervisor knows engines by this contract only, and one
test suite holds every engine to it.

What an engine must guarantee, and nothing more:

* Replica objects are named by their whole :class:`ReplicaRef`; a name is given once, so creating, starting, stopping and
  removing may be repeated, and a late call for an old incarnation can never touch a newer one.
* :meth:`Engine.observe` is a fresh list: what it does not show did not exist at some moment after the call began.
* :meth:`Engine.write_record` is compare-and-set: of two writers with the same ``if_version`` one fails.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

from airflow_customjob.plan.types import Capabilities, JobId, JobPlan, Prepared

Say = Callable[[str], None]
"""Tells the user one line of progress (an image being pulled, a package being installed)."""


@dataclass(frozen=True, order=True)
class ReplicaRef:
    """One incarnation of one replica. Its parts are the object's labels, and its name is made of them.

    :param job_id: the job.
    :param generation: counts clears and changes of the job, from 1.
    :param attempt: counts restarts of the whole job within the generation, from 0.
    :param replica: ``workerpool1-0``.
    :param restart: counts restarts of this replica within the attempt, from 0.
    """

    job_id: JobId
    generation: int
    attempt: int
    replica: str
    restart: int

    @property
    def name(self) -> str:
        """Unique on the engine: a DNS label of at most 63 characters."""
        return f"customjob-{self.job_id}-{self.generation}-{self.attempt}-{self.replica}-{self.restart}"


class Phase(StrEnum):
    """What an engine says of a replica's object."""

    CREATED = "created"
    """Exists; its process was never started."""
    WAITING = "waiting"
    """Told to start, and held up: image, volume, node (``message`` says why)."""
    RUNNING = "running"
    EXITED = "exited"
    """Ended, and the engine vouches for its exit code."""
    LOST = "lost"
    """Ended by the infrastructure (host, daemon, node, eviction), or its exit code cannot be trusted."""


class Reason(StrEnum):
    """Why a replica ended, in the words that Vertex AI's sentences use."""

    COMPLETED = "Completed"
    ERROR = "Error"
    OOM_KILLED = "OOMKilled"
    START_ERROR = "StartError"
    LOST = "Lost"


@dataclass(frozen=True)
class ReplicaStatus:
    """One replica's object as the engine shows it.

    :param exit_code: 0..255 (a signal N is 128+N); None while it has not ended.
    :param message: the engine's own words: why it waits, why it could not start, what took it away.
    :param node: where it runs, for people.
    :param started_at: seconds since the epoch, the engine's clock.
    :param finished_at: likewise.
    :param digest: of the request it was made for, as labelled; a lost record is rebuilt by it.
    :param last_lines: the end of its output; filled by the supervisor for a replica that failed.
    :param queued: it waits for the admission of whoever shares out the engine's room, and for nothing else yet.
    """

    ref: ReplicaRef
    phase: Phase
    exit_code: int | None = None
    reason: Reason | None = None
    message: str = ""
    node: str = ""
    started_at: float | None = None
    finished_at: float | None = None
    digest: str = ""
    last_lines: tuple[str, ...] = ()
    queued: bool = False

    @property
    def ended(self) -> bool:
        return self.phase in (Phase.EXITED, Phase.LOST)

    @property
    def never_ran(self) -> bool:
        """It could not be started: there is no output to wait for."""
        return self.reason is Reason.START_ERROR and self.started_at is None


@dataclass(frozen=True)
class LogLine:
    """One line of a replica's output.

    :param at: seconds since the epoch when it was written, by the engine's clock.
    :param position: where to go on after this line; text that only the engine understands.
    :param notice: not the replica's own output, but a word about its log (a gap).
    """

    ref: ReplicaRef
    text: str
    at: float
    position: str
    notice: bool = False

    @property
    def prefixed(self) -> str:
        """As it stands in a merged log: ``workerpool1-0: text``."""
        return f"{self.ref.replica}: {self.text}"


@dataclass(frozen=True)
class Usage:
    """A sample of a replica's usage.

    :param cpus: CPUs in use (1.5 is one and a half).
    :param memory_bytes: resident memory.
    """

    ref: ReplicaRef
    at: float
    cpus: float
    memory_bytes: int


@dataclass(frozen=True)
class StoredRecord:
    """A job's record as the engine keeps it.

    :param version: what :meth:`Engine.write_record` compares; 0 means that there is none.
    :param data: JSON text; the engine does not look into it.
    """

    job_id: JobId
    version: int
    data: str


@dataclass(frozen=True)
class JobObjects:
    """What of a job lies on an engine, for ``list`` and ``gc``.

    :param record: its record, if there is one.
    :param refs: replica objects.
    :param other: names of other objects (networks, folders).
    """

    job_id: JobId
    record: StoredRecord | None
    refs: tuple[ReplicaRef, ...] = ()
    other: tuple[str, ...] = ()
    created_at: float | None = None


class EngineError(Exception):
    """An engine did not do what it was asked to. Worth another try unless a subclass says otherwise."""


class RecordConflict(EngineError):
    """Somebody else wrote the record first: read it again."""


class LaunchRefused(EngineError):
    """The engine will never run this as it stands: a missing image, a refused name, no quota, a missing command.

    :param message: what, where, why, and what to do.
    :param replica: the replica it was said of, if of one.
    :param code: google.rpc status code (3: the user's to mend, 8: resources, 13: the engine's).
    """

    def __init__(self, message: str, *, replica: str = "", code: int = 3) -> None:
        super().__init__(message)
        self.message = message
        self.replica = replica
        self.code = code


class EngineBusy(EngineError):
    """Not now: every GPU is leased, a quota is used up. The job stays queued and says why."""


@runtime_checkable
class Engine(Protocol):
    """A live connection to an engine. Every method may raise :class:`EngineError`."""

    capabilities: Capabilities

    async def identity(self) -> str:
        """The engine's own lasting id (Docker ``info.ID``, host and boot id, kube-system UID)."""
        ...

    async def prepare(self, plan: JobPlan, say: Say) -> Prepared:
        """Make everything that can be made before a replica exists: pull images, build or install packages, choose ports.

        Repeating it is cheap. What it creates for this job alone, :meth:`release` removes.
        :raises LaunchRefused: an image or package cannot be had.
        """
        ...

    async def create(self, plan: JobPlan, refs: Sequence[ReplicaRef]) -> None:
        """Create these replicas (and the job's network), concurrently, without starting any. Those that exist stay.

        :raises LaunchRefused: one of them will never be created; what was created is left for :meth:`remove`.
        :raises EngineBusy: not now; likewise.
        """
        ...

    async def start(self, plan: JobPlan, refs: Sequence[ReplicaRef]) -> None:
        """Start these created replicas, concurrently. One that runs or has ended stays as it is; one that is gone is passed over.

        A replica that the engine refuses to start is no exception: it shows as EXITED with START_ERROR.
        """
        ...

    async def observe(self, job_id: JobId) -> Sequence[ReplicaStatus]:
        """Every replica object of the job, of any generation: a fresh list."""
        ...

    def watch(self, job_id: JobId) -> AbstractAsyncContextManager[AsyncIterator[None]]:
        """Subscribe, then give an item whenever the job's replicas or its record may have changed: a cancel is a changed record.

        Items may be lost, late and repeated.

        One subscription to the engine serves all jobs of the process; it reconnects by itself.
        """
        ...

    async def stop(self, refs: Sequence[ReplicaRef], grace: float) -> None:
        """Polite signal, ``grace`` seconds, final signal; concurrently. Returns when they have ended. A created one is left.

        The engine sends the final signal though the caller may be gone by then, some time after the grace.
        """
        ...

    async def remove(self, refs: Sequence[ReplicaRef]) -> None:
        """Remove these objects, running or not. One that is gone is fine."""
        ...

    async def release(self, job_id: JobId) -> None:
        """Remove what else the job had (network, leases) once it has no replica; its record stays."""
        ...

    def logs(
        self, ref: ReplicaRef, *, after: str | None = None, follow: bool = True, tail: int | None = None
    ) -> AsyncIterator[LogLine]:
        """A replica's output, from ``after`` (exclusive); with ``follow`` until the replica has ended and all was given.

        Survives reconnects without losing a line; says a gap as a ``notice`` line. A ref that does not exist gives nothing.
        """
        ...

    async def usage(self, job_id: JobId) -> Sequence[Usage]:
        """One sample of each running replica."""
        ...

    async def read_record(self, job_id: JobId) -> StoredRecord | None: ...

    async def write_record(
        self, job_id: JobId, data: str, *, if_version: int, labels: Mapping[str, str] | None = None
    ) -> int:
        """Compare-and-set; ``if_version`` 0 creates. Gives the new version.

        :param labels: for people who look at the engine's objects (display name, state).
        :raises RecordConflict: the record is not at ``if_version``.
        """
        ...

    async def delete_record(self, job_id: JobId, *, if_version: int) -> None:
        """:raises RecordConflict: the record is not at ``if_version``."""
        ...

    async def jobs(self) -> Sequence[JobObjects]:
        """Every job of this package on the engine, whoever made it."""
        ...


@dataclass(frozen=True)
class Retention:
    """How long installed packages are kept that no job uses.

    :param ttl: seconds since the last job that used them.
    :param count: how many at most; those whose last use was the longest ago go first.
    """

    ttl: float
    count: int

    def beyond(self, used: Mapping[str, float], now: float) -> list[str]:
        """What is to go, of these names and times of last use; nothing that a job may be about to use."""
        latest_first = sorted(used, key=lambda name: -used[name])
        return [
            name
            for rank, name in enumerate(latest_first)
            if now - used[name] > max(ABOUT_TO_USE, self.ttl if rank < self.count else 0.0)
        ]


ABOUT_TO_USE = 3600.0
"""Seconds in which a job that found an installation has made its replicas of it."""


@runtime_checkable
class KeepsInstallations(Protocol):
    """An engine that keeps installed packages for later jobs."""

    async def prune(self, retention: Retention, in_use: Collection[str], now: float, *, dry_run: bool) -> Sequence[str]:
        """Remove what is beyond its time, and what somebody who died over an installation has left.

        :param in_use: artifacts (:class:`~airflow_customjob.plan.types.Prepared`) of jobs that have not ended.
        :returns: what was removed, or would be, for people.
        """
        ...


@runtime_checkable
class Backend(Protocol):
    """Configuration of an engine: a frozen dataclass with connection ids and never secrets."""

    @property
    def name(self) -> str: ...

    def serialize(self) -> dict[str, Any]:
        """Plain, deterministic, redacted data: ``{"name": ..., **non-default arguments}``."""
        ...

    def capabilities(self) -> Capabilities:
        """Without asking the engine."""
        ...

    def open(self) -> AbstractAsyncContextManager[Engine]:
        """Connect inside the running event loop; jobs that open the same configuration share one connection."""
        ...

    def render(self, plan: JobPlan) -> list[dict[str, Any]]:
        """What would be created for this plan: container bodies, process arguments. Without asking the engine."""
        ...


@dataclass(frozen=True)
class Observation:
    """What the rules are shown.

    :param replicas: a fresh list, taken after the record was read.
    :param refused: the engine refused to prepare or create what the record asks for.
    :param busy: the engine said: not now.
    :param prepared: what was settled, when the last action was to prepare.
    """

    replicas: tuple[ReplicaStatus, ...] = ()
    refused: LaunchRefused | None = None
    busy: str = ""
    prepared: Prepared | None = None
    engine_note: str = field(default="")
