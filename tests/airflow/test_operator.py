"""The operator in ``dag.test()``, on the fake engine."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG, task
from airflow.sdk.exceptions import TaskDeferred
from airflow.sdk.log import _secrets_masker

from airflow_customjob import CreateCustomJobOperator, CustomJobClient, CustomJobOperator
from airflow_customjob.backends.fake import FakeBackend, FakeWorld, exits, runs_for_ever
from airflow_customjob.backends.process import ProcessBackend
from airflow_customjob.client import AsyncCustomJobClient
from airflow_customjob.operators.attempt import Attempt
from airflow_customjob.supervisor.record import decode
from airflow_customjob.task import xcoms
from airflow_customjob.task.identity import INSTALLATION, installation_id
from airflow_customjob.task.thread import SupervisorThread
from tests.airflow.conftest import JOB, Ran

pytestmark = [pytest.mark.airflow, pytest.mark.slow]

RunDag = Callable[..., Ran]
both = pytest.mark.parametrize("deferrable", [False, True], ids=["sync", "deferrable"])


def started(world: FakeWorld) -> list[str]:
    """Names of the replicas that were started, in order."""
    return [happening.ref.name for happening in world.history if happening.what == "started" and happening.ref]


def one_task(dag_id: str, operator: type[CustomJobOperator] = CustomJobOperator, **arguments: Any) -> DAG:
    with DAG(dag_id, schedule=None) as dag:
        operator(task_id="train", **{"custom_job": JOB, **arguments})
    return dag


def test_an_installation_names_itself_once(run_dag: RunDag, fake: FakeBackend) -> None:
    """Regression: all were called ``default``, and took each other's jobs on one engine for their own."""
    from airflow.models.variable import Variable

    installation_id.cache_clear()
    named = []
    for dag_id in ("first", "second"):
        job_id = run_dag(one_task(dag_id, backend=fake)).xcom("train", xcoms.ID)
        named.append(CustomJobClient(fake).get(job_id).record.owner.where["installation"])
        installation_id.cache_clear()
    assert named == [Variable.get(INSTALLATION)] * 2
    assert re.fullmatch("[0-9a-f]{12}", named[0])


@both
def test_a_job_runs_and_its_custom_job_is_returned(
    run_dag: RunDag, fake: FakeBackend, world: FakeWorld, deferrable: bool
) -> None:
    world.script("workerpool0-0", exits(0, says="hello from the primary"))
    ran = run_dag(one_task("runs", backend=fake, deferrable=deferrable, project_id="acme", region="here"))
    assert ran.states() == {"train": "success"}, ran.log
    job_id, result, live = ran.xcom("train", xcoms.ID), ran.xcom("train"), ran.xcom("train", xcoms.JOB)
    assert result["name"] == live["name"] == f"projects/acme/locations/here/customJobs/{job_id}"
    assert result["state"] == 4
    assert result["job_spec"]["worker_pool_specs"][0]["replica_count"] == "1"
    assert (live["state"], live["generation"]) == ("JOB_STATE_SUCCEEDED", 1)
    assert ran.xcom("train", xcoms.REF) == {
        "custom_job_id": job_id,
        "backend": fake.serialize(),
        "engine": f"fake:{world.name}",
    }
    assert ran.log.count("workerpool0-0: hello from the primary") == 1
    assert not world.replicas()


@both
def test_a_failing_job_raises_its_cause(run_dag: RunDag, fake: FakeBackend, world: FakeWorld, deferrable: bool) -> None:
    world.script("workerpool0-0", exits(3, says=["reading", "no data under /gcs/bucket"]))
    ran = run_dag(one_task("fails", backend=fake, deferrable=deferrable))
    assert ran.states() == {"train": "failed"}
    assert "The replica workerpool0-0 exited with a non-zero status of 3" in ran.log
    assert "JOB_STATE_FAILED" in ran.log
    assert "no data under /gcs/bucket" in ran.log
    assert ran.xcom("train") is None


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"custom_job": {"jobSpec": {"workerPoolSpecs": [{"replicaCont": 1}]}}}, "replicaCont"),
        ({"custom_job": "jobSpec: ["}, "not YAML"),
        ({"backend": "swarm"}, "there is no backend 'swarm'"),
        ({"backend": {"name": "docker", "hosts": 3}}, "hosts"),
        ({"timeout_state": "GONE"}, "timeout_state"),
        ({"stop_grace": -1.0}, "stop_grace"),
        ({"secret_env": {"TOKEN": "no reference"}}, "TOKEN is given no reference"),
        ({"cluster_spec": "nowhere"}, "nowhere"),
        ({"custom_job": {**JOB, "encryptionSpec": {"kmsKeyName": "k"}}, "backend": "docker"}, "encryption_spec"),
    ],
)
def test_bad_input_costs_nothing_and_is_not_tried_again(
    run_dag: RunDag, fake: FakeBackend, world: FakeWorld, arguments: dict[str, Any], says: str
) -> None:
    ran = run_dag(one_task("bad", retries=3, retry_delay=timedelta(0), **{"backend": fake, **arguments}))
    (ti,) = ran.run.get_task_instances()
    assert (ti.state, ti.try_number) == ("failed", 1)
    assert says in ran.log
    assert not world.history


