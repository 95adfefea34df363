"""The facade, over the fake engine: in virtual time where it waits, in threads and real time where users are."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest

from airflow_customjob.backends.base import EngineError, JobObjects, LogLine, ReplicaRef, StoredRecord
from airflow_customjob.backends.fake import FakeWorld, cannot_start, exits, run_in_virtual_time, runs_for_ever
from airflow_customjob.backends.fake.backend import register
from airflow_customjob.client import AsyncCustomJobClient, CustomJobClient
from airflow_customjob.job import Job, NoSuchJob, new_owner
from airflow_customjob.plan.types import JobId, JobOptions, JobRequest
from airflow_customjob.spec.job_state import JobState
from airflow_customjob.spec.problem import SpecError
from airflow_customjob.supervisor.claims import ClaimRefused
from airflow_customjob.supervisor.gc import ORPHAN_AGE, Fate, verdict_on
from airflow_customjob.supervisor.ownership import Claim, Verdict
from airflow_customjob.supervisor.record import Owner, new_record, touched
from tests.cli.conftest import spec

JOB = spec("train", "work")
ID = JobId("1234567")


@pytest.fixture
def world() -> FakeWorld:
    made = FakeWorld()
    register(made)
    return made


def virtually(world: FakeWorld, main: Callable[[AsyncCustomJobClient], Coroutine[Any, Any, Any]]) -> Any:
    """Runs this with a client whose clock is the world's."""
    return run_in_virtual_time(main(AsyncCustomJobClient(world.backend(), clock=world.now)))


def nothing_is_left(world: FakeWorld, job_id: str) -> bool:
    objects = [objects for objects in world.jobs() if objects.job_id == job_id]
    return all(not found.refs and not found.other for found in objects)


# -- running --------------------------------------------------------------------------------------------------------


def test_run_gives_the_ended_job_and_every_line(world: FakeWorld) -> None:
    world.script("workerpool0-0", exits(0, says=["one", "two"], every=1.0))
    world.script("workerpool1-0", runs_for_ever(says=["at work"]))
    lines: list[str] = []
    states: list[JobState] = []

    async def main(client: AsyncCustomJobClient) -> Job:
        return await client.run(
            JOB,
            sink=lambda line: lines.append(line.prefixed),
            on_change=lambda record, _: states.append(record.state),
        )

    job = virtually(world, main)
    assert job.state.succeeded
    assert job.error == ""
    assert sorted(lines) == ["workerpool0-0: one", "workerpool0-0: two", "workerpool1-0: at work"]
    assert list(dict.fromkeys(states)) == [
        JobState.JOB_STATE_QUEUED, JobState.JOB_STATE_PENDING, JobState.JOB_STATE_RUNNING, JobState.JOB_STATE_SUCCEEDED,
    ]  # fmt: skip
    assert job.to_json()["state"] == "JOB_STATE_SUCCEEDED"
    assert job.to_dict()["state"] == 4
    assert nothing_is_left(world, job.job_id)


def test_a_failed_job_is_given_with_its_error(world: FakeWorld) -> None:
    world.script("workerpool0-0", exits(3, says=["no data"]))
    job = virtually(world, lambda client: client.run(JOB))
    assert job.state is JobState.JOB_STATE_FAILED
    assert job.error.startswith("The replica workerpool0-0 exited with a non-zero status of 3.")
    assert "no data" in job.error


def test_a_refused_spec_creates_nothing(world: FakeWorld) -> None:
    with pytest.raises(SpecError, match="colour"):
        virtually(world, lambda client: client.run(JOB | {"colour": "red"}))
    assert world.jobs() == []


def test_logs_of_no_replica_are_refused_before_anything_is_created(world: FakeWorld) -> None:
    with pytest.raises(SpecError, match="workerpool9"):
        virtually(world, lambda client: client.run(JOB, logs="workerpool9-*"))
    assert world.jobs() == []


