"""The sensor in ``dag.test()``, on the fake engine."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG, TaskGroup, task
from airflow.sdk.exceptions import AirflowRuntimeError, AirflowSkipException, ErrorType
from airflow.sdk.execution_time.comms import ErrorResponse

from airflow_customjob import CustomJobClient, CustomJobOperator, CustomJobSensor, CustomJobTaskGroup, JobState
from airflow_customjob.backends.fake import FakeBackend, FakeWorld, exits, runs_for_ever
from airflow_customjob.job import new_owner
from airflow_customjob.task import watching, xcoms
from airflow_customjob.task.watching import RefError, parse_ref
from tests.airflow.conftest import JOB, Ran

pytestmark = [pytest.mark.airflow, pytest.mark.slow]

RunDag = Callable[..., Ran]
MODES = {"poke": {}, "deferrable": {"deferrable": True}, "reschedule": {"mode": "reschedule"}}
modes = pytest.mark.parametrize("mode", MODES)
BY_REF = "{{ ti.xcom_pull('submit', key='custom_job_ref') }}"
QUICK = {"poke_interval": 0.2}


def submitted_and_waited_for(dag_id: str, fake: FakeBackend, **sensor: Any) -> DAG:
    """A task that does not wait, and a sensor that does."""
    with DAG(dag_id, schedule=None) as dag:
        submit = CustomJobOperator(task_id="submit", custom_job=JOB, backend=fake, wait_for_completion=False)
        submit >> CustomJobSensor(task_id="wait", **{**QUICK, **sensor})
    return dag


@modes
def test_it_drives_a_job_that_nobody_waits_for_to_its_end(
    run_dag: RunDag, fake: FakeBackend, world: FakeWorld, mode: str
) -> None:
    world.script("workerpool0-0", exits(0, says="trained", after=1))
    ran = run_dag(submitted_and_waited_for(f"drives_{mode}", fake, custom_job=BY_REF, **MODES[mode]))
    assert ran.states() == {"submit": "success", "wait": "success"}, ran.log
    result = ran.xcom("wait")
    assert result["state"] == 4
    assert result["name"].endswith(f"/{ran.xcom('submit', xcoms.ID)}")
    assert "workerpool0-0: trained" in ran.log
    assert not world.replicas()


@pytest.mark.parametrize(
    "sensor",
    [
        pytest.param({"custom_job": BY_REF}, id="a template that gives Python's notation"),
        pytest.param({"custom_job": "{{ ti.xcom_pull('submit', key='custom_job_ref') | tojson }}"}, id="JSON"),
        pytest.param({"external_task_id": "submit"}, id="a task of this run"),
        pytest.param(
            {"external_dag_id": "{{ dag.dag_id }}", "external_run_id": "{{ run_id }}", "external_task_id": "submit"},
            id="a task of a named run",
        ),
    ],
)
def test_the_ways_to_name_a_job(
    run_dag: RunDag, fake: FakeBackend, request: pytest.FixtureRequest, sensor: dict[str, Any]
) -> None:
    ran = run_dag(submitted_and_waited_for(f"named_{abs(hash(request.node.name))}", fake, **sensor))
    assert ran.states()["wait"] == "success", ran.log
    assert ran.xcom("wait")["name"].endswith(f"/{ran.xcom('submit', xcoms.ID)}")


def test_a_reference_from_another_task_needs_no_template(run_dag: RunDag, fake: FakeBackend) -> None:
    with DAG("xcom_arg", schedule=None) as dag:
        submit = CustomJobOperator(task_id="submit", custom_job=JOB, backend=fake)
        CustomJobSensor(task_id="wait", custom_job=submit.output[xcoms.REF], **QUICK)
    ran = run_dag(dag)
    assert ran.states() == {"submit": "success", "wait": "success"}, ran.log


@modes
def test_a_group_of_another_dag(run_dag: RunDag, fake: FakeBackend, mode: str) -> None:
    with DAG(f"group_upstream_{mode}", schedule=None) as dag:
        CustomJobTaskGroup("train", custom_job=JOB, backend=fake)
    first = run_dag(dag)
    with DAG(f"group_elsewhere_{mode}", schedule=None) as other:
        named = {"external_dag_id": dag.dag_id, "external_run_id": first.run.run_id, "external_task_group_id": "train"}
        CustomJobSensor(task_id="wait", **named, **QUICK, **MODES[mode])
    ran = run_dag(other)
    assert ran.states() == {"wait": "success"}, ran.log
    assert ran.xcom("wait") == first.xcom("train.run")


def test_a_job_of_another_dag(run_dag: RunDag, fake: FakeBackend) -> None:
    with DAG("upstream_dag", schedule=None) as dag:
        CustomJobOperator(task_id="submit", custom_job=JOB, backend=fake)
    first = run_dag(dag)
    with DAG("other_dag", schedule=None) as other:
        CustomJobSensor(
            task_id="wait",
            external_dag_id="upstream_dag",
            external_run_id=first.run.run_id,
            external_task_id="submit",
            **QUICK,
        )
    ran = run_dag(other)
    assert ran.states() == {"wait": "success"}, ran.log
    assert ran.xcom("wait")["name"].endswith(f"/{first.xcom('submit', xcoms.ID)}")


@modes
@pytest.mark.parametrize("soft_fail", [False, True])
def test_a_failed_job_fails_it_at_once(
    run_dag: RunDag, fake: FakeBackend, world: FakeWorld, mode: str, soft_fail: bool
) -> None:
    world.script("workerpool0-0", exits(3, says="no data", after=0.5))
    dag = submitted_and_waited_for(
        f"fails_{mode}_{soft_fail}",
        fake,
        custom_job=BY_REF,
        soft_fail=soft_fail,
        retries=2,
        retry_delay=timedelta(0),
        **MODES[mode],
    )
    ran = run_dag(dag)
    assert ran.states()["wait"] == ("skipped" if soft_fail else "failed"), ran.log
    assert "ended as JOB_STATE_FAILED" in ran.log
    assert "The replica workerpool0-0 exited with a non-zero status of 3" in ran.log
    assert next(ti.try_number for ti in ran.run.get_task_instances() if ti.task_id == "wait") == 1


def test_a_state_on_the_way_can_be_waited_for(run_dag: RunDag, fake: FakeBackend, world: FakeWorld) -> None:
    world.script("workerpool0-0", runs_for_ever())
    dag = submitted_and_waited_for("running", fake, custom_job=BY_REF, target_states=[JobState.JOB_STATE_RUNNING])
    ran = run_dag(dag)
    assert ran.states()["wait"] == "success", ran.log
    assert ran.xcom("wait")["state"] == 3
    assert [replica.phase for replica in world.replicas()] == ["running"]


def test_a_failure_can_be_what_is_waited_for(run_dag: RunDag, fake: FakeBackend, world: FakeWorld) -> None:
    world.script("workerpool0-0", exits(3, after=0.5))
    ran = run_dag(submitted_and_waited_for("wanted", fake, custom_job=BY_REF, target_states=["FAILED", "CANCELLED"]))
    assert ran.states()["wait"] == "success", ran.log
    assert ran.xcom("wait")["state"] == 5


def test_the_jobs_own_timeout_ends_it(run_dag: RunDag, fake: FakeBackend, world: FakeWorld) -> None:
    world.script("workerpool0-0", runs_for_ever())
    spec = {**JOB, "jobSpec": {**JOB["jobSpec"], "scheduling": {"timeout": "1s"}}}
    with DAG("own_timeout", schedule=None) as dag:
        submit = CustomJobOperator(
            task_id="submit", custom_job=spec, backend=fake, wait_for_completion=False, timeout_state="EXPIRED"
        )
        submit >> CustomJobSensor(task_id="wait", custom_job=BY_REF, **QUICK)
    ran = run_dag(dag)
    assert ran.states()["wait"] == "failed"
    assert "ended as JOB_STATE_EXPIRED" in ran.log
    assert not world.replicas()


@modes
def test_a_job_that_nobody_ends_in_time_is_a_timeout_and_stays(
    run_dag: RunDag, fake: FakeBackend, world: FakeWorld, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """Its owner, somebody without Airflow, has died: the timeout counts from the job's start."""
    monkeypatch.setattr(watching, "OVERDUE", 0.5)
    world.script("workerpool0-0", runs_for_ever())
    spec = {**JOB, "jobSpec": {**JOB["jobSpec"], "scheduling": {"timeout": "1s"}}}
    client = CustomJobClient(fake)
    job = client.submit(spec, owner=new_owner())
    client.supervise(job.job_id, until=lambda record: record.state is JobState.JOB_STATE_RUNNING)
    with DAG(f"overdue_{mode}", schedule=None) as dag:
        CustomJobSensor(task_id="wait", custom_job=json.dumps(job.ref()), **QUICK, **MODES[mode])
    ran = run_dag(dag)
    assert ran.states() == {"wait": "failed"}
    assert "nobody drives it" in ran.log
    assert client.get(job.job_id).state is JobState.JOB_STATE_RUNNING
    assert len(world.replicas()) == 1


