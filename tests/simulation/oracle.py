"""Which ends a job may have, told from what truly happened in its world.

It is written from Vertex AI's documentation, knows nothing of the rules, and never looks at how they came to their end: for
each generation that has ended it gives every end that an honest supervisor could have reported, however late it looked.

An engine shows the present, not the past: whoever sees an end sees every earlier one too, so the earliest end decides. Only
what somebody removed before anybody looked can be missed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from airflow_customjob.backends.base import Phase, Reason, ReplicaRef
from airflow_customjob.backends.fake import Happening
from airflow_customjob.spec.job_state import JobState
from airflow_customjob.supervisor.record import JobRecord, decode
from tests.simulation.scenario import Scenario
from tests.simulation.witness import FINAL, Broken

PRIMARY = "workerpool0-0"
RUN_AGAIN = {6, 11, 128 + 6, 128 + 11}


@dataclass(frozen=True)
class End:
    """An end of a job, as far as it can be foretold.

    :param code: of google.rpc.Status; 0: no error.
    :param replica: whose end it was.
    :param sentence: what the error begins with.
    """

    state: JobState
    code: int
    replica: str = ""
    sentence: str = ""


@dataclass(frozen=True)
class Life:
    """One incarnation of a replica, from the world's history."""

    ref: ReplicaRef
    created_at: float
    started_at: float | None = None
    ended_at: float | None = None
    exit_code: int | None = None
    reason: Reason | None = None
    lost: bool = False
    ended_by: str = ""
    removed_at: float | None = None
    removed_by: str = ""

    @property
    def decides(self) -> bool:
        """It ended by itself, and that matters to the job."""
        by_itself = self.ended_at is not None and not self.lost and not self.ended_by
        return by_itself and (self.exit_code != 0 or self.ref.replica == PRIMARY)

    @property
    def runs_job_again(self) -> bool:
        return self.exit_code in RUN_AGAIN and self.reason is Reason.ERROR

    def sentence(self) -> str:
        name, code = self.ref.replica, self.exit_code
        if self.reason is Reason.OOM_KILLED:
            return f"The replica {name} ran out of memory and exited with a non-zero status of {code}."
        return f"The replica {name} exited with a non-zero status of {code}. Termination reason: {self.reason}."


