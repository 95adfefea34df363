"""Supervisors over the fake engine in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from airflow_customjob.backends.base import LogLine, ReplicaRef
from airflow_customjob.backends.fake import FakeEngine, FakeWorld, Happening, run_in_virtual_time
from airflow_customjob.plan.job_plan import request_digest
from airflow_customjob.plan.types import JobRequest
from airflow_customjob.supervisor.claims import claim_job
from airflow_customjob.supervisor.record import JobRecord, Owner, decode
from airflow_customjob.supervisor.supervise import Supervisor
from tests.supervisor.jobs import JOB, OWNER, request

T = TypeVar("T")


@dataclass
class Told:
    """What a user was told of a job, by all who supervised it one after another."""

    lines: list[LogLine] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    positions: dict[str, str] = field(default_factory=dict)

    def texts(self, replica: str = "workerpool0-0") -> list[str]:
        return [line.text for line in self.lines if line.ref.replica == replica]


async def supervisor(
    world: FakeWorld,
    engine: FakeEngine,
    told: Told,
    asked: JobRequest | None = None,
    *,
    owner: Owner = OWNER,
    **options: object,
) -> Supervisor:
    """One that has claimed the job."""
    asked = asked or request()
    _, record = await claim_job(engine, JOB, owner, asked, request_digest(asked), clock=world.now)
    given = {"sink": told.lines.append, "say": told.words.append, "positions": told.positions, "clock": world.now}
    return Supervisor(engine, JOB, owner, record.generation, **given | options)  # type: ignore[arg-type]


def run_job(world: FakeWorld, asked: JobRequest | None = None, **options: object) -> tuple[JobRecord, Told]:
    """Run the job to its end in a world where nobody else is."""
    told = Told()

    async def main() -> JobRecord:
        async with world.connect() as engine:
            return await (await supervisor(world, engine, told, asked, **options)).run()

    return run_in_virtual_time(main()), told


def beside(
    world: FakeWorld, *others: Callable[[FakeEngine], Awaitable[object]], asked: JobRequest | None = None
) -> JobRecord:
    """Run the job to its end while others do something of their own."""

    async def main() -> JobRecord:
        async with world.connect() as engine, world.connect("others") as theirs:
            job = await supervisor(world, engine, Told(), asked)
            record, *_ = await asyncio.gather(job.run(), *(other(theirs) for other in others))
            return record

    return run_in_virtual_time(main())


def happenings(world: FakeWorld, what: str) -> list[Happening]:
    return [it for it in world.history if it.what == what]


def refs(world: FakeWorld, what: str) -> list[ReplicaRef]:
    return [it.ref for it in happenings(world, what) if it.ref]


def records(world: FakeWorld) -> list[JobRecord]:
    return [decode(it.record.data) for it in happenings(world, "record written") if it.record]


def states(world: FakeWorld) -> Sequence[str]:
    """Each state that was recorded, once in a row."""
    short = [record.state.short for record in records(world)]
    return [state for number, state in enumerate(short) if number == 0 or short[number - 1] != state]


def written_at(world: FakeWorld, state: str) -> float:
    """When this state was recorded first; seconds since the epoch."""
    return next(
        it.at for it in happenings(world, "record written") if it.record and decode(it.record.data).state.short == state
    )
