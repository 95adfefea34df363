"""Watches a simulated history while it happens: what may never be so, whatever goes wrong."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from airflow_customjob.backends.base import LogLine, Phase, ReplicaRef
from airflow_customjob.backends.fake import Call, FakeReplica, Happening
from airflow_customjob.spec.job_state import JobState
from airflow_customjob.supervisor.record import JobRecord, decode
from airflow_customjob.supervisor.supervise import Fenced

if TYPE_CHECKING:
    from tests.simulation.run import Process, Simulation

AT_WORK = (Phase.WAITING, Phase.RUNNING)
CHANGES = frozenset({"create", "start", "stop", "prepare", "write_record", "delete_record"})
"""Calls that a supervisor which knows that it is fenced does not make; it may take away what it created itself."""
SOMEBODY = "somebody else"
MAX_JOB_RESTARTS, MAX_REPLICA_RESTARTS = 3, 5

Q, P, R, S, F, CG, C, E = (
    JobState.JOB_STATE_QUEUED,
    JobState.JOB_STATE_PENDING,
    JobState.JOB_STATE_RUNNING,
    JobState.JOB_STATE_SUCCEEDED,
    JobState.JOB_STATE_FAILED,
    JobState.JOB_STATE_CANCELLING,
    JobState.JOB_STATE_CANCELLED,
    JobState.JOB_STATE_EXPIRED,
)
FINAL = frozenset({S, F, C, E})
MAY_FOLLOW = {
    Q: {Q, P, R, S, F, C, E, CG},
    P: {Q, P, R, S, F, C, E, CG},
    R: {R, S, F, C, E, CG},
    CG: {CG, C},
    S: {S},
    F: {F},
    C: {C},
    E: {E},
}
"""What Vertex AI's states mean, not how the rules walk through them: never back from running, never on from an end."""


class Broken(AssertionError):
    """An invariant does not hold."""


