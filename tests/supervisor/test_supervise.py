"""A supervisor over the fake engine, in virtual time: what a user sees of a job, and when."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest

from airflow_customjob.backends.base import EngineError
from airflow_customjob.backends.fake import (
    FakeEngine,
    FakeWorld,
    Fault,
    ScriptedFaults,
    exits,
    is_lost,
    killed_by,
    out_of_memory,
    run_in_virtual_time,
    runs_for_ever,
)
from airflow_customjob.plan.types import JobOptions
from airflow_customjob.supervisor.claims import cancel_job
from airflow_customjob.supervisor.ownership import Canceller
from airflow_customjob.supervisor.record import Owner
from airflow_customjob.supervisor.supervise import Fenced
from tests.supervisor.jobs import JOB, C, F, S, request
from tests.supervisor.world import Told, beside, happenings, records, refs, run_job, states, supervisor, written_at

WORKERS_RUN = {"workerpool1-0": runs_for_ever(), "workerpool1-1": runs_for_ever()}


def test_a_job_from_its_claim_to_its_end() -> None:
    world = FakeWorld(scripts={"workerpool0-0": exits(0, says=["a", "b"], every=1.0), **WORKERS_RUN})
    record, told = run_job(world)
    assert record.state is S
    assert states(world) == ["QUEUED", "PENDING", "RUNNING", "SUCCEEDED"]
    assert told.words == [f"job 123: JOB_STATE_{state}" for state in states(world)[1:]]
    assert told.texts() == ["a", "b"]
    assert world.replicas() == []
    assert len(happenings(world, "released")) == 1


def test_a_recorded_state_is_the_time_line_of_the_engine() -> None:
    world = FakeWorld(scripts={"workerpool0-0": exits(0, after=5.0), **WORKERS_RUN})
    record, _ = run_job(world)
    assert (record.start_time, record.end_time) == (written_at(world, "RUNNING"), written_at(world, "SUCCEEDED"))
    assert record.end_time - record.start_time == pytest.approx(5.0)  # type: ignore[operator]


def test_logs_are_merged_and_live() -> None:
    says = {name: exits(0, says=["1", "2", "3"], every=1.0) for name in ("workerpool1-0", "workerpool1-1")}
    world = FakeWorld(scripts={"workerpool0-0": exits(0, after=9.0), **says})
    seen: list[tuple[float, str, str]] = []

    def sink(line: object) -> None:
        seen.append((round(world.now()), line.ref.replica, line.text))  # type: ignore[attr-defined]

    run_job(world, sink=sink)
    first = seen[0][0]
    assert sorted(seen) == [
        (first + second, f"workerpool1-{replica}", str(second + 1)) for second in range(3) for replica in range(2)
    ]


def test_a_worker_s_failure_stops_the_others() -> None:
    world = FakeWorld(
        scripts={**WORKERS_RUN, "workerpool0-0": runs_for_ever(), "workerpool1-1": exits(1, says="no\n", after=3)}
    )
    record, _ = run_job(world)
    assert record.error is not None
    assert (record.state, record.error.code) == (F, 3)
    assert record.error.message == (
        "The replica workerpool1-1 exited with a non-zero status of 1. Termination reason: Error.\nno"
    )
    stopped = [it for it in happenings(world, "ended") if it.by]
    assert len(stopped) == 2
    assert all(it.at - written_at(world, "FAILED") < 1.0 for it in stopped)


def test_a_crash_runs_the_whole_job_twice() -> None:
    world = FakeWorld(scripts=WORKERS_RUN)
    world.script("workerpool0-0", killed_by(11, says="first\n"), exits(0, says="second\n"))
    record, told = run_job(world)
    assert (record.state, record.attempt) == (S, 1)
    assert told.texts() == ["first", "second"]
    assert len(refs(world, "started")) == 6


def test_a_lost_replica_comes_back_and_the_others_stay() -> None:
    world = FakeWorld(scripts={"workerpool0-0": exits(0, after=20.0), "workerpool1-0": runs_for_ever()})
    world.script("workerpool1-1", is_lost(after=2.0), runs_for_ever())
    record, _ = run_job(world)
    assert (record.state, record.attempt, record.restarts) == (S, 0, {"workerpool1-1": 1})
    assert len(refs(world, "started")) == 4


def test_timeout() -> None:
    world = FakeWorld(scripts={**WORKERS_RUN, "workerpool0-0": runs_for_ever()})
    record, _ = run_job(world, request(timeout="3s"))
    assert record.state is C
    assert record.start_time is not None
    assert max(it.at for it in happenings(world, "ended")) - record.start_time < 4.0


def test_cancel() -> None:
    world = FakeWorld(scripts={**WORKERS_RUN, "workerpool0-0": runs_for_ever()})

    async def cancel(engine: FakeEngine) -> None:
        await asyncio.sleep(5)
        await cancel_job(engine, JOB, Canceller.USER, "enough", clock=world.now)
        world.touch(JOB)

    record = beside(world, cancel)
    assert record.error is not None
    assert (record.state, record.error.message) == (C, "enough")
    assert states(world)[-2:] == ["CANCELLING", "CANCELLED"]


def test_who_lost_the_job_stands_back() -> None:
    world = FakeWorld(scripts={**WORKERS_RUN, "workerpool0-0": exits(0, after=40.0)})

    async def main() -> None:
        async with world.connect("old") as old, world.connect("new") as new:
            first = await supervisor(world, old, Told())
            going = asyncio.ensure_future(first.run())
            await asyncio.sleep(5)
            second = await supervisor(world, new, Told(), owner=Owner("k2", try_number=2))
            record, fenced = await asyncio.gather(second.run(), going, return_exceptions=True)
            assert isinstance(fenced, Fenced)
            assert record.state is S  # type: ignore[union-attr]

    run_in_virtual_time(main())
    assert len(refs(world, "created")) == 3
    assert {it.by for it in happenings(world, "removed")} == {"new"}


@pytest.mark.parametrize("count", [2, 3])
def test_any_number_supervise_as_one(count: int) -> None:
    world = FakeWorld(scripts=WORKERS_RUN)
    world.script("workerpool0-0", killed_by(6, after=3.0, says="first\n"), exits(0, after=3.0, says="second\n"))
    told = [Told() for _ in range(count)]

    async def main() -> None:
        async with world.connect() as engine:
            jobs = [await supervisor(world, engine, one) for one in told]
            ends = await asyncio.gather(*(job.run() for job in jobs))
            assert {record.state for record in ends} == {S}

    run_in_virtual_time(main())
    assert [one.texts() for one in told] == [["first", "second"]] * count
    assert len(refs(world, "created")) == len(set(refs(world, "created"))) == 6


def test_a_memory_kill_is_told_and_not_retried() -> None:
    world = FakeWorld(scripts={**WORKERS_RUN, "workerpool0-0": out_of_memory(says="big\n")})
    record, _ = run_job(world)
    assert record.error is not None
    assert record.error.message.startswith("The replica workerpool0-0 ran out of memory")
    assert record.attempt == 0


# -- when the engine has its troubles -------------------------------------------------------------------------------


METHODS = ("prepare", "create", "start", "observe", "stop", "remove", "release", "read_record", "write_record", "logs")


@pytest.mark.parametrize("after_effect", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_a_call_that_fails_is_made_again(method: str, after_effect: bool) -> None:
    world = FakeWorld(scripts={"workerpool0-0": exits(0, says=["a", "b"], every=1.0), **WORKERS_RUN})
    told = Told()

    async def main() -> None:
        async with world.connect() as engine:
            job = await supervisor(world, engine, told)
            world.fail(method, EngineError("it is down"), times=3, after_effect=after_effect)
            assert (await job.run()).state is S

    run_in_virtual_time(main())
    assert told.texts() == ["a", "b"]
    assert len(refs(world, "created")) == len(set(refs(world, "created"))) == 3
    assert world.replicas() == []


def test_an_engine_that_stays_down_is_told_once_a_minute() -> None:
    world = FakeWorld(scripts={"workerpool0-0": exits(0)})
    told = Told()

    async def main() -> None:
        async with world.connect() as engine:
            job = await supervisor(world, engine, told)
            world.fail("observe", EngineError("connection refused"), times=30)
            assert (await job.run()).state is S

    run_in_virtual_time(main())
    trouble = [text for text in told.words if "connection refused" in text]
    assert 1 < len(trouble) <= 4
    assert trouble[0] == "the engine did not do as asked: connection refused; trying again"


def test_an_ended_job_that_cannot_be_cleared_away_is_reported_all_the_same() -> None:
    world = FakeWorld(scripts={"workerpool0-0": exits(0, after=3.0), **WORKERS_RUN})
    world.fail("remove", EngineError("removal is already in progress"), times=10_000)
    record, told = run_job(world)
    assert record.state is S
    assert 120 < world.now() - written_at(world, "SUCCEEDED") < 140
    assert told.words[-1].startswith("the job has ended, but cannot be cleared away; gc will have to: removal is")
    assert world.replicas() != []


def test_a_pruned_record_is_written_again() -> None:
    world = FakeWorld(scripts={**WORKERS_RUN, "workerpool0-0": exits(0, after=50.0)})

    async def prune(engine: FakeEngine) -> None:
        await asyncio.sleep(10)
        world.prune(JOB)

    assert beside(world, prune).state is S
    assert len(refs(world, "created")) == 3


def test_success_is_recorded_and_the_others_told_in_time() -> None:
    """SUCCEEDED is recorded within 0.3 s of the primary's exit, and the others told to stop within 0.2 s of that."""
    ignoring = {name: script.ignoring_term() for name, script in WORKERS_RUN.items()}
    world = FakeWorld(scripts={"workerpool0-0": exits(0, after=5.0), **ignoring})
    faults = ScriptedFaults()
    for method in METHODS:
        faults.add(method, Fault(before=0.01, after=0.01), times=200)
    world.faults = faults
    run_job(world, request(options=JobOptions(stop_grace=0.5)))
    exited_at = next(it.at for it in happenings(world, "ended") if not it.by)
    recorded = written_at(world, "SUCCEEDED") - exited_at
    killed = max(it.at for it in happenings(world, "ended")) - written_at(world, "SUCCEEDED")
    assert recorded < 0.3
    assert killed < 0.5 + 0.2


# -- when the caller has its troubles -------------------------------------------------------------------------------


@pytest.mark.parametrize("callback", ["sink", "say", "on_change"])
def test_a_callback_that_raises_does_not_end_the_job(callback: str, caplog: pytest.LogCaptureFixture) -> None:
    world = FakeWorld(scripts={"workerpool0-0": exits(0, says=["a", "b"], every=1.0), **WORKERS_RUN})

    def broken(*_: object) -> None:
        raise OSError("broken pipe")

    record, _ = run_job(world, **{callback: broken})
    assert record.state is S
    assert f"the supervisor's {callback} callback failed" in caplog.text


def test_changes_are_shown_once_each() -> None:
    world = FakeWorld(scripts={"workerpool0-0": exits(0, after=1.0), **WORKERS_RUN})
    shown: list[object] = []
    run_job(world, on_change=lambda record, replicas: shown.append((record, replicas)))
    assert len(shown) > 3
    assert all(one != next_one for one, next_one in pairwise(shown))
    assert [record.state for record in records(world)][-1] is S
