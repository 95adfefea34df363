"""Logs: every line once, in order within its replica, from where somebody left off, and to the end before removal."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_customjob.backends.base import EngineError, LogLine, ReplicaRef
from airflow_customjob.backends.fake import FakeEngine, FakeWorld, Fault, ScriptedFaults, exits, run_in_virtual_time
from airflow_customjob.supervisor.follow import BURST, FIRST_BYTES, LAST_LINES, LogFollower, last_of
from airflow_customjob.supervisor.record import encode
from tests.supervisor.jobs import exited, prepared_job, running_job
from tests.supervisor.world import Told, supervisor

JOB = prepared_job()
PRIMARY, WORKER, _ = JOB.refs()
SAYS = [f"this is line {number}" for number in range(100)]


async def launched(world: FakeWorld) -> FakeEngine:
    engine = await world.connect().__aenter__()
    await engine.create(JOB.plan, JOB.refs())
    await engine.start(JOB.plan, JOB.refs())
    return engine


def follower(engine: FakeEngine, told: Told) -> LogFollower:
    return LogFollower(engine, told.lines.append, told.words.append, told.positions)


async def end_of(follower: LogFollower, ref: ReplicaRef = PRIMARY) -> None:
    while not follower.is_through(ref):
        await asyncio.sleep(0.1)


def test_every_line_once_and_live() -> None:
    world, told = FakeWorld(scripts={"workerpool0-0": exits(says=SAYS, every=0.1)}), Told()

    async def main() -> None:
        follow = follower(await launched(world), told)
        for _ in range(3):
            follow.follow(JOB.refs())
        await asyncio.sleep(5.05)
        assert told.texts() == SAYS[:50]
        await end_of(follow)

    run_in_virtual_time(main())
    assert told.texts() == SAYS


def test_a_long_log_leaves_others_their_turn() -> None:
    """Regression: told to a triggerer that was busy, a thousand lines held up its other jobs, and its heartbeat, for twenty seconds."""
    world, told = FakeWorld(scripts={"workerpool0-0": exits(says=SAYS * 10)}), Told()
    turns: list[int] = []

    async def take_turns() -> None:
        while True:
            turns.append(len(told.lines))
            await asyncio.sleep(0)

    async def main() -> None:
        engine = await launched(world)
        await asyncio.sleep(1)
        follow = follower(engine, told)
        follow.follow([PRIMARY])
        other = asyncio.create_task(take_turns())
        while not follow.is_through(PRIMARY):
            await asyncio.sleep(0)
        other.cancel()

    run_in_virtual_time(main())
    assert told.texts() == SAYS * 10
    assert max(after - before for before, after in pairwise(turns)) <= BURST


def test_the_next_one_goes_on_where_the_last_one_was() -> None:
    world, told = FakeWorld(scripts={"workerpool0-0": exits(says=SAYS, every=0.1)}), Told()

    async def main() -> None:
        engine = await launched(world)
        for _ in range(5):
            follow = follower(engine, told)
            follow.follow([PRIMARY])
            await asyncio.sleep(1.7)
            await follow.close()
        follow = follower(engine, told)
        follow.follow([PRIMARY])
        await end_of(follow)

    run_in_virtual_time(main())
    assert told.texts() == SAYS
    assert told.positions[PRIMARY.name] == told.lines[-1].position


def test_a_log_that_breaks_off_is_taken_up_again() -> None:
    world, told = FakeWorld(scripts={"workerpool0-0": exits(says=SAYS, every=0.1)}), Told()

    async def main() -> None:
        engine = await launched(world)
        world.fail("logs", EngineError("reset by peer"), times=7)
        follow = follower(engine, told)
        follow.follow([PRIMARY])
        await end_of(follow)

    run_in_virtual_time(main())
    assert told.texts() == SAYS


def test_a_replica_that_was_gone_when_it_was_to_start_is_followed_when_another_creates_it_again() -> None:
    """Regression: its lines were lost in silence (seed 12425)."""
    world, told = FakeWorld(scripts={"workerpool0-0": exits(says=SAYS)}), Told()

    async def main() -> None:
        async with world.connect() as engine:
            follow = follower(engine, told)
            follow.follow([PRIMARY], seen=False)
            await end_of(follow)
            await engine.create(JOB.plan, [PRIMARY])
            await engine.start(JOB.plan, [PRIMARY])
            for _ in range(3):
                follow.follow([PRIMARY])
                await end_of(follow)

    run_in_virtual_time(main())
    assert told.texts() == SAYS


def test_a_log_that_cannot_be_read_is_given_up_and_said() -> None:
    world, told = FakeWorld(scripts={"workerpool0-0": exits(says=SAYS)}), Told()

    async def main() -> None:
        engine = await launched(world)
        world.fail("logs", EngineError("driver does not support reading"), times=1000)
        follow = follower(engine, told)
        follow.follow([PRIMARY])
        await asyncio.sleep(5)
        assert not follow.is_through(PRIMARY)
        follow.give_up([PRIMARY, WORKER])
        await asyncio.sleep(0)
        assert follow.is_through(PRIMARY)

    run_in_virtual_time(main())
    assert told.words == [
        "the end of the log of workerpool0-0 could not be read: no line came for 10 s; lines may be missing"
    ]


def test_nothing_is_followed_where_nobody_reads() -> None:
    world = FakeWorld()

    async def main() -> None:
        follow = LogFollower(await launched(world), None, print)
        follow.follow(JOB.refs())
        assert all(map(follow.is_through, JOB.refs()))

    run_in_virtual_time(main())


def test_tails() -> None:
    world = FakeWorld(scripts={"workerpool0-0": exits(1, says=SAYS), "workerpool1-0": exits(1, says=SAYS)})

    async def main() -> dict[ReplicaRef, tuple[str, ...]]:
        return await follower(await launched(world), Told()).tails([PRIMARY, WORKER])

    tails = run_in_virtual_time(main())
    assert tails[PRIMARY] == tuple(SAYS[-LAST_LINES:])
    assert tails[WORKER] == tuple(SAYS[-len(tails[WORKER]) :])
    assert 5 < len(tails[WORKER]) < LAST_LINES, "the further ones are the first one's echo"


def test_a_failure_is_not_held_back_by_a_log_that_hangs() -> None:
    faults = ScriptedFaults()
    world = FakeWorld(scripts={"workerpool0-0": exits(1, says=SAYS)}, faults=faults)

    async def main() -> float:
        engine = await launched(world)
        faults.add("logs", Fault(before=1000.0))
        began = world.now()
        assert (await follower(engine, Told()).tails([PRIMARY]))[PRIMARY] == ()
        return world.now() - began

    assert run_in_virtual_time(main()) == pytest.approx(2.0)


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=300), max_size=30), st.integers(20, 2000))
def test_last_lines_fit_into_their_bytes(lines: Sequence[str], limit: int) -> None:
    kept = last_of(lines, limit)
    shown = exited(1, last_lines=kept)
    empty, full = (running_job().statuses(p=it)[0] for it in (exited(1), shown))
    job = running_job()
    size = len(encode(job.but(failed=(full,)).record).encode()) - len(encode(job.but(failed=(empty,)).record).encode())
    assert size <= limit
    if kept and kept != ("...",) and not kept[0].startswith("..."):
        assert list(kept) == list(lines[len(lines) - len(kept) :])


def test_one_line_of_a_megabyte_is_told_by_its_end() -> None:
    (kept,) = last_of(["x" * 1_000_000 + "the end"], FIRST_BYTES)
    assert kept.startswith("...")
    assert kept.endswith("the end")
    assert FIRST_BYTES // 4 < len(kept) <= FIRST_BYTES


def test_a_log_that_takes_long_to_read_is_read_to_its_end_before_removal() -> None:
    """A quarter of a million lines was lost: ten seconds after its end a replica was removed, though its lines still came."""
    world, told = FakeWorld(scripts={"workerpool0-0": exits(says=SAYS)}), Told()

    class Slow(FakeEngine):
        async def logs(self, ref: ReplicaRef, **how: Any) -> AsyncIterator[LogLine]:
            async for line in super().logs(ref, **how):
                yield line
                await asyncio.sleep(1.0)

    async def main() -> None:
        async with world.connect() as engine:
            engine.__class__ = Slow
            await (await supervisor(world, engine, told)).run()

    run_in_virtual_time(main())
    assert told.texts() == SAYS
    assert not any("lines may be missing" in word for word in told.words)