def test_warnings_are_said(world: FakeWorld) -> None:
    job = spec("train")
    job["jobSpec"]["workerPoolSpecs"][0]["machineSpec"]["machineType"] = "n9-colossal-1"
    said: list[str] = []
    virtually(world, lambda client: client.run(job, say=said.append))
    assert [text for text in said if "machine_type" in text]


def test_run_works_where_a_loop_runs_already(world: FakeWorld) -> None:
    async def notebook() -> Job:
        return CustomJobClient(world.backend()).run(JOB)

    assert asyncio.run(notebook()).state.succeeded


# -- interrupts -----------------------------------------------------------------------------------------------------


def _interrupt_when(ready: Callable[[], bool]) -> threading.Thread:
    def wait() -> None:
        end = time.monotonic() + 20
        while not ready() and time.monotonic() < end:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


@pytest.fixture
def interruptible() -> Any:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("in_a_notebook", [False, True])
def test_a_keyboard_interrupt_cancels_the_job_and_leaves_nothing(world: FakeWorld, in_a_notebook: bool) -> None:
    """Regression: in a notebook, where the job runs in a thread of its own, it went on."""
    world.script("workerpool0-0", runs_for_ever())
    world.script("workerpool1-0", runs_for_ever())
    client = CustomJobClient(world.backend())
    states: list[JobState] = []

    def run() -> Job:
        return client.run(JOB, job_id=ID, on_change=lambda record, _: states.append(record.state))

    async def notebook() -> None:
        run()

    thread = _interrupt_when(lambda: JobState.JOB_STATE_RUNNING in states)
    loop = asyncio.new_event_loop()
    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(notebook()) if in_a_notebook else run()
    loop.close()
    thread.join()
    job = client.get(ID)
    assert (job.state, job.error) == (JobState.JOB_STATE_CANCELLED, "The job was interrupted by its user.")
    assert nothing_is_left(world, ID)


@pytest.mark.parametrize("steps", range(12))
def test_an_interrupt_at_any_moment_leaves_nothing(world: FakeWorld, steps: int) -> None:
    """Regression: one that came during submission left a queued job behind."""
    world.script("workerpool0-0", runs_for_ever())
    world.script("workerpool1-0", runs_for_ever())

    async def main(client: AsyncCustomJobClient) -> None:
        running = asyncio.ensure_future(client.run(JOB, job_id=ID))
        for _ in range(steps * 3):
            await asyncio.sleep(0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    virtually(world, main)
    assert nothing_is_left(world, ID)
    for objects in world.jobs():
        assert objects.record is not None
        assert json.loads(objects.record.data)["state"] == int(JobState.JOB_STATE_CANCELLED)


def test_an_interrupt_outlasts_an_engine_that_fails(world: FakeWorld) -> None:
    """Regression: an engine that did not answer at that moment left the job running."""
    world.script("workerpool0-0", runs_for_ever())

    async def main(client: AsyncCustomJobClient) -> None:
        running = asyncio.ensure_future(client.run(JOB, job_id=ID))
        await asyncio.sleep(5)
        world.fail("read_record", EngineError("nobody answers"), times=3)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    virtually(world, main)
    assert nothing_is_left(world, ID)


def test_an_interrupted_supervisor_cancels_nobody_elses_job(world: FakeWorld) -> None:
    world.script("workerpool0-0", runs_for_ever())

    async def main(client: AsyncCustomJobClient) -> JobState:
        running = asyncio.ensure_future(client.run(JOB, job_id=ID))
        await asyncio.sleep(5)
        held = (await client.get(ID)).record.owner
        later = replace(new_owner(), try_number=held.try_number + 1)
        verdict, _ = await client.submit(JOB, job_id=ID, owner=later)
        assert verdict is Claim.TAKE_OVER
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return (await client.get(ID)).state

    assert virtually(world, main) is JobState.JOB_STATE_RUNNING


# -- adopting and cancelling ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "job", "verdict", "generation"),
    [
        ({"key": "1"}, JOB, Claim.GO_ON, 1),
        ({"key": "2", "try_number": 2}, JOB, Claim.TAKE_OVER, 1),
        ({"key": "2", "try_number": 2}, spec("other"), Claim.REPLACE, 2),
        ({"key": "2", "try_number": 2, "max_tries": 1}, JOB, Claim.REPLACE, 2),
    ],
)
def test_the_same_id_adopts_or_starts_anew(
    world: FakeWorld, changes: dict[str, Any], job: Any, verdict: Claim, generation: int
) -> None:
    async def main(client: AsyncCustomJobClient) -> tuple[Claim, Job]:
        await client.submit(JOB, job_id=ID, owner=Owner("1", try_number=1))
        return await client.submit(job, job_id=ID, owner=replace(Owner("1", try_number=1), **changes))

    found, submitted = virtually(world, main)
    assert (found, submitted.record.generation) == (verdict, generation)


