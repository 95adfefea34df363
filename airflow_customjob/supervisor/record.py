"""The record of a job: all the state that must outlive every process, kept by the engine.

It holds the job's state and exceptional replicas only, never all of them. :func:`encode` and :func:`decode` are its form
on the engine; a record written by a newer version of this package is refused by name, never guessed at.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from airflow_customjob.backends.base import ReplicaRef, ReplicaStatus
from airflow_customjob.plan.types import JobId, JobPlan, JobRequest, Prepared
from airflow_customjob.spec.job_state import JobState

FORMAT = 1


@dataclass(frozen=True)
class Owner:
    """Who may drive the job.

    :param key: time-ordered unique text (an Airflow task instance's UUIDv7): the later key is the later owner.
    :param try_number: Airflow's try; counts retries.
    :param max_tries: Airflow's; raised by a clear.
    :param clear_number: the DAG run's; raised by a clear.
    :param where: installation, dag_id, run_id, task_id, map_index; for people and for the sweep.
    """

    key: str
    try_number: int = 0
    max_tries: int = 0
    clear_number: int = 0
    where: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class JobError:
    """google.rpc.Status: why a job failed or was cancelled.

    :param code: google.rpc code.
    :param message: Vertex AI's sentence, the reason, the last lines of the first failing replica.
    """

    code: int
    message: str


@dataclass(frozen=True)
class JobRecord:
    """Everything needed to go on with a job, or to report its end.

    :param generation: counts claims that started the job anew, from 1.
    :param attempt: counts how often all replicas of this generation were made anew, from 0.
    :param queued: how many of those attempts were given back unstarted because the engine had no room.
    :param engine: identity of the engine that keeps this record.
    :param digest: of the request.
    :param prepared: None until the engine has prepared this generation.
    :param unlaunched: replicas whose present incarnation nobody may have started yet; None means all of them.
    :param restarts: replica name to the number of its restarts since the whole job started last, where that is not 0.
    :param failed: the replicas that decided a failure or the last restart, first one first.
    :param message: why the job waits, or was restarted, for people.
    :param create_time: seconds since the epoch; so are the other times.
    """

    job_id: JobId
    generation: int
    owner: Owner
    engine: str
    request: JobRequest
    digest: str
    create_time: float
    update_time: float
    attempt: int = 0
    queued: int = 0
    state: JobState = JobState.JOB_STATE_QUEUED
    prepared: Prepared | None = None
    unlaunched: tuple[str, ...] | None = None
    restarts: dict[str, int] = field(default_factory=dict)
    failed: tuple[ReplicaStatus, ...] = ()
    message: str = ""
    start_time: float | None = None
    end_time: float | None = None
    error: JobError | None = None
    format: int = FORMAT

    @property
    def job_restarts(self) -> int:
        """How often the whole job was restarted in this generation."""
        return self.attempt - self.queued

    @property
    def settled(self) -> bool:
        """It has ended or is being cancelled: nothing of it is started any more, and no plan is needed for the rest."""
        return self.state.terminal or self.state is JobState.JOB_STATE_CANCELLING

    def ref(self, replica: str) -> ReplicaRef:
        """The present incarnation of a replica."""
        return ReplicaRef(self.job_id, self.generation, self.attempt, replica, self.restarts.get(replica, 0))

    def refs(self, plan: JobPlan) -> tuple[ReplicaRef, ...]:
        """The present incarnation of every replica, in rank order."""
        return tuple(self.ref(replica.name) for replica in plan.replicas)


def launched(record: JobRecord) -> bool:
    """Whether all that its replicas need is with the engine: they were created, and told to start."""
    return record.unlaunched is not None


class RecordError(ValueError):
    """A record on the engine cannot be read by this version."""


def new_record(
    job_id: JobId, owner: Owner, engine: str, request: JobRequest, digest: str, now: float, *, generation: int = 1
) -> JobRecord:
    return JobRecord(
        job_id=job_id,
        generation=generation,
        owner=owner,
        engine=engine,
        request=request,
        digest=digest,
        create_time=now,
        update_time=now,
    )


def touched(record: JobRecord, now: float, **changes: Any) -> JobRecord:
    """The record with these changes and a new update time, which never goes back: hosts' clocks differ."""
    return replace(record, update_time=max(now, record.update_time), **changes)


_encoder = msgspec.json.Encoder(order="deterministic")
_decoder = msgspec.json.Decoder(JobRecord)


def encode(record: JobRecord) -> str:
    return _encoder.encode(record).decode()


def decode(data: str) -> JobRecord:
    """:raises RecordError: not a record, or one of a newer format."""
    try:
        record = _decoder.decode(data)
    except msgspec.DecodeError as error:
        raise RecordError(
            f"the job's record cannot be read: {error}; was it written by another version of airflow-customjob?"
        ) from error
    if record.format > FORMAT:
        raise RecordError(
            f"the job's record has format {record.format}, this version reads up to {FORMAT}: upgrade airflow-customjob here"
        )
    return record