class Oracle:
    """Judges a finished history.

    :param reports: what supervisors said in the end, each with its name.
    """

    def __init__(
        self, scenario: Scenario, history: Sequence[Happening], reports: Sequence[tuple[str, JobRecord]]
    ) -> None:
        self._scenario = scenario
        self._history = history
        self._reports = reports
        self._records = [(h.at, decode(h.record.data)) for h in history if h.record is not None]

    def check(self) -> None:
        """:raises Broken: an end is not admissible."""
        if self._scenario.prunes:
            return
        for generation in sorted({record.generation for _, record in self._records}):
            self._check_generation(generation)

    def _check_generation(self, generation: int) -> None:
        written = [(at, record) for at, record in self._records if record.generation == generation]
        ends = [(at, record) for at, record in written if record.state in FINAL]
        last = written[-1][1]
        self._queued = {record.attempt: record.queued for _, record in written}
        lives = self._lives(generation)
        for life in lives:
            if life.ref.attempt or life.ref.restart:
                self._check_justified(life, lives, last)
        if not ends:
            return
        at, record = ends[0]
        for name, reported in self._reports:
            if reported.generation == generation and (reported.state, reported.error) != (record.state, record.error):
                raise Broken(f"{name} reports {reported.state.name}, but the first end written is {record.state.name}")
        admissible = list(
            self._ends(record, at, written, [life for life in lives if life.ref.attempt == record.attempt])
        )
        if not any(self._agrees(record, end) for end in admissible):
            told = "\n".join(f"  {end}" for end in admissible)
            raise Broken(
                f"generation {generation} ended {record.state.name} with {record.error}; the oracle admits only\n{told}"
            )
        self._check_times(record, at, lives)

    # -- ends ---------------------------------------------------------------------------------------------------------

    def _ends(
        self, record: JobRecord, at: float, written: Sequence[tuple[float, JobRecord]], lives: Sequence[Life]
    ) -> Iterator[End]:
        scenario = self._scenario
        if any(r.state is JobState.JOB_STATE_CANCELLING for _, r in written):
            yield End(JobState.JOB_STATE_CANCELLED, 1, sentence="a user cancelled it")
            return
        deciders = self._deciders(lives, at)
        for life in deciders:
            if life.exit_code == 0:
                yield End(JobState.JOB_STATE_SUCCEEDED, 0)
            elif not (life.runs_job_again and self._may_restart_job(record.attempt)):
                yield End(JobState.JOB_STATE_FAILED, 3, life.ref.replica, life.sentence())
        certain = next((life.ended_at for life in deciders if life.removed_at is None or life.removed_at >= at), at)
        for life in lives:
            if (gone := self._lost_at(life)) is not None and gone <= min(certain or at, at) and self._is_fatal(life):
                sentence = "Internal error occurred for the current attempt"
                yield End(JobState.JOB_STATE_FAILED, 13, life.ref.replica, sentence)
        if record.start_time is not None and at >= record.start_time + scenario.timeout:
            yield End(
                JobState[f"JOB_STATE_{scenario.options.timeout_state}"], 1, sentence="The job ran for its whole timeout"
            )
        if any(h.what == "refused" and h.at <= at for h in self._history):
            yield End(
                JobState.JOB_STATE_FAILED, 3, sentence="image" if not scenario.has_image else "no such thing here"
            )

    def _deciders(self, lives: Sequence[Life], at: float) -> list[Life]:
        """The earliest end, after those earlier ones that somebody may have removed unseen."""
        ends = sorted(
            (life for life in lives if life.decides and (life.ended_at or 0.0) <= at),
            key=lambda life: (life.ended_at, life.exit_code != 0),
        )
        found: list[Life] = []
        for life in ends:
            same_instant = found and (found[-1].ended_at, found[-1].exit_code != 0) == (
                life.ended_at,
                life.exit_code != 0,
            )
            if found and not same_instant and self._was_to_be_seen(found[-1], at):
                break
            found.append(life)
        return found

    def _was_to_be_seen(self, life: Life, at: float) -> bool:
        return life.removed_at is None or life.removed_at >= at

    def _lost_at(self, life: Life) -> float | None:
        """When the engine began to show that the replica is lost."""
        if life.lost:
            return life.ended_at
        return life.removed_at if life.started_at is not None or life.removed_by == "somebody else" else None

    def _is_fatal(self, life: Life) -> bool:
        scenario = self._scenario
        if scenario.disable_retries:
            return True
        return (scenario.restart_job_on_worker_restart or life.ref.restart >= 5) and not self._may_restart_job(
            life.ref.attempt
        )

    def _may_restart_job(self, attempt: int) -> bool:
        return not self._scenario.disable_retries and attempt - self._queued[attempt] < 3

    @staticmethod
    def _agrees(record: JobRecord, end: End) -> bool:
        code = record.error.code if record.error else 0
        message = record.error.message if record.error else ""
        first = record.failed[0].ref.replica if record.failed and end.replica else ""
        return (record.state, code, first) == (end.state, end.code, end.replica) and message.startswith(end.sentence)

    # -- restarts -----------------------------------------------------------------------------------------------------

    def _check_justified(self, life: Life, lives: Sequence[Life], last: JobRecord) -> None:
        """A replica starts again only because it was lost, and a job because a replica crashed or too many were lost."""
        ref = life.ref
        if ref.restart:
            before = [
                o
                for o in lives
                if (self._job_restart(o.ref), o.ref.replica, o.ref.restart)
                == (self._job_restart(ref), ref.replica, ref.restart - 1)
            ]
            if not any(lost is not None and lost <= life.created_at for lost in map(self._lost_at, before)):
                raise Broken(f"{ref.name} exists although the incarnation before it was not lost")
            return
        before = [o for o in lives if o.ref.attempt == ref.attempt - 1]
        if self._queued[ref.attempt] > self._queued[ref.attempt - 1]:
            if any(o.started_at is not None for o in before):
                raise Broken(f"{ref.name} exists as if the attempt before it had only waited")
            return
        crashed = any(o.runs_job_again for o in self._deciders(before, life.created_at))
        lost = [o for o in before if (gone := self._lost_at(o)) is not None and gone <= life.created_at]
        spent = any(o.ref.restart >= 5 or self._scenario.restart_job_on_worker_restart for o in lost)
        if not crashed and not spent:
            raise Broken(f"{ref.name} exists although nothing made the whole job run again")

    def _job_restart(self, ref: ReplicaRef) -> int:
        """Attempts that only waited for room belong together; what was lost in one of them counts in the next."""
        return ref.attempt - self._queued[ref.attempt]

    # -- times --------------------------------------------------------------------------------------------------------

    def _check_times(self, record: JobRecord, at: float, lives: Sequence[Life]) -> None:
        if record.end_time is None or abs(record.end_time - at) > 60:
            raise Broken(f"the end of {at:g} is recorded as {record.end_time}")
        if record.start_time is not None and record.start_time > record.end_time:
            raise Broken("the job ended before it began")
        first = min((life.started_at for life in lives if life.started_at is not None), default=None)
        if record.start_time is not None and (first is None or record.start_time < first):
            raise Broken("the job was RUNNING before a replica was")
        if record.state is JobState.JOB_STATE_SUCCEEDED and record.start_time is None:
            raise Broken("a job that succeeded has no start time")

    # -- history ------------------------------------------------------------------------------------------------------

    def _lives(self, generation: int) -> list[Life]:
        """Every object of the generation; a name that was removed and created again is two of them."""
        open_: dict[ReplicaRef, dict[str, object]] = {}
        done: list[dict[str, object]] = []
        for h in self._history:
            if h.ref is None or h.ref.generation != generation:
                continue
            if h.what == "created":
                open_[h.ref] = {"ref": h.ref, "created_at": h.at}
                continue
            life = open_[h.ref]
            if h.what == "started":
                life["started_at"] = h.at
            elif h.what == "ended":
                assert h.status is not None
                lost = h.status.phase is Phase.LOST
                life |= {
                    "ended_at": h.at,
                    "exit_code": h.status.exit_code,
                    "reason": h.status.reason,
                    "lost": lost,
                    "ended_by": h.by,
                }
            elif h.what == "removed":
                done.append(open_.pop(h.ref) | {"removed_at": h.at, "removed_by": h.by})
        return [Life(**fields) for fields in (*done, *open_.values())]  # type: ignore[arg-type]
