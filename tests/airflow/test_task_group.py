"""The task group in ``dag.test()``, on the fake engine; and the rules of its rows."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from airflow.sdk import DAG, Asset, TriggerRule, task, task_group
from airflow.sdk.exceptions import AirflowSkipException

from airflow_customjob import CustomJobOperator, CustomJobSensor, CustomJobTaskGroup
from airflow_customjob.backends.fake import FakeBackend, FakeWorld, exits, runs_for_ever
from airflow_customjob.operators.group import literal_pools, row_names, rows_of
from tests.airflow.conftest import JOB, Ran

pytestmark = [pytest.mark.airflow, pytest.mark.slow]

RunDag = Callable[..., Ran]


def job_of(*counts: int) -> dict[str, Any]:
    """A pool for each count."""
    (pool,) = JOB["jobSpec"]["workerPoolSpecs"]
    return {**JOB, "jobSpec": {"workerPoolSpecs": [{**pool, "replicaCount": count} for count in counts]}}


def group_of(dag_id: str, fake: FakeBackend, custom_job: Any, **arguments: Any) -> DAG:
    with DAG(dag_id, schedule=None) as dag:
        CustomJobTaskGroup("train", custom_job=custom_job, backend=fake, **arguments)
    return dag


def group_at_run_time(dag_id: str, fake: FakeBackend, custom_job: Any, **arguments: Any) -> DAG:
    """The same with a spec that another task makes."""
    with DAG(dag_id, schedule=None) as dag:

        @task
        def spec() -> dict[str, Any]:
            return copy.deepcopy(custom_job)

        CustomJobTaskGroup("train", custom_job=spec(), backend=fake, **arguments)
    return dag


both = pytest.mark.parametrize("make", [group_of, group_at_run_time], ids=["literal", "at run time"])


def rows(ran: Ran) -> dict[str, str]:
    """Names of the rows, as the grid shows them, and their states."""
    return {ti.rendered_map_index: str(ti.state) for ti in ran.run.get_task_instances() if ti.map_index >= 0}


@both
@pytest.mark.parametrize("deferrable", [False, True])
def test_a_row_for_each_replica(
    run_dag: RunDag, fake: FakeBackend, world: FakeWorld, make: Callable[..., DAG], deferrable: bool
) -> None:
    world.script("workerpool0-0", exits(0, says="trained", after=0.5))
    world.script("workerpool1-1", runs_for_ever())
    dag = make(f"rows_{make.__name__}_{deferrable}", fake, job_of(1, 2), deferrable=deferrable)
    ran = run_dag(dag)
    assert ran.run.state == "success", ran.log
    assert rows(ran) == dict.fromkeys(["workerpool0-0", "workerpool1-0", "workerpool1-1"], "success")
    assert ran.xcom("train.job") == ran.xcom("train.run")
    assert ran.xcom("train.job")["state"] == 4
    assert ran.log.count("workerpool0-0: trained") == 1
    assert "its output is in the log of train.run" in ran.log
    assert not world.replicas()


def test_a_literal_spec_makes_a_group_of_each_pool_and_one_of_run_time_one_list(
    fake: FakeBackend,
) -> None:
    literal = group_of("literal", fake, job_of(1, 2))
    assert set(literal.task_dict) == {
        "train.plan",
        "train.run",
        "train.workerpool0.replica",
        "train.workerpool1.replica",
        "train.job",
    }
    assert set(group_at_run_time("listed", fake, job_of(1)).task_dict) == {
        "spec",
        "train.plan",
        "train.run",
        "train.replicas",
        "train.job",
    }


@both
def test_the_row_that_made_the_job_fail_has_failed_and_the_others_are_skipped(
    run_dag: RunDag, fake: FakeBackend, world: FakeWorld, make: Callable[..., DAG]
) -> None:
    world.script("workerpool0-0", runs_for_ever())
    world.script("workerpool1-0", exits(0))
    world.script("workerpool1-1", exits(3, says="no data", after=0.5))
    ran = run_dag(make(f"culprit_{make.__name__}", fake, job_of(1, 2)))
    assert ran.run.state == "failed"
    assert rows(ran) == {"workerpool0-0": "skipped", "workerpool1-0": "success", "workerpool1-1": "failed"}
    states = ran.states()
    assert (states["train.run"], states["train.job"]) == ("failed", "failed")
    assert "train.run is failed: The replica workerpool1-1 exited with a non-zero status of 3" in ran.log


def test_retries_are_runs_and_rows_follow_them(run_dag: RunDag, fake: FakeBackend, world: FakeWorld) -> None:
    """Regression: a row that met ``run`` between two tries came back a day later."""
    world.script("workerpool0-0", exits(1), exits(0))
    dag = group_of("retried", fake, job_of(1), retries=1, retry_delay=timedelta(0))
    ran = run_dag(dag)
    assert ran.run.state == "success", ran.log
    tries = {ti.task_id: ti.try_number for ti in ran.run.get_task_instances()}
    assert (tries["train.run"], tries["train.workerpool0.replica"]) == (2, 1)
    assert rows(ran) == {"workerpool0-0": "success"}


@both
def test_a_bad_spec_costs_nothing(
    run_dag: RunDag, fake: FakeBackend, world: FakeWorld, make: Callable[..., DAG]
) -> None:
    spec = job_of(1)
    spec["jobSpec"]["workerPoolSpecs"][0]["machineSpec"] = {"machineTyp": "n1-standard-4"}
    ran = run_dag(make(f"bad_{make.__name__}", fake, spec, retries=2, retry_delay=timedelta(0)))
    assert ran.run.state == "failed"
    states = ran.states()
    assert (states["train.plan"], states["train.run"], states["train.job"]) == ("failed", "upstream_failed", "failed")
    assert "machineTyp" in ran.log
    assert not world.history


@both
def test_a_group_that_is_skipped_is_no_success(run_dag: RunDag, fake: FakeBackend, make: Callable[..., DAG]) -> None:
    dag = make(f"skipped_{make.__name__}", fake, job_of(1))
    with dag:

        @task
        def no() -> None:
            raise AirflowSkipException

        no() >> dag.get_task("train.plan")
    ran = run_dag(dag)
    states = ran.states()
    assert {states[name] for name in ("train.plan", "train.run", "train.job")} == {"skipped"}


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ({"rows": "pool"}, ["workerpool0", "workerpool1"]),
        ({"rows": "none"}, []),
        ({}, ["workerpool0-0", "workerpool1"]),
    ],
)
@both
def test_large_pools_have_one_row(
    run_dag: RunDag, fake: FakeBackend, make: Callable[..., DAG], arguments: dict[str, Any], names: list[str]
) -> None:
    ran = run_dag(make(f"pools_{make.__name__}_{len(names)}_{len(arguments)}", fake, job_of(1, 201), **arguments))
    assert ran.run.state == "success", ran.log
    assert rows(ran) == dict.fromkeys(names, "success")


def test_a_group_of_forty_replicas(run_dag: RunDag, fake: FakeBackend) -> None:
    ran = run_dag(group_of("forty", fake, job_of(1, 39)))
    assert ran.run.state == "success"
    assert len(rows(ran)) == 40


def test_a_sensor_on_the_group_and_tasks_after_it(run_dag: RunDag, fake: FakeBackend) -> None:
    with DAG("after", schedule=None) as dag:
        train = CustomJobTaskGroup("train", custom_job=job_of(1), backend=fake)

        @task
        def name_of(custom_job: dict[str, Any]) -> str:
            return str(custom_job["name"])

        named = name_of(train.output)
        train >> CustomJobSensor(task_id="wait", external_task_group_id="train", poke_interval=0.1)
    ran = run_dag(dag)
    assert ran.run.state == "success", ran.log
    assert ran.xcom(named.operator.task_id) == ran.xcom("wait")["name"] == ran.xcom("train.run")["name"]


def test_a_group_between_other_tasks_begins_with_its_plan_and_ends_with_its_job(fake: FakeBackend) -> None:
    with DAG("between", schedule=None) as dag:

        @task
        def before() -> None: ...

        @task
        def after() -> None: ...

        train = CustomJobTaskGroup("train", custom_job=job_of(1, 2), backend=fake)
        before() >> train >> after()
    assert dag.get_task("before").downstream_task_ids == {"train.plan"}
    assert dag.get_task("after").upstream_task_ids == {"train.job"}
    assert dag.get_task("train.job").upstream_task_ids == {
        "train.run",
        "train.workerpool0.replica",
        "train.workerpool1.replica",
    }


def test_it_is_stored_the_same_at_each_parse(fake: FakeBackend) -> None:
    from airflow.serialization.serialized_objects import DagSerialization

    def stored() -> dict[str, Any]:
        return DagSerialization.to_dict(group_of("stored", fake, job_of(1, 2), retries=2))

    first = stored()
    assert first == stored()
    assert " object at 0x" not in str(first)
    assert set(DagSerialization.from_dict(first).task_group.children["train"].children) == {
        "train.plan",
        "train.run",
        "train.job",
        "train.workerpool0",
        "train.workerpool1",
    }


SPECS = [job_of(1), job_of(1, 2), job_of(1, 1)]
JOBS_AND_ROWS = [
    "0/workerpool0-0",
    "1/workerpool0-0",
    "1/workerpool1-0",
    "1/workerpool1-1",
    "2/workerpool0-0",
    "2/workerpool1-0",
]


def group_over(dag_id: str, custom_jobs: Any, fake: FakeBackend, **arguments: Any) -> DAG:
    with DAG(dag_id, schedule=None, params={"specs": SPECS}) as dag:

        @task
        def specs() -> list[dict[str, Any]]:
            return copy.deepcopy(SPECS)

        @task
        def names_of(custom_jobs: list[dict[str, Any]]) -> list[str]:
            return [job["name"] for job in custom_jobs]

        jobs = specs() if custom_jobs is None else custom_jobs
        trials = CustomJobTaskGroup.over(jobs, group_id="trials", backend=fake, **arguments)
        names_of(trials.output)
    return dag


@pytest.mark.parametrize(
    "custom_jobs",
    [
        pytest.param(None, id="another task's output"),
        pytest.param(SPECS, id="a list"),
        pytest.param("{{ params.specs }}", id="a template"),
        pytest.param("{{ params.specs | tojson }}", id="JSON"),
    ],
)
def test_a_group_over_three_specs(
    run_dag: RunDag, fake: FakeBackend, world: FakeWorld, request: pytest.FixtureRequest, custom_jobs: Any
) -> None:
    ran = run_dag(group_over(f"over_{request.node.callspec.id.translate({32: '_', 39: '_'})}", custom_jobs, fake))
    assert ran.run.state == "success", ran.log
    states = rows(ran)
    assert sorted(name for name in states if "/" in name) == JOBS_AND_ROWS
    assert set(states.values()) == {"success"}
    names = ran.xcom("names_of")
    assert len(set(names)) == 3
    assert [ran.xcom("trials.run", map_index=index)["name"] for index in range(3)] == names
    assert not world.replicas()


def test_one_bad_spec_of_several_costs_nothing(run_dag: RunDag, fake: FakeBackend, world: FakeWorld) -> None:
    ran = run_dag(group_over("over_bad", [job_of(1), {"machineTyp": "n1-standard-4"}], fake))
    assert ran.run.state == "failed"
    assert "machineTyp" in ran.log
    assert not world.history


def test_a_failing_job_of_several_fails_its_rows_and_the_group(
    run_dag: RunDag, fake: FakeBackend, world: FakeWorld
) -> None:
    world.script("workerpool1-0", exits(3, says="no data", after=0.5))
    world.script("workerpool0-0", exits(0, after=2))
    ran = run_dag(group_over("over_fails", SPECS[:2], fake))
    assert ran.run.state == "failed"
    states = {(ti.task_id, ti.rendered_map_index): ti.state for ti in ran.run.get_task_instances()}
    assert states["trials.job", "0"] == "success"
    assert states["trials.job", "1"] == "failed"
    assert states["trials.replicas", "1/workerpool1-0"] == "failed"
    assert states["trials.replicas", "0/workerpool0-0"] == "success"


def test_a_group_over_no_spec_is_skipped(run_dag: RunDag, fake: FakeBackend) -> None:
    ran = run_dag(group_over("over_none", "[]", fake))
    assert ran.states()["trials.job"] == "skipped"


@pytest.mark.parametrize("custom_jobs", ["nothing", "{a: 1}", "[1, "])
def test_a_text_that_lists_no_jobs_is_refused(run_dag: RunDag, fake: FakeBackend, custom_jobs: str) -> None:
    ran = run_dag(group_over(f"over_text_{len(custom_jobs)}", custom_jobs, fake, rows="none"))
    assert ran.run.state == "failed"
    assert "which is no list of jobs" in ran.log


def test_rows_of_several_jobs_have_the_limit_of_airflow() -> None:
    replicas = [[f"workerpool0-{index}" for index in range(600)]] * 2
    assert rows_of(replicas, None) == [{"row": "workerpool0", "run_map_index": index} for index in range(2)]
    with pytest.raises(ValueError, match=r"1200 rows of 2 jobs are more than .* = 1024: take rows='pool'"):
        rows_of(replicas, "replica")


def test_a_group_over_too_many_specs_is_refused(fake: FakeBackend) -> None:
    with pytest.raises(ValueError, match="over 1025 jobs, which are more than"):
        group_over("over_many", [JOB] * 1025, fake)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"rows": "many"}, "rows='many': choose one of"),
        ({"rows": "replica", "custom_job": job_of(1, 2000)}, "2001 rows are more than"),
        ({"wait_for_completion": False}, "a group waits for its job"),
    ],
)
def test_wrong_arguments_are_told_where_the_dag_is_written(
    fake: FakeBackend, arguments: dict[str, Any], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        group_of("wrong", fake, **{"custom_job": job_of(1), **arguments})


def test_a_mapped_group_is_refused_by_name(fake: FakeBackend) -> None:
    with DAG("mapped_group", schedule=None):

        @task_group
        def trials(number: int) -> None:
            CustomJobTaskGroup("train", custom_job=job_of(1), backend=fake)

        with pytest.raises(ValueError, match="cannot be inside a mapped task group"):
            trials.expand(number=[1, 2])

        @task_group
        def sweeps(number: int) -> None:
            CustomJobTaskGroup.over([JOB], group_id="train", backend=fake)

        with pytest.raises(ValueError, match="cannot be inside a mapped task group"):
            sweeps.expand(number=[1, 2])


def test_default_arguments_reach_the_task_that_they_are_for(fake: FakeBackend) -> None:
    """The job ran on the default backend, and its model was told by every task but the one that knows of it."""
    model = Asset("model")
    with DAG("defaults", schedule=None, default_args={"backend": "docker", "outlets": [model], "pool": "gpu"}) as dag:
        CustomJobTaskGroup("train", custom_job=job_of(1))
        CustomJobTaskGroup.over("{{ specs }}", group_id="over")
    for task_id in ("train.plan", "train.run", "over.plan", "over.run"):
        operator: Any = dag.get_task(task_id)
        operator = operator.unmap({"custom_job": JOB}) if operator.is_mapped else operator
        assert operator.backend == "docker"
    told = {task.task_id for task in dag.tasks if task.outlets}
    assert told == {"train.job", "over.job"}
    # a deferred row would keep a slot of a pool with include_deferred from the job that it waits for
    assert {task.task_id for task in dag.tasks if task.pool != "gpu"} == {"train.workerpool0.replica", "over.replicas"}


@pytest.mark.parametrize("kind", ["one", "default", "over", "text"])
def test_the_trigger_rule_is_that_of_the_first_task(run_dag: RunDag, fake: FakeBackend, kind: str) -> None:
    with DAG(f"trigger_rule_{kind}", schedule=None) as dag:

        @task
        def skipped() -> None:
            raise AirflowSkipException

        @task
        def other() -> None: ...

        rule = {"trigger_rule": "none_failed_min_one_success"}
        arguments: dict[str, Any] = {"backend": fake, **({"default_args": rule} if kind == "default" else rule)}
        made = {
            "one": lambda: CustomJobTaskGroup("train", custom_job=job_of(1), **arguments),
            "default": lambda: CustomJobTaskGroup("train", custom_job=job_of(1), **arguments),
            "over": lambda: CustomJobTaskGroup.over([job_of(1)], group_id="train", **arguments),
            "text": lambda: CustomJobTaskGroup.over("[{{ spec() }}]", group_id="train", **arguments),
        }
        dag.user_defined_macros = {"spec": lambda: json.dumps(job_of(1))}
        [skipped(), other()] >> made[kind]()
    ran = run_dag(dag)
    assert ran.states()["train.run"] == "success", ran.log
    rules = {task.task_id: TriggerRule(task.trigger_rule) for task in dag.tasks if task.task_id.startswith("train.")}
    first = "train.jobs" if kind == "text" else "train.plan"
    assert {name for name, rule in rules.items() if rule == "none_failed_min_one_success"} == {first}


def test_a_dag_that_fails_fast_may_have_a_group(run_dag: RunDag, fake: FakeBackend) -> None:
    with DAG("fails_fast", schedule=None, fail_fast=True) as dag:
        CustomJobTaskGroup("train", custom_job=job_of(1, 1), backend=fake)
    assert run_dag(dag).run.state == "success"


def test_its_other_arguments_are_those_of_run(fake: FakeBackend) -> None:
    dag = group_of("arguments", fake, job_of(1), retries=3, stop_grace=2.0, deferrable=True, row_grace=1.0)
    run, plan = dag.get_task("train.run"), dag.get_task("train.plan")
    assert isinstance(run, CustomJobOperator)
    assert isinstance(plan, CustomJobOperator)
    assert (run.retries, run.stop_grace, run.deferrable, run.hold_removal) == (3, 2.0, True, 1.0)
    assert (plan.retries, plan.stop_grace, plan.hold_removal) == (0, 2.0, 0.0)
    assert dag.get_task("train.workerpool0.replica").retries == 0


@pytest.mark.parametrize(
    ("spec", "pools"),
    [
        (job_of(1, 2), [("workerpool0", 1), ("workerpool1", 2)]),
        ({"worker_pool_specs": [{"replica_count": "3"}]}, [("workerpool0", 3)]),
        ({"job_spec": {"workerPoolSpecs": [{"replicaCount": 1}, {}]}}, None),
        ({"jobSpec": {"workerPoolSpecs": [{"replicaCount": "{{ params.count }}"}]}}, None),
        ({"jobSpec": {"workerPoolSpecs": {"replicaCount": 1}}}, None),
        ({"jobSpec": "{{ spec }}"}, None),
        ("job.yaml", None),
        ({}, None),
    ],
)
def test_the_pools_of_a_spec_that_stands_in_the_dag(spec: object, pools: object) -> None:
    assert literal_pools(spec) == pools


def test_an_empty_pool_has_no_row_and_too_many_rows_become_those_of_pools() -> None:
    assert row_names([("a", 1), ("b", 0), ("c", 2)], None) == {"a": ["a-0"], "c": ["c-0", "c-1"]}
    assert row_names([(f"p{index}", 200) for index in range(6)], None) == {
        f"p{index}": [f"p{index}"] for index in range(6)
    }
