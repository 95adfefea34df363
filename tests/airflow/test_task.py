"""What operator and trigger have in common: the supervisor's thread, the XComs, the sweep."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest

from airflow_customjob.backends.base import LogLine, Phase, Reason, ReplicaRef, ReplicaStatus
from airflow_customjob.backends.fake import FakeBackend, FakeWorld, exits, runs_for_ever
from airflow_customjob.client import AsyncCustomJobClient
from airflow_customjob.plan.types import JobId, JobRequest
from airflow_customjob.spec.job_state import JobState
from airflow_customjob.supervisor.ownership import GONE, UNKNOWN
from airflow_customjob.supervisor.record import JobRecord, Owner, new_record, touched
from airflow_customjob.task import sweep, xcoms
from airflow_customjob.task.thread import Stop, Stopping, SupervisorThread
from tests.airflow.conftest import JOB

# -- the supervisor's thread -----------------------------------------------------------------------------------------------


class TimedOut(BaseException):
    """As AirflowTaskTimeout."""


@contextmanager
def on_alarm(do: Any, after: float = 0.2) -> Iterator[None]:
    """A signal in the main thread, as Airflow's timeout and SIGTERM are."""

    def handle(number: int, frame: FrameType | None) -> None:
        do()

    before = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, after)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Work:
    """Waits, and needs a moment to wind up."""

    def __init__(self) -> None:
        self.told: Stop | None = None
        self.wound_up = False

    async def __call__(self, stopping: Stopping) -> str:
        if await stopping.unless_told(asyncio.sleep(30, "done")):
            return "done"
        self.told = stopping.why
        await asyncio.sleep(0.3)
        self.wound_up = True
        return "stopped"


def test_an_exception_of_a_signal_handler_waits_for_the_wind_up() -> None:
    """Regression: thread.join() took the thread for ended, and the job was left running after an execution_timeout."""

    def time_out() -> None:
        raise TimedOut

    work = Work()
    with on_alarm(time_out), pytest.raises(TimedOut):
        SupervisorThread().run(work)
    assert (work.told, work.wound_up) == (Stop.OVER, True)


def test_a_signal_handler_only_sets_a_flag() -> None:
    thread, work = SupervisorThread(), Work()
    with on_alarm(lambda: thread.tell(Stop.KILLED)):
        assert thread.run(work) == "stopped"
    assert work.told is Stop.KILLED


def test_what_was_told_before_it_runs_counts_once() -> None:
    thread, first = SupervisorThread(), Work()
    thread.tell(Stop.KILLED)
    assert thread.run(first) == "stopped"

    async def second(stopping: Stopping) -> str | None:
        return await stopping.unless_told(asyncio.sleep(0.05, "done"))

    assert thread.run(second) == "done"


def test_its_error_is_raised_where_it_is_waited_for() -> None:
    async def fails(stopping: Stopping) -> None:
        raise KeyError("no such thing")

    with pytest.raises(KeyError, match="no such thing"):
        SupervisorThread().run(fails)


# -- XComs -----------------------------------------------------------------------------------------------------------------


def a_record(**changes: Any) -> JobRecord:
    record = new_record(JobId("1" * 18), Owner("key"), "engine", JobRequest(JOB), "digest", 1.7e9)
    return touched(record, 1.7e9, **changes)


def statuses(count: int) -> list[ReplicaStatus]:
    return [
        ReplicaStatus(
            ReplicaRef(JobId("1" * 18), 1, 3, f"workerpool1-{index}", index % 2),
            Phase.EXITED if index % 3 else Phase.RUNNING,
            exit_code=index % 256 if index % 3 else None,
            reason=Reason.ERROR if index % 3 else None,
            node=f"gke-training-pool-{index % 250:08x}",
            started_at=1.7e9 + 100_000 + index,
            finished_at=1.7e9 + 200_000 + index if index % 3 else None,
        )
        for index in range(count)
    ]


def test_a_thousand_replicas_take_64_kilobytes() -> None:
    document = xcoms.replicas_document(a_record(), statuses(1000), 1.7e9)
    assert len(json.dumps(document)) < 64 * 1024


