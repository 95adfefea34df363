"""What :mod:`airflow_customjob.backends.base` promises, held against every engine by the same tests."""

from __future__ import annotations

import asyncio
import json
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest

from airflow_customjob.backends.base import Backend, Engine, LaunchRefused, Phase, Reason, RecordConflict
from tests.backends.contract import (
    Act,
    Adapter,
    Bench,
    DockerAdapter,
    FakeAdapter,
    KubernetesAdapter,
    ProcessAdapter,
    Stopwatch,
    dies_by,
    eventually,
    floods,
    following,
    missing_command,
    on_each_engine,
    polite,
    prints,
    says,
    sleeps,
    stubborn,
)
from tests.engines import STALL

ADAPTERS = [
    pytest.param(FakeAdapter, id="fake"),
    pytest.param(ProcessAdapter, id="process"),
    pytest.param(DockerAdapter, id="docker", marks=pytest.mark.docker),
    pytest.param(KubernetesAdapter, id="kubernetes", marks=pytest.mark.kubernetes),
]


@pytest.fixture(params=ADAPTERS)
def adapter(request: pytest.FixtureRequest, tmp_path: Path) -> Adapter:
    return request.param(tmp_path)


@pytest.fixture(params=ADAPTERS[1:])
def runs_commands(request: pytest.FixtureRequest, tmp_path: Path) -> Adapter:
    return request.param(tmp_path)


# -- creating and starting ------------------------------------------------------------------------------------------


@on_each_engine
async def test_what_is_created_runs_only_when_it_is_started(bench: Bench) -> None:
    plan, refs = await bench.created(prints(1), prints(1), prints(1))
    await asyncio.sleep(0.5)
    statuses = await bench.engine.observe(bench.job_id)
    assert sorted(status.ref for status in statuses) == sorted(refs)
    assert {status.phase for status in statuses} == {Phase.CREATED}
    assert {(status.exit_code, status.started_at, status.finished_at) for status in statuses} == {(None, None, None)}
    assert [await bench.texts(ref, follow=False) for ref in refs] == [[], [], []]

    await bench.engine.start(plan, refs)
    ended = await bench.ended()
    assert {(status.phase, status.exit_code, status.reason) for status in ended.values()} == {
        (Phase.EXITED, 0, Reason.COMPLETED)
    }


@on_each_engine
async def test_a_status_says_what_its_object_was_made_for(bench: Bench) -> None:
    plan, refs = await bench.launched(prints(1))
    status = (await bench.ended())["workerpool0-0"]
    assert status.ref == refs[0]
    assert status.digest == plan.digest
    assert status.started_at is not None
    assert status.finished_at is not None
    assert status.started_at <= status.finished_at


@on_each_engine
async def test_creating_again_changes_nothing(bench: Bench) -> None:
    plan, refs = await bench.created(sleeps(), sleeps())
    await bench.engine.create(plan, refs)
    await bench.engine.start(plan, refs[:1])
    await bench.until_it_says(refs[0], "ready")
    await bench.other.create(plan, refs)
    statuses = await bench.seen()
    assert [statuses[name].phase for name in sorted(statuses)] == [Phase.RUNNING, Phase.CREATED]
    assert await bench.texts(refs[0], follow=False) == ["ready"]


@on_each_engine
async def test_creating_completes_what_is_partly_there(bench: Bench) -> None:
    plan = await bench.prepared(sleeps(), sleeps(), sleeps())
    refs = bench.refs(plan)
    await bench.engine.create(plan, refs[1:2])
    await bench.engine.create(plan, refs)
    assert sorted(status.ref for status in await bench.engine.observe(bench.job_id)) == sorted(refs)


@on_each_engine
async def test_two_may_create_and_start_the_same_at_once(bench: Bench) -> None:
    plan = await bench.prepared(prints(3), prints(3), prints(3))
    refs = bench.refs(plan)
    await asyncio.gather(*(engine.create(plan, refs) for engine in (bench.engine, bench.other)))
    assert sorted(status.ref for status in await bench.engine.observe(bench.job_id)) == sorted(refs)
    await asyncio.gather(*(engine.start(plan, refs) for engine in (bench.engine, bench.other, bench.engine)))
    await bench.ended()
    assert [await bench.texts(ref) for ref in refs] == [["line 0", "line 1", "line 2"]] * 3


@on_each_engine
async def test_starting_what_has_ended_does_not_run_it_again(bench: Bench) -> None:
    plan, refs = await bench.launched(prints(1, code=3))
    before = await bench.ended()
    await bench.other.start(plan, refs)
    await asyncio.sleep(0.5)
    assert await bench.seen() == before
    assert await bench.texts(refs[0]) == ["line 0"]


