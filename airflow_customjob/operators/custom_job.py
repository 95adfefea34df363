"""Operators that run a CustomJob: one task is one job."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseOperator
from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import (
    AirflowException,
    AirflowFailException,
    AirflowTaskTimeout,
    TaskDeferralError,
    TaskDeferralTimeout,
)

from airflow_customjob.links import LINKS, links_of
from airflow_customjob.operators.mapping import CustomJobPartial, partial_of
from airflow_customjob.operators.rendering import TemplateRefused, is_plain, is_reference, render_backend, render_spec
from airflow_customjob.supervisor.ownership import Canceller, Verdict
from airflow_customjob.task.comms import ask_airflow
from airflow_customjob.task.identity import Held, is_dag_test, job_id_at, owner_of, state_at, will_retry
from airflow_customjob.task.thread import Stop, Stopping, SupervisorThread
from airflow_customjob.triggers.custom_job import TIMED_OUT, CustomJobTrigger, told

if TYPE_CHECKING:
    import jinja2
    from airflow.sdk import Context

    from airflow_customjob.client import AsyncCustomJobClient, BackendLike, Job
    from airflow_customjob.plan.types import JobOptions
    from airflow_customjob.supervisor.record import JobRecord, Owner
    from airflow_customjob.task.drive import Driver

BACKSTOP = timedelta(seconds=60)
"""How long after its deadline a deferred task is resumed by the scheduler, if its trigger has not cancelled the job."""
ASK_WITHIN = 1.5
"""Seconds that a killed task has to read its own state; five are left until SIGKILL."""


class CustomJobOperator(BaseOperator):
    """
    Run a Vertex AI CustomJob, unchanged, on one's own machines.

    The task succeeds when the job does, and returns the CustomJob as ``CustomJob.to_dict`` of google-cloud-aiplatform gives
    it. Every replica's output is in the task's log as it is written, also while the task is deferred. A retry takes over a job
    that still runs or has succeeded; a clear, or a changed spec, starts it anew. Assets among ``outlets`` are told where the model
    is and how good: see :mod:`~airflow_customjob.task.outlets`.

    :param custom_job: a CustomJob or CustomJobSpec: a dict in any spelling, YAML or JSON text, the path of such a file
        (relative to the DAG's file), or a message of this package or of google-cloud-aiplatform. Each string in it is a
        template of its own. (templated)
    :param backend: where it runs: ``"process"``, ``"docker"``, a configured backend, or its ``serialize()``.
        None: ``[customjob] default_backend``. (templated)
    :param project_id: for CLOUD_ML_PROJECT_ID and the job's resource name. (templated)
    :param region: for CLOUD_ML_REGION and the job's resource name. (templated)
    :param local_package_path: a folder or a script on the worker, absolute or relative to the DAG's file, that becomes a Python
        package of each pool with a ``python_package_spec``; a ``requirements.txt`` in it is honoured. (templated)
    :param python_module: what is run of it; None: the spec's ``python_module``, or the script. (templated)
    :param gcp_conn_id: connection to Google Cloud by which packages are read from ``gs://``. None: application default
        credentials. (templated)
    :param google_credentials: path of a key file, or a connection to Google Cloud, that replicas find by
        GOOGLE_APPLICATION_CREDENTIALS; it is read where they are created. None: they get none. (templated)
    :param deferrable: hold no worker slot while the job runs; the triggerer supervises it.
    :param wait_for_completion: False: the task succeeds as soon as all replicas have started. From then on the job is
        driven by whatever other CustomJob operator or trigger of this installation lives, within 60 s, or by a sensor: where
        there is none, nobody restarts its lost replicas, or stops them when its primary has ended.
    :param render: False: strings of the spec are no templates.
    :param render_exclude: field paths below which strings are no templates, as
        ``"job_spec.worker_pool_specs.container_spec.args"``.
    :param ignore_fields: field paths that the backend will not honour, and that it is not to refuse. (templated)
    :param image_map: image names that are replaced wherever the spec names them; a name that ends with ``*`` stands for all
        that begin so. (templated)
    :param secret_env: environment variables whose values are looked up where a replica is created, and are nowhere else: name to
        reference (``env:NAME``, ``file:/path``, ``variable:KEY``, ``connection:ID``). (templated)
    :param trial_id: hyperparameter trial. (templated)
    :param stop_grace: seconds between the polite and the final signal when a replica is stopped. Airflow kills a worker's task
        five seconds after it has told it to stop, and gives a trigger thirty: where the grace is longer, the engine itself ends the
        replicas, and any other live task of the installation clears them away, within a minute.
    :param timeout_state: how a job ends whose ``scheduling.timeout`` has passed: CANCELLED, EXPIRED or FAILED.
    :param cluster_spec: how CLUSTER_SPEC reaches a replica: ``env``, ``file`` or ``none``.
    :param single_replica: form of CLUSTER_SPEC in a job of one replica: ``workerpool0``, ``chief`` or ``unset``.
    :param expand_args: expand ``$(VAR)`` in command and args too.
    :param memory_limits: make the machine type's memory a hard limit of each replica.
    :param gang: create every replica before any starts.
    :param record_ttl: seconds that the record of the ended job is kept. None: ``[customjob] record_ttl``.
    :param hold_removal: seconds that ended replicas are kept, for others (a group's rows) to read their logs to the end.
    :param logs: whose output is in the task's log: ``all``, ``primary``, a replica's name, or a pattern as ``workerpool1-*``. None:
        all replicas of a job of up to 32, the primary of a larger one. The whole log of one that fails is there in any case.
    :param display_name: of a bare CustomJobSpec. None: the task's id. (templated)
    :param poll_interval: accepted for compatibility; nothing is polled.
    """

    template_fields: Sequence[str] = (
        "custom_job",
        "backend",
        "project_id",
        "region",
        "ignore_fields",
        "image_map",
        "secret_env",
        "trial_id",
        "display_name",
        "local_package_path",
        "python_module",
        "gcp_conn_id",
        "google_credentials",
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {"custom_job": "json", "backend": "json"}
    operator_extra_links = LINKS
    ui_color = "#4285f4"
    ui_fgcolor = "#ffffff"
    output_directory = ""
    """The job's ``baseOutputDirectory``, once it is known."""

    def __init__(
        self,
        *,
        custom_job: Any,
        backend: BackendLike = None,
        project_id: str = "0",
        region: str = "local",
        local_package_path: str | None = None,
        python_module: str | None = None,
        gcp_conn_id: str | None = None,
        google_credentials: str | None = None,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        wait_for_completion: bool = True,
        render: bool = True,
        render_exclude: Sequence[str] = (),
        ignore_fields: Sequence[str] = (),
        image_map: Mapping[str, str] | None = None,
        secret_env: Mapping[str, str] | None = None,
        trial_id: str | None = None,
        stop_grace: float = 0.5,
        timeout_state: str = "CANCELLED",
        cluster_spec: str = "env",
        single_replica: str = "workerpool0",
        expand_args: bool = True,
        memory_limits: bool = False,
        gang: bool = True,
        record_ttl: float | None = None,
        hold_removal: float = 0.0,
        logs: str | None = None,
        display_name: str | None = None,
        poll_interval: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.custom_job = _storable(custom_job)
        self.backend = _named(backend)
        self.project_id = project_id
        self.region = region
        self.local_package_path = local_package_path
        self.python_module = python_module
        self.gcp_conn_id = gcp_conn_id
        self.google_credentials = google_credentials
        self.deferrable = deferrable
        self.wait_for_completion = wait_for_completion
        self.render = render
        self.render_exclude = render_exclude
        self.ignore_fields = ignore_fields
        self.image_map = image_map
        self.secret_env = secret_env
        self.trial_id = trial_id
        self.stop_grace = stop_grace
        self.timeout_state = timeout_state
        self.cluster_spec = cluster_spec
        self.single_replica = single_replica
        self.expand_args = expand_args
        self.memory_limits = memory_limits
        self.gang = gang
        self.record_ttl = record_ttl
        self.hold_removal = hold_removal
        self.logs = logs
        self.display_name = display_name
        self.poll_interval = poll_interval
        self._thread = SupervisorThread()

    @classmethod
    def partial(cls, **kwargs: Any) -> CustomJobPartial:
        """As every operator's; what is mapped over must be dicts or text."""
        if "custom_job" in kwargs:
            kwargs["custom_job"] = _storable(kwargs["custom_job"])
        return partial_of(super().partial(**kwargs))

    # -- templates ----------------------------------------------------------------------------------------------------

    def render_template(
        self,
        content: Any,
        context: Context,
        jinja_env: jinja2.Environment | None = None,
        seen_oids: set[int] | None = None,
    ) -> Any:
        """As Airflow's, which calls it with the value of each templated field; the spec and the backend are not rendered in place."""
        env = jinja_env or self.get_template_env()

        def render(value: Any) -> Any:
            return super(CustomJobOperator, self).render_template(value, context, env, set())

        if content is self.custom_job:
            given = seen_oids is not None and id(content) in seen_oids  # by another task: not a template
            env = env.overlay(keep_trailing_newline=True)
            with self._refusing():
                return render_spec(
                    content,
                    render,
                    enabled=self.render and not given,
                    exclude=self.render_exclude,
                    base=self._folder(),
                )
        if content is self.backend:
            return render_backend(content, render)
        return super().render_template(content, context, jinja_env, seen_oids)

    def _folder(self) -> Path | None:
        return Path(self.dag.folder) if self._dag else None

    # -- a try of the task --------------------------------------------------------------------------------------------

    def execute(self, context: Context) -> Any:
        """Claim the job, then drive it here or in the triggerer."""
        self._thread = SupervisorThread()  # ``dag.test()`` runs every try with the same operator
        try:
            client, options = self._client(), self._options()
        except ValueError as error:
            raise AirflowFailException(str(error)) from None
        deferrable = self.deferrable and self.wait_for_completion
        outcome = self._run(lambda stopping: self._first_leg(stopping, context, client, options, defer=deferrable))
        if isinstance(outcome, Held):
            deadline = self._deadline(context)
            self.defer(
                trigger=CustomJobTrigger(outcome.to_json(), deadline),
                method_name=self.execute_complete.__name__,
                timeout=None if deadline is None else timedelta(seconds=max(0.0, deadline - time.time())) + BACKSTOP,
            )
        return self._result(outcome, context)

    def execute_complete(self, context: Context, event: Mapping[str, Any] | None = None) -> Any:
        """Called when a trigger has come to its end: what the job's record says counts.

        It may be the trigger of the try before: on sqlite Airflow gives the id of one that is gone again, and takes its late
        event for the new one's.
        """
        what = (event or {}).get("what")
        job = self._run(lambda stopping: self._later_leg(stopping, context))
        if what == TIMED_OUT:
            raise AirflowTaskTimeout(f"execution_timeout of {self.execution_timeout} is over. {job.error}")
        return self._result(job, context)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """As Airflow's; where the trigger crashed, or did not end in time, the job is cancelled first."""
        try:
            return super().resume_execution(next_method, next_kwargs, context)
        except (TaskDeferralError, TaskDeferralTimeout) as error:
            why = f"The job was cancelled: its task was deferred and cannot go on ({error})."
            self.log.error(why)
            self._run(lambda stopping: self._later_leg(stopping, context, cancel=why))
            raise

    def on_kill(self) -> None:
        """Called by Airflow's signal handler: only a flag is set here, see :mod:`~airflow_customjob.task.thread`."""
        self._thread.tell(Stop.KILLED)

    # -- in the supervisor's thread -----------------------------------------------------------------------------------

    def _run(self, main: Any) -> Any:
        from airflow_customjob.backends.base import EngineError
        from airflow_customjob.client import NoSuchJob
        from airflow_customjob.supervisor.supervise import Fenced
        from airflow_customjob.task.drive import WrongEngine

        with self._refusing():
            try:
                return self._thread.run(main)
            except (EngineError, Fenced, NoSuchJob, WrongEngine) as error:
                raise AirflowException(str(error)) from error

    async def _first_leg(
        self, stopping: Stopping, context: Context, client: AsyncCustomJobClient, options: JobOptions, *, defer: bool
    ) -> Job | Held:
        from airflow_customjob.packaging.first import needs_this_machine
        from airflow_customjob.supervisor.record import launched
        from airflow_customjob.supervisor.result import output_directory
        from airflow_customjob.task import xcoms

        owner = owner_of(context, detached=not self.wait_for_completion)
        async with client.backend.open():
            claim, job = await client.submit(
                self.custom_job,
                options,
                job_id=job_id_at(owner.where),
                owner=owner,
                logs=self.logs,
                say=self.log.info,
                **self._reading(),
            )
            record = job.record
            self.log.info(_CLAIMED[claim], job.job_id, client.backend.name, record.generation)
            push = partial(xcoms.push_claim, owner.where)
            await push(xcoms.ID, job.job_id)
            await push(xcoms.REF, job.ref())
            await push(xcoms.JOB, xcoms.job_document(record, time.time()))
            self.output_directory = output_directory(record)
            held = self._held(client, record, owner, context)
            if defer and not job.state.terminal and stopping.why is None:
                positions: dict[str, str] = {}
                if needs_this_machine(record.request):
                    job = await self._drive(stopping, context, self._driver(client, held, positions), until=launched)
                if not job.state.terminal:
                    await push(xcoms.POSITIONS, positions)
                    return held
                return job
            for key, link in links_of(self, context["ti"]).items():
                await push(key, link)
            return await self._drive(stopping, context, self._driver(client, held))

    async def _later_leg(self, stopping: Stopping, context: Context, cancel: str = "") -> Job:
        """Drive the job that this try claimed before it was deferred; most often nothing is left to do."""
        from airflow_customjob.supervisor.result import output_directory
        from airflow_customjob.task.xcoms import positions_at

        client, owner = self._client(), owner_of(context)
        async with client.backend.open():
            record = (await client.get(job_id_at(owner.where))).record
            self.output_directory = output_directory(record)
            held = self._held(client, record, owner, context)
            driver = self._driver(client, held, await positions_at(owner.where))
            if cancel:
                await driver.cancel(Canceller.OPERATOR, cancel)
            return await self._drive(stopping, context, driver)

    async def _drive(
        self, stopping: Stopping, context: Context, driver: Driver, until: Callable[[JobRecord], bool] | None = None
    ) -> Job:
        """To the job's end, or until this task is stopped: then it is cancelled, unless a retry is going to take it over.

        :param until: leave it earlier, when this says so.
        """
        async with driver.at_work():
            job = await stopping.unless_told(driver.supervise(until or self._enough))
            if job is not None:
                return job
            ti, state = context["ti"], None
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

    def _enough(self, record: Any) -> bool:
        from airflow_customjob.spec.job_state import JobState

        return not self.wait_for_completion and record.state is JobState.JOB_STATE_RUNNING

    # -- arguments and results ----------------------------------------------------------------------------------------

    def _reading(self) -> dict[str, Any]:
        """How the spec is read."""
        return {
            "display_name": self.display_name or self.task_id,
            "base": self._folder(),
            "local_package_path": self.local_package_path,
            "python_module": self.python_module,
        }

    def _client(self) -> AsyncCustomJobClient:
        from airflow_customjob.client import AsyncCustomJobClient

        return AsyncCustomJobClient(self.backend)

    def _held(self, client: AsyncCustomJobClient, record: JobRecord, owner: Owner, context: Context) -> Held:
        hold = 0.0 if is_dag_test(context) else self.hold_removal  # there, nobody else could read meanwhile
        backend = client.backend.serialize()
        return Held(record.job_id, record.generation, record.engine, owner, backend, hold, self.logs)

    def _driver(self, client: AsyncCustomJobClient, held: Held, positions: dict[str, str] | None = None) -> Driver:
        from airflow_customjob.task.drive import Driver
        from airflow_customjob.task.xcoms import pull_at, push_at

        where = held.owner.where
        return Driver(client, held, log=self.log, push=push_at(where), pull=pull_at(where), positions=positions)

    def _options(self) -> JobOptions:
        from airflow_customjob.plan.types import ClusterSpec, JobOptions, SingleReplica
        from airflow_customjob.settings import setting

        return JobOptions(
            stop_grace=self.stop_grace,
            timeout_state=self.timeout_state,
            ignore_fields=tuple(self.ignore_fields),
            image_map=tuple((self.image_map or {}).items()),
            cluster_spec=ClusterSpec(self.cluster_spec),
            single_replica=SingleReplica(self.single_replica),
            expand_args=self.expand_args,
            trial_id=None if self.trial_id is None else str(self.trial_id),
            gang=self.gang,
            project=str(self.project_id),
            region=self.region,
            memory_limits=self.memory_limits,
            record_ttl=float(setting("record_ttl")) if self.record_ttl is None else self.record_ttl,
            gcp_conn_id=self.gcp_conn_id,
            google_credentials=self.google_credentials,
            secret_env=tuple((self.secret_env or {}).items()),
        )

    def _deadline(self, context: Context) -> float | None:
        """Airflow applies ``execution_timeout`` to each leg alone; here it counts from the try's start, deferral included."""
        if self.execution_timeout is None:
            return None
        return (context["ti"].start_date + self.execution_timeout).timestamp()

    def _result(self, job: Job, context: Context) -> dict[str, Any]:
        from airflow_customjob.task import outlets, xcoms

        if job.state.succeeded or self._enough(job.record):
            told = outlets.output_of(job)
            context["ti"].xcom_push(xcoms.OUTPUT, told)
            outlets.tell_assets(context, self.outlets, told)
            return job.to_dict()
        raise AirflowException(f"job {job.job_id} ended as {job.state.name}: {job.error}")

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        """Bad input is not tried again."""
        from airflow_customjob.spec import SpecError
        from airflow_customjob.supervisor.claims import ClaimRefused

        try:
            yield
        except (SpecError, TemplateRefused, ClaimRefused) as error:
            raise AirflowFailException(str(error)) from None


class CreateCustomJobOperator(CustomJobOperator):
    """
    The same, with the signature of the Google provider's operator: a DAG moves here by changing one import.

    What only Google's cloud can use is accepted, and named in the log. For all other parameters see :class:`CustomJobOperator`.

    :param project_id: for CLOUD_ML_PROJECT_ID and the job's resource name. (templated)
    :param region: for CLOUD_ML_REGION and the job's resource name. (templated)
    :param custom_job: the job. (templated)
    :param retry: not used here.
    :param timeout: not used here.
    :param metadata: not used here.
    :param gcp_conn_id: for packages in ``gs://``; the default one need not exist.
    :param impersonation_chain: not used here.
    """

    def __init__(
        self,
        *,
        project_id: str,
        region: str,
        custom_job: Any,
        retry: Any = None,
        timeout: float | None = None,
        metadata: Sequence[tuple[str, str]] = (),
        gcp_conn_id: str = "google_cloud_default",
        impersonation_chain: str | Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        mine = None if gcp_conn_id == "google_cloud_default" else gcp_conn_id
        super().__init__(project_id=project_id, region=region, custom_job=custom_job, gcp_conn_id=mine, **kwargs)
        given = {
            "retry": retry is not None,
            "timeout": timeout is not None,
            "metadata": bool(metadata),
            "impersonation_chain": impersonation_chain is not None,
        }
        self.unused = tuple(name for name, is_given in given.items() if is_given)

    def execute(self, context: Context) -> Any:
        if self.unused:
            self.log.info("%s: of use to Google's cloud only, and not used here", ", ".join(self.unused))
        return super().execute(context)


_CLAIMED = {
    "create": "job %s on %s: created (generation %s)",
    "go on": "job %s on %s: this try's own, it goes on (generation %s)",
    "take over": "job %s on %s: taken over from an earlier try (generation %s)",
    "replace": "job %s on %s: started anew (generation %s)",
}


async def _in_time(where: Mapping[str, str]) -> str | None:
    from airflow_customjob.supervisor.ownership import UNKNOWN

    try:
        async with asyncio.timeout(ASK_WITHIN):
            return await ask_airflow(state_at, where)
    except TimeoutError:
        return UNKNOWN


def _storable(custom_job: Any) -> Any:
    """What Airflow can store in a serialized DAG, the same at each parse: messages become dicts.

    :raises TypeError: nothing that a spec can be.
    """
    if isinstance(custom_job, (str, Path)) or is_reference(custom_job) or is_plain(custom_job):
        if custom_job is None or isinstance(custom_job, (bool, int, float, list, tuple)):
            raise TypeError(f"custom_job is a {type(custom_job).__name__}: give a dict, text, a path or a message")
        return custom_job
    from airflow_customjob.spec import SpecError, to_dict

    try:
        return to_dict(custom_job)
    except SpecError as error:
        raise TypeError(f"custom_job: {error}") from None


def _named(backend: Any) -> Any:
    """:raises TypeError: nothing that a backend can be."""
    if backend is None or isinstance(backend, (str, Mapping)) or is_reference(backend) or hasattr(backend, "serialize"):
        return backend
    raise TypeError(f"backend is a {type(backend).__name__}: give a name, a configured backend, or its serialize()")
