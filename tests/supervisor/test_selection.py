"""Whose output is followed: all of a small job, the primary of a large one, what the user chose, and whoever fails."""

from __future__ import annotations

import asyncio

import pytest

from airflow_customjob.backends.fake import FakeWorld, exits, is_lost, killed_by, run_in_virtual_time, runs_for_ever
from airflow_customjob.spec.problem import SpecError
from airflow_customjob.supervisor.follow import FEW, check_logs, chosen
from airflow_customjob.supervisor.merge import merged
from tests.supervisor.jobs import F, S, request
from tests.supervisor.world import Told, records, run_job, supervisor

SMALL = [f"workerpool1-{index}" for index in range(FEW)]
LARGE = ["workerpool0-0", *SMALL]
FORTY = request((1, 39))


@pytest.mark.parametrize(
    ("logs", "names", "expected"),
    [
        (None, SMALL, SMALL),
        (None, LARGE, LARGE[:1]),
        ("all", LARGE, LARGE),
        ("primary", SMALL, SMALL[:1]),
        ("workerpool1-*", LARGE, SMALL),
        ("workerpool1-1?", LARGE, SMALL[10:20]),
        ("workerpool1-3", LARGE, ["workerpool1-3"]),
        ("workerpool2-*", LARGE, []),
    ],
)
def test_who_is_followed(logs: str | None, names: list[str], expected: list[str]) -> None:
    assert chosen(logs, names) == expected


def test_what_fits_no_replica_is_refused() -> None:
    check_logs("workerpool1-*", LARGE)
    with pytest.raises(SpecError, match="none of the replicas workerpool0-0 to workerpool1-31"):
        check_logs("wokerpool1-*", LARGE)


def world_of(primary: float = 20.0) -> FakeWorld:
    """Each says a word and runs on, but for the primary, which succeeds."""
    scripts = {name: runs_for_ever(says=[f"I am {name}"]) for name in (f"workerpool1-{index}" for index in range(39))}
    return FakeWorld(scripts=scripts | {"workerpool0-0": exits(says=["training"], after=primary)})


def followed(told: Told) -> set[str]:
    return {line.ref.replica for line in told.lines}


def test_of_forty_replicas_the_primary_is_followed_and_the_others_are_named_once() -> None:
    record, told = run_job(world_of(), FORTY)
    assert (record.state, followed(told)) == (S, {"workerpool0-0"})
    assert [word for word in told.words if "not followed" in word] == [
        "39 of 40 replicas are not followed here unless they fail (workerpool1-0 to workerpool1-38): "
        "`customjob logs --backend fake --replica workerpool1-38 123` shows one of them"
    ]


def test_the_user_chooses() -> None:
    _, told = run_job(world_of(), FORTY, logs="workerpool1-1?")
    assert followed(told) == {f"workerpool1-{index}" for index in range(10, 20)}
    _, told = run_job(world_of(), FORTY, logs="all")
    assert len(followed(told)) == 40
    assert not [word for word in told.words if "not followed" in word]


def test_the_whole_log_of_one_that_fails_is_given_before_it_is_removed() -> None:
    says = [f"line {number}" for number in range(100)]
    world = world_of()
    world.script("workerpool1-7", exits(1, says=says, every=0.1))
    record, told = run_job(world, FORTY)
    assert record.state is F
    assert told.texts("workerpool1-7") == says
    assert followed(told) == {"workerpool0-0", "workerpool1-7"}


def test_so_is_that_of_one_that_restarts_the_job_and_of_one_that_was_lost() -> None:
    world = world_of()
    world.script("workerpool1-7", killed_by(11, says=["crash"], after=1.0), runs_for_ever())
    world.script("workerpool1-8", runs_for_ever(), is_lost(says=["going"], after=1.0), runs_for_ever())
    record, told = run_job(world, FORTY)
    assert (record.state, record.attempt) == (S, 1)
    assert (told.texts("workerpool1-7"), told.texts("workerpool1-8")) == (["crash"], ["going"])


def test_those_that_are_stopped_with_the_job_have_not_failed() -> None:
    """A thousand replicas that are cancelled would otherwise give their logs all at once."""
    world = world_of()
    world.script("workerpool0-0", runs_for_ever())
    _, told = run_job(world, request((1, 39), timeout="5s"))
    assert followed(told) <= {"workerpool0-0"}


def test_the_next_supervisor_gives_the_log_of_the_one_that_failed_and_tells_nothing_twice() -> None:
    says = [f"line {number}" for number in range(100)]
    world, told = world_of(), Told()
    world.script("workerpool1-7", exits(1, says=says, after=3.0))

    async def main() -> None:
        async with world.connect() as engine:
            first = await supervisor(world, engine, told, FORTY, on_change=lambda record, _: reached(record.state))
            going = asyncio.ensure_future(first.run())
            await failed.wait()
            going.cancel()
            await asyncio.gather(going, return_exceptions=True)
            await (await supervisor(world, engine, told, FORTY)).run()

    failed = asyncio.Event()

    def reached(state: object) -> None:
        if state is F:
            failed.set()

    run_in_virtual_time(main())
    assert told.texts("workerpool1-7") == says
    assert sum("not followed" in word for word in told.words) == 1


@pytest.mark.parametrize(
    ("replica", "expected"),
    [
        (None, {"workerpool0-0", "workerpool1-7"}),
        ("workerpool1-3", {"workerpool1-3"}),
        ("workerpool1-?", {f"workerpool1-{index}" for index in range(10)}),
    ],
)
def test_a_reader_follows_by_the_same_rule(replica: str | None, expected: set[str]) -> None:
    world, seen, words = world_of(), Told(), list[str]()
    world.script("workerpool1-7", exits(1, says=["I am workerpool1-7"], after=9.0))

    async def main() -> None:
        async with world.connect() as engine:
            job = await supervisor(world, engine, Told(), FORTY, hold_removal=5.0)
            record = records(world)[-1]
            going = asyncio.ensure_future(job.run())
            async for line in merged(engine, record, replica=replica, follow=True, say=words.append):
                seen.lines.append(line)
            await going

    run_in_virtual_time(main())
    assert followed(seen) == expected
    assert len(words) == (replica is None)