@on_each_engine
async def test_starting_what_is_gone_passes_it_over(bench: Bench) -> None:
    plan, refs = await bench.created(sleeps(), sleeps())
    await bench.engine.remove(refs[:1])
    await bench.engine.start(plan, refs)
    statuses = await bench.until(lambda seen: all(status.phase is Phase.RUNNING for status in seen.values()))
    assert list(statuses) == ["workerpool1-0"]


@on_each_engine
async def test_what_the_engine_can_never_have_is_refused_by_name(bench: Bench) -> None:
    plan = bench.adapter.impossible(bench.plan(prints(1), prints(1)))

    async def launch() -> None:
        prepared = replace(plan, prepared=await bench.engine.prepare(plan, lambda line: None))
        await bench.engine.create(prepared, bench.refs(prepared))

    with pytest.raises(LaunchRefused) as refused:
        await launch()
    wanted = plan.pools[-1].package.uris[0] if plan.pools[-1].package else plan.pools[-1].image
    assert wanted in str(refused.value)
    assert refused.value.code
    assert {status.phase for status in await bench.engine.observe(bench.job_id)} <= {Phase.CREATED}


@on_each_engine
async def test_a_command_that_is_missing_shows_as_a_start_error(bench: Bench) -> None:
    _, refs = await bench.launched(missing_command(), sleeps())
    statuses = await bench.until(
        lambda seen: seen["workerpool0-0"].ended and seen["workerpool1-0"].phase is Phase.RUNNING
    )
    failed = statuses["workerpool0-0"]
    assert (failed.phase, failed.reason) == (Phase.EXITED, Reason.START_ERROR)
    assert failed.exit_code in {126, 127, 128}
    assert "/no/such/command" in failed.message
    assert await bench.texts(refs[0], follow=True) == []


@on_each_engine
async def test_what_is_prepared_twice_is_prepared_alike(bench: Bench) -> None:
    plan = bench.plan(prints(1), prints(1))
    first = await bench.engine.prepare(plan, lambda line: None)
    again = await bench.engine.prepare(plan, lambda line: None)
    assert first.artifacts == again.artifacts
    assert len(first.ports) == len(again.ports)
    assert not await bench.engine.observe(bench.job_id)
    assert bench.job_id not in {job.job_id for job in await bench.engine.jobs()}


# -- how replicas end -----------------------------------------------------------------------------------------------


@on_each_engine
async def test_exit_codes_are_told_as_they_are(bench: Bench) -> None:
    codes = [0, 1, 2, 5, 6, 11, 77, 126, 127, 128, 134, 137, 139, 143, 255]
    await bench.launched(*(prints(0, code=code) for code in codes))
    ended = await bench.ended()
    statuses = [ended[f"workerpool{index}-0"] for index in range(len(codes))]
    assert [status.exit_code for status in statuses] == codes
    assert [status.phase for status in statuses] == [Phase.EXITED] * len(codes)
    assert [status.reason for status in statuses] == [Reason.ERROR if code else Reason.COMPLETED for code in codes]


@on_each_engine
async def test_a_signal_is_told_as_128_and_its_number(bench: Bench) -> None:
    signals = [1, 2, 3, 6, 8, 9, 11, 15]
    await bench.launched(*(dies_by(signal) for signal in signals))
    ended = await bench.ended()
    assert [ended[f"workerpool{index}-0"].exit_code for index in range(len(signals))] == [
        128 + number for number in signals
    ]
    assert {status.reason for status in ended.values()} == {Reason.ERROR}


@on_each_engine
async def test_an_ended_replica_keeps_its_ending(bench: Bench) -> None:
    _, refs = await bench.launched(prints(1, code=7))
    before = await bench.ended()
    await bench.engine.stop(refs, 1.0)
    assert await bench.seen() == before
    assert {status.ref.replica: status for status in await bench.other.observe(bench.job_id)} == before


# -- stopping and removing ------------------------------------------------------------------------------------------


@on_each_engine
async def test_a_polite_replica_gets_its_time(bench: Bench) -> None:
    _, refs = await bench.launched(polite(code=7, after=1.0))
    await bench.until_it_says(refs[0], "ready")
    watch = Stopwatch()
    await bench.engine.stop(refs, 20.0)
    assert 1.0 <= watch.seconds < 20.0
    status = (await bench.seen())["workerpool0-0"]
    assert (status.phase, status.exit_code) == (Phase.EXITED, 7)
    assert await bench.texts(refs[0]) == ["ready", "bye"]


@on_each_engine
async def test_a_stubborn_replica_is_killed_after_its_time(bench: Bench) -> None:
    _, refs = await bench.launched(*[stubborn()] * 4)
    for ref in refs:
        await bench.until_it_says(ref, "ready")
    watch = Stopwatch()
    await bench.engine.stop(refs, 4.0)
    assert 4.0 <= watch.seconds < 16.0, "the four are stopped concurrently"
    assert {(status.phase, status.exit_code) for status in (await bench.seen()).values()} == {(Phase.EXITED, 137)}


