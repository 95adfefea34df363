"""One try of a CustomJobOperator's task. Loaded when a task runs: a DAG's parse needs nothing of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowTaskTimeout

from airflow_customjob.backends.base import EngineError
from airflow_customjob.job import Job, NoSuchJob
from airflow_customjob.links import links_of
from airflow_customjob.operators.rendering import bad_input_fails
from airflow_customjob.plan.types import ClusterSpec, JobOptions, SingleReplica
from airflow_customjob.settings import setting
from airflow_customjob.spec.job_state import JobState
from airflow_customjob.spec.problem import SpecError
from airflow_customjob.supervisor.claims import ClaimRefused
from airflow_customjob.supervisor.ownership import UNKNOWN, Canceller, Claim, Verdict
from airflow_customjob.supervisor.record import JobRecord, Owner, launched
from airflow_customjob.supervisor.result import output_directory
from airflow_customjob.supervisor.supervise import Fenced
from airflow_customjob.task import outlets, xcoms
from airflow_customjob.task.comms import ask_airflow
from airflow_customjob.task.drive import Driver, WrongEngine
from airflow_customjob.task.identity import Held, is_dag_test, job_id_at, owner_of, state_at, told, will_retry
from airflow_customjob.task.thread import Stop, Stopping, SupervisorThread

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_customjob.operators.custom_job import CustomJobOperator

BACKSTOP = timedelta(seconds=60)
"""How long after its deadline a deferred task is resumed by the scheduler, if its trigger has not cancelled the job."""
ASK_WITHIN = 1.5
"""Seconds that a killed task has to read its own state; five are left until SIGKILL."""

_CLAIMED = {
    "create": "job %s on %s: created (generation %s)",
    "go on": "job %s on %s: this try's own, it goes on (generation %s)",
    "take over": "job %s on %s: taken over from an earlier try (generation %s)",
    "replace": "job %s on %s: started anew (generation %s)",
}


def options_of(operator: CustomJobOperator) -> JobOptions:
    """What the operator's arguments say of how its job runs.

    :raises ValueError: one of them has a value that it cannot have.
    """
    return JobOptions(
        stop_grace=operator.stop_grace,
        timeout_state=operator.timeout_state,
        ignore_fields=tuple(operator.ignore_fields or ()),
        image_map=tuple((operator.image_map or {}).items()),
        cluster_spec=ClusterSpec(operator.cluster_spec),
        single_replica=SingleReplica(operator.single_replica),
        expand_args=operator.expand_args,
        trial_id=None if operator.trial_id is None else str(operator.trial_id),
        gang=operator.gang,
        project=JobOptions.project if operator.project_id is None else str(operator.project_id),
        region=operator.region or JobOptions.region,
        memory_limits=operator.memory_limits,
        record_ttl=float(setting("record_ttl")) if operator.record_ttl is None else operator.record_ttl,
        gcp_conn_id=operator.gcp_conn_id,
        google_credentials=operator.google_credentials,
        secret_env=tuple((operator.secret_env or {}).items()),
    )


def reading_of(operator: CustomJobOperator) -> dict[str, Any]:
    """How its spec is read: arguments of :meth:`~airflow_customjob.client.AsyncCustomJobClient.submit`."""
    return {
        "display_name": operator.display_name or operator.task_id,
        "base": operator.folder(),
        "local_package_path": operator.local_package_path,
        "python_module": operator.python_module,
    }


class Attempt:
    """A try of the task, or one leg of it.

    :param operator: rendered.
    :param thread: where the job is driven; may be told to stop.
    :raises AirflowFailException: an argument has a value that it cannot have.
    """

    def __init__(self, operator: CustomJobOperator, context: Context, thread: SupervisorThread) -> None:
        self._operator = operator
        self._context = context
        self._thread = thread
        with bad_input_fails(ValueError):
            self._client = operator.client()
            self._options = options_of(operator)
        self.log = operator.log

    def execute(self) -> dict[str, Any]:
        """Claim the job, and drive it here; a deferrable task's in the triggerer."""
        outcome = self._run(self._claim_and_drive)
        if isinstance(outcome, Held):
            from airflow_customjob.triggers.custom_job import CustomJobTrigger

            deadline = self._deadline()
            self._operator.defer(
                trigger=CustomJobTrigger(outcome.to_json(), deadline),
                method_name=self._operator.execute_complete.__name__,
                timeout=None if deadline is None else timedelta(seconds=max(0.0, deadline - time.time())) + BACKSTOP,
            )
        return self._result(outcome)

    def complete(self, what: str | None) -> dict[str, Any]:
        """Go on with the job after its trigger; most often nothing is left to do.

        :param what: the trigger's event says.
        """
        from airflow_customjob.triggers.custom_job import TIMED_OUT

        job = self._run(self._go_on)
        if what == TIMED_OUT:
            raise AirflowTaskTimeout(f"execution_timeout of {self._operator.execution_timeout} is over. {job.error}")
        return self._result(job)

    def cancel(self, why: str) -> None:
        """Cancel the job that this try claimed before it was deferred."""
        self._run(partial(self._go_on, cancel=why))

    def _result(self, job: Job) -> dict[str, Any]:
        if job.state.succeeded or self._enough(job.record):
            output = outlets.output_of(job)
            self._context["ti"].xcom_push(xcoms.OUTPUT, output)
            outlets.tell_assets(self._context, self._operator.outlets, output)
            return job.to_dict()
        raise AirflowException(f"job {job.job_id} ended as {job.state.name}: {job.error}")

    def _deadline(self) -> float | None:
        """Airflow applies ``execution_timeout`` to each leg alone; here it counts from the try's start, deferral included."""
        limit: timedelta | None = self._operator.execution_timeout
        return None if limit is None else (self._context["ti"].start_date + limit).timestamp()

    # -- in the supervisor's thread -----------------------------------------------------------------------------------

    def _run(self, main: Callable[[Stopping], Any]) -> Any:
        try:
            return self._thread.run(main)
        except (SpecError, ClaimRefused) as refused:
            raise AirflowFailException(str(refused)) from None
        except (EngineError, Fenced, NoSuchJob, WrongEngine) as error:
            raise AirflowException(str(error)) from error

    async def _claim_and_drive(self, stopping: Stopping) -> Job | Held:
        operator, client = self._operator, self._client
        owner = owner_of(self._context, detached=not operator.wait_for_completion)
        async with client.backend.open():
            claim, job = await client.submit(
                operator.custom_job,
                self._options,
                job_id=job_id_at(owner.where),
                owner=owner,
                logs=operator.logs,
                say=self.log.info,
                **reading_of(operator),
            )
            record = job.record
            self.log.info(_CLAIMED[claim], job.job_id, client.backend.name, record.generation)
            operator.output_directory = output_directory(record)
            held = self._held(record, owner)
            opening = {xcoms.ID: job.job_id, xcoms.REF: job.ref()}
            pull = xcoms.pull_at(owner.where) if claim in (Claim.GO_ON, Claim.TAKE_OVER) else None
            if operator.deferrable and operator.wait_for_completion and not job.state.terminal and stopping.why is None:
                positions: dict[str, str] = {}
                opening[xcoms.JOB] = xcoms.job_document(record, time.time())
                await xcoms.push_claims(owner.where, opening)
                if _needs_this_machine(record):
                    driver = self._driver(held, pull=pull, positions=positions)
                    job = await self._drive(stopping, driver, until=launched)
                if not job.state.terminal:
                    await xcoms.push_claims(owner.where, {xcoms.POSITIONS: positions})
                    return held
                return job
            links = links_of(operator, self._context["ti"])
            return await self._drive(stopping, self._driver(held, pull=pull, opening=opening, links=links))

    async def _go_on(self, stopping: Stopping, cancel: str = "") -> Job:
        client, owner = self._client, owner_of(self._context)
        async with client.backend.open():
            record = (await client.get(job_id_at(owner.where))).record
            self._operator.output_directory = output_directory(record)
            positions = await xcoms.positions_at(owner.where)
            driver = self._driver(self._held(record, owner), pull=xcoms.pull_at(owner.where), positions=positions)
            if cancel:
                await driver.cancel(Canceller.OPERATOR, cancel)
            return await self._drive(stopping, driver)

    async def _drive(self, stopping: Stopping, driver: Driver, until: Callable[[JobRecord], bool] | None = None) -> Job:
        """To the job's end, or until this task is stopped: then it is cancelled, unless a retry is going to take it over.

        :param until: leave it earlier, when this says so.
        """
        async with driver.at_work():
            job = await stopping.unless_told(driver.supervise(until or self._enough))
            if job is not None:
                return job
            ti, state = self._context["ti"], None
            killed = stopping.why is Stop.KILLED
            if killed:
                state = await _in_time(driver.held.owner.where)
            how = f"was {told(state)}" if killed and state != "running" else "was stopped"
            verdict = await driver.cancel(
                Canceller.OPERATOR,
                f"The job was cancelled: its Airflow task {how}.",
                task_state=state,
                will_retry=killed and will_retry(ti),
            )
            if verdict is Verdict.LEAVE and killed:
                raise AirflowException(
                    f"this task's process was told to stop; job {driver.held.job_id} goes on, and the task's next try takes it over"
                )
            return await driver.supervise(in_a_hurry=killed)

    def _enough(self, record: JobRecord) -> bool:
        return not self._operator.wait_for_completion and record.state is JobState.JOB_STATE_RUNNING

    def _held(self, record: JobRecord, owner: Owner) -> Held:
        # In dag.test() nobody else could read meanwhile.
        hold = 0.0 if is_dag_test(self._context) else self._operator.hold_removal
        backend = self._client.backend.serialize()
        return Held(record.job_id, record.generation, record.engine, owner, backend, hold, self._operator.logs)

    def _driver(self, held: Held, *, opening: Mapping[str, Any] | None = None, **how: Any) -> Driver:
        push = xcoms.push_at(held.owner.where, claims=(*opening, xcoms.JOB) if opening else ())
        return Driver(self._client, held, log=self.log, push=push, opening=opening, **how)


def _needs_this_machine(record: JobRecord) -> bool:
    from airflow_customjob.packaging.first import needs_this_machine

    return needs_this_machine(record.request)


async def _in_time(where: Mapping[str, str]) -> str | None:
    try:
        async with asyncio.timeout(ASK_WITHIN):
            return await ask_airflow(state_at, where)
    except TimeoutError:
        return UNKNOWN