def test_mapped_tasks_are_jobs_of_their_own(
    run_dag: RunDag, fake: FakeBackend, world: FakeWorld, tmp_path: Path
) -> None:
    (tmp_path / "job.json").write_text(json.dumps({**JOB, "displayName": "from {{ ti.map_index }}"}))
    text = json.dumps({**JOB, "displayName": "text"})
    with DAG("mapped", schedule=None) as dag:

        @task
        def specs() -> list[dict[str, Any]]:
            return [{**JOB, "displayName": "{{ not rendered }}"}]

        given = [{**JOB, "displayName": "{{ ti.map_index }}"}, text, str(tmp_path / "job.json")]
        CustomJobOperator.partial(task_id="literal", backend=fake.serialize()).expand(custom_job=given)
        CustomJobOperator.partial(task_id="pulled", backend=fake.serialize()).expand(custom_job=specs())
    ran = run_dag(dag)
    assert ran.run.state == "success", ran.log
    names = [ran.xcom("literal", map_index=index)["display_name"] for index in range(3)]
    assert names == ["0", "text", "from 2"]
    assert ran.xcom("pulled", map_index=0)["display_name"] == "{{ not rendered }}"
    ids = {ran.xcom("literal", xcoms.ID, index) for index in range(3)} | {ran.xcom("pulled", xcoms.ID, 0)}
    assert len(ids) == 4


class DyingAttempt(Attempt):
    """The first try dies when its job is there."""

    async def _drive(self, stopping: Any, driver: Any, until: Any = None) -> Any:
        if self._context["ti"].try_number == 1:
            await driver.supervise(until=lambda record: bool(record.start_time))
            raise ConnectionError("the worker's power went out")
        return await super()._drive(stopping, driver, until)


class Dies(CustomJobOperator):
    def _attempt(self, context: Any) -> Attempt:
        self._thread = SupervisorThread()
        return DyingAttempt(self, context, self._thread)


def test_a_retry_takes_over_what_runs(run_dag: RunDag, fake: FakeBackend, world: FakeWorld) -> None:
    world.script("workerpool0-0", exits(0, says=["one", "two"], after=1))
    ran = run_dag(one_task("adopted", Dies, backend=fake, retries=1, retry_delay=timedelta(0)))
    assert ran.states() == {"train": "success"}, ran.log
    assert ran.run.get_task_instances()[0].try_number == 2
    assert len(started(world)) == 1
    assert "taken over from an earlier try (generation 1)" in ran.log
    assert ran.xcom("train", xcoms.JOB)["generation"] == 1


def test_a_retry_of_a_failed_job_starts_it_anew(run_dag: RunDag, fake: FakeBackend, world: FakeWorld) -> None:
    world.script("workerpool0-0", exits(1), exits(0))
    ran = run_dag(one_task("anew", backend=fake, retries=1, retry_delay=timedelta(0)))
    assert ran.states() == {"train": "success"}, ran.log
    assert [name.split("-")[2] for name in started(world)] == ["1", "2"]
    assert ran.xcom("train", xcoms.JOB)["generation"] == 2