@on_each_engine
async def test_a_fraction_of_a_second_is_a_grace_too(bench: Bench) -> None:
    _, refs = await bench.launched(stubborn(), polite(code=0, after=0.2))
    for ref in refs:
        await bench.until_it_says(ref, "ready")
    watch = Stopwatch()
    await bench.engine.stop(refs, 0.7)
    assert 0.7 <= watch.seconds < STALL
    seen = await bench.seen()
    assert [seen[name].exit_code for name in sorted(seen)] == [137, 0]


@on_each_engine
async def test_no_grace_is_the_final_signal_at_once(bench: Bench) -> None:
    _, refs = await bench.launched(polite(code=0, after=20.0), sleeps())
    for ref in refs:
        await bench.until_it_says(ref, "ready")
    watch = Stopwatch()
    await bench.engine.stop(refs, 0.0)
    assert watch.seconds < 20.0
    assert all(status.ended for status in (await bench.seen()).values())


@on_each_engine
async def test_who_is_stopped_ends_though_whoever_stopped_it_has_died(bench: Bench) -> None:
    """Regression: Airflow kills a task five seconds after it has told it to stop; with more grace, replicas went on for a minute."""
    _, refs = await bench.launched(stubborn())
    await bench.until_it_says(refs[0], "ready")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(bench.engine.stop(refs, 3.0), 1.0)
    assert (await bench.seen())["workerpool0-0"].phase is Phase.RUNNING
    assert (await bench.ended())["workerpool0-0"].exit_code == 137


@on_each_engine
async def test_sigterm_ends_what_does_not_handle_it(bench: Bench) -> None:
    _, refs = await bench.launched(sleeps())
    await bench.until_it_says(refs[0], "ready")
    watch = Stopwatch()
    await bench.engine.stop(refs, 20.0)
    assert watch.seconds < 20.0
    assert (await bench.seen())["workerpool0-0"].exit_code == 143


@on_each_engine
async def test_stopping_leaves_what_never_ran(bench: Bench) -> None:
    plan, refs = await bench.created(prints(1))
    await bench.engine.stop(refs, 0.1)
    assert (await bench.seen())["workerpool0-0"].phase is Phase.CREATED
    await bench.engine.start(plan, refs)
    assert (await bench.ended())["workerpool0-0"].exit_code == 0


@on_each_engine
async def test_two_may_stop_the_same_at_once(bench: Bench) -> None:
    _, refs = await bench.launched(stubborn(), sleeps())
    for ref in refs:
        await bench.until_it_says(ref, "ready")
    await asyncio.gather(bench.engine.stop(refs, 0.5), bench.other.stop(refs, 0.5))
    assert {status.phase for status in (await bench.seen()).values()} == {Phase.EXITED}


@on_each_engine
async def test_removing_takes_everything_running_or_not(bench: Bench) -> None:
    plan, refs = await bench.created(prints(1), stubborn(), sleeps())
    await bench.engine.start(plan, refs[:2])
    await bench.until(lambda seen: seen["workerpool0-0"].ended)
    await bench.until_it_says(refs[1], "ready")
    watch = Stopwatch()
    await bench.engine.remove(refs)
    assert not await bench.engine.observe(bench.job_id)
    assert watch.seconds < STALL


@on_each_engine
async def test_removing_what_is_gone_is_fine(bench: Bench) -> None:
    plan, refs = await bench.created(prints(1), prints(1))
    await asyncio.gather(bench.engine.remove(refs), bench.other.remove(refs))
    await bench.engine.remove(refs)
    await bench.engine.remove(bench.refs(plan, attempt=3, restart=5))
    await bench.engine.stop(refs, 1.0)
    assert not await bench.engine.observe(bench.job_id)


@on_each_engine
async def test_late_calls_for_an_old_incarnation_never_touch_a_newer_one(bench: Bench) -> None:
    plan, refs = await bench.launched(sleeps())
    await bench.engine.remove(refs)
    newer = [replace(refs[0], restart=1), replace(refs[0], attempt=1), replace(refs[0], generation=2)]
    for new in newer:
        later_plan = replace(plan, generation=new.generation)
        await bench.engine.create(later_plan, [new])
        await bench.engine.start(later_plan, [new])
        await bench.until_it_says(new, "ready")
        await bench.other.start(plan, refs)
        await bench.other.stop(refs, 0.1)
        await bench.other.remove(refs)
        statuses = await bench.engine.observe(bench.job_id)
        assert [(status.ref, status.phase) for status in statuses] == [(new, Phase.RUNNING)]
        assert await bench.texts(refs[0], follow=True) == [], "an old incarnation has no log any more"
        await bench.engine.remove([new])


