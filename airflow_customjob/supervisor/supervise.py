"""The loop that drives one job: read the record, look, decide, write, act. All judgement is in :mod:`.rules`.

Any number of these may run for one job at once, in any processes, and each may die at any line.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, ParamSpec, overload

from airflow_customjob.backends.base import (
    Engine,
    EngineBusy,
    EngineError,
    LaunchRefused,
    Observation,
    Phase,
    RecordConflict,
    ReplicaRef,
    ReplicaStatus,
    StoredRecord,
)
from airflow_customjob.plan.job_plan import make_plan
from airflow_customjob.plan.types import JobId, JobPlan, Prepared
from airflow_customjob.spec.problem import SpecError
from airflow_customjob.supervisor import ownership
from airflow_customjob.supervisor.follow import DRAIN_BUDGET, LogFollower, Selection, Sink, failing
from airflow_customjob.supervisor.listening import listening
from airflow_customjob.supervisor.record import JobRecord, Owner, decode, encode
from airflow_customjob.supervisor.rules import (
    Create,
    Decision,
    Prepare,
    Release,
    Remove,
    Start,
    Stop,
    deadline,
    decide,
    settle,
)
from airflow_customjob.supervisor.trouble import Trouble

log = logging.getLogger(__name__)

RESYNC = 30.0
"""Seconds after which a job is looked at again even if its engine said nothing: the backstop behind events."""
BUSY_RETRY = 5.0
"""Seconds between two attempts to create what the engine had no room for."""
CLEAR_BUDGET = 120.0
"""Seconds of nothing but errors after which an ended job is reported although something of it is left to ``gc``."""
WATCH_AGAIN = 1.0
"""Seconds after which events that broke off are subscribed to again."""
LOOK_UP = 2.0
"""Seconds between two looks at the record while something long goes on (an image is pulled): a cancel ends it."""

P = ParamSpec("P")
Clock = Callable[[], float]
OnChange = Callable[[JobRecord, Sequence[ReplicaStatus]], None]


class Fenced(Exception):
    """Somebody else owns the job now, or it was started anew: this supervisor changes nothing any more."""

    def __init__(self, job_id: JobId, found: JobRecord | None) -> None:
        self.found = found
        holder = "nobody" if found is None else f"{found.owner.key} (generation {found.generation})"
        super().__init__(f"job {job_id} is owned by {holder} now; this supervisor stands back and changes nothing")


class _Overtaken(Exception):
    """What was decided is no longer what is to be done."""


class Supervisor:
    """Drives one generation of one job on behalf of its owner.

    :param engine: a live engine.
    :param job_id: the job; its record exists.
    :param owner: who claimed it.
    :param generation: which generation was claimed.
    :param sink: takes every log line of every followed replica, in order within a replica.
    :param logs: which replicas are followed, as :func:`~.follow.chosen` takes it; it is not part of the job.
    :param say: takes lines of progress: states, restarts, reasons for waiting.
    :param on_change: called with the record and the replicas whenever either changed.
    :param positions: by incarnation name, the position of the last log line that was already given to the user.
    :param hold_removal: seconds that ended replicas are kept, for another supervisor to read their logs to the end.
    :param redact: hides what is secret of replicas' output, and of what their engine says: their last words are in the record.
    :param clock: seconds since the epoch.
    """

    def __init__(
        self,
        engine: Engine,
        job_id: JobId,
        owner: Owner,
        generation: int,
        *,
        sink: Sink | None = None,
        logs: str | None = None,
        say: Callable[[str], None] = log.info,
        on_change: OnChange | None = None,
        positions: dict[str, str] | None = None,
        hold_removal: float = 0.0,
        redact: Callable[[str], str] = str,
        clock: Clock = time.time,
    ) -> None:
        self._engine = engine
        self._job_id = job_id
        self._owner = owner
        self._generation = generation
        self._say = _harmless(say, "say")
        self._on_change = on_change and _harmless(on_change, "on_change")
        self._hold_removal = hold_removal
        self._clock = clock
        self._heard = asyncio.Event()
        self.follower = LogFollower(
            engine, sink and _harmless(sink, "sink"), self._say, positions, self._heard.set, redact
        )
        self._redact = redact
        told = self._say if sink and not positions else None  # who goes on from somewhere was told
        self._selection = Selection(logs, engine.capabilities.backend, tell=told)
        self._last: JobRecord | None = None
        self._shown: tuple[JobRecord, tuple[ReplicaStatus, ...]] | None = None
        self._settled: Prepared | None = None
        self._refused: tuple[int, LaunchRefused] | None = None
        self._busy = ""
        self._create_again_at = -math.inf
        self._version = 0
        self._to_remove: dict[ReplicaRef, float] = {}
        self._log_stands: dict[ReplicaRef, tuple[str | None, float]] = {}
        self._created: tuple[ReplicaRef, ...] = ()
        self._plan: tuple[int, Prepared | None, JobPlan] | None = None

    async def run(self, until: Callable[[JobRecord], bool] = lambda record: False) -> JobRecord:
        """Drive the job to its end and clear it away, or until ``until`` says so of its record.

        :raises Fenced: somebody else owns the job.
        """
        trouble = Trouble(self._say, self._clock)
        async with listening(self._engine, self._job_id, self._heard, again=WATCH_AGAIN):
            try:
                while True:
                    self._heard.clear()
                    try:
                        decision = await self._step()
                    except (RecordConflict, _Overtaken):
                        continue
                    except EngineError as error:
                        ended = self._last if self._last and self._last.state.terminal else None
                        if ended and trouble.lasts(CLEAR_BUDGET):
                            self._say(f"the job has ended, but cannot be cleared away; gc will have to: {error}")
                            return ended
                        await trouble.back_off(error)
                        continue
                    trouble.over()
                    if decision.done or until(decision.record):
                        return decision.record
                    await self._wait(decision.wake_at)
            except Fenced as fenced:
                await self._take_back(fenced.found)
                raise
            finally:
                await self.follower.close()

    async def _step(self) -> Decision:
        stored, record = await self._read()
        plan = None if record.settled else self._plan_of(record)
        replicas = await self._look(record)
        seen = Observation(
            replicas=replicas,
            refused=self._refused[1] if self._refused and self._refused[0] == record.attempt else None,
            busy=self._busy,
            prepared=self._settled,
        )
        self._busy = ""
        now = self._clock()
        decision = settle(record, replicas, now) if plan is None else decide(plan, record, seen, now)
        if decision.record != record:
            self._version = await self._engine.write_record(
                self._job_id, encode(decision.record), if_version=stored.version, labels=_labels(decision.record)
            )
        elif any(isinstance(action, Stop | Remove) for action in decision.actions):
            await self._confirm(stored)
        self._tell(record, decision.record, replicas)
        later = await self._apply(plan, decision)
        return decision if later is None else replace(decision, wake_at=later)

    async def _confirm(self, stored: StoredRecord) -> None:
        """Replicas were listed after the record was read: what looks stale may be of a record written in between.

        :raises RecordConflict: there is such a record.
        """
        found = await self._engine.read_record(self._job_id)
        if found is None or found.version != stored.version:
            self._owned(found)
            raise RecordConflict(f"the record of job {self._job_id} has changed while its replicas were listed")

    async def _read(self) -> tuple[StoredRecord, JobRecord]:
        stored = await self._engine.read_record(self._job_id)
        if stored is None and self._last is not None:
            version = await self._engine.write_record(self._job_id, encode(self._last), if_version=0)
            self._say("the job's record was removed from the engine by somebody; it was written again")
            stored = StoredRecord(self._job_id, version, encode(self._last))
        if stored is None:
            raise Fenced(self._job_id, None)
        record = self._owned(stored)
        self._last, self._version = record, stored.version
        return stored, record

    @overload
    def _owned(self, stored: StoredRecord) -> JobRecord: ...

    @overload
    def _owned(self, stored: StoredRecord | None) -> JobRecord | None: ...

    def _owned(self, stored: StoredRecord | None) -> JobRecord | None:
        """The record, still this supervisor's. Asked of whatever is read: it may be gone at the next reading.

        :raises Fenced: it is somebody else's.
        """
        record = None if stored is None else decode(stored.data)
        if record is not None and not ownership.drives(record, self._owner, self._generation):
            raise Fenced(self._job_id, record)
        return record

    def _plan_of(self, record: JobRecord) -> JobPlan:
        """:raises SpecError: this version refuses what an earlier one has accepted."""
        if self._plan is None or self._plan[:2] != (record.generation, record.prepared):
            try:
                plan = make_plan(
                    record.request,
                    self._engine.capabilities,
                    job_id=record.job_id,
                    generation=record.generation,
                    prepared=record.prepared or Prepared(),
                )
            except SpecError:
                cancel = f"customjob cancel --backend {self._engine.capabilities.backend} {record.job_id}"
                self._say(f"this version refuses a job that another one has accepted; `{cancel}` ends it")
                raise
            self._plan = (record.generation, record.prepared, plan)
        return self._plan[2]

    async def _look(self, record: JobRecord) -> tuple[ReplicaStatus, ...]:
        statuses = await self._engine.observe(self._job_id)
        ours = [s for s in statuses if s.ref.generation == record.generation and s.phase is not Phase.CREATED]
        started = [s for s in ours if not s.never_ran]
        self.follower.follow(self._selection.of(record, started))
        self.follower.drop(s.ref for s in ours if s.never_ran)
        exited = [s.ref for s in failing(record, started) if s.phase is Phase.EXITED]
        tails = await self.follower.tails(exited) if exited else {}
        return tuple(
            replace(s, message=self._redact(s.message), last_lines=tails.get(s.ref, ()))
            if s.message or s.ref in tails
            else s
            for s in statuses
        )

    async def _apply(self, plan: JobPlan | None, decision: Decision) -> float | None:
        """Carry out a decision; gives the time to decide again where something is to be waited for first."""
        later = None
        for action in decision.actions:
            match action:
                case Prepare() | Create() | Start() if plan is not None:
                    later = await self._launch(plan, decision.record, action)
                case Stop(refs, grace):
                    await self._engine.stop(refs, grace)
                case Remove(refs):
                    later = await self._remove(refs)
                case Release():
                    await self._engine.release(self._job_id)
        return later if len(decision.actions) == 1 else None

    async def _launch(self, plan: JobPlan, record: JobRecord, action: Prepare | Create | Start) -> float | None:
        match action:
            case Prepare():
                await self._launching(plan, record, self._prepare(plan))
            case Create() if self._clock() < self._create_again_at:
                return self._create_again_at
            case Create(refs):
                self._created = refs
                await self._launching(plan, record, self._engine.create(plan, refs))
            case Start(refs):
                await self._launching(plan, record, self._engine.start(plan, refs))
                names = self._selection.names(record)
                self.follower.follow((ref for ref in refs if ref.replica in names), seen=False)
        return None

    async def _prepare(self, plan: JobPlan) -> None:
        self._settled = await self._engine.prepare(plan, self._say)

    async def _launching(self, plan: JobPlan, record: JobRecord, call: Coroutine[Any, Any, None]) -> None:
        """Wait for a call that may take long, while nobody changes the record and the job's time is not over.

        :raises _Overtaken: somebody did, or it is.
        """
        task = asyncio.ensure_future(call)
        try:
            while not task.done():
                left = deadline(plan, record) - self._clock()
                await asyncio.wait([task], timeout=max(0.0, min(LOOK_UP, left)))
                if not task.done() and (left <= LOOK_UP or await self._is_outdated()):
                    raise _Overtaken
            task.result()
        except LaunchRefused as refused:
            self._refused = (record.attempt, refused)
        except EngineBusy as busy:
            self._busy = str(busy)
            self._create_again_at = self._clock() + BUSY_RETRY
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _is_outdated(self) -> bool:
        with suppress(EngineError):
            found = await self._engine.read_record(self._job_id)
            self._owned(found)
            return found is None or found.version != self._version
        return False

    async def _remove(self, refs: Sequence[ReplicaRef]) -> float | None:
        """Remove those whose log was read to its end; gives the time to come back for the others.

        Nothing waits for a log here: a primary replica's end must not go unseen meanwhile.
        """
        now = self._clock()
        ready: list[ReplicaRef] = []
        waits: list[float] = []
        for ref in refs:
            until = self._to_remove.setdefault(ref, now) + self._hold_removal
            if not self.follower.is_through(ref):
                until = max(until, self._stands_since(ref, now) + DRAIN_BUDGET)
            if now < until:
                waits.append(until)
            else:
                ready.append(ref)
        if ready:
            self.follower.give_up(ready)
            await self._engine.remove(ready)
        return None if ready else min(waits)

    def _stands_since(self, ref: ReplicaRef, now: float) -> float:
        """When the log of this replica was first seen at the line where it is now: a long one may take minutes to read."""
        position = self.follower.positions.get(ref.name)
        if ref not in self._log_stands or self._log_stands[ref][0] != position:
            self._log_stands[ref] = (position, now)
        return self._log_stands[ref][1]

    async def _take_back(self, found: JobRecord | None) -> None:
        """What a fenced supervisor created too late is stale to everybody: take it away while somebody knows of it."""
        if self._created and found is not None and (found.generation != self._generation or found.state.terminal):
            with suppress(EngineError):
                await self._engine.remove([ref for ref in self._created if ref.generation == self._generation])

    def _tell(self, before: JobRecord, after: JobRecord, replicas: tuple[ReplicaStatus, ...]) -> None:
        if after.state is not before.state:
            self._say(f"job {self._job_id}: {after.state.name}")
        if after.message and after.message != before.message:
            self._say(after.message)
        if after.error and after.error != before.error:
            self._say(after.error.message)
        if self._on_change is not None and self._shown != (after, replicas):
            self._shown = (after, replicas)
            self._on_change(after, replicas)

    async def _wait(self, wake_at: float) -> None:
        delay = min(wake_at - self._clock(), RESYNC)
        if delay > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._heard.wait()


def _harmless(call: Callable[P, object], name: str) -> Callable[P, None]:
    """A caller's callback that may fail: the job goes on without it."""

    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            call(*args, **kwargs)
        except Exception:
            log.exception("the supervisor's %s callback failed; the job goes on", name)

    return guarded


def _labels(record: JobRecord) -> dict[str, str]:
    return {"display-name": str(record.request.job.get("displayName", "")), "state": record.state.name}
