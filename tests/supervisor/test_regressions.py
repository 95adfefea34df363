"""Bugs that were found, mostly by the simulation; each by its name."""

from __future__ import annotations

import asyncio

import pytest

from airflow_customjob.backends.base import EngineError, StoredRecord
from airflow_customjob.backends.fake import (
    FakeEngine,
    FakeWorld,
    Fault,
    ScriptedFaults,
    exits,
    is_lost,
    run_in_virtual_time,
    runs_for_ever,
)
from airflow_customjob.plan.types import JobId, JobOptions
from airflow_customjob.supervisor.claims import cancel_job
from airflow_customjob.supervisor.ownership import Canceller
from airflow_customjob.supervisor.record import Owner, decode
from airflow_customjob.supervisor.rules import Start
from airflow_customjob.supervisor.supervise import Fenced
from tests.supervisor.jobs import CREATED, JOB, C, F, S, lost, prepared_job, request, running_job
from tests.supervisor.world import Told, beside, happenings, refs, run_job, supervisor, written_at

WORKERS_RUN = {"workerpool1-0": runs_for_ever(), "workerpool1-1": runs_for_ever()}


def test_a_stalled_list_shows_a_newer_attempt_and_it_is_left_alone() -> None:
    """Replicas are listed after the record is read: what looked stale was the next attempt's, and was stopped.

    Seen as FAILED with exit code 143 of a replica that a second supervisor had just started (seeds 378, 401, 1703).
    """
    world = FakeWorld(scripts={"workerpool0-0": exits(0, after=30.0), **WORKERS_RUN})
    world.script("workerpool1-1", exits(139, after=3.0), runs_for_ever())
    faults = ScriptedFaults()

    class OfTheFirst(ScriptedFaults):
        def of(self, call: object) -> Fault | None:
            return faults.of(call) if call.connection == "first" else None  # type: ignore[arg-type, attr-defined]

    world.faults = OfTheFirst()

    async def main() -> None:
        async with world.connect("first") as one, world.connect("second") as other:
            first, second = await supervisor(world, one, Told()), await supervisor(world, other, Told())
            faults.add("observe", Fault(), times=2)
            faults.add("observe", Fault(before=10.0))
            going = asyncio.ensure_future(first.run())
            await asyncio.sleep(1.0)
            assert refs(world, "created") == []
            assert (await second.run()).state is S
            await going

    run_in_virtual_time(main())
    assert len(refs(world, "started")) == 6, "two attempts of three replicas, each once"


def test_a_position_beyond_the_end_of_a_log_does_not_spin() -> None:
    """A pruned record lets a name come a second time; the fake engine span without time going on (seed 295)."""
    world = FakeWorld(scripts={"workerpool0-0": exits(says=["a", "b"])})
    job, told = prepared_job(), []

    async def main() -> None:
        async with world.connect() as engine:
            await engine.create(job.plan, job.refs())
            await engine.start(job.plan, job.refs())
            async with asyncio.timeout(5):
                told.extend([line async for line in engine.logs(job.refs()[0], after="7")])

    run_in_virtual_time(main())
    assert [(line.notice, line.position) for line in told] == [(True, "0"), (False, "1"), (False, "2")]


def test_a_full_engine_is_not_asked_again_without_a_pause() -> None:
    """Giving back what was created woke the supervisor, which asked at once again."""
    world = FakeWorld(scripts={"workerpool0-0": exits(0), **WORKERS_RUN})
    creates = 0

    async def fill(engine: FakeEngine) -> None:
        world.is_full(60.0)

    class Counted(ScriptedFaults):
        def of(self, call: object) -> Fault | None:
            nonlocal creates
            creates += call.method == "create"  # type: ignore[attr-defined]
            return None

    world.faults = Counted()
    assert beside(world, fill).state is S
    assert creates <= 3 * 15, "every 5 s for a minute, one call a replica"