@on_each_engine
async def test_two_incarnations_are_two_objects(bench: Bench) -> None:
    plan, refs = await bench.launched(prints(2, code=1))
    again = [replace(refs[0], restart=1)]
    await bench.engine.create(plan, again)
    phases = {status.ref: status.phase for status in await bench.engine.observe(bench.job_id)}
    assert phases[again[0]] is Phase.CREATED
    await bench.engine.start(plan, again)
    await bench.until(lambda seen: seen["workerpool0-0"].ref == again[0] and seen["workerpool0-0"].ended)
    await bench.engine.remove(refs)
    assert [status.ref for status in await bench.engine.observe(bench.job_id)] == again
    assert await bench.texts(again[0]) == ["line 0", "line 1"]


@on_each_engine
async def test_jobs_do_not_see_each_other(bench: Bench) -> None:
    _, refs = await bench.launched(sleeps())
    neighbour = await bench.prepared(prints(1), job_id=bench.new_job())
    await bench.engine.create(neighbour, bench.refs(neighbour))
    assert [status.ref for status in await bench.engine.observe(bench.job_id)] == refs
    await bench.engine.remove(refs)
    await bench.engine.release(bench.job_id)
    assert [status.ref for status in await bench.engine.observe(neighbour.job_id)] == bench.refs(neighbour)


@on_each_engine
async def test_releasing_leaves_nothing_but_the_record(bench: Bench) -> None:
    await bench.engine.write_record(bench.job_id, "{}", if_version=0)
    _, refs = await bench.launched(prints(1), prints(1))
    await bench.ended()
    await bench.engine.remove(refs)
    await bench.engine.release(bench.job_id)
    await bench.other.release(bench.job_id)
    (objects,) = [job for job in await bench.engine.jobs() if job.job_id == bench.job_id]
    assert (objects.refs, objects.other) == ((), ())
    assert objects.record is not None
    await bench.engine.delete_record(bench.job_id, if_version=objects.record.version)
    assert bench.job_id not in {job.job_id for job in await bench.engine.jobs()}


@on_each_engine
async def test_releasing_what_never_was_is_fine(bench: Bench) -> None:
    await bench.engine.release(bench.job_id)
    assert not await bench.engine.observe(bench.job_id)


# -- logs -----------------------------------------------------------------------------------------------------------


@on_each_engine
async def test_a_log_is_complete_and_in_order_from_wherever_it_is_taken_up(bench: Bench) -> None:
    _, (ref, *_) = await bench.launched(prints(30, every=0.01))
    lines = await bench.lines(ref)
    assert [line.text for line in lines] == [f"line {number}" for number in range(30)]
    assert {line.ref for line in lines} == {ref}
    assert not any(line.notice for line in lines)
    assert [line.at for line in lines] == sorted(line.at for line in lines)
    status = (await bench.ended())["workerpool0-0"]
    assert status.started_at is not None
    assert status.finished_at is not None
    assert all(status.started_at - 1 <= line.at <= status.finished_at + 1 for line in lines)
    for number, line in enumerate(lines):
        assert await bench.texts(ref, after=line.position) == [later.text for later in lines[number + 1 :]]


@on_each_engine
async def test_equal_lines_in_one_burst_are_told_apart(bench: Bench) -> None:
    _, (ref, *_) = await bench.launched(says("again\n" * 500))
    lines = await bench.lines(ref)
    assert [line.text for line in lines] == ["again"] * 500
    for number in range(0, 500, 37):
        assert len(await bench.lines(ref, after=lines[number].position)) == 499 - number


@on_each_engine
async def test_a_log_is_live(bench: Bench) -> None:
    plan, refs = await bench.created(Act(sleeps().command, sleeps().script))
    async with following(bench, refs[0]) as lines:
        await asyncio.sleep(0.3)
        await bench.engine.start(plan, refs)
        await eventually(lambda: lines)
        assert (await bench.seen())["workerpool0-0"].phase is Phase.RUNNING
        await bench.engine.stop(refs, 5.0)
    assert [line.text for line in lines] == ["ready"]


@on_each_engine
async def test_a_log_can_be_taken_up_while_it_grows(bench: Bench) -> None:
    _, (ref, *_) = await bench.launched(prints(40, every=0.02))
    got: list[str] = []
    position = None
    while len(got) < 40:
        async with asyncio.timeout(30):
            async for line in bench.engine.logs(ref, after=position):
                got.append(line.text)
                position = line.position
                if len(got) % 7 == 0:
                    break
    assert got == [f"line {number}" for number in range(40)]
    assert await bench.texts(ref, after=position) == []