def test_an_earlier_try_is_refused(world: FakeWorld) -> None:
    client = CustomJobClient(world.backend())
    client.submit(JOB, job_id=ID, owner=Owner("2"))
    with pytest.raises(ClaimRefused, match="later try"):
        client.submit(JOB, job_id=ID, owner=Owner("1"))


def test_a_cancel_of_a_stale_generation_changes_nothing(world: FakeWorld) -> None:
    client = CustomJobClient(world.backend())
    client.submit(JOB, job_id=ID, owner=Owner("1"))
    client.submit(spec("other"), job_id=ID, owner=Owner("2"))
    assert client.cancel(ID, generation=1).state is JobState.JOB_STATE_QUEUED
    assert client.cancel(ID, generation=2).state is JobState.JOB_STATE_CANCELLED


def test_a_cancel_of_an_ended_job_leaves_its_end(world: FakeWorld) -> None:
    client = CustomJobClient(world.backend())
    client.run(JOB, job_id=ID)
    assert client.cancel(ID).state is JobState.JOB_STATE_SUCCEEDED


def test_what_is_not_there_is_said_so(world: FakeWorld) -> None:
    client = CustomJobClient(world.backend())
    calls: list[Callable[[], Any]] = [
        lambda: client.get("7"), lambda: client.cancel("7"), lambda: client.supervise("7"), lambda: list(client.logs("7")),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(NoSuchJob, match="has no job 7 "):
            call()


def test_the_latest_job_is_listed_first(world: FakeWorld) -> None:
    client = CustomJobClient(world.backend())
    ids = [client.submit(JOB).job_id for _ in range(3)]
    assert [job.job_id for job in client.list()] == ids[::-1]


def test_a_record_of_a_newer_version_does_not_hide_the_others(
    world: FakeWorld, caplog: pytest.LogCaptureFixture
) -> None:
    """Regression: listing failed altogether."""
    client = CustomJobClient(world.backend())
    client.submit(JOB, job_id=ID)
    newer = json.loads(world.record(ID).data) | {"format": 99}  # type: ignore[union-attr]
    world.write_record(JobId("99"), json.dumps(newer), 0, "a newer version")
    assert [job.job_id for job in client.list()] == [ID]
    assert "job 99: the job's record has format 99" in caplog.text


def test_a_ref_finds_the_job_again(world: FakeWorld) -> None:
    ref = json.loads(json.dumps(CustomJobClient(world.backend()).submit(JOB).ref()))
    assert CustomJobClient(ref["backend"]).get(ref["custom_job_id"]).record.engine == ref["engine"]


# -- logs -----------------------------------------------------------------------------------------------------------


def followed(world: FakeWorld, *, faults: Callable[[], None] = lambda: None, **how: Any) -> list[str]:
    """What a reader sees who starts before the job does."""

    async def main(client: AsyncCustomJobClient) -> list[str]:
        await client.submit(JOB, job_id=ID)
        reading = asyncio.ensure_future(_prefixed(client, follow=True, **how))
        await asyncio.sleep(1)
        faults()
        await client.supervise(ID, sink=lambda line: None, hold_removal=30.0)
        return await asyncio.wait_for(reading, 60)

    return list(virtually(world, main))


async def _prefixed(client: AsyncCustomJobClient, **how: Any) -> list[str]:
    return [line.prefixed async for line in client.logs(ID, **how)]


def test_following_takes_in_replicas_that_start_later(world: FakeWorld) -> None:
    world.script("workerpool0-0", exits(0, says=["one", "two"], every=20.0))
    world.script("workerpool1-0", runs_for_ever(says=["late"]).waiting(10.0))
    assert sorted(followed(world)) == ["workerpool0-0: one", "workerpool0-0: two", "workerpool1-0: late"]


def test_following_one_replica(world: FakeWorld) -> None:
    world.script("workerpool0-0", exits(0, says=["one", "two"], every=1.0))
    world.script("workerpool1-0", runs_for_ever(says=["at work"]))
    assert followed(world, replica="workerpool1-0") == ["workerpool1-0: at work"]


def test_a_log_that_breaks_off_is_taken_up_without_gap_or_repeat(world: FakeWorld) -> None:
    world.script("workerpool0-0", exits(0, says=[str(n) for n in range(20)], every=1.0))
    error = EngineError("the connection broke")

    def faults() -> None:
        world.fail("logs", error, times=3)
        world.fail("observe", error)

    assert followed(world, faults=faults) == [f"workerpool0-0: {n}" for n in range(20)]


def test_following_ends_with_a_job_that_never_had_a_replica(world: FakeWorld) -> None:
    """Regression: it waited for an event that no replica was left to cause."""
    world.has_no_image("local/py:1")
    assert followed(world) == []


def test_the_end_of_a_log(world: FakeWorld) -> None:
    world.script("workerpool0-0", runs_for_ever(says=["one", "two", "three"]))

    async def main(client: AsyncCustomJobClient) -> list[str]:
        running = asyncio.ensure_future(client.run(JOB, job_id=ID))
        await asyncio.sleep(5)
        shown = await _prefixed(client, tail=2)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return shown

    assert virtually(world, main) == ["workerpool0-0: two", "workerpool0-0: three"]


def test_a_reader_may_stop_reading(world: FakeWorld) -> None:
    world.script("workerpool0-0", runs_for_ever(says=["one"]))
    client = CustomJobClient(world.backend())
    running = threading.Thread(target=lambda: client.run(JOB, job_id=ID))
    client.submit(JOB, job_id=ID, owner=Owner("0"))
    running.start()
    lines = client.logs(ID, follow=True)
    line: LogLine = next(lines)  # type: ignore[call-overload]
    assert line.text == "one"
    lines.close()  # type: ignore[attr-defined]
    client.cancel(ID)
    running.join(20)
    assert not running.is_alive()


# -- secrets --------------------------------------------------------------------------------------------------------


def test_a_secret_is_in_no_record_plan_or_result(world: FakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIDDEN", "hunter2")
    options = JobOptions(secret_env=(("TOKEN", "env:HIDDEN"),))
    client = CustomJobClient(world.backend())
    plan = client.plan(JOB, options)
    job = client.run(JOB, options)
    stored = world.record(job.job_id)
    assert stored is not None
    assert "env:HIDDEN" in stored.data
    shown = [
        stored.data,
        repr(plan),
        json.dumps(client.backend.render(plan)),
        json.dumps(job.to_dict()),
        json.dumps(job.ref()),
    ]
    assert not [text for text in shown if "hunter2" in text]
    assert "TOKEN" not in dict(plan.primary.env)


def test_what_a_failing_replica_prints_of_a_secret_is_in_no_log_record_or_result(
    world: FakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last lines are the error's, and so were in the record, in XComs and in the exception."""
    monkeypatch.setenv("HIDDEN", 'hunter"2')
    says = ['TOKEN is hunter"2', json.dumps({"TOKEN": 'hunter"2'}), "the end"]
    world.script("workerpool0-0", exits(1, says=says))
    lines: list[LogLine] = []
    client = CustomJobClient(world.backend())
    job = client.run(JOB, JobOptions(secret_env=(("TOKEN", "env:HIDDEN"),)), sink=lines.append)
    assert [line.text for line in lines] == ["TOKEN is ***", '{"TOKEN": "***"}', "the end"]
    stored = world.record(job.job_id)
    assert stored is not None
    assert "TOKEN is ***" in job.error
    assert not [text for text in (stored.data, job.error, json.dumps(job.to_dict())) if "hunter" in text]


# -- gc -------------------------------------------------------------------------------------------------------------

REF = ReplicaRef(ID, 1, 0, "workerpool0-0", 0)
DAY = 86400.0


@pytest.mark.parametrize(
    ("state", "ended", "left", "age", "owner_state", "fate"),
    [
        (None, None, True, ORPHAN_AGE, None, Fate.REMOVE),
        (None, None, True, ORPHAN_AGE - 1, None, Fate.KEEP),
        (None, None, False, DAY, None, Fate.KEEP),
        ("RUNNING", None, True, DAY, None, Fate.KEEP),
        ("RUNNING", None, True, DAY, "running", Fate.KEEP),
        ("RUNNING", None, True, DAY, "unknown", Fate.KEEP),
        ("RUNNING", None, True, DAY, "failed", Fate.CANCEL),
        ("RUNNING", None, True, DAY, "gone", Fate.CANCEL),
        ("SUCCEEDED", DAY, False, DAY, None, Fate.KEEP),
        ("SUCCEEDED", DAY, True, DAY, None, Fate.CLEAR),
        ("FAILED", DAY, True, DAY, "failed", Fate.CLEAR),
        ("SUCCEEDED", 7 * DAY, False, 8 * DAY, None, Fate.FORGET),
        ("CANCELLED", 8 * DAY, True, 8 * DAY, None, Fate.FORGET),
    ],
)
def test_what_becomes_of_what_is_left(
    state: str | None, ended: float | None, left: bool, age: float, owner_state: str | None, fate: Fate
) -> None:
    """:param ended: seconds ago; so is ``age``, of the objects."""
    now = 100 * DAY
    record = None
    if state is not None:
        record = new_record(ID, Owner("1"), "engine", JobRequest({}), "digest", now - age)
        end = None if ended is None else now - ended
        record = touched(record, now - age, state=JobState[f"JOB_STATE_{state}"], end_time=end)
    stored = StoredRecord(ID, 1, "") if record else None
    objects = JobObjects(ID, stored, (REF,) if left else (), (), now - age)
    assert verdict_on(objects, record, owner_state, now).fate is fate


def test_gc_clears_away_and_forgets(world: FakeWorld) -> None:
    async def main(client: AsyncCustomJobClient) -> list[tuple[str, Fate]]:
        await client.run(JOB, JobOptions(record_ttl=100.0), job_id=JobId("1"))
        await client.run(JOB, JobOptions(record_ttl=1e6), job_id=JobId("2"))
        await asyncio.sleep(200)
        planned = await client.gc(dry_run=True)
        assert len(await client.list()) == 2
        done = await client.gc()
        assert planned == done
        assert [job.job_id for job in await client.list()] == ["2"]
        assert await client.gc() == []
        return [(row.job_id, row.fate) for row in done]

    assert virtually(world, main) == [("1", Fate.FORGET)]


def test_gc_goes_on_to_the_other_jobs_where_one_cannot_be_removed(world: FakeWorld) -> None:
    """One job that the engine would not let go of kept all later ones from being looked at."""
    said: list[str] = []

    async def main(client: AsyncCustomJobClient) -> None:
        for _ in range(3):
            await client.run(JOB, JobOptions(record_ttl=0.0))
        world.fail("delete_record", EngineError("device or resource busy"))
        assert len(await client.gc(say=said.append)) == 3
        (left,) = await client.list()
        assert f"job {left.job_id}: not done, the next gc tries again: device or resource busy" in said
        await client.gc()
        assert await client.list() == []

    virtually(world, main)


def test_gc_cancels_what_nobody_owns_any_more(world: FakeWorld) -> None:
    world.script("workerpool0-0", cannot_start(), runs_for_ever())

    async def main(client: AsyncCustomJobClient) -> Job:
        await client.submit(JOB, job_id=ID)
        await client.gc(owner_state=_gone)
        return await client.get(ID)

    async def _gone(owner: Owner) -> str:
        return "gone"

    job = virtually(world, main)
    assert job.state is JobState.JOB_STATE_CANCELLED
    assert nothing_is_left(world, ID)


def test_who_may_cancel_is_told(world: FakeWorld) -> None:
    async def main(client: AsyncCustomJobClient) -> list[Verdict]:
        await client.submit(JOB, job_id=ID)
        return [(await client.cancel(ID, generation=generation))[0] for generation in (2, 1)]

    assert virtually(world, main) == [Verdict.LEAVE, Verdict.CANCEL]


# -- a record that this version refuses -----------------------------------------------------------------------------

REFUSALS = {
    "a rule became stricter": lambda record: record["request"]["options"].update(timeout_state="NEVER"),
    "a field is gone": lambda record: record["request"]["job"]["jobSpec"].update(oldField=1),
}
"""How a record, written by hand, no longer plans."""


@pytest.mark.parametrize("refusal", REFUSALS)
@pytest.mark.parametrize("how", ["cancel", "clear", "gc"])
def test_a_job_that_is_no_longer_planned_can_be_told_cancelled_cleared_and_collected(
    world: FakeWorld, refusal: str, how: str
) -> None:
    """Regression: it could not even be cancelled, and its replicas ran on for ever."""
    world.script("workerpool0-0", runs_for_ever(), exits(0))
    world.script("workerpool1-0", runs_for_ever())
    said: list[str] = []

    async def main(client: AsyncCustomJobClient) -> Job:
        owner = Owner("1", try_number=1)
        await client.submit(JOB, JobOptions(record_ttl=100.0), job_id=ID, owner=owner)
        await client.supervise(ID, until=lambda record: record.state is JobState.JOB_STATE_RUNNING)
        stored = world.record(ID)
        assert stored is not None
        record = json.loads(stored.data)
        REFUSALS[refusal](record)
        world.write_record(ID, json.dumps(record), stored.version)

        with pytest.raises(SpecError):
            await client.supervise(ID, say=said.append)
        assert f"`customjob cancel --backend fake {ID}` ends it" in said[-1]
        job = await client.get(ID)
        assert job.refusal()
        assert (job.to_dict()["display_name"], len(job.replicas)) == ("a job", 2)
        if how == "clear":
            return await client.run(JOB, job_id=ID, owner=Owner("2", try_number=1, clear_number=1))
        if how == "cancel":
            await client.cancel(ID)
            await client.supervise(ID)
        else:
            await client.gc(owner_state=_gone)
        ended = await client.get(ID)
        await asyncio.sleep(200)
        await client.gc()
        assert await client.list() == []
        return ended

    async def _gone(owner: Owner) -> str:
        return "gone"

    job = virtually(world, main)
    end = JobState.JOB_STATE_SUCCEEDED if how == "clear" else JobState.JOB_STATE_CANCELLED
    assert (job.state, job.record.generation) == (end, 2 if how == "clear" else 1)
    assert nothing_is_left(world, ID)
