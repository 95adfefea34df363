"""Plays a scenario: processes arrive, claim the job, supervise it and die, while the engine has its troubles."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from random import Random

from airflow_customjob.backends.base import EngineError, LogLine, Phase, ReplicaStatus, StoredRecord
from airflow_customjob.backends.fake import Call, FakeEngine, FakeWorld, Fault, run_in_virtual_time
from airflow_customjob.plan.job_plan import make_plan, request_digest
from airflow_customjob.plan.types import JobId, JobPlan, Prepared
from airflow_customjob.spec.job_state import JobState
from airflow_customjob.supervisor.claims import ClaimRefused, cancel_job, claim_job
from airflow_customjob.supervisor.ownership import Canceller
from airflow_customjob.supervisor.record import JobRecord, Owner, decode
from airflow_customjob.supervisor.supervise import Fenced, Supervisor
from tests.simulation.oracle import Oracle
from tests.simulation.scenario import CHAOS, Arrival, Scenario, Visit, scenario_of
from tests.simulation.witness import Broken, Witness

JOB = JobId("4711")
MAX_CALLS = 30_000
"""Engine calls in one history, above which somebody is thought to run in circles."""
MAX_AT_ONCE = 3
MAX_CPU = 20.0
"""CPU seconds of one history, above which something in it is thought to spin without time going on."""
LATEST = 20.0
"""Seconds that a call's effect is late at most."""


class SimulatedEngine(FakeEngine):
    """Notes what its process was told."""

    def __init__(self, world: FakeWorld, process: Process) -> None:
        super().__init__(world, process.name)
        self.process = process

    async def read_record(self, job_id: JobId) -> StoredRecord | None:
        stored = await super().read_record(job_id)
        if stored is not None:
            self.process.was_told(stored)
        return stored

    async def write_record(self, job_id: JobId, data: str, *, if_version: int, labels: object = None) -> int:
        version = await super().write_record(job_id, data, if_version=if_version)
        self.process.knows = version
        return version

    async def observe(self, job_id: JobId) -> Sequence[ReplicaStatus]:
        self.process.looked_at = self._world.now()
        statuses = await super().observe(job_id)
        self.process.saw_started.update(status.ref.name for status in statuses if status.phase is not Phase.CREATED)
        return statuses


@dataclass(eq=False)
class Process:
    """One process that claims the job and supervises it.

    :param generation: what it has claimed.
    :param knows: version of the record that it was told last.
    :param fenced: it was told that somebody else drives the job.
    """

    name: str
    visit: Visit
    owner: Owner
    version: int
    positions: dict[str, str]
    handed: dict[str, str] = field(default_factory=dict)
    alive: bool = True
    generation: int = 0
    knows: int = 0
    fenced: bool = False
    finished: bool = False
    calls: int = 0
    looked_at: float = 0.0
    saw_started: set[str] = field(default_factory=set)
    gave_up: set[str] = field(default_factory=set)
    engine: SimulatedEngine | None = None
    task: asyncio.Task[None] | None = None

    def was_told(self, stored: StoredRecord) -> None:
        self.knows = stored.version
        record = decode(stored.data)
        if self.generation and (record.owner.key != self.owner.key or record.generation != self.generation):
            self.fenced = True

    def die(self) -> None:
        if self.alive and self.task is not None and not self.task.done():
            self.alive = False
            assert self.engine is not None
            self.engine.cut()
            self.task.cancel()