@on_each_engine
async def test_two_may_follow_the_same_log(bench: Bench) -> None:
    _, (ref, *_) = await bench.launched(prints(20, every=0.02))
    first, second = await asyncio.gather(bench.texts(ref), bench.texts(ref))
    assert first == second == [f"line {number}" for number in range(20)]


@on_each_engine
async def test_what_is_there_can_be_had_without_waiting(bench: Bench) -> None:
    _, (ref, *_) = await bench.launched(sleeps())
    await bench.until_it_says(ref, "ready")
    watch = Stopwatch()
    assert await bench.texts(ref, follow=False) == ["ready"]
    assert watch.seconds < STALL


@on_each_engine
async def test_the_end_of_a_log_can_be_had_alone(bench: Bench) -> None:
    _, (ref, *_) = await bench.launched(prints(50))
    await bench.ended()
    assert await bench.texts(ref, follow=False, tail=3) == ["line 47", "line 48", "line 49"]
    assert len(await bench.texts(ref, follow=False, tail=500)) == 50
    assert await bench.texts(ref, follow=False, tail=0) == []


TEXTS = [
    pytest.param("one\ntwo", ["one", "two"], id="last line without a newline"),
    pytest.param("", [], id="nothing"),
    pytest.param("\n\na\n\n", ["", "", "a", ""], id="empty lines"),
    pytest.param("Grüße, 世界 \N{ROCKET}\n", ["Grüße, 世界 \N{ROCKET}"], id="unicode"),
    pytest.param("  indented\ttabs  \n", ["  indented\ttabs  "], id="white space"),
    pytest.param(
        "2026-01-01T00:00:00.000000000Z stamped\n", ["2026-01-01T00:00:00.000000000Z stamped"], id="a time stamp"
    ),
    pytest.param("a\x1b[31mred\x1b[0m\n", ["a\x1b[31mred\x1b[0m"], id="colours"),
    pytest.param(
        "line\u2028separator\x0band\x0cfeeds\x85\n", ["line\u2028separator\x0band\x0cfeeds\x85"], id="other separators"
    ),
]


@pytest.mark.parametrize(("text", "lines"), TEXTS)
def test_output_is_told_as_it_was(adapter: Adapter, text: str, lines: list[str]) -> None:
    @on_each_engine
    async def told(bench: Bench) -> None:
        _, (ref, *_) = await bench.launched(says(text))
        assert await bench.texts(ref) == lines

    told(adapter)


@on_each_engine
async def test_a_very_long_line_arrives_whole(bench: Bench) -> None:
    """An engine may cut a line that could fill its memory, but nothing of it is lost."""
    text = "".join(f"{number:06d}|" for number in range(15_000))
    _, (ref, *_) = await bench.launched(
        Act(
            ("python3", "-c", "print(''.join(f'{n:06d}|' for n in range(15_000))); print('end')"),
            says(f"{text}\nend\n").script,
        )
    )
    lines = await bench.texts(ref)
    assert "".join(lines) == f"{text}end"
    assert lines[-1] == "end"


@on_each_engine
async def test_a_flood_arrives_whole(bench: Bench) -> None:
    _, (ref, *_) = await bench.launched(floods(100_000))
    texts = await bench.texts(ref)
    assert len(texts) == 100_000
    assert texts == [str(number) for number in range(1, 100_001)]


@on_each_engine
async def test_the_log_of_what_does_not_exist_is_empty(bench: Bench) -> None:
    plan = await bench.prepared(prints(1))
    assert await bench.texts(bench.refs(plan)[0], follow=True) == []
    assert await bench.texts(bench.refs(plan)[0], follow=False, tail=5) == []


@on_each_engine
async def test_following_ends_when_the_replica_is_removed(bench: Bench) -> None:
    _, refs = await bench.launched(stubborn())
    await bench.until_it_says(refs[0], "ready")
    async with following(bench, refs[0]) as lines:
        await asyncio.sleep(0.2)
        await bench.other.remove(refs)
    assert [line.text for line in lines if not line.notice] == ["ready"]


@on_each_engine
async def test_the_log_of_a_stopped_replica_is_complete(bench: Bench) -> None:
    _, refs = await bench.launched(polite(code=0, after=0.1))
    await bench.until_it_says(refs[0], "ready")
    async with following(bench, refs[0]) as lines:
        await bench.engine.stop(refs, 10.0)
    assert [line.text for line in lines] == ["ready", "bye"]


# -- watching -------------------------------------------------------------------------------------------------------