def test_the_replicas_can_be_read_back() -> None:
    given = statuses(9)
    document = xcoms.replicas_document(a_record(), list(reversed(given)), 1.7e9)
    for index, status in enumerate(given):
        assert document["replica"][index] == status.ref.replica
        assert document["phases"][document["phase"][index]] == status.phase
        assert document["nodes"][document["node"][index]] == status.node
        assert document["exit_code"][index] == status.exit_code


def test_replicas_of_an_earlier_generation_are_not_shown() -> None:
    assert xcoms.replicas_document(a_record(generation=2), statuses(3), 0.0)["replica"] == []


class Pushed(list[tuple[float, str, Any]]):
    """XComs as they are pushed."""

    async def __call__(self, key: str, value: Any) -> None:
        self.append((time.monotonic(), key, value))

    def of(self, key: str) -> list[Any]:
        return [value for _, pushed, value in self if pushed == key]


def test_a_change_of_state_is_pushed_at_once_and_all_else_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xcoms, "EVERY", 0.3)
    monkeypatch.setattr(xcoms, "SETTLE", 0.01)
    pushed = Pushed()

    async def main() -> None:
        publisher = xcoms.Publisher(pushed)
        running = asyncio.create_task(publisher.run())
        for state in (JobState.JOB_STATE_PENDING, JobState.JOB_STATE_RUNNING):
            publisher.on_change(a_record(state=state), [])
            await asyncio.sleep(0.05)
        for number in range(60):
            publisher.on_change(a_record(state=JobState.JOB_STATE_RUNNING, message=str(number)), [])
            await asyncio.sleep(0.01)
        publisher.close()
        await running

    asyncio.run(main())
    shown = pushed.of(xcoms.JOB)
    assert [document["state"] for document in shown[:2]] == ["JOB_STATE_PENDING", "JOB_STATE_RUNNING"]
    assert shown[-1]["message"] == "59"
    assert 3 <= len(shown) <= 6
    revisions = [document["revision"] for document in shown]
    assert revisions == sorted(set(revisions))


def test_an_xcom_that_cannot_be_pushed_is_pushed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xcoms, "SETTLE", 0.01)
    monkeypatch.setattr(xcoms, "EVERY", 0.05)
    pushed, failures = Pushed(), [1, 2, 3]

    async def push(key: str, value: Any) -> None:
        if failures:
            raise ConnectionError(f"no answer ({failures.pop()})")
        await pushed(key, value)

    async def main() -> None:
        publisher = xcoms.Publisher(push)
        running = asyncio.create_task(publisher.run())
        publisher.on_change(a_record(), [])
        await asyncio.sleep(0.5)
        publisher.close()
        await running

    asyncio.run(main())
    assert len(pushed.of(xcoms.JOB)) == 1


