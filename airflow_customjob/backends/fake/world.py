"""What a fake engine holds, in memory: replica objects, records, and what is going to happen when."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from airflow_customjob.backends.base import (
    EngineBusy,
    JobObjects,
    LaunchRefused,
    Phase,
    Reason,
    RecordConflict,
    ReplicaRef,
    StoredRecord,
)
from airflow_customjob.backends.fake.faults import Call, Fault, Faults, NoFaults, ScriptedFaults
from airflow_customjob.backends.fake.pulse import Pulse, WorldClock
from airflow_customjob.backends.fake.replica import FakeReplica, Happening
from airflow_customjob.backends.fake.script import SIGKILL, Ending, Script, exits
from airflow_customjob.plan.types import JobId, JobPlan

if TYPE_CHECKING:
    from airflow_customjob.backends.fake.backend import FakeBackend
    from airflow_customjob.backends.fake.engine import FakeEngine

_numbers = itertools.count(1)
T = TypeVar("T")
Scripts = Mapping[str, Script | Sequence[Script]] | Callable[[ReplicaRef], Script]
Topic = JobId | ReplicaRef

KILLED = Ending(exit_code=128 + SIGKILL, reason=Reason.ERROR)
NEVER_STARTED = Ending(exit_code=143, reason=Reason.ERROR, message="stopped before it started")
AT_WORK = (Phase.WAITING, Phase.RUNNING)


class FakeWorld:
    """An engine in memory. Any number of connections, event loops and threads share it; time goes on between calls.

    >>> world = FakeWorld()
    >>> world.script("workerpool0-0", killed_by(11), exits(0))  # its first start, and every further one
    >>> CustomJobClient(world.backend()).run(JOB)

    What is not scripted exits with 0 at once. Time is the wall's; once the world was used in a :class:`VirtualLoop`, it
    goes on in such loops only.

    :param name: :class:`FakeBackend` finds it by this.
    :param scripts: replica name to a script, or to the scripts of its starts; or a function of the incarnation.
    :param clock: seconds since the epoch, in the place of all that.
    :param faults: what goes wrong with which call; also :meth:`fail`.
    """

    def __init__(
        self,
        name: str = "",
        *,
        scripts: Scripts | None = None,
        clock: Callable[[], float] | None = None,
        faults: Faults | None = None,
    ) -> None:
        self.name = name or f"world-{next(_numbers)}"
        self.faults = faults or NoFaults()
        self.history: list[Happening] = []
        self.listeners: list[Callable[[Happening], None]] = []
        self._clock = clock or WorldClock()
        self._scripts = scripts if callable(scripts) else dict(scripts or {})
        self._replicas: dict[ReplicaRef, FakeReplica] = {}
        self._records: dict[JobId, StoredRecord] = {}
        self._created_at: dict[JobId, float] = {}
        self._display_names: dict[JobId, str] = {}
        self._starts: dict[tuple[JobId, str], int] = defaultdict(int)
        self._refused: dict[str, LaunchRefused] = {}
        self._full_until = (-float("inf"), "")
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._pulses: dict[asyncio.AbstractEventLoop, Pulse] = {}
        self._lock = threading.RLock()
        self._now = -float("inf")

    # -- what a test says and asks ----------------------------------------------------------------------------------

    def script(self, replica: str, *scripts: Script, job: str = "") -> None:
        """What a replica does at its first start in a job, its second, ...; the last one holds for all further ones.

        :param replica: its name: ``workerpool1-0``.
        :param job: display name of the jobs that this is for; they follow nothing else. Empty: any job.
        """
        if callable(self._scripts):
            raise TypeError("this world's scripts are a function; a replica cannot be scripted beside it")
        self._scripts[f"{job}/{replica}" if job else replica] = scripts

    def fail(self, call: str, error: Exception, *, times: int = 1, after_effect: bool = False) -> None:
        """Let the next calls of an engine's method fail.

        :param call: ``create``, ``start``, ``write_record``, ...
        :param times: how often.
        :param after_effect: what was asked for is done all the same.
        """
        if not isinstance(self.faults, ScriptedFaults):
            self.faults = ScriptedFaults()
        self.faults.add(call, Fault(error=error, takes_effect=after_effect), times)

    def has_no_image(self, image: str) -> None:
        """Preparing a job that wants this image is refused."""
        self._refused[image] = LaunchRefused(
            f"image {image} does not exist on this engine: build it or name another one"
        )

    def refuse(self, replica: str, message: str, *, code: int = 3) -> None:
        """Creating this replica is refused."""
        self._refused[replica] = LaunchRefused(message, replica=replica, code=code)

    def is_full(self, seconds: float, why: str = "every GPU is leased") -> None:
        """Nothing can be created for so long."""
        self._full_until = (self.now() + seconds, why)

    def lose(self, ref: ReplicaRef, message: str = "its host is gone") -> None:
        """The infrastructure takes a replica away."""
        with self.at_present():
            replica = self._replicas.get(ref)
            if replica and replica.phase in AT_WORK:
                self._end(replica, Ending(0.0, None, Reason.LOST, Phase.LOST, message))

    def vanish(self, ref: ReplicaRef) -> None:
        """Somebody removes a replica's object behind the package's back."""
        self.apply(lambda: self.remove(ref, by="somebody else"))

    def prune(self, job_id: JobId) -> None:
        """Somebody removes a job's record behind the package's back."""
        with self.at_present():
            if self._records.pop(job_id, None):
                self._happens("record deleted", job_id, by="somebody else")

    def replicas(self, job_id: JobId | None = None) -> list[FakeReplica]:
        """The objects that exist now."""
        with self.at_present():
            return [replica for ref, replica in self._replicas.items() if job_id in (None, ref.job_id)]

    def record(self, job_id: JobId) -> StoredRecord | None:
        return self._records.get(job_id)

    def backend(self) -> FakeBackend:
        """A configuration that connects to this world."""
        from airflow_customjob.backends.fake.backend import FakeBackend, register

        register(self)
        return FakeBackend(self.name)

    def connect(self, name: str = "") -> FakeEngine:
        """A connection for the running event loop; also a context manager."""
        from airflow_customjob.backends.fake.engine import FakeEngine

        return FakeEngine(self, name or f"connection-{next(self._numbers)}")

    # -- time ---------------------------------------------------------------------------------------------------------

    def now(self) -> float:
        """Seconds since the epoch."""
        return max(self._clock(), self._now)

    def at(self, when: float, do: Callable[[], None]) -> None:
        """Do something at that time."""
        with self._lock:
            heapq.heappush(self._agenda, (when, next(self._numbers), do))
            for pulse in list(self._pulses.values()):
                pulse.arm(self._agenda[0][0])

    @contextmanager
    def at_present(self) -> Iterator[None]:
        """Everything that was to happen until now has happened; nobody else changes anything meanwhile."""
        with self._lock:
            self.catch_up()
            yield

    def apply(self, effect: Callable[[], T]) -> T:
        with self.at_present():
            return effect()

    def catch_up(self) -> None:
        now = self._clock()
        while self._agenda and self._agenda[0][0] <= now:
            when, _, do = heapq.heappop(self._agenda)
            self._now = max(self._now, when)
            do()
        self._now = max(self._now, now)

    def _go_on(self) -> float | None:
        with self.at_present():
            return self._next_at()

    def _next_at(self) -> float | None:
        return self._agenda[0][0] if self._agenda else None

    # -- what connections do; each in :meth:`apply` -------------------------------------------------------------------

    def check_images(self, plan: JobPlan) -> None:
        for pool in plan.pools:
            self._check_refused(plan.job_id, pool.image)

    def create(self, plan: JobPlan, ref: ReplicaRef, by: str = "") -> None:
        if ref in self._replicas:
            return
        self._check_refused(ref.job_id, ref.replica)
        until, why = self._full_until
        if self._now < until:
            raise EngineBusy(why)
        replica = self._replicas[ref] = FakeReplica(ref, plan.digest)
        self._created_at.setdefault(ref.job_id, self._now)
        self._display_names[ref.job_id] = plan.display_name
        self._happens("created", ref.job_id, by, replica)

    def start(self, ref: ReplicaRef, by: str = "") -> None:
        replica = self._replicas.get(ref)
        if replica is None or replica.phase is not Phase.CREATED:
            return
        replica.script = self._script_of(ref)
        self._happens("told to start", ref.job_id, by, replica)
        if replica.script.waits:
            replica.phase, replica.message = Phase.WAITING, replica.script.waits_for
            self._soon(replica, replica.script.waits, lambda: self._start(replica))
            self.touch(ref.job_id)
        else:
            self._start(replica)

    def stop(self, ref: ReplicaRef, grace: float, by: str = "") -> FakeReplica | None:
        """SIGTERM now, SIGKILL later; gives the replica where there is something to wait for."""
        replica = self._replicas.get(ref)
        if replica is None or replica.phase not in AT_WORK:
            return None
        if replica.phase is Phase.WAITING:
            self._end(replica, NEVER_STARTED, by)
            return None
        term = replica.script.term
        if grace <= 0:
            self._end(replica, KILLED, by)
            return None
        if term is not None and not replica.told_to_end:
            replica.told_to_end = True
            self._soon(replica, term.after, lambda: self._end(replica, term, by))
        self._soon(replica, grace, lambda: self._end(replica, KILLED, by))
        return replica

    def remove(self, ref: ReplicaRef, by: str = "") -> None:
        replica = self._replicas.get(ref)
        if replica is None:
            return
        if replica.phase in AT_WORK:
            self._end(replica, KILLED, by)
        del self._replicas[ref]
        replica.removed = True
        self._happens("removed", ref.job_id, by, replica)
        self.touch(ref)

    def release(self, job_id: JobId, by: str = "") -> None:
        self._happens("released", job_id, by)

    def write_record(self, job_id: JobId, data: str, if_version: int, by: str = "") -> int:
        self._check_version(job_id, if_version)
        stored = self._records[job_id] = StoredRecord(job_id, if_version + 1, data)
        self._created_at.setdefault(job_id, self._now)
        self._happens("record written", job_id, by, record=stored)
        return stored.version

    def delete_record(self, job_id: JobId, if_version: int, by: str = "") -> None:
        self._check_version(job_id, if_version)
        del self._records[job_id]
        self._happens("record deleted", job_id, by)

    def jobs(self) -> list[JobObjects]:
        ids = {*self._records, *(ref.job_id for ref in self._replicas)}
        return [
            JobObjects(
                job_id,
                self._records.get(job_id),
                tuple(sorted(ref for ref in self._replicas if ref.job_id == job_id)),
                created_at=self._created_at.get(job_id),
            )
            for job_id in sorted(ids)
        ]

    def replica(self, ref: ReplicaRef) -> FakeReplica | None:
        return self._replicas.get(ref)

    # -- what happens by itself ---------------------------------------------------------------------------------------

    def _start(self, replica: FakeReplica) -> None:
        script, ending = replica.script, replica.script.ending
        if ending is not None and ending.reason is Reason.START_ERROR:
            self._end(replica, ending)
            return
        replica.phase, replica.message, replica.started_at = Phase.RUNNING, "", self._now
        self._happens("started", replica.ref.job_id, replica=replica)
        texts: dict[float, list[str]] = defaultdict(list)
        for after, text in script.output:
            texts[after].append(text)
        for after, parts in texts.items():
            self._soon(replica, after, lambda parts=parts: self._print(replica, "".join(parts)))  # type: ignore[misc] # a default binds it now
        if ending is not None:
            self._soon(replica, ending.after, lambda: self._end(replica, ending))

    def _print(self, replica: FakeReplica, text: str) -> None:
        replica.print(text, self._now)
        self.touch(replica.ref)

    def _end(self, replica: FakeReplica, ending: Ending, by: str = "") -> None:
        replica.end(ending, self._now)
        self._happens("ended", replica.ref.job_id, by, replica)
        self.touch(replica.ref)

    def _soon(self, replica: FakeReplica, after: float, do: Callable[[], None]) -> None:
        def unless_it_ended() -> None:
            if replica.phase in AT_WORK:
                do()

        if after <= 0:
            unless_it_ended()
        else:
            self.at(self._now + after, unless_it_ended)

    def _script_of(self, ref: ReplicaRef) -> Script:
        if callable(self._scripts):
            return self._scripts(ref)
        number = self._starts[ref.job_id, ref.replica]
        self._starts[ref.job_id, ref.replica] += 1
        named = f"{self._display_names[ref.job_id]}/{ref.replica}"
        scripts = self._scripts.get(named) or self._scripts.get(ref.replica, exits(0))
        return scripts if isinstance(scripts, Script) else scripts[min(number, len(scripts) - 1)]

    def _check_refused(self, job_id: JobId, what: str) -> None:
        if what in self._refused:
            self._happens("refused", job_id)
            raise self._refused[what]

    def _check_version(self, job_id: JobId, if_version: int) -> None:
        stored = self._records.get(job_id)
        version = stored.version if stored else 0
        if version != if_version:
            raise RecordConflict(
                f"the record of job {job_id} is at version {version}, not at {if_version}: read it again"
            )

    def _happens(
        self,
        what: str,
        job_id: JobId,
        by: str = "",
        replica: FakeReplica | None = None,
        record: StoredRecord | None = None,
    ) -> None:
        ref, status = (replica.ref, replica.status) if replica else (None, None)
        happening = Happening(self._now, what, job_id, by, ref, status, record)
        self.history.append(happening)
        for listener in self.listeners:
            listener(happening)
        if replica is not None or record is not None:
            self.touch(job_id)

    # -- waking who waits ---------------------------------------------------------------------------------------------

    def touch(self, topic: Topic) -> None:
        """Wake whoever waits for a change of a job's replicas or record, or of one replica's log."""
        for pulse in list(self._pulses.values()):
            pulse.wake(topic)

    @contextmanager
    def pulse(self) -> Iterator[Pulse]:
        """The running loop's part of the world; alive while somebody needs it."""
        loop = asyncio.get_running_loop()
        with self._lock:
            pulse = self._pulses.setdefault(loop, Pulse(loop, self.now, self._go_on))
            pulse.users += 1
            pulse.arm(self._next_at())
        try:
            yield pulse
        finally:
            with self._lock:
                pulse.users -= 1
                if not pulse.users:
                    self._pulses.pop(loop, None)
                    pulse.arm(None)

    def fault(self, call: Call) -> Fault | None:
        return self.faults.of(call)
