"""The trigger on the fake engine: what it does with its job when somebody kills its task, or when it only moves."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Mapping
from typing import Any

import pytest
from airflow.triggers.base import TriggerEvent

from airflow_customjob.backends.fake import FakeBackend, FakeWorld, exits, runs_for_ever
from airflow_customjob.client import CustomJobClient
from airflow_customjob.plan.types import JobId
from airflow_customjob.spec.job_state import JobState
from airflow_customjob.supervisor.ownership import GONE, UNKNOWN
from airflow_customjob.supervisor.record import Owner
from airflow_customjob.task import drive, identity, xcoms
from airflow_customjob.task.drive import WrongEngine
from airflow_customjob.task.identity import Held
from airflow_customjob.triggers import custom_job as module
from airflow_customjob.triggers.custom_job import CustomJobTrigger
from tests.airflow.conftest import JOB

WHERE = {"installation": "here", "dag_id": "d", "run_id": "r", "task_id": "t", "map_index": "-1"}


class Airflow:
    """What a trigger asks of Airflow: its task's state, and its XComs."""

    def __init__(self) -> None:
        self.states: list[str | None] = ["deferred"]
        self.xcoms: dict[str, Any] = {}

    def state_at(self, where: Mapping[str, str]) -> str | None:
        assert where == WHERE
        return self.states.pop(0) if len(self.states) > 1 else self.states[0]

    def push_at(self, where: Mapping[str, str]) -> xcoms.Push:
        async def push(key: str, value: Any) -> None:
            self.xcoms[key] = json.loads(json.dumps(value))

        return push

    async def positions_at(self, where: Mapping[str, str]) -> dict[str, str]:
        return dict(self.xcoms.get(xcoms.POSITIONS, {}))


@pytest.fixture
def airflow(monkeypatch: pytest.MonkeyPatch) -> Airflow:
    airflow = Airflow()
    monkeypatch.setattr(module, "state_at", airflow.state_at)
    monkeypatch.setattr(module, "ASK_AGAIN", 0.05)
    monkeypatch.setattr(xcoms, "push_at", airflow.push_at)
    monkeypatch.setattr(xcoms, "positions_at", airflow.positions_at)
    return airflow


class Deferred:
    """A job that a deferred task holds."""

    def __init__(self, backend: FakeBackend) -> None:
        owner = Owner("key-1", 1, 0, 0, WHERE)
        client = CustomJobClient(backend)
        self.client = client
        job = client.submit(JOB, job_id=JobId("123"), owner=owner)
        self.held = Held("123", job.record.generation, job.record.engine, owner, backend.serialize())

    def trigger(self, deadline: float | None = None) -> CustomJobTrigger:
        """As the triggerer makes it: from what was serialized."""
        _, kwargs = CustomJobTrigger(self.held.to_json(), deadline).serialize()
        trigger = CustomJobTrigger(**json.loads(json.dumps(kwargs)))
        trigger._log = logging.getLogger("the task's log")  # Airflow's own does not come to caplog
        return trigger

    def start(self) -> None:
        self.client.supervise("123", until=lambda record: record.state is JobState.JOB_STATE_RUNNING)

    def state(self) -> JobState:
        return self.client.get("123").state


@pytest.fixture
def deferred(fake: FakeBackend) -> Deferred:
    return Deferred(fake)


def event_of(trigger: CustomJobTrigger) -> dict[str, Any]:
    async def main() -> TriggerEvent:
        return await anext(trigger.run())

    event = asyncio.run(main())
    return dict(event.payload)


def test_it_drives_the_job_and_tells_its_end(world: FakeWorld, deferred: Deferred, airflow: Airflow) -> None:
    world.script("workerpool0-0", exits(0, says="hello", after=0.2))
    assert event_of(deferred.trigger()) == {"what": "ended", "message": ""}
    assert deferred.state() is JobState.JOB_STATE_SUCCEEDED
    assert airflow.xcoms[xcoms.JOB]["state"] == "JOB_STATE_SUCCEEDED"
    assert not world.replicas()