class Witness:
    """Told of everything that happens in the world, and of everything that processes are told."""

    def __init__(self, simulation: Simulation) -> None:
        self._sim = simulation
        self._scenario = simulation.scenario
        self.broken: Broken | None = None
        self.reports: list[tuple[str, JobRecord]] = []
        self.excused = 0
        self._record: JobRecord | None = None
        self._version = 0
        self._at_work: dict[ReplicaRef, float] = {}
        self._created: dict[tuple[int, int], set[str]] = defaultdict(set)
        self._started: dict[tuple[int, int], set[str]] = defaultdict(set)
        self._ever_started: set[ReplicaRef] = set()
        self._objects: dict[ReplicaRef, FakeReplica] = {}
        self._lines: dict[tuple[str, str], int] = {}
        self._expected = set(simulation.scenario.replicas)

    def fail(self, what: str) -> None:
        """Remember the first thing that broke; the play ends at once."""
        self._sim.note("WITNESS", what)
        if self.broken is None:
            self.broken = Broken(what)

    def demand(self, holds: bool, what: str) -> None:
        if not holds:
            self.fail(what)

    # -- the engine ---------------------------------------------------------------------------------------------------

    def happens(self, what: Happening) -> None:
        self._trace(what)
        match what.what:
            case "created":
                self._creates(what)
            case "told to start":
                self._is_told_to_start(what)
            case "ended" | "removed":
                self._ends(what)
            case "record written":
                assert what.record is not None
                self._is_written(what, decode(what.record.data), what.record.version)
            case "record deleted":
                self._record, self._version = None, 0

    def _creates(self, what: Happening) -> None:
        ref = what.ref
        assert ref is not None
        self._created[ref.generation, ref.attempt].add(ref.replica)
        replica = self._sim.world.replica(ref)
        assert replica is not None
        self._objects[ref] = replica

    def _is_told_to_start(self, what: Happening) -> None:
        ref = what.ref
        assert ref is not None
        gang = (ref.generation, ref.attempt)
        for other in self._at_work:
            self.demand(
                (other.generation, other.attempt) == gang,
                f"{ref.name} starts while {other.name} of another gang is at work",
            )
            self.demand(other.replica != ref.replica, f"{ref.name} starts while {other.name} is at work")
        if self._scenario.options.gang:
            missing = self._expected - self._created[gang]
            self.demand(not missing, f"{ref.name} starts although {sorted(missing)} of its gang never existed")
        self._at_work[ref] = what.at
        self._ever_started.add(ref)
        self._started[gang].add(ref.replica)

    def _ends(self, what: Happening) -> None:
        ref = what.ref
        assert ref is not None
        was_at_work = self._at_work.pop(ref, None) is not None
        if what.by in self._sim.processes:
            process = self._sim.processes[what.by]
            if was_at_work:
                self._is_ended_by(process, ref)
            if what.what == "removed":
                self._is_removed_by(process, ref, what)
        elif what.by and what.by != SOMEBODY and was_at_work:
            self.excused += self._counts(ref)

    def _is_ended_by(self, process: Process, ref: ReplicaRef) -> None:
        """Nobody ends a replica that the record wants to run, unless it has not read the record since that was so."""
        if not self._counts(ref):
            return
        if process.knows == self._version:
            self.fail(f"{process.name} ends {ref.name}, which the record that it has read wants to run")
        else:
            self.excused += 1

    def _counts(self, ref: ReplicaRef) -> bool:
        record = self._record
        if record is None or record.state in FINAL or record.state is CG:
            return False
        return record.ref(ref.replica) == ref and record.unlaunched is not None and ref.replica not in record.unlaunched

    def _is_removed_by(self, process: Process, ref: ReplicaRef, what: Happening) -> None:
        """A log is read to its end before it is removed by who follows it."""
        if ref.name not in process.saw_started or ref.generation != process.generation or process.fenced:
            return
        replica = self._objects[ref]
        given = self._lines.get((process.name, ref.name), int(process.handed.get(ref.name, 0)))
        if given < len(replica.lines) and ref.replica not in process.gave_up:
            self.fail(f"{process.name} removes {ref.name} after {given} of its {len(replica.lines)} lines were given")

    def _is_written(self, what: Happening, record: JobRecord, version: int) -> None:
        before, self._record, self._version = self._record, record, version
        process = self._sim.processes.get(what.by)
        if process is not None:
            process.knows = version
        if self._scenario.prunes:
            return
        again = record.attempt - record.queued
        self.demand(again <= MAX_JOB_RESTARTS, f"the whole job is restarted {again} times")
        most = max(record.restarts.values(), default=0)
        self.demand(most <= MAX_REPLICA_RESTARTS, f"a replica is restarted {most} times")
        if self._scenario.disable_retries:
            self.demand(not again and not most, "a job without retries is restarted")
        if record.state is R and (before is None or before.state is not R):
            missing = self._expected - self._started[record.generation, record.attempt]
            self.demand(not missing, f"the job is RUNNING although {sorted(missing)} never started")
        if before is None:
            return
        self.demand(
            record.owner.key >= before.owner.key, f"owner {record.owner.key} writes over owner {before.owner.key}"
        )
        self.demand(record.generation >= before.generation, "the generation goes back")
        self.demand(record.update_time >= before.update_time, "the update time goes back")
        if record.generation > before.generation:
            return
        if record.owner != before.owner:
            self.demand(before.state in (Q, P, R, S), f"a later owner adopts a job that is {before.state.name}")
            if process is not None:
                asked = self._sim.requests[process.version][1]
                self.demand(record.digest == asked, f"{process.name} adopts a job that it did not ask for")
        self.demand(record.attempt >= before.attempt, "the attempt goes back")
        self.demand(record.state in MAY_FOLLOW[before.state], f"{before.state.name} is followed by {record.state.name}")
        if before.start_time is not None:
            self.demand(record.start_time == before.start_time, "the start time changes")
        if before.state in FINAL:
            same = (record.error, record.end_time, record.failed) == (before.error, before.end_time, before.failed)
            self.demand(same, "an end changes after it was written")

    # -- the processes ------------------------------------------------------------------------------------------------

    def called(self, process: Process, call: Call) -> None:
        if process.fenced and call.method in CHANGES:
            self.fail(f"{process.name} knows that it is fenced and calls {call.method}")
        if (
            process.fenced
            and call.method == "remove"
            and call.ref is not None
            and call.ref.generation != process.generation
        ):
            self.fail(f"{process.name} knows that it is fenced and removes {call.ref.name}")

    def told(self, process: Process, line: LogLine) -> None:
        """Every line once, in order, from where the process before left off."""
        key = (process.name, line.ref.name)
        if line.notice:
            self.demand(
                bool(self._scenario.prunes), f"{process.name} is told of a gap that there is none in: {line.text}"
            )
            self._lines[key] = int(line.position)
            return
        before = self._lines.get(key, int(process.handed.get(line.ref.name, 0)))
        number = int(line.position)
        self.demand(
            number == before + 1, f"{process.name} is given line {number} of {line.ref.name} after line {before}"
        )
        self._lines[key] = number
        replica = self._objects[line.ref]
        self.demand(replica.lines[number - 1][1] == line.text, f"line {number} of {line.ref.name} is told wrongly")

    def said(self, process: Process, text: str) -> None:
        if text.startswith("the end of the log of "):
            process.gave_up.add(text.split()[6])

    def stood_back(self, process: Process, fenced: Fenced) -> None:
        if self._scenario.prunes:
            return
        assert self._record is not None
        mine = self._record.owner.key == process.owner.key and self._record.generation == process.generation
        self.demand(not mine, f"{process.name} stands back although it drives the job: {fenced}")

    def reported(self, process: Process, record: JobRecord) -> None:
        """A process has brought the job to its end: what it can see is cleared away."""
        self.reports.append((process.name, record))
        self.demand(record.state in FINAL, f"{process.name} reports {record.state.name} as the end")
        left = [
            replica.ref.name for replica in self._sim.world.replicas() if self._since(replica.ref) < process.looked_at
        ]
        self.demand(not left, f"{process.name} is done and leaves {left}")

    def _since(self, ref: ReplicaRef) -> float:
        return next(h.at for h in reversed(self._sim.world.history) if h.what == "created" and h.ref == ref)

    # -- afterwards ---------------------------------------------------------------------------------------------------

    def check_the_end(self) -> None:
        left = [replica.ref.name for replica in self._sim.world.replicas()]
        self.demand(not left, f"in the end there is still {left}")
        self.demand(self._record is not None and self._record.state in FINAL, "the job has not ended")
        if self._scenario.options.gang and self._scenario.refused:
            self.demand(
                not self._ever_started, f"a gang that cannot be whole ran: {[ref.name for ref in self._ever_started]}"
            )
        if not self._scenario.has_image:
            self.demand(not self._ever_started, "a job without an image ran")
        if self.broken:
            raise self.broken

    def _trace(self, what: Happening) -> None:
        text = f"{what.what} {what.ref.name.removeprefix('customjob-') if what.ref else ''}"
        if what.what == "ended" and what.status is not None:
            text += f": {what.status.phase}, {what.status.exit_code}, {what.status.reason}"
        if what.record is not None:
            record = decode(what.record.data)
            text = (
                f"record {what.record.version}: owner {record.owner.key} generation {record.generation} attempt {record.attempt}"
                f" {record.state.name} unlaunched={record.unlaunched} restarts={record.restarts}"
            )
        self._sim.trace.append((what.at, f"  {what.by or 'world'}", text))