def test_a_last_xcom_that_cannot_be_pushed_is_pushed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression: no turn comes after the last values; one refused request, and an ended job was shown as running for ever."""
    monkeypatch.setattr(xcoms, "LAST_PAUSES", (0.01, 0.01, 0.01, 0.0))
    pushed, failures = Pushed(), [1, 2]

    async def push(key: str, value: Any) -> None:
        if value["state"] == "JOB_STATE_SUCCEEDED" and failures:
            raise ConnectionError(f"no answer ({failures.pop()})")
        await pushed(key, value)

    async def main() -> None:
        publisher = xcoms.Publisher(push)
        running = asyncio.create_task(publisher.run())
        publisher.on_change(a_record(state=JobState.JOB_STATE_SUCCEEDED), [])
        publisher.close()
        await running

    asyncio.run(main())
    assert [value["state"] for value in pushed.of(xcoms.JOB)] == ["JOB_STATE_SUCCEEDED"]


def test_a_short_job_tells_its_end_once_and_needs_no_links(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xcoms, "SETTLE", 60)
    pushed = Pushed()

    async def main() -> None:
        publisher = xcoms.Publisher(pushed, opening={xcoms.ID: "4711"}, links={"_link": "page"})
        running = asyncio.create_task(publisher.run())
        for state in (JobState.JOB_STATE_PENDING, JobState.JOB_STATE_RUNNING, JobState.JOB_STATE_SUCCEEDED):
            publisher.on_change(a_record(state=state), [])
            await asyncio.sleep(0.05)
        publisher.close()
        await running

    asyncio.run(main())
    assert [key for _, key, _ in pushed if key in (xcoms.ID, xcoms.JOB)] == [xcoms.ID, xcoms.JOB]
    (told,) = pushed.of(xcoms.JOB)
    assert [entry["state"].removeprefix("JOB_STATE_") for entry in told["states"]] == [
        "PENDING",
        "RUNNING",
        "SUCCEEDED",
    ]


def test_a_job_that_goes_on_has_its_links(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xcoms, "SETTLE", 0.01)
    pushed = Pushed()

    async def main() -> None:
        publisher = xcoms.Publisher(pushed, opening={xcoms.ID: "4711"}, links={"_link": "page"})
        running = asyncio.create_task(publisher.run())
        publisher.on_change(a_record(state=JobState.JOB_STATE_RUNNING), [])
        await asyncio.sleep(0.3)
        assert pushed.of("_link") == ["page"]
        publisher.close()
        await running

    asyncio.run(main())
    assert (pushed.of(xcoms.ID), pushed.of("_link")) == (["4711"], ["page"])


def test_what_another_try_wrote_over_is_stored_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression: the try before, being stopped, stored its last state over that of the job started anew, which stayed."""
    monkeypatch.setattr(xcoms, "SETTLE", 0.01)
    monkeypatch.setattr(xcoms, "EVERY", 0.05)
    monkeypatch.setattr(xcoms, "REPEAT", 0.2)
    pushed = Pushed()

    async def main() -> None:
        publisher = xcoms.Publisher(pushed)
        running = asyncio.create_task(publisher.run())
        publisher.on_change(a_record(), [])
        await asyncio.sleep(0.7)
        publisher.close()
        await running

    asyncio.run(main())
    assert 2 <= len(pushed.of(xcoms.JOB)) <= 5


@pytest.mark.parametrize(
    ("value", "stored", "older"),
    [
        ({"generation": 1}, {"generation": 2}, True),
        ({"generation": 2}, {"generation": 2}, False),
        ({"generation": 2}, {"generation": 1}, False),
        ({"generation": 1}, None, False),
        ({"generation": 1, "state": "JOB_STATE_RUNNING"}, {"generation": 1, "state": "JOB_STATE_CANCELLED"}, True),
        ({"generation": 1, "state": "JOB_STATE_CANCELLED"}, {"generation": 1, "state": "JOB_STATE_RUNNING"}, False),
        ({"generation": 1, "state": "JOB_STATE_FAILED"}, {"generation": 1, "state": "JOB_STATE_FAILED"}, False),
        ({"generation": 2, "state": "JOB_STATE_QUEUED"}, {"generation": 1, "state": "JOB_STATE_CANCELLED"}, False),
        ({"generation": 1, "replica": []}, {"generation": 1, "state": "JOB_STATE_FAILED"}, False),
        ({"replica": "position"}, {"generation": 2}, False),
        ("4711", {"generation": 2}, False),
    ],
)
def test_a_try_that_is_too_late_is_told_by_its_generation(value: Any, stored: Any, older: bool) -> None:
    assert xcoms.is_older(value, stored) is older