class RandomFaults:
    """What goes wrong, by the scenario's odds; nothing after its chaos."""

    def __init__(self, simulation: Simulation) -> None:
        self._sim = simulation
        self._rng = simulation.rng
        self._trouble = simulation.scenario.trouble
        self._calls = 0

    def of(self, call: Call) -> Fault | None:
        self._calls += 1
        if self._calls > MAX_CALLS:
            raise Broken(f"more than {MAX_CALLS} engine calls: somebody runs in circles")
        process = self._sim.processes.get(call.connection)
        if process is None:
            return None
        process.calls += 1
        self._sim.witness.called(process, call)
        if process.calls == process.visit.dies_in_call:
            return self._deadly(process)
        if self._sim.calm:
            return None
        return self._troubled()

    def _deadly(self, process: Process) -> Fault:
        """The process dies before, after, or between the call and its effect, which then comes all the same."""
        asyncio.get_running_loop().call_later(0.0005, self._sim.kill, process)
        return self._rng.choice((Fault(before=0.001), Fault(after=0.001), Fault(before=self._late(), outlives=True)))

    def _troubled(self) -> Fault | None:
        trouble, rng = self._trouble, self._rng
        if trouble.failures and rng.random() < trouble.failures:
            error = EngineError("simulated")
            before = rng.random() * trouble.latency
            return rng.choice(
                (
                    Fault(before, error=error, takes_effect=False),
                    Fault(before, error=error),
                    Fault(before, after=rng.random(), error=error),
                    Fault(before, error=error, late=self._late()),
                )
            )
        if trouble.stalls and rng.random() < trouble.stalls:
            stall = rng.uniform(0, 40)
            return Fault(before=stall, outlives=True) if rng.random() < 0.5 else Fault(after=stall)
        if trouble.latency and rng.random() < 0.7:
            outlives = rng.random() < 0.5
            return Fault(before=rng.random() * trouble.latency, after=rng.random() * trouble.latency, outlives=outlives)
        return None

    def _late(self) -> float:
        return self._rng.choice((self._rng.uniform(0.001, 0.5), self._rng.uniform(0.001, LATEST)))

    def event(self, connection: str, job_id: JobId) -> Sequence[float]:
        trouble, rng = self._trouble, self._rng
        if self._sim.calm or trouble.none:
            return (0.0,)
        if rng.random() < trouble.lost_events:
            return ()
        return rng.choice(((0.0,), (rng.random() * 3,), (0.0, 0.0, rng.random())))


