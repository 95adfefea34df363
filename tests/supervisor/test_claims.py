"""To own a job and to cancel it, over the fake engine: read, decide, write, and again if somebody was faster."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

import pytest

from airflow_customjob.backends.base import RecordConflict
from airflow_customjob.backends.fake import FakeEngine, FakeWorld, exits, run_in_virtual_time, runs_for_ever
from airflow_customjob.plan.job_plan import request_digest
from airflow_customjob.plan.types import JobRequest
from airflow_customjob.supervisor.claims import ClaimRefused, cancel_job, claim_job
from airflow_customjob.supervisor.ownership import Canceller, Claim, Verdict
from airflow_customjob.supervisor.record import JobRecord, Owner, decode, encode
from tests.supervisor.jobs import CG, JOB, OWNER, S, request
from tests.supervisor.world import Told, refs, supervisor

RETRY = replace(OWNER, key="k2", try_number=2)
SCRIPTS = {"workerpool0-0": exits(0, after=20.0), "workerpool1-0": runs_for_ever(), "workerpool1-1": runs_for_ever()}


async def claimed(engine: FakeEngine, owner: Owner = OWNER, asked: JobRequest | None = None) -> tuple[Claim, JobRecord]:
    asked = asked or request()
    return await claim_job(engine, JOB, owner, asked, request_digest(asked))


def play(world: FakeWorld, *scenes: Coroutine[Any, Any, Any]) -> None:
    async def main() -> None:
        for scene in scenes:
            await scene

    run_in_virtual_time(main())


def test_the_first_one_writes_the_record() -> None:
    world = FakeWorld()

    async def scene() -> None:
        async with world.connect() as engine:
            verdict, record = await claimed(engine)
            stored = world.record(JOB)
            assert stored is not None
            assert (verdict, decode(stored.data)) == (Claim.CREATE, record)
            assert await claimed(engine) == (Claim.GO_ON, record)

    play(world, scene())


def test_of_two_that_claim_at_once_both_drive_one_generation() -> None:
    world = FakeWorld()

    async def scene() -> None:
        async with world.connect() as engine:
            world.fail("write_record", RecordConflict("somebody was faster"), times=2)
            verdicts = await asyncio.gather(claimed(engine), claimed(engine))
            assert {record.generation for _, record in verdicts} == {1}

    play(world, scene())


def test_what_a_retry_finds_is_its_own_request_and_not_a_new_rendering() -> None:
    world = FakeWorld()

    async def scene() -> None:
        async with world.connect() as engine:
            _, first = await claimed(engine)
            verdict, again = await claimed(engine, OWNER, request((1,)))
            assert (verdict, again.request) == (Claim.GO_ON, first.request)
            verdict, other = await claimed(engine, RETRY, request((1,)))
            assert (verdict, other.generation, other.request) == (Claim.REPLACE, 2, request((1,)))

    play(world, scene())


@pytest.mark.parametrize(
    ("change", "verdict", "words"),
    [
        ({"engine": "another"}, Claim.REFUSE_ENGINE, "was started on the engine another, and this is fake:"),
        ({"owner": Owner("k9")}, Claim.REFUSE_LATER_OWNER, "belongs to a later try"),
    ],
)
def test_refusals_say_what_and_why(change: dict[str, Any], verdict: Claim, words: str) -> None:
    world = FakeWorld()

    async def scene() -> None:
        async with world.connect() as engine:
            _, record = await claimed(engine)
            await engine.write_record(JOB, encode(replace(record, **change)), if_version=1)
            with pytest.raises(ClaimRefused, match=words) as refused:
                await claimed(engine)
            assert refused.value.verdict is verdict

    play(world, scene())


@pytest.mark.parametrize(
    ("asked", "started"), [(request(), 3), (request((1, 2), timeout="99s"), 6)], ids=["same", "changed"]
)
def test_a_job_whose_record_was_pruned_is_adopted_by_its_replicas(asked: JobRequest, started: int) -> None:
    """``docker volume prune`` may take it; the replicas' labels say whose they are."""
    world, told = FakeWorld(scripts=SCRIPTS), Told()

    async def scene() -> None:
        async with world.connect() as engine:
            job = await supervisor(world, engine, told)
            going = asyncio.ensure_future(job.run())
            await asyncio.sleep(5)
            going.cancel()
            world.prune(JOB)
            assert (await (await supervisor(world, engine, told, asked)).run()).state is S

    play(world, scene())
    assert len(refs(world, "started")) == started


def test_cancel() -> None:
    world = FakeWorld()

    async def scene() -> None:
        async with world.connect() as engine:
            assert await cancel_job(engine, JOB, Canceller.USER, "enough") == (Verdict.LEAVE, None)
            await claimed(engine)
            world.fail("write_record", RecordConflict("somebody was faster"))
            verdict, record = await cancel_job(engine, JOB, Canceller.USER, "enough", generation=1)
            assert record is not None
            assert (verdict, record.state) == (Verdict.CANCEL, CG)
            assert record.error is not None
            assert record.error.message == "enough"
            verdict, again = await cancel_job(engine, JOB, Canceller.USER, "again")
            assert again == record
            assert (await cancel_job(engine, JOB, Canceller.USER, "x", generation=2))[0] is Verdict.LEAVE

    play(world, scene())