def test_positions_go_out_in_the_second_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression: they went out in the third, of 20 s each in a busy Airflow; a triggerer that died before had the whole log told again."""
    turns: list[float] = []
    told: list[tuple[str, Any, int]] = []

    def pause_after(took: float) -> float:
        turns.append(took)
        return 0.01

    async def push(key: str, value: Any) -> None:
        told.append((key, value, len(turns)))

    async def main() -> None:
        positions: dict[str, str] = {}
        publisher = xcoms.Publisher(push, positions)
        positions["a"] = "1"
        running = asyncio.create_task(publisher.run())
        while not told:
            await asyncio.sleep(0.01)
        publisher.close()
        await running

    monkeypatch.setattr(xcoms, "pause_after", pause_after)
    asyncio.run(main())
    assert told == [(xcoms.POSITIONS, {"a": "1"}, 2)]


def test_positions_go_out_one_turn_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xcoms, "EVERY", 0.1)
    pushed, positions = Pushed(), {"a": "1"}

    async def main() -> None:
        publisher = xcoms.Publisher(pushed, positions)
        running = asyncio.create_task(publisher.run())
        for number in range(2, 7):
            positions["a"] = str(number)
            await asyncio.sleep(0.1)
            assert all(int(told["a"]) < number for told in pushed.of(xcoms.POSITIONS))
        publisher.close()
        await running

    asyncio.run(main())
    assert pushed.of(xcoms.POSITIONS)


# -- the sweep -------------------------------------------------------------------------------------------------------------


def test_a_job_shows_itself_the_more_seldom_the_longer_airflow_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty jobs of one triggerer must not ask more of Airflow than it answers: a question of importance would wait."""
    monkeypatch.setattr(xcoms, "SETTLE", 0.01)
    monkeypatch.setattr(xcoms, "EVERY", 0.02)
    asking: list[float] = []

    async def main() -> None:
        positions: dict[str, str] = {}

        async def push(key: str, value: Any) -> None:
            asking.append(time.monotonic())
            await asyncio.sleep(0.1)

        publisher = xcoms.Publisher(push, positions)
        running = asyncio.create_task(publisher.run())
        for number in range(50):
            positions["0"] = str(number)
            await asyncio.sleep(0.02)
        publisher.close()
        await running

    asyncio.run(main())
    assert 2 <= len(asking) <= 4


TASK = {"installation": "here", "dag_id": "d", "run_id": "r", "task_id": "t", "map_index": "-1"}


def swept(
    fake: FakeBackend, monkeypatch: pytest.MonkeyPatch, state: str | None, where: Mapping[str, str], installation: str
) -> JobState:
    """State of a running job after a sweep that finds its task in this state."""
    monkeypatch.setattr(sweep, "state_at", lambda where: state)
    said: list[str] = []

    async def main() -> JobState:
        client = AsyncCustomJobClient(fake)
        await client.submit(JOB, job_id=JobId("1"), owner=Owner("key", where=dict(where)))
        await client.supervise("1", until=lambda record: record.state is JobState.JOB_STATE_RUNNING)
        driven: dict[str, asyncio.Task[object]] = {}
        await sweep.sweep(client, installation, said.append, driven)
        await asyncio.sleep(0.5)
        for task in driven.values():
            task.cancel()
        await asyncio.gather(*driven.values(), return_exceptions=True)
        return (await client.get("1")).state

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("state", "where", "installation", "ends"),
    [
        ("failed", TASK, "here", True),
        ("success", TASK, "here", True),
        ("skipped", TASK, "here", True),
        (GONE, TASK, "here", True),
        ("failed", {**TASK, "detached": "true"}, "here", True),
        ("success", {**TASK, "detached": "true"}, "here", False),
        ("running", TASK, "here", False),
        ("deferred", TASK, "here", False),
        ("up_for_retry", TASK, "here", False),
        (None, TASK, "here", False),
        (UNKNOWN, TASK, "here", False),
        ("failed", TASK, "elsewhere", False),
        ("failed", {}, "here", False),
    ],
)
def test_a_sweep_ends_jobs_whose_task_has_ended(
    fake: FakeBackend,
    world: FakeWorld,
    monkeypatch: pytest.MonkeyPatch,
    state: str | None,
    where: Mapping[str, str],
    installation: str,
    ends: bool,
) -> None:
    world.script("workerpool0-0", runs_for_ever())
    expected = JobState.JOB_STATE_CANCELLED if ends else JobState.JOB_STATE_RUNNING
    assert swept(fake, monkeypatch, state, where, installation) is expected
    assert bool(world.replicas()) is not ends