class Simulation:
    """One history of one scenario."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.rng = Random(f"history {scenario.seed}")
        self.calm = False
        self.processes: dict[str, Process] = {}
        self.trace: list[tuple[float, str, str]] = []
        self.newest = Owner("k00", try_number=0)
        self.first = replace(self.newest, key="k01", try_number=1)
        self.spec_version = 0
        self.requests = [(request, request_digest(request)) for request in map(scenario.request, range(8))]

    def run(self) -> None:
        """:raises Broken: an invariant does not hold, or the end is not one that the oracle admits."""
        shuffle = self.rng if self.scenario.trouble.shuffled else None
        run_in_virtual_time(self._main(), shuffle=shuffle)

    # -- the play -----------------------------------------------------------------------------------------------------

    async def _main(self) -> None:
        loop = asyncio.get_running_loop()
        self.clock = loop.time
        self.world = FakeWorld(scripts=self.scenario.script, clock=loop.time)
        self.witness = Witness(self)
        self.world.listeners.append(self.witness.happens)
        self.world.faults = RandomFaults(self)
        async with self.world.connect("the user") as self._user:
            self._set_the_stage(loop)
            await self._until(CHAOS)
            self.calm = True
            await self._to_the_end()
            await self._clear_up()
        self.witness.check_the_end()
        Oracle(self.scenario, self.world.history, self.witness.reports).check()

    def _set_the_stage(self, loop: asyncio.AbstractEventLoop) -> None:
        scenario = self.scenario
        if scenario.refused:
            self.world.refuse(scenario.refused, "no such thing here")
        if not scenario.has_image:
            self.world.has_no_image("fake/image:1")
        for visit in scenario.visits:
            loop.call_at(visit.at, self._arrive, visit)
        for at in scenario.cancels:
            loop.call_at(at, self._soon, self._cancel())
        for at in scenario.vanishes:
            loop.call_at(at, self._vanish)
        for at in scenario.losses:
            loop.call_at(at, self._lose)
        for at in scenario.prunes:
            loop.call_at(at, self.world.prune, JOB)
        if scenario.full:
            begin, end = scenario.full
            loop.call_at(begin, self.world.is_full, end - begin)
        self._background: set[asyncio.Task[None]] = set()

    def _soon(self, main: object) -> None:
        task = asyncio.ensure_future(main)  # type: ignore[call-overload]
        self._background.add(task)

    async def _until(self, at: float) -> None:
        while self.clock() < at and not self.witness.broken:
            await asyncio.sleep(min(5.0, at - self.clock()))
        self._check_tasks()

    async def _to_the_end(self) -> None:
        """Somebody who stays takes care of the job; in the end a user cancels what would run for ever."""
        last = self._arrive(Visit(self.clock(), Arrival.AGAIN))
        assert last is not None
        await self._until_done([last], 100.0)
        if not last.finished:
            await self._cancel()
        await self._until_done(list(self.processes.values()), 100.0)
        for process in self.processes.values():
            if process.alive and not process.finished:
                raise Broken(f"{process.name} still supervises {self.clock() - CHAOS:g} s after all trouble was over")

    async def _until_done(self, processes: list[Process], seconds: float) -> None:
        tasks = [process.task for process in processes if process.task is not None]
        await asyncio.wait(tasks, timeout=seconds)
        self._check_tasks()

    async def _clear_up(self) -> None:
        """What calls of the dead have created late, the next who looks takes away."""
        await asyncio.sleep(2 * LATEST)
        janitor = self._arrive(Visit(self.clock(), Arrival.AGAIN))
        assert janitor is not None
        await self._until_done([janitor], 100.0)
        if not janitor.finished:
            raise Broken("an ended job cannot be cleared away")

    def _check_tasks(self) -> None:
        if self.witness.broken:
            raise self.witness.broken
        for process in self.processes.values():
            if process.task is not None and process.task.done() and not process.task.cancelled():
                error = process.task.exception()
                if error is not None:
                    raise error
        for task in self._background:
            if task.done() and (error := task.exception()):
                raise error

    # -- those who take part ------------------------------------------------------------------------------------------

    def _arrive(self, visit: Visit) -> Process | None:
        if not self.calm and sum(p.alive and not p.finished for p in self.processes.values()) >= MAX_AT_ONCE:
            return None
        name = f"p{len(self.processes) + 1}"
        process = Process(name, visit, self._owner_of(visit.arrival), self.spec_version, self._positions())
        process.handed = dict(process.positions)
        process.engine = SimulatedEngine(self.world, process)
        self.processes[name] = process
        self.note(name, f"arrives ({visit.arrival}) as {process.owner.key}")
        process.task = asyncio.create_task(self._live(process))
        if visit.dies_at is not None:
            asyncio.get_running_loop().call_at(visit.dies_at, self.kill, process)
        return process

    def _owner_of(self, arrival: Arrival) -> Owner:
        newest = self.newest
        later = replace(newest, key=f"k{int(newest.key[1:]) + 1:02d}", try_number=newest.try_number + 1)
        match arrival:
            case Arrival.ZOMBIE:
                return self.first
            case Arrival.AGAIN:
                return newest
            case Arrival.CLEAR:
                later = replace(later, max_tries=newest.max_tries + 1, clear_number=newest.clear_number + 1)
            case Arrival.CHANGED:
                self.spec_version += 1
        self.newest = later
        return later

    def _positions(self) -> dict[str, str]:
        """What an earlier process has given the user of the log is known to the next, or it begins anew."""
        if self.processes and self.rng.random() < 0.7:
            return dict(list(self.processes.values())[-1].positions)
        return {}

    def kill(self, process: Process) -> None:
        if process.alive and not process.finished and not self.calm:
            self.note(process.name, "dies")
            process.die()

    async def _live(self, process: Process) -> None:
        assert process.engine is not None
        try:
            async with process.engine as engine:
                await self._supervise(process, engine)
            process.finished = True
        except asyncio.CancelledError:
            if process.alive:
                raise

    async def _supervise(self, process: Process, engine: FakeEngine) -> None:
        claimed = await self._claim(process, engine)
        if claimed is None:
            return
        process.generation = claimed.generation
        supervisor = Supervisor(
            engine,
            JOB,
            process.owner,
            claimed.generation,
            sink=lambda line: self._told(process, line),
            say=lambda text: self._says(process, text),
            positions=process.positions,
            hold_removal=process.visit.hold_removal,
            clock=self.clock,
        )
        hands_over = process.visit.hands_over and not self.calm
        try:
            record = await supervisor.run(lambda record: hands_over and record.state is JobState.JOB_STATE_RUNNING)
        except Fenced as fenced:
            self.note(process.name, str(fenced))
            self.witness.stood_back(process, fenced)
            return
        if not record.state.terminal:
            self.note(process.name, "hands over")
            asyncio.get_running_loop().call_later(self.rng.random() * 2, self._take_on, process)
            return
        self.note(process.name, f"is done: {record.state.name}")
        self.witness.reported(process, record)

    def _take_on(self, before: Process) -> None:
        if not self.calm:
            self._arrive(Visit(self.clock(), Arrival.AGAIN))

    async def _claim(self, process: Process, engine: FakeEngine) -> JobRecord | None:
        request, digest = self.requests[process.version]
        while True:
            try:
                verdict, record = await claim_job(engine, JOB, process.owner, request, digest, clock=self.clock)
            except ClaimRefused as refused:
                self.note(process.name, f"claims: {refused.verdict}")
                return None
            except EngineError:
                await asyncio.sleep(0.2)
            else:
                self.note(process.name, f"claims: {verdict}")
                return record

    async def _cancel(self) -> None:
        await cancel_job(self._user, JOB, Canceller.USER, "a user cancelled it", clock=self.clock)

    def _vanish(self) -> None:
        replicas = sorted(replica.ref for replica in self.world.replicas())
        if replicas:
            self.world.vanish(self.rng.choice(replicas))

    def _lose(self) -> None:
        replicas = sorted(replica.ref for replica in self.world.replicas() if replica.phase is Phase.RUNNING)
        if replicas:
            self.world.lose(self.rng.choice(replicas))

    def _told(self, process: Process, line: LogLine) -> None:
        if process.alive:
            self.witness.told(process, line)

    def _says(self, process: Process, text: str) -> None:
        if process.alive:
            self.note(process.name, text)
            self.witness.said(process, text)

    def note(self, who: str, text: str) -> None:
        self.trace.append((self.clock(), who, text))

    def plan(self) -> JobPlan:
        return make_plan(self.requests[0][0], self._user.capabilities, job_id=JOB, generation=1, prepared=Prepared())


class Hung(SystemExit):
    """A history does not come to its end. Asyncio lets nothing through from within a task but a wish to exit."""


@contextmanager
def _within(cpu_seconds: float) -> Iterator[None]:
    """:raises Hung: it takes longer."""

    def ring(*_: object) -> None:
        raise Hung(f"no end after {cpu_seconds:g} s of CPU time: something spins without time going on")

    before = signal.signal(signal.SIGVTALRM, ring)
    # It rings again: the loop cancels every task on its way out, and the one that spins may go on spinning.
    signal.setitimer(signal.ITIMER_VIRTUAL, cpu_seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def play(seed: int, *, cpu_seconds: float = MAX_CPU) -> tuple[Simulation, BaseException | None]:
    """Play one seed's scenario; gives it with what broke, if anything did."""
    simulation = Simulation(scenario_of(seed))
    try:
        with _within(cpu_seconds):
            simulation.run()
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return simulation, error
    return simulation, None