def test_two_supervisors_of_a_full_engine_do_not_take_from_each_other() -> None:
    """One gave back what the other had created, which created it again, for ever (seed 2374)."""
    world = FakeWorld(scripts={"workerpool0-0": exits(0, after=1.0), **WORKERS_RUN})

    async def main() -> None:
        async with world.connect("first") as one, world.connect("second") as other:
            first, second = await supervisor(world, one, Told()), await supervisor(world, other, Told())
            world.is_full(12.0)
            going = asyncio.ensure_future(first.run())
            await asyncio.sleep(3.0)
            await second.run()
            assert (await going).state is S

    run_in_virtual_time(main())
    assert len(world.history) < 60


def test_what_is_given_back_is_not_started_by_somebody_else_meanwhile() -> None:
    """One supervisor removed what another one had just been allowed to start: a loss, or a failure (seed 1041567)."""
    job = prepared_job()
    first, second = (
        job.decide(job.statuses(others=CREATED, w1=None), busy="full"),
        job.decide(job.statuses(others=CREATED)),
    )
    assert isinstance(second.actions[0], Start)
    assert first.record != job.record, "both write, so one of them is overtaken"
    assert not set(first.record.refs(job.plan)) & set(job.refs()), "and what is made next has other names"


def test_the_primary_s_end_is_seen_while_the_log_of_a_lost_replica_hangs() -> None:
    """Its log was waited for, up to 10 s, before anything else was looked at."""
    world = FakeWorld(scripts={"workerpool0-0": exits(0, after=4.0), "workerpool1-0": runs_for_ever()})
    world.script("workerpool1-1", is_lost(says="x\n", after=2.0), runs_for_ever())

    class NoLogOfTheLost(ScriptedFaults):
        def of(self, call: object) -> Fault | None:
            ref = call.ref  # type: ignore[attr-defined]
            hangs = call.method == "logs" and ref.replica == "workerpool1-1"  # type: ignore[attr-defined]
            return Fault(before=1000.0) if hangs else None

    world.faults = NoLogOfTheLost()
    _, told = run_job(world)
    exited_at = next(it.at for it in happenings(world, "ended") if it.ref and it.ref.replica == "workerpool0-0")
    assert written_at(world, "SUCCEEDED") - exited_at < 0.3
    assert (
        "the end of the log of workerpool1-1 could not be read: no line came for 10 s; lines may be missing"
        in told.words
    )


def test_a_cancel_ends_a_long_preparation() -> None:
    """An image pull of minutes was waited for before anybody looked at the record again."""
    faults = ScriptedFaults()
    faults.add("prepare", Fault(before=600.0))
    world = FakeWorld(faults=faults)

    async def cancel(engine: FakeEngine) -> None:
        await asyncio.sleep(5.0)
        await cancel_job(engine, JOB, Canceller.USER, "enough", clock=world.now)

    assert beside(world, cancel).state is C
    assert written_at(world, "CANCELLED") - written_at(world, "QUEUED") < 10.0


def test_the_timeout_passes_while_a_replica_is_created_again() -> None:
    """The engine hung in ``create``, and the job ran on."""
    world = FakeWorld(scripts={"workerpool0-0": runs_for_ever(), "workerpool1-0": runs_for_ever()})
    world.script("workerpool1-1", is_lost(after=2.0), runs_for_ever())

    class HangsLater(ScriptedFaults):
        def of(self, call: object) -> Fault | None:
            again = call.method == "create" and call.ref.restart  # type: ignore[attr-defined]
            return Fault(before=1000.0) if again else None

    world.faults = HangsLater()
    record, _ = run_job(world, request(timeout="10s"))
    assert record.state is C
    assert record.start_time is not None
    assert written_at(world, "CANCELLED") - record.start_time < 10.5