@on_each_engine
async def test_a_watcher_is_woken_by_starts_ends_and_removals(bench: Bench) -> None:
    plan, refs = await bench.created(sleeps())
    woken = asyncio.Event()

    async def watch(ready: asyncio.Event) -> None:
        async with bench.other.watch(bench.job_id) as items:
            ready.set()
            async for _ in items:
                woken.set()

    ready = asyncio.Event()
    task = asyncio.create_task(watch(ready))
    try:
        await ready.wait()
        await asyncio.sleep(0.3)
        for change in (
            lambda: bench.engine.start(plan, refs),
            lambda: bench.engine.stop(refs, 5.0),
            lambda: bench.engine.remove(refs),
        ):
            await asyncio.sleep(0.3)
            woken.clear()
            await change()
            async with asyncio.timeout(5):
                await woken.wait()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@on_each_engine
async def test_a_watcher_hears_of_a_changed_record(bench: Bench) -> None:
    """Regression: a cancel by another process was carried out only at the next resync, up to half a minute later."""
    version = await bench.other.write_record(bench.job_id, "{}", if_version=0)
    woken = asyncio.Event()

    async def watch() -> None:
        async with bench.engine.watch(bench.job_id) as items:
            async for _ in items:
                woken.set()

    task = asyncio.create_task(watch())
    try:
        await asyncio.sleep(1)
        woken.clear()
        await bench.other.write_record(bench.job_id, "{}", if_version=version)
        async with asyncio.timeout(2):
            await woken.wait()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@on_each_engine
async def test_a_watcher_hears_of_an_end_that_nobody_asked_for(bench: Bench) -> None:
    async with bench.engine.watch(bench.job_id) as items:
        await bench.launched(prints(1, code=1, every=0.5))
        async with asyncio.timeout(10):
            async for _ in items:
                if (await bench.seen())["workerpool0-0"].ended:
                    break


@on_each_engine
async def test_many_jobs_can_be_watched_at_once(bench: Bench) -> None:
    jobs = [bench.job_id, *(bench.new_job() for _ in range(4))]
    heard: set[str] = set()

    async def watch(job_id: str, ready: asyncio.Event) -> None:
        async with bench.engine.watch(job_id) as items:  # type: ignore[arg-type]
            ready.set()
            async for _ in items:
                heard.add(job_id)
                return

    readies = [asyncio.Event() for _ in jobs]
    tasks = [asyncio.create_task(watch(job, ready)) for job, ready in zip(jobs, readies, strict=True)]
    for ready in readies:
        await ready.wait()
    for job in jobs:
        plan = await bench.prepared(prints(1), job_id=job)
        await bench.other.create(plan, bench.refs(plan))
        await bench.other.start(plan, bench.refs(plan))
    async with asyncio.timeout(PATIENCE_FOR_EVENTS):
        await asyncio.gather(*tasks)
    assert heard == set(jobs)


PATIENCE_FOR_EVENTS = 10.0


# -- records --------------------------------------------------------------------------------------------------------


@on_each_engine
async def test_a_record_is_kept_as_it_was_written(bench: Bench) -> None:
    assert await bench.engine.read_record(bench.job_id) is None
    data = json.dumps({"text": 'Grüße, \N{ROCKET} "quoted" \\ \n', "long": "x" * 100_000}, ensure_ascii=False)
    version = await bench.engine.write_record(
        bench.job_id, data, if_version=0, labels={"display-name": "digits", "state": "x"}
    )
    assert version > 0
    stored = await bench.other.read_record(bench.job_id)
    assert stored is not None
    assert (stored.job_id, stored.version, stored.data) == (bench.job_id, version, data)
    again = await bench.other.write_record(bench.job_id, "{}", if_version=version)
    assert again > version
    stored = await bench.engine.read_record(bench.job_id)
    assert stored is not None
    assert (stored.version, stored.data) == (again, "{}")


@on_each_engine
async def test_a_record_is_written_only_over_the_version_that_was_read(bench: Bench) -> None:
    with pytest.raises(RecordConflict):
        await bench.engine.write_record(bench.job_id, "from nothing", if_version=7)
    first = await bench.engine.write_record(bench.job_id, "first", if_version=0)
    with pytest.raises(RecordConflict):
        await bench.other.write_record(bench.job_id, "another first", if_version=0)
    second = await bench.engine.write_record(bench.job_id, "second", if_version=first)
    with pytest.raises(RecordConflict):
        await bench.other.write_record(bench.job_id, "late", if_version=first)
    with pytest.raises(RecordConflict):
        await bench.other.write_record(bench.job_id, "early", if_version=second + 1)
    stored = await bench.other.read_record(bench.job_id)
    assert stored is not None
    assert stored.data == "second"


