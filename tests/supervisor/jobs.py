"""Jobs for the tests of the rules: a plan with its record, and what an engine shows of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from airflow_customjob.backends.base import Observation, Phase, Reason, ReplicaRef, ReplicaStatus
from airflow_customjob.plan.capabilities import capabilities_of
from airflow_customjob.plan.job_plan import make_plan, request_digest
from airflow_customjob.plan.types import JobId, JobOptions, JobPlan, JobRequest, Prepared
from airflow_customjob.spec.job_state import JobState
from airflow_customjob.supervisor.record import JobRecord, Owner, new_record
from airflow_customjob.supervisor.rules import Decision, decide

JOB = JobId("123")
T0 = 1_000.0
"""When the job of these tests was created and, where it runs, was RUNNING first; seconds since the epoch."""
OWNER = Owner("k1", try_number=1)

Q, P, R, S, F, CG, C, E = (
    JobState[f"JOB_STATE_{name}"]
    for name in ("QUEUED", "PENDING", "RUNNING", "SUCCEEDED", "FAILED", "CANCELLING", "CANCELLED", "EXPIRED")
)


@dataclass(frozen=True)
class Shown:
    """What an engine shows of one replica."""

    phase: Phase
    exit_code: int | None = None
    reason: Reason | None = None
    message: str = ""
    finished_at: float | None = None
    last_lines: tuple[str, ...] = ()
    queued: bool = False


CREATED, RUNNING = Shown(Phase.CREATED), Shown(Phase.RUNNING)


def exited(code: int = 0, at: float | None = T0 + 5, **more: Any) -> Shown:
    reason = Reason.ERROR if code else Reason.COMPLETED
    return Shown(Phase.EXITED, code, **{"reason": reason, "finished_at": at, **more})


def lost(message: str = "its host is gone") -> Shown:
    return Shown(Phase.LOST, None, Reason.LOST, message)


def waits(message: str = "no such node") -> Shown:
    return Shown(Phase.WAITING, message=message)


def queues(message: str = "not admitted yet") -> Shown:
    return Shown(Phase.WAITING, message=message, queued=True)


def request(pools: Sequence[int] = (1, 2), options: JobOptions | None = None, **scheduling: Any) -> JobRequest:
    specs = [
        {"replicaCount": str(count), "containerSpec": {"imageUri": "fake/image:1"}} if count else {} for count in pools
    ]
    job = {"displayName": "a job", "jobSpec": {"workerPoolSpecs": specs, "scheduling": scheduling}}
    return JobRequest(job, options or JobOptions())


@dataclass(frozen=True)
class Job:
    plan: JobPlan
    record: JobRecord

    @property
    def names(self) -> list[str]:
        return [replica.name for replica in self.plan.replicas]

    def but(self, **changes: Any) -> Job:
        """The same with another record."""
        return replace(self, record=replace(self.record, **changes))

    def statuses(self, others: Shown | None = RUNNING, **shown: Shown | None) -> tuple[ReplicaStatus, ...]:
        """Present incarnations: ``p`` is the primary replica, ``w0``, ``w1``, ... are pool 1's; None does not exist."""
        given = {"workerpool0-0" if key == "p" else f"workerpool1-{key[1:]}": value for key, value in shown.items()}
        assert set(given) <= set(self.names)
        every = ((name, given.get(name, others)) for name in self.names)
        return tuple(status(self.record.ref(name), it) for name, it in every if it is not None)

    def stale(self, it: Shown, *, replica: str = "workerpool0-0", **incarnation: int) -> ReplicaStatus:
        return status(replace(self.record.ref(replica), **incarnation), it)

    def decide(self, statuses: Sequence[ReplicaStatus] = (), now: float = T0 + 10, **seen: Any) -> Decision:
        return decide(self.plan, self.record, Observation(tuple(statuses), **seen), now)

    def refs(self, *names: str) -> tuple[ReplicaRef, ...]:
        return tuple(self.record.ref(name) for name in (names or self.names))


def status(ref: ReplicaRef, it: Shown) -> ReplicaStatus:
    return ReplicaStatus(
        ref,
        it.phase,
        it.exit_code,
        it.reason,
        it.message,
        started_at=None if it.phase is Phase.CREATED else T0,
        finished_at=it.finished_at,
        last_lines=it.last_lines,
        queued=it.queued,
    )


def new_job(pools: Sequence[int] = (1, 2), options: JobOptions | None = None, **scheduling: Any) -> Job:
    """A job that somebody has just claimed."""
    asked = request(pools, options, **scheduling)
    plan = make_plan(asked, capabilities_of("fake"), job_id=JOB)
    return Job(plan, new_record(JOB, OWNER, "fake:world", asked, request_digest(asked), T0))


def prepared_job(pools: Sequence[int] = (1, 2), options: JobOptions | None = None, **scheduling: Any) -> Job:
    """A job whose replicas are to be created."""
    return new_job(pools, options, **scheduling).but(prepared=Prepared(), state=P)


def launched_job(pools: Sequence[int] = (1, 2), options: JobOptions | None = None, **scheduling: Any) -> Job:
    """A job all of whose replicas were to be started; not RUNNING yet."""
    return prepared_job(pools, options, **scheduling).but(unlaunched=())


def running_job(pools: Sequence[int] = (1, 2), options: JobOptions | None = None, **scheduling: Any) -> Job:
    return launched_job(pools, options, **scheduling).but(state=R, start_time=T0)
