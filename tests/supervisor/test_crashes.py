"""``kill -9`` of the supervisor before, within and after every call to the engine: whoever runs it again goes on with it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from airflow_customjob.backends.base import ReplicaRef
from airflow_customjob.backends.fake import (
    Call,
    FakeWorld,
    Fault,
    NoFaults,
    exits,
    killed_by,
    run_in_virtual_time,
    runs_for_ever,
)
from airflow_customjob.supervisor.record import JobRecord, Owner, decode
from tests.supervisor.jobs import OWNER, S
from tests.supervisor.world import Told, happenings, refs, supervisor

SAYS = [f"line {number}" for number in range(20)]
AGAIN = (OWNER, Owner("k2", try_number=2))
"""The same task instance (a trigger, a restarted triggerer), or Airflow's next try."""


class DeadlyCall(NoFaults):
    """The n-th call of the first process is its last.

    :param how: the call never takes effect, or does although its caller has died, or its answer is never heard.
    """

    def __init__(self, number: int, how: str) -> None:
        self.number = number
        self.how = how
        self.calls: list[Call] = []
        self.kill: Callable[[], None] = lambda: None

    def of(self, call: Call) -> Fault | None:
        if call.connection != "first":
            return None
        self.calls.append(call)
        if len(self.calls) != self.number:
            return None
        asyncio.get_running_loop().call_later(0.001, self.kill)
        return {
            "before": Fault(before=0.002),
            "late": Fault(before=0.002, outlives=True),
            "very late": Fault(before=8.0, outlives=True),
            "after": Fault(after=0.002),
        }[self.how]


def world_of(crash: bool) -> FakeWorld:
    world = FakeWorld(scripts={"workerpool1-0": runs_for_ever(), "workerpool1-1": exits(0, says=SAYS, every=0.1)})
    begin = [killed_by(11, says=SAYS[:5], every=0.1)] if crash else []
    world.script("workerpool0-0", *begin, exits(0, says=SAYS, every=0.2))
    return world


def killed_and_run_again(
    number: int, how: str, owner: Owner, crash: bool
) -> tuple[FakeWorld, JobRecord, Told, DeadlyCall]:
    world, told = world_of(crash), Told()
    world.faults = deadly = DeadlyCall(number, how)

    async def first() -> None:
        engine = world.connect("first")

        async def live() -> None:
            async with engine:
                await (await supervisor(world, engine, told)).run()

        task = asyncio.ensure_future(live())

        def kill() -> None:
            engine.cut()
            task.cancel()

        deadly.kill = kill
        await asyncio.wait([task])

    async def main() -> JobRecord:
        await first()
        async with world.connect("second") as engine:
            return await (await supervisor(world, engine, told, owner=owner)).run()

    return world, run_in_virtual_time(main()), told, deadly


CALLS = {crash: len(killed_and_run_again(10**9, "before", OWNER, crash)[3].calls) for crash in (False, True)}
"""How many calls an undisturbed run makes."""


@pytest.mark.parametrize("owner", AGAIN, ids=["the same task instance", "the next try"])
@pytest.mark.parametrize("how", ["before", "after", "late", "very late"])
@pytest.mark.parametrize("crash", [False, True], ids=["", "restarted"])
def test_killed_at_every_call(crash: bool, how: str, owner: Owner) -> None:
    assert CALLS[crash] > 30
    for number in range(1, CALLS[crash] + 1):
        world, record, told, deadly = killed_and_run_again(number, how, owner, crash)
        where = f"killed {how} call {number}, {deadly.calls[number - 1].method}"
        assert record.state is S, where
        assert record.generation == 1, where
        started = refs(world, "started")
        gangs = {(ref.generation, ref.attempt) for ref in started}
        assert len(started) == len(set(started)) == 3 * len(gangs), where
        assert len(gangs) == 1 + crash, where
        assert one_gang_at_a_time(world), where
        ends = [
            it for it in happenings(world, "record written") if it.record and '"end_time":null' not in it.record.data
        ]
        assert len(ends) == 1 or all_same_end(ends), where
        for attempt in range(1 + crash):
            whole = SAYS[:5] if crash and not attempt else SAYS
            lines = [line.text for line in told.lines if line.ref == ref_of("workerpool0-0", attempt, started)]
            assert lines == whole, where
        assert [replica for replica in world.replicas() if replica.ref not in late(world)] == [], where


def ref_of(replica: str, attempt: int, started: list[ReplicaRef]) -> ReplicaRef:
    return next(ref for ref in started if (ref.replica, ref.attempt) == (replica, attempt))


def late(world: FakeWorld) -> set[ReplicaRef]:
    """What a dead process' call created after everybody had gone; the next who looks takes it away."""
    last = happenings(world, "released")[-1].at
    return {it.ref for it in happenings(world, "created") if it.ref and it.at >= last}


def one_gang_at_a_time(world: FakeWorld) -> bool:
    at_work: set[ReplicaRef] = set()
    for it in world.history:
        if it.ref and it.what == "started":
            at_work.add(it.ref)
        if it.ref and it.what in ("ended", "removed"):
            at_work.discard(it.ref)
        if len({(ref.generation, ref.attempt) for ref in at_work}) > 1:
            return False
    return True


def all_same_end(ends: list[object]) -> bool:
    """A later try that finds a finished job takes it over as it is."""
    found = {(r.state, r.end_time, r.error) for r in (decode(it.record.data) for it in ends)}  # type: ignore[attr-defined]
    return len(found) == 1


def test_a_finished_job_is_never_run_twice() -> None:
    world, told = world_of(crash=False), Told()

    async def main() -> list[JobRecord]:
        ends = []
        for owner in (OWNER, *AGAIN):
            async with world.connect() as engine:
                ends.append(await (await supervisor(world, engine, told, owner=owner)).run())
        return ends

    ends = run_in_virtual_time(main())
    assert {(record.state, record.generation, record.end_time) for record in ends} == {
        (S, 1, ends[0].end_time),
    }
    assert len(refs(world, "started")) == 3
    assert told.texts() == SAYS