def test_a_job_that_is_not_waited_for_goes_on(run_dag: RunDag, fake: FakeBackend, world: FakeWorld) -> None:
    world.script("workerpool0-0", exits(0, after=3))
    ran = run_dag(one_task("detached", backend=fake, wait_for_completion=False, deferrable=True))
    assert ran.states() == {"train": "success"}, ran.log
    assert ran.xcom("train")["state"] == 3
    job_id = ran.xcom("train", xcoms.ID)
    assert [replica.phase for replica in world.replicas(job_id)] == ["running"]
    assert CustomJobClient(fake).supervise(job_id).state.succeeded


class Crashes(CustomJobOperator):
    """Its trigger crashes as soon as the task is deferred."""

    def execute(self, context: Any) -> Any:
        try:
            return super().execute(context)
        except TaskDeferred:
            assert self._thread is not None
            self._thread.run(lambda stopping: self._launch(context))
            failure = {"error": self.failure, "traceback": ["KeyError: 'no such thing'\n"]}
            return self.resume_execution("__fail__", failure, context)

    failure = "Trigger failure"

    async def _launch(self, context: Any) -> None:
        client = AsyncCustomJobClient(self.backend)
        (job,) = await client.list()
        await client.supervise(job.job_id, until=lambda record: bool(record.start_time))


class RunsOut(Crashes):
    failure = "Trigger timeout"


@pytest.mark.parametrize("operator", [Crashes, RunsOut])
def test_a_trigger_that_crashes_or_never_answers_leaves_nothing(
    run_dag: RunDag, fake: FakeBackend, world: FakeWorld, operator: type[CustomJobOperator]
) -> None:
    world.script("workerpool0-0", runs_for_ever(says="training"))
    ran = run_dag(one_task("crashes", operator, backend=fake, deferrable=True))
    assert ran.states() == {"train": "failed"}
    assert len(started(world)) == 1
    assert not world.replicas()
    assert "its task was deferred and cannot go on" in ran.log
    assert "KeyError: 'no such thing'" in ran.log


def test_execution_timeout_ends_the_job(run_dag: RunDag, fake: FakeBackend, world: FakeWorld) -> None:
    world.script("workerpool0-0", runs_for_ever())
    ran = run_dag(one_task("timed", backend=fake, execution_timeout=timedelta(seconds=2)))
    assert ran.states() == {"train": "failed"}
    assert len(started(world)) == 1
    assert not world.replicas()


def test_execution_timeout_ends_the_job_of_a_deferred_task(
    run_dag: RunDag, fake: FakeBackend, world: FakeWorld
) -> None:
    world.script("workerpool0-0", runs_for_ever())
    dag = one_task("timed_deferred", backend=fake, deferrable=True, execution_timeout=timedelta(seconds=2))
    ran = run_dag(dag)
    assert ran.states() == {"train": "failed"}
    assert len(started(world)) == 1
    assert not world.replicas()
    assert "The job was cancelled: its task's execution_timeout is over." in ran.log


def test_a_retry_after_execution_timeout_starts_anew(run_dag: RunDag, fake: FakeBackend, world: FakeWorld) -> None:
    """Regression: in ``dag.test()`` the next try was told to stop by the flag of the one before."""
    world.script("workerpool0-0", runs_for_ever(), exits(0))
    dag = one_task(
        "timed_again", backend=fake, execution_timeout=timedelta(seconds=2), retries=1, retry_delay=timedelta(0)
    )
    ran = run_dag(dag)
    assert ran.states() == {"train": "success"}, ran.log
    assert [name.split("-")[2] for name in started(world)] == ["1", "2"]


@both
def test_a_secret_reaches_its_replica_and_nothing_else(run_dag: RunDag, tmp_path: Path, deferrable: bool) -> None:
    """Regression: ``dag.test()`` lost its way when an XCom was pushed while a Variable was read."""
    from airflow.models import Variable
    from airflow.utils.session import create_session

    with create_session() as session:
        Variable.set("training_token", "open sesame", session=session)
    code = "import os; print('a token of', len(os.environ['TOKEN']))"
    (pool,) = JOB["jobSpec"]["workerPoolSpecs"]
    container = {"imageUri": "local/py:1", "command": ["python3", "-c", code]}
    spec = {**JOB, "jobSpec": {"workerPoolSpecs": [{**pool, "containerSpec": container}]}}
    backend = ProcessBackend(state_folder=str(tmp_path / "jobs"))
    dag = one_task(
        f"secret_{deferrable}",
        custom_job=spec,
        backend=backend,
        secret_env={"TOKEN": "variable:training_token"},
        deferrable=deferrable,
    )
    ran = run_dag(dag)
    assert ran.states() == {"train": "success"}, ran.log
    assert "workerpool0-0: a token of 11" in ran.log
    shown = json.dumps([ran.xcom("train", key) for key in ("return_value", xcoms.JOB, xcoms.REF, xcoms.REPLICAS)])
    kept = "".join(path.read_text() for path in (tmp_path / "jobs").rglob("*") if path.is_file())
    assert "variable:training_token" in kept
    assert "open sesame" not in shown + kept + ran.log
    assert _secrets_masker().redact("a replica prints open sesame") == "a replica prints ***"