def test_a_sweep_drives_jobs_that_were_not_waited_for(
    fake: FakeBackend, world: FakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.script("workerpool0-0", exits(0, after=0.2))
    state = swept(fake, monkeypatch, "success", {**TASK, "detached": "true"}, "here")
    assert state is JobState.JOB_STATE_SUCCEEDED
    assert not world.replicas()


def test_a_process_sweeps_an_engine_once_in_a_while(fake: FakeBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "EVERY", 0.2)
    swept_at: list[float] = []

    async def note(client: AsyncCustomJobClient, installation: str, say: sweep.Say, driven: Any) -> None:
        swept_at.append(time.monotonic())
        if len(swept_at) == 2:
            raise ConnectionError("no answer")

    monkeypatch.setattr(sweep, "sweep", note)
    said: list[str] = []

    async def one() -> None:
        async with sweep.sweeping(AsyncCustomJobClient(fake), TASK, said.append):
            await asyncio.sleep(1.1)

    async def main() -> None:
        await asyncio.gather(*(one() for _ in range(20)))

    asyncio.run(main())
    assert 3 <= len(swept_at) <= 5
    assert len(said) == 1
    assert "no answer" in said[0]


def test_a_sweep_takes_no_line_from_a_job_that_is_just_ending(
    fake: FakeBackend, world: FakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: the sweep removed an ended replica while its supervisor still read its log."""
    world.script("workerpool0-0", exits(0, says=[f"line {number}" for number in range(50)]))
    monkeypatch.setattr(sweep, "state_at", lambda where: "running")
    lines: list[str] = []

    async def main() -> None:
        client = AsyncCustomJobClient(fake)
        await client.submit(JOB, job_id=JobId("1"), owner=Owner("key", where=TASK))
        # Somebody else has written the end, and nobody has cleared away yet.
        await client.supervise("1", until=lambda record: record.state.terminal, hold_removal=60)
        sweeping = asyncio.create_task(sweep.sweep(client, "here", lambda text: None, {}))
        await asyncio.sleep(0.2)

        def take(line: LogLine) -> None:
            lines.append(line.text)

        await client.supervise("1", sink=take)
        sweeping.cancel()
        await asyncio.gather(sweeping, return_exceptions=True)

    asyncio.run(main())
    assert lines == [f"line {number}" for number in range(50)]


def test_only_what_the_claim_has_stored_is_read_before_a_value_is_pushed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a key that is missing Airflow writes an error into the task's log."""
    stored: dict[str, Any] = {xcoms.JOB: {"generation": 2}}
    read = []

    async def xcom_at(where: object, key: str) -> object:
        read.append(key)
        return stored[key]

    async def push_claim(where: object, key: str, value: Any) -> None:
        stored[key] = value

    monkeypatch.setattr(xcoms, "xcom_at", xcom_at)
    monkeypatch.setattr(xcoms, "push_claim", push_claim)
    push = xcoms.push_at({})
    asyncio.run(push(xcoms.REPLICAS, {"generation": 1}))  # type: ignore[arg-type]
    assert xcoms.REPLICAS not in stored
    asyncio.run(push(xcoms.REPLICAS, {"generation": 2}))  # type: ignore[arg-type]
    assert stored[xcoms.REPLICAS] == {"generation": 2}
    assert set(read) == {xcoms.JOB}


def test_a_job_that_is_over_at_once_shows_its_replicas() -> None:
    """Regression: where all of its states came in one turn, its replicas were removed by the time of the first look."""
    pushed = Pushed()

    async def main() -> None:
        publisher = xcoms.Publisher(pushed)
        running = asyncio.create_task(publisher.run())
        publisher.on_change(a_record(state=JobState.JOB_STATE_RUNNING), statuses(2))
        publisher.on_change(a_record(state=JobState.JOB_STATE_SUCCEEDED), statuses(1))
        publisher.on_change(a_record(state=JobState.JOB_STATE_SUCCEEDED), [])
        publisher.close()
        await running

    asyncio.run(main())
    assert pushed.of(xcoms.REPLICAS)[-1]["replica"] == ["workerpool1-0", "workerpool1-1"]