def test_its_job_is_told_to_have_ended_however_long_airflow_takes(
    world: FakeWorld, deferred: Deferred, airflow: Airflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: of twenty jobs that ended at once some were shown as running for ever: their last XComs had five seconds."""

    def slow_push_at(where: Mapping[str, str]) -> xcoms.Push:
        async def push(key: str, value: Any) -> None:
            await asyncio.sleep(1.0)
            await airflow.push_at(where)(key, value)

        return push

    monkeypatch.setattr(xcoms, "push_at", slow_push_at)
    world.script("workerpool0-0", exits(0, after=0.2))
    assert event_of(deferred.trigger())["what"] == "ended"
    assert airflow.xcoms[xcoms.JOB]["state"] == "JOB_STATE_SUCCEEDED"


def test_it_is_made_again_from_json_alone(deferred: Deferred) -> None:
    path, kwargs = deferred.trigger(12.5).serialize()
    assert path == "airflow_customjob.triggers.custom_job.CustomJobTrigger"
    assert json.loads(json.dumps(kwargs)) == kwargs
    assert Held.from_json(kwargs["held"]) == deferred.held
    assert kwargs["deadline"] == 12.5


def test_its_deadline_cancels_the_job(world: FakeWorld, deferred: Deferred, airflow: Airflow) -> None:
    world.script("workerpool0-0", runs_for_ever())
    began = time.time()
    assert event_of(deferred.trigger(time.time() + 1))["what"] == "timed out"
    assert 1 <= time.time() - began < 60
    assert deferred.state() is JobState.JOB_STATE_CANCELLED
    assert not world.replicas()


def test_it_stands_back_from_a_job_that_a_later_task_instance_owns(
    world: FakeWorld, deferred: Deferred, airflow: Airflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SUPERSEDED", 0.2)
    later = Owner("key-2", 1, 1, 1, WHERE)
    deferred.client.submit(JOB, job_id=JobId("123"), owner=later)
    event = event_of(deferred.trigger())
    assert event["what"] == "lost it"
    assert "key-2 (generation 2)" in event["message"]
    assert not [happening for happening in world.history if happening.what == "created"]


def test_another_engine_behind_the_same_backend_is_an_error(deferred: Deferred, airflow: Airflow) -> None:
    deferred.held = Held(**{**deferred.held.__dict__, "engine": "fake:elsewhere"})
    with pytest.raises(WrongEngine, match=r"fake:elsewhere.*point the backend of workers and triggerers at one"):
        event_of(deferred.trigger())


@pytest.mark.parametrize("state", ["failed", "success", "skipped", None, "queued", "running", GONE])
def test_on_kill_ends_the_job_of_a_task_that_is_deferred_no_more(
    world: FakeWorld, deferred: Deferred, airflow: Airflow, state: str | None
) -> None:
    world.script("workerpool0-0", runs_for_ever())
    deferred.start()
    airflow.states = [state]
    asyncio.run(deferred.trigger().on_kill())
    assert deferred.state() is JobState.JOB_STATE_CANCELLED
    assert not world.replicas()
    shows = airflow.xcoms.get(xcoms.JOB, {}).get("state")
    assert shows == ("JOB_STATE_CANCELLED" if state in ("failed", "success", "skipped", GONE) else None)


@pytest.mark.parametrize(("message", "ends"), [(("by a user",), True), ((), False)])
def test_a_cancellation_with_a_message_ends_the_job_though_on_kill_is_never_called(
    world: FakeWorld, deferred: Deferred, airflow: Airflow, message: tuple[str, ...], ends: bool
) -> None:
    """Regression: Airflow cancels a trigger once a second, and with it its own call of on_kill, before that has begun."""
    world.script("workerpool0-0", runs_for_ever())
    deferred.start()
    airflow.states = ["failed"]

    async def main() -> None:
        running = asyncio.create_task(anext(deferred.trigger().run()))
        await asyncio.sleep(0.5)
        while not running.done():
            running.cancel(*message)
            await asyncio.sleep(0.01)
        await asyncio.sleep(1)

    asyncio.run(main())
    assert deferred.state() is (JobState.JOB_STATE_CANCELLED if ends else JobState.JOB_STATE_RUNNING)


def test_a_cleared_task_that_waits_for_others_needs_no_call_of_on_kill(
    world: FakeWorld, deferred: Deferred, airflow: Airflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: what comes before it was cleared too; until that had run again, Airflow left the trigger, and so the job, alone."""
    monkeypatch.setattr(module, "LOOK_EVERY", 0.05)
    world.script("workerpool0-0", runs_for_ever())
    deferred.start()

    async def main() -> None:
        running = asyncio.create_task(anext(deferred.trigger().run()))
        await asyncio.sleep(0.5)
        assert world.replicas()
        airflow.states = [None]
        async with asyncio.timeout(5):
            while world.replicas():
                await asyncio.sleep(0.05)
        await asyncio.sleep(0.5)
        assert not running.done(), "no event: Airflow would not take it, and would start the trigger again"
        airflow.states = ["scheduled"]
        await running

    asyncio.run(main())
    assert deferred.state() is JobState.JOB_STATE_CANCELLED


@pytest.mark.parametrize("states", [["deferred"], [UNKNOWN, UNKNOWN, "deferred"]])
def test_on_kill_leaves_the_job_of_a_trigger_that_only_moved(
    world: FakeWorld, deferred: Deferred, airflow: Airflow, states: list[str | None]
) -> None:
    world.script("workerpool0-0", runs_for_ever())
    deferred.start()
    airflow.states = states
    asyncio.run(deferred.trigger().on_kill())
    assert deferred.state() is JobState.JOB_STATE_RUNNING
    assert len(world.replicas()) == 1


def test_on_kill_asks_again_until_the_state_can_be_read(world: FakeWorld, deferred: Deferred, airflow: Airflow) -> None:
    world.script("workerpool0-0", runs_for_ever())
    deferred.start()
    airflow.states = [UNKNOWN, UNKNOWN, UNKNOWN, "failed"]
    asyncio.run(deferred.trigger().on_kill())
    assert deferred.state() is JobState.JOB_STATE_CANCELLED


def test_the_last_word_is_that_of_who_ends_the_job(
    world: FakeWorld, deferred: Deferred, airflow: Airflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: what the trigger was just about to tell came after the end that its ``on_kill`` told: shown as running for ever."""
    telling = asyncio.Event()

    def push_at(where: Mapping[str, str]) -> xcoms.Push:
        async def push(key: str, value: Any) -> None:
            if key == xcoms.JOB and value["state"] == "JOB_STATE_RUNNING":
                telling.set()
                await asyncio.sleep(2)
            await airflow.push_at(where)(key, value)

        return push

    monkeypatch.setattr(xcoms, "push_at", push_at)
    world.script("workerpool0-0", runs_for_ever())

    async def main() -> None:
        trigger = deferred.trigger()
        running = asyncio.create_task(anext(trigger.run()))
        async with asyncio.timeout(10):
            await telling.wait()
        airflow.states = ["failed"]
        running.cancel("by a user")
        await asyncio.wait([running], timeout=0.1)
        await trigger.on_kill()
        await asyncio.sleep(2.5)

    asyncio.run(main())
    assert airflow.xcoms[xcoms.JOB]["state"] == "JOB_STATE_CANCELLED"


def test_a_job_with_a_long_grace_is_told_to_its_end(world: FakeWorld, deferred: Deferred, airflow: Airflow) -> None:
    """Regression: Airflow waits 30 s for ``on_kill``; jobs that took longer to end were shown as running for ever."""
    world.script("workerpool0-0", runs_for_ever().on_term(code=0, after=1.0))
    deferred.start()
    airflow.states = ["failed"]

    async def main() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(deferred.trigger().on_kill(), 0.2)
        async with asyncio.timeout(10):
            while airflow.xcoms.get(xcoms.JOB, {}).get("state") != "JOB_STATE_CANCELLED":
                await asyncio.sleep(0.05)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW__TRIGGERER__ON_KILL_TIMEOUT", "3")
        asyncio.run(main())


def test_on_kill_does_nothing_when_the_state_cannot_be_read_in_its_time(
    world: FakeWorld, deferred: Deferred, airflow: Airflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GIVE_UP", 0.3)
    world.script("workerpool0-0", runs_for_ever())
    deferred.start()
    airflow.states = [UNKNOWN]
    asyncio.run(deferred.trigger().on_kill())
    assert deferred.state() is JobState.JOB_STATE_RUNNING


def test_on_kill_leaves_a_job_that_a_later_task_instance_owns(
    world: FakeWorld, deferred: Deferred, airflow: Airflow
) -> None:
    world.script("workerpool0-0", runs_for_ever())
    trigger = deferred.trigger()
    deferred.client.submit(JOB, job_id=JobId("123"), owner=Owner("key-2", 2, 0, 0, WHERE))
    deferred.start()
    airflow.states = ["failed"]
    asyncio.run(trigger.on_kill())
    assert deferred.state() is JobState.JOB_STATE_RUNNING


def test_on_kill_drives_to_the_end_a_job_whose_trigger_ran(
    world: FakeWorld, deferred: Deferred, airflow: Airflow, caplog: pytest.LogCaptureFixture
) -> None:
    """As the triggerer does it: run() is cancelled, then on_kill() is called on the same trigger."""
    caplog.set_level("INFO")
    world.script("workerpool0-0", runs_for_ever(says=["training"]).on_term(code=0, after=0.2, says="saved"))

    async def main() -> None:
        trigger = deferred.trigger()
        running = asyncio.create_task(anext(trigger.run()))
        async with asyncio.timeout(10):
            while not any("training" in record.getMessage() for record in caplog.records):
                await asyncio.sleep(0.05)
        running.cancel()
        await asyncio.wait([running])
        airflow.states = ["failed"]
        await trigger.on_kill()
        await trigger.cleanup()

    asyncio.run(main())
    lines = [record.getMessage() for record in caplog.records if "workerpool0-0: " in record.getMessage()]
    assert lines == ["workerpool0-0: training", "workerpool0-0: saved"]
    assert deferred.state() is JobState.JOB_STATE_CANCELLED
    assert not world.replicas()


def test_on_kill_goes_on_when_airflow_cancels_it(world: FakeWorld, deferred: Deferred, airflow: Airflow) -> None:
    """Regression: the triggerer cancels a trigger again each second, on_kill included, and containers were left exited."""
    world.script("workerpool0-0", runs_for_ever().ignoring_term())
    deferred.start()
    airflow.states = ["failed"]

    async def main() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(deferred.trigger().on_kill(), 0.1)
        await asyncio.sleep(2)

    asyncio.run(main())
    assert deferred.state() is JobState.JOB_STATE_CANCELLED
    assert not world.replicas()


def test_cleanup_ends_nothing(world: FakeWorld, deferred: Deferred, airflow: Airflow) -> None:
    world.script("workerpool0-0", runs_for_ever())
    deferred.start()
    asyncio.run(deferred.trigger().cleanup())
    assert deferred.state() is JobState.JOB_STATE_RUNNING


def test_the_next_triggerer_goes_on_with_the_log(
    world: FakeWorld,
    deferred: Deferred,
    airflow: Airflow,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first one dies without a word; lines of its last seconds may be told twice, none is missing."""
    caplog.set_level("INFO")
    monkeypatch.setattr(xcoms, "EVERY", 0.1)
    world.script("workerpool0-0", exits(0, says=[f"tick {number}" for number in range(40)], every=0.05))

    async def killed_after(seconds: float) -> None:
        trigger = deferred.trigger()
        events = trigger.run()
        task = asyncio.create_task(anext(events))
        await asyncio.sleep(seconds)
        monkeypatch.setattr(xcoms.Publisher, "close", lambda self: None)
        task.cancel()

    asyncio.run(killed_after(1.2))
    first = [record.getMessage() for record in caplog.records if "tick" in record.getMessage()]
    monkeypatch.undo()
    monkeypatch.setattr(xcoms, "push_at", airflow.push_at)
    monkeypatch.setattr(xcoms, "positions_at", airflow.positions_at)
    assert event_of(deferred.trigger())["what"] == "ended"
    ticks = [record.getMessage() for record in caplog.records if "tick" in record.getMessage()]
    assert sorted(set(ticks)) == sorted(f"workerpool0-0: tick {number}" for number in range(40))
    assert len(first) > 10
    assert len(ticks) - 40 < len(first) - 5


def test_the_triggers_client_finds_an_engine_that_comes_back(
    world: FakeWorld, deferred: Deferred, airflow: Airflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow_customjob.backends.base import EngineError

    monkeypatch.setattr(drive, "OUT_OF_REACH", 0.05)
    world.fail("identity", EngineError("connection refused"), times=3)
    assert event_of(deferred.trigger())["what"] == "ended"


def test_where_a_task_is() -> None:
    assert identity.job_id_at(WHERE) == identity.job_id_at({**WHERE, "detached": "true"})
    assert identity.job_id_at(WHERE) != identity.job_id_at({**WHERE, "map_index": "0"})