@both
def test_whose_output_is_in_the_log_is_chosen(
    run_dag: RunDag, fake: FakeBackend, world: FakeWorld, deferrable: bool
) -> None:
    (pool,) = JOB["jobSpec"]["workerPoolSpecs"]
    spec = {**JOB, "jobSpec": {"workerPoolSpecs": [pool, {**pool, "replicaCount": "39"}]}}
    world.script("workerpool0-0", exits(0, says="training", after=1.0))
    for index in range(39):
        world.script(f"workerpool1-{index}", runs_for_ever(says="at work"))
    dag = one_task(f"logs_{deferrable}", custom_job=spec, backend=fake, logs="workerpool1-3?", deferrable=deferrable)
    ran = run_dag(dag)
    assert ran.states() == {"train": "success"}, ran.log
    assert "training" not in ran.log
    assert set(re.findall(r"(workerpool\d-\d+): at work", ran.log)) == {
        f"workerpool1-{index}" for index in range(30, 39)
    }
    assert ran.log.count("31 of 40 replicas are not followed here unless they fail") == 1


def test_options_reach_the_job(run_dag: RunDag, fake: FakeBackend, world: FakeWorld) -> None:
    ran = run_dag(
        one_task(
            "options",
            backend=fake,
            image_map={"local/py:1": "mirror/py:1"},
            secret_env={"TOKEN": "variable:token"},
            stop_grace=2.0,
            timeout_state="EXPIRED",
            cluster_spec="none",
            record_ttl=60,
            trial_id="{{ 1 + 1 }}",
        )
    )
    assert ran.states() == {"train": "success"}, ran.log
    record = world.record(ran.xcom("train", xcoms.ID))
    assert record is not None
    options = decode(record.data).request.options
    assert options.image_map == (("local/py:1", "mirror/py:1"),)
    assert options.secret_env == (("TOKEN", "variable:token"),)
    assert (options.stop_grace, options.timeout_state, options.record_ttl) == (2.0, "EXPIRED", 60)
    assert (options.cluster_spec, options.trial_id) == ("none", "2")


def test_the_google_operator_runs_and_names_what_it_does_not_use(run_dag: RunDag, fake: FakeBackend) -> None:
    dag = one_task(
        "google",
        CreateCustomJobOperator,
        backend=fake,
        project_id="acme",
        region="europe-west4",
        impersonation_chain="a@b",
    )
    ran = run_dag(dag)
    assert ran.states() == {"train": "success"}, ran.log
    assert "impersonation_chain: of use to Google's cloud only" in ran.log


def test_a_package_of_the_workers_own_is_with_the_engine_before_the_task_is_deferred(
    run_dag: RunDag, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The triggerer may be another machine, which has no such file."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    script = tmp_path / "train.py"
    script.write_text("print('hello from a script')\n")
    deferred = CustomJobOperator.defer

    def defer(self: CustomJobOperator, **arguments: Any) -> None:
        script.unlink()
        shutil.rmtree(tmp_path / "cache" / "airflow-customjob")
        deferred(self, **arguments)

    monkeypatch.setattr(CustomJobOperator, "defer", defer)
    package = {"executorImageUri": "local/py:1"}
    pool = {"machineSpec": {"machineType": "n1-standard-4"}, "replicaCount": 1, "pythonPackageSpec": package}
    ran = run_dag(
        one_task(
            "local_code",
            backend=ProcessBackend(state_folder=str(tmp_path / "state")),
            custom_job={"workerPoolSpecs": [pool]},
            local_package_path=str(script),
            deferrable=True,
        )
    )
    assert ran.states() == {"train": "success"}, ran.log
    assert ran.log.count("workerpool0-0: hello from a script") == 1