def test_an_overtaken_supervisor_does_not_go_on_to_its_next_action() -> None:
    """It was told, while it started some, that somebody else had the job, and then created the others (seed 3907)."""
    faults = ScriptedFaults()
    world = FakeWorld(scripts={"workerpool0-0": exits(0, after=30.0), **WORKERS_RUN})
    asked = request(options=JobOptions(gang=False))
    created_at: list[float] = []

    class Slow(ScriptedFaults):
        def of(self, call: object) -> Fault | None:
            if call.connection != "first":  # type: ignore[attr-defined]
                return None
            if call.method == "start":  # type: ignore[attr-defined]
                return Fault(before=20.0)
            if call.method == "create":  # type: ignore[attr-defined]
                created_at.append(world.now())
            return faults.of(call)  # type: ignore[arg-type]

    world.faults = Slow()
    faults.add("create", Fault())
    faults.add("create", Fault(error=EngineError("no"), takes_effect=False), times=2)

    async def main() -> None:
        async with world.connect("first") as one, world.connect("second") as other:
            going = asyncio.ensure_future((await supervisor(world, one, Told(), asked)).run())
            await asyncio.sleep(1.0)
            later = await supervisor(world, other, Told(), asked, owner=Owner("k2", try_number=2))
            taken_at = world.now()
            assert (await later.run()).state is S
            await asyncio.gather(going, return_exceptions=True)
            assert created_at
            assert max(created_at) < taken_at

    run_in_virtual_time(main())


def test_who_has_seen_a_later_owner_writes_no_record_again_that_was_pruned() -> None:
    """It read the later owner's record while it launched; that was pruned, and it wrote its own in its place (seed 861)."""
    faults = ScriptedFaults()
    faults.add("prepare", Fault(before=600.0))
    world = FakeWorld(faults=faults)

    async def main() -> None:
        async with world.connect("first") as one, world.connect("second") as other:
            read = one.read_record

            async def then_it_is_pruned(job_id: JobId) -> StoredRecord | None:
                found = await read(job_id)
                if found is not None and decode(found.data).owner.key == "k2":
                    world.prune(job_id)
                return found

            one.read_record = then_it_is_pruned  # type: ignore[method-assign]
            going = asyncio.ensure_future((await supervisor(world, one, Told())).run())
            await asyncio.sleep(1.0)
            await supervisor(world, other, Told(), owner=Owner("k2", try_number=2))
            with pytest.raises(Fenced):
                await going
            assert world.record(JOB) is None

    run_in_virtual_time(main())


def test_the_replica_that_used_up_its_restarts_is_told_first() -> None:
    """Another one, lost in the same moment, was named as the cause (seed 2536)."""
    job = running_job().but(restarts={"workerpool1-1": 5}, attempt=3)
    record = job.decide(job.statuses(w0=lost(), w1=lost())).record
    assert record.failed[0].ref.replica == "workerpool1-1"


def test_an_engine_that_is_down_at_first_does_not_end_the_supervision() -> None:
    """Subscribing to its events was tried once, and its failure ended everything."""
    world = FakeWorld(scripts={"workerpool0-0": exits(0, after=12.0), **WORKERS_RUN})

    async def main() -> None:
        async with world.connect() as engine:
            job = await supervisor(world, engine, Told())
            watch, tries = engine.watch, 0

            def down_at_first(job_id: object) -> object:
                nonlocal tries
                tries += 1
                if tries < 3:
                    raise EngineError("connection refused")
                return watch(job_id)  # type: ignore[arg-type]

            engine.watch = down_at_first  # type: ignore[assignment, method-assign]
            assert (await job.run()).state is S
            assert tries == 3

    run_in_virtual_time(main())


def test_a_refusal_is_kept_while_the_engine_fails_to_write_it() -> None:
    world = FakeWorld()
    world.refuse("workerpool1-1", "no such thing here")

    async def main() -> object:
        async with world.connect() as engine:
            job = await supervisor(world, engine, Told())
            world.fail("write_record", EngineError("down"), times=5)
            return await job.run()

    record = run_in_virtual_time(main())
    assert record.state is F  # type: ignore[attr-defined]
    assert refs(world, "started") == []
    assert world.replicas() == []
    assert record.error.message == "no such thing here"  # type: ignore[attr-defined]