@on_each_engine
async def test_no_write_is_lost_under_contention(bench: Bench) -> None:
    async def count_up(engine: Engine, times: int) -> list[int]:
        versions = []
        while len(versions) < times:
            stored = await engine.read_record(bench.job_id)
            number = 0 if stored is None else int(stored.data)
            try:
                version = await engine.write_record(
                    bench.job_id, str(number + 1), if_version=0 if stored is None else stored.version
                )
            except RecordConflict:
                continue
            versions.append(version)
        return versions

    gained = await asyncio.gather(*(count_up(engine, 5) for engine in (bench.engine, bench.other) for _ in range(3)))
    stored = await bench.engine.read_record(bench.job_id)
    assert stored is not None
    assert stored.data == "30"
    versions = [version for mine in gained for version in mine]
    assert len(set(versions)) == 30, "a version was given to two writers"
    assert all(list(mine) == sorted(mine) for mine in gained)
    assert stored.version == max(versions)


@on_each_engine
async def test_of_two_who_write_at_once_one_wins(bench: Bench) -> None:
    version = 0
    for turn in range(10):
        results = await asyncio.gather(
            *(
                engine.write_record(bench.job_id, f"{turn} {number}", if_version=version)
                for number, engine in enumerate((bench.engine, bench.other) * 2)
            ),
            return_exceptions=True,
        )
        won = [(number, result) for number, result in enumerate(results) if isinstance(result, int)]
        assert len(won) == 1
        assert all(isinstance(result, RecordConflict) for result in results if not isinstance(result, int))
        stored = await bench.other.read_record(bench.job_id)
        assert stored is not None
        number, version = won[0]
        assert (stored.version, stored.data) == (version, f"{turn} {number}")


@on_each_engine
async def test_a_deleted_record_is_gone_and_can_be_created_anew(bench: Bench) -> None:
    first = await bench.engine.write_record(bench.job_id, "first", if_version=0)
    second = await bench.engine.write_record(bench.job_id, "second", if_version=first)
    with pytest.raises(RecordConflict):
        await bench.other.delete_record(bench.job_id, if_version=first)
    await bench.other.delete_record(bench.job_id, if_version=second)
    assert await bench.engine.read_record(bench.job_id) is None
    with pytest.raises(RecordConflict):
        await bench.engine.delete_record(bench.job_id, if_version=second)
    with pytest.raises(RecordConflict):
        await bench.engine.write_record(bench.job_id, "from a stalled writer", if_version=second)
    assert await bench.engine.read_record(bench.job_id) is None
    assert await bench.engine.write_record(bench.job_id, "anew", if_version=0) > 0
    stored = await bench.other.read_record(bench.job_id)
    assert stored is not None
    assert stored.data == "anew"


@on_each_engine
async def test_of_a_write_and_a_delete_at_once_one_wins(bench: Bench) -> None:
    for turn in range(10):
        version = await bench.engine.write_record(bench.job_id, f"{turn}", if_version=0)
        calls = [
            bench.engine.write_record(bench.job_id, f"{turn} again", if_version=version),
            bench.other.delete_record(bench.job_id, if_version=version),
        ]
        wrote, deleted = await asyncio.gather(*calls, return_exceptions=True)
        stored = await bench.engine.read_record(bench.job_id)
        if isinstance(deleted, RecordConflict):
            assert stored is not None
            assert (stored.version, stored.data) == (wrote, f"{turn} again")
            await bench.engine.delete_record(bench.job_id, if_version=stored.version)
        else:
            assert deleted is None
            assert isinstance(wrote, RecordConflict)
            assert stored is None


# -- listing and describing -----------------------------------------------------------------------------------------


@on_each_engine
async def test_every_job_is_listed_with_what_it_has(bench: Bench) -> None:
    await bench.engine.write_record(bench.job_id, '{"a": 1}', if_version=0)
    recorded_only = bench.new_job()
    await bench.engine.write_record(recorded_only, "{}", if_version=0)
    plan, refs = await bench.created(prints(1), prints(1))
    unrecorded = await bench.prepared(prints(1), job_id=bench.new_job())
    await bench.engine.create(unrecorded, bench.refs(unrecorded))
    listed = {job.job_id: job for job in await bench.other.jobs()}
    full = listed[bench.job_id]
    assert full.record is not None
    assert full.record.data == '{"a": 1}'
    assert sorted(full.refs) == sorted(refs)
    assert full.created_at is not None
    assert listed[recorded_only].record is not None
    assert listed[recorded_only].refs == ()
    assert listed[unrecorded.job_id].record is None
    assert sorted(listed[unrecorded.job_id].refs) == bench.refs(unrecorded)
    assert plan.job_id == bench.job_id


@on_each_engine
async def test_an_engine_has_one_lasting_identity(bench: Bench) -> None:
    identity = await bench.engine.identity()
    assert identity
    assert await bench.other.identity() == identity
    async with bench.adapter.backend().open() as again:
        assert await again.identity() == identity