@pytest.mark.parametrize("mode", ["poke", "reschedule"])  # of a deferred one, the scheduler's to enforce
def test_its_own_timeout_cancels_nothing(run_dag: RunDag, fake: FakeBackend, world: FakeWorld, mode: str) -> None:
    world.script("workerpool0-0", runs_for_ever())
    client = CustomJobClient(fake)
    job = client.submit(JOB, owner=new_owner())
    client.supervise(job.job_id, until=lambda record: record.state is JobState.JOB_STATE_RUNNING)
    with DAG(f"sensor_timeout_{mode}", schedule=None) as dag:
        CustomJobSensor(task_id="wait", custom_job=job.ref(), timeout=1, soft_fail=True, **QUICK, **MODES[mode])
    ran = run_dag(dag)
    assert ran.states() == {"wait": "skipped"}, ran.log
    assert client.get(job.job_id).state is JobState.JOB_STATE_RUNNING


def test_a_failed_try_is_not_the_end_of_a_task_that_is_tried_again(
    run_dag: RunDag, fake: FakeBackend, world: FakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.script("workerpool0-0", exits(1))
    with DAG("tried_again", schedule=None) as dag:
        submit = CustomJobOperator(task_id="submit", custom_job=JOB, backend=fake)
        CustomJobSensor(task_id="wait", custom_job=BY_REF, trigger_rule="all_done", **QUICK) << submit
    states = iter(["up_for_retry", "queued", "unknown", "failed"])
    asked: list[str] = []

    def state_at(where: dict[str, str]) -> str:
        asked.append(where["task_id"])
        return next(states)

    monkeypatch.setattr(watching, "state_at", state_at)
    ran = run_dag(dag)
    assert ran.states() == {"submit": "failed", "wait": "failed"}
    assert asked == ["submit"] * 4


def test_the_job_of_a_task_that_was_cleared_is_not_its_last(
    run_dag: RunDag, fake: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = iter([None, "queued", "success"])
    asked: list[str] = []

    def state_at(where: dict[str, str]) -> str | None:
        asked.append(where["task_id"])
        return next(states)

    monkeypatch.setattr(watching, "state_at", state_at)
    ran = run_dag(submitted_and_waited_for("cleared", fake, external_task_id="submit"))
    assert ran.states() == {"submit": "success", "wait": "success"}, ran.log
    assert len(asked) == 3


@pytest.mark.parametrize(
    "named", [{"external_task_id": "submit"}, {"external_task_group_id": "group"}], ids=["task", "group"]
)
def test_a_task_whose_jobs_record_is_gone_is_believed(
    run_dag: RunDag, fake: FakeBackend, named: dict[str, Any]
) -> None:
    with DAG(f"forgotten_{len(named)}{''.join(named)}", schedule=None) as dag:

        @task
        def forget() -> None:
            CustomJobClient(fake).gc()

        arguments: dict[str, Any] = {"custom_job": JOB, "backend": fake, "record_ttl": 0.0}
        submit: Any = (
            CustomJobOperator(task_id="submit", **arguments)
            if "external_task_id" in named
            else CustomJobTaskGroup("group", **arguments)
        )
        submit >> forget() >> CustomJobSensor(task_id="wait", **named, **QUICK)
    ran = run_dag(dag)
    assert ran.states()["wait"] == "success", ran.log
    assert ran.xcom("wait")["display_name"] == "hello"
    assert CustomJobClient(fake).list() == []


def test_a_sensor_asks_again_where_airflow_did_not_answer(
    run_dag: RunDag, fake: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks, look = [], watching.JobWatch._look_up
    monkeypatch.setattr(watching, "ENGINE_AGAIN", 0.1)

    async def failing_at_first(watch: watching.JobWatch) -> Any:
        looks.append(watch)
        if len(looks) == 1:
            raise AirflowRuntimeError(ErrorResponse(error=ErrorType.API_SERVER_ERROR, detail={}))
        return await look(watch)

    monkeypatch.setattr(watching.JobWatch, "_look_up", failing_at_first)
    ran = run_dag(submitted_and_waited_for("hiccup", fake, external_task_id="submit"))
    assert ran.states()["wait"] == "success", ran.log
    assert "Airflow does not answer" in ran.log


@pytest.mark.parametrize(
    ("index", "ends"), [({}, "failed"), ({"external_map_index": 1}, "success")], ids=["none", "one"]
)
def test_of_a_group_over_several_jobs_one_has_to_be_named(
    run_dag: RunDag, fake: FakeBackend, index: dict[str, int], ends: str
) -> None:
    with DAG(f"of_several_{ends}", schedule=None) as dag:
        group = CustomJobTaskGroup.over([JOB, {**JOB, "displayName": "second"}], group_id="train", backend=fake)
        group >> CustomJobSensor(task_id="wait", external_task_group_id="train", **index, **QUICK)
    ran = run_dag(dag)
    assert ran.states()["wait"] == ends, ran.log
    if index:
        assert ran.xcom("wait")["display_name"] == "second"
    else:
        assert "say by external_map_index which one is meant" in ran.log


def test_looks_of_a_rescheduled_sensor_are_a_minute_apart() -> None:
    for mode, seconds in (("reschedule", 60), ("poke", 5)):
        assert CustomJobSensor(task_id="wait", external_task_id="train", mode=mode).poke_interval == seconds


def test_a_deferred_sensor_has_an_execution_timeout(run_dag: RunDag, fake: FakeBackend, world: FakeWorld) -> None:
    world.script("workerpool0-0", runs_for_ever())
    sensor = CustomJobSensor(
        task_id="wait",
        external_task_id="train",
        execution_timeout=timedelta(seconds=60),
        timeout=3600.0,
        deferrable=True,
    )
    started = SimpleNamespace(start_date=datetime.now(UTC) - timedelta(seconds=20))
    left = sensor._left({"ti": started})  # type: ignore[typeddict-item]
    assert left is not None
    assert timedelta(seconds=35) < left < timedelta(seconds=41)


@pytest.mark.parametrize(("primary", "worker", "ends"), [(True, True, "success"), (True, False, "failed")])
def test_a_group_of_ordinary_tasks_is_a_job(run_dag: RunDag, primary: bool, worker: bool, ends: str) -> None:
    with DAG(f"ordinary_{primary}_{worker}", schedule=None) as dag:
        with TaskGroup("train") as train:
            for name, succeeds in (("workerpool0-0", primary), ("workerpool1-0", worker)):

                @task(task_id=name)
                def replica(succeeds: bool = succeeds) -> None:
                    assert succeeds

                replica()
        wait = CustomJobSensor(
            task_id="wait", external_task_group_id="train", trigger_rule="all_done", **QUICK, deferrable=True
        )
        train >> wait
    ran = run_dag(dag)
    assert ran.states()["wait"] == ends, ran.log
    if ends == "success":
        assert ran.xcom("wait")["state"] == 4
    else:
        assert "train.workerpool1-0" in ran.log


def test_a_task_that_was_skipped_before_it_had_a_job(run_dag: RunDag, fake: FakeBackend) -> None:
    with DAG("skipped", schedule=None) as dag:

        @task
        def no() -> None:
            raise AirflowSkipException

        submit = CustomJobOperator(task_id="submit", custom_job=JOB, backend=fake)
        no() >> submit >> CustomJobSensor(task_id="wait", external_task_id="submit", trigger_rule="all_done", **QUICK)
    ran = run_dag(dag)
    assert ran.states() == {"no": "skipped", "submit": "skipped", "wait": "failed"}
    assert "ended as JOB_STATE_CANCELLED: no job was submitted" in ran.log


@pytest.mark.parametrize("value", [None, "None", "", "123", 123, {"custom_job_id": "1"}, "{'custom_job_id': 1}"])
def test_what_is_no_reference_is_refused(value: object) -> None:
    with pytest.raises(RefError, match="is no reference to a job"):
        parse_ref(value)


def test_a_wrong_reference_is_not_tried_again(run_dag: RunDag) -> None:
    with DAG("wrong", schedule=None) as dag:
        CustomJobSensor(task_id="wait", custom_job="{{ none }}", retries=3, retry_delay=timedelta(0))
    ran = run_dag(dag)
    (ti,) = ran.run.get_task_instances()
    assert (ti.state, ti.try_number) == ("failed", 1)
    assert "is no reference to a job" in ran.log


def test_a_reference_to_another_engine_is_refused(run_dag: RunDag, fake: FakeBackend) -> None:
    ref = {**CustomJobClient(fake).submit(JOB).ref(), "engine": "fake:elsewhere"}
    with DAG("elsewhere", schedule=None) as dag:
        CustomJobSensor(task_id="wait", custom_job=ref, **QUICK)
    ran = run_dag(dag)
    assert ran.states() == {"wait": "failed"}
    assert "runs on the engine fake:elsewhere" in ran.log


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({}, "give one of custom_job"),
        ({"custom_job": {}, "external_task_id": "train"}, "give one of custom_job"),
        ({"external_task_id": "train", "target_states": ["DONE"]}, "there is no state 'DONE'"),
    ],
)
def test_wrong_arguments_are_told_where_the_dag_is_written(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        CustomJobSensor(task_id="wait", **arguments)