@on_each_engine
async def test_usage_is_sampled_of_running_replicas(bench: Bench) -> None:
    _, refs = await bench.launched(sleeps(), prints(1))
    await bench.until_it_says(refs[0], "ready")
    await bench.until(lambda seen: seen["workerpool1-0"].ended)
    samples = await eventually(lambda: bench.engine.usage(bench.job_id))
    assert [sample.ref for sample in samples] == refs[:1]
    assert samples[0].memory_bytes > 0
    assert samples[0].cpus >= 0


@on_each_engine
async def test_capabilities_need_no_engine_and_are_the_engines(bench: Bench) -> None:
    backend = bench.adapter.backend()
    assert backend.capabilities().backend == backend.name == bench.engine.capabilities.backend
    assert (backend.capabilities().loopback, backend.capabilities().isolated) == (
        bench.engine.capabilities.loopback,
        bench.engine.capabilities.isolated,
    )


def test_a_backend_is_frozen_plain_configuration(adapter: Adapter) -> None:
    backend = adapter.backend()
    assert isinstance(backend, Backend)
    plain = backend.serialize()
    assert plain["name"] == backend.name
    assert json.loads(json.dumps(plain)) == plain
    assert adapter.backend().serialize() == plain
    assert adapter.backend() == backend
    assert hash(adapter.backend()) == hash(backend)
    with pytest.raises((FrozenInstanceError, AttributeError)):
        backend.name = "another"  # type: ignore[misc]


def test_rendering_is_pure_and_plain(adapter: Adapter) -> None:
    @on_each_engine
    async def check(bench: Bench) -> None:
        plan = bench.plan(prints(1), sleeps())
        first, again = bench.adapter.backend().render(plan), bench.adapter.backend().render(plan)
        assert first == again
        assert json.loads(json.dumps(first)) == first
        assert len(first) >= 2
        assert all(replica.name in json.dumps(first) for replica in plan.replicas)
        assert not await bench.engine.observe(bench.job_id)
        assert bench.job_id not in {job.job_id for job in await bench.engine.jobs()}

    check(adapter)


# -- engines that run commands --------------------------------------------------------------------------------------


def test_a_replica_gets_its_command_arguments_and_environment_to_the_letter(runs_commands: Adapter) -> None:
    strange = (
        "",
        "two words",
        "$HOME",
        "'quoted'",
        '"double"',
        "*",
        "back\\slash",
        "Grüße",
        "a=b",
        "--flag",
        "new\nline",
    )

    @on_each_engine
    async def check(bench: Bench) -> None:
        code = (
            "import json, os, sys\n"
            "print(json.dumps([sys.argv[1:], *map(os.environ.get, ('STRANGE', 'EMPTY', 'CLOUD_ML_JOB_ID'))]))"
        )
        act = Act(
            ("python3", "-c", code),
            sleeps().script,
            args=strange,
            env=(("STRANGE", "two  words $HOME\n'x'"), ("EMPTY", "")),
        )
        _, (ref, *_) = await bench.launched(act)
        (line,) = await bench.texts(ref)
        assert json.loads(line) == [list(strange), "two  words $HOME\n'x'", "", bench.job_id]

    check(runs_commands)


def test_standard_error_is_part_of_the_log(runs_commands: Adapter) -> None:
    @on_each_engine
    async def check(bench: Bench) -> None:
        _, (ref, *_) = await bench.launched(Act(("sh", "-c", "echo out; echo err >&2"), sleeps().script))
        assert sorted(await bench.texts(ref)) == ["err", "out"]

    check(runs_commands)


def test_nobody_waits_at_standard_input(runs_commands: Adapter) -> None:
    @on_each_engine
    async def check(bench: Bench) -> None:
        _, (ref, *_) = await bench.launched(Act(("sh", "-c", "cat; echo end of input"), sleeps().script))
        assert await bench.texts(ref) == ["end of input"]

    check(runs_commands)


def test_bytes_that_are_no_text_do_not_break_a_log(runs_commands: Adapter) -> None:
    @on_each_engine
    async def check(bench: Bench) -> None:
        _, (ref, *_) = await bench.launched(Act(("sh", "-c", r"printf 'a\377\376b\nnext\n'"), sleeps().script))
        assert await bench.texts(ref) == ["a\ufffd\ufffdb", "next"]

    check(runs_commands)


def test_children_that_outlive_their_replica_go_with_it(runs_commands: Adapter) -> None:
    """A replica has ended when its first process has; what it left behind is ended when it is removed."""

    @on_each_engine
    async def check(bench: Bench) -> None:
        _, refs = await bench.launched(Act(("sh", "-c", "sleep 1000 & echo $!; exit 4"), sleeps().script))
        assert (await bench.ended())["workerpool0-0"].exit_code == 4
        async with asyncio.timeout(10):
            await bench.texts(refs[0])
        await bench.engine.remove(refs)

    check(runs_commands)
