"""Operators that run a CustomJob: one task is one job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseOperator
from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import TaskDeferralError, TaskDeferralTimeout

from airflow_customjob.links import LINKS
from airflow_customjob.operators.mapping import CustomJobPartial, partial_of
from airflow_customjob.operators.rendering import (
    TemplateRefused,
    bad_input_fails,
    is_native,
    is_plain,
    is_reference,
    render_backend,
    render_spec,
    text_renderer,
)
from airflow_customjob.task.thread import Stop, SupervisorThread

if TYPE_CHECKING:
    import jinja2
    from airflow.sdk import Context

    from airflow_customjob.client import AsyncCustomJobClient, BackendLike
    from airflow_customjob.operators.attempt import Attempt


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
    :param project_id: for CLOUD_ML_PROJECT_ID and the job's resource name. None: ``0``. (templated)
    :param region: for CLOUD_ML_REGION and the job's resource name. None: ``local``. (templated)
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
    _thread: SupervisorThread | None = None

    def __init__(
        self,
        *,
        custom_job: Any,
        backend: BackendLike = None,
        project_id: str | None = None,
        region: str | None = None,
        local_package_path: str | None = None,
        python_module: str | None = None,
        gcp_conn_id: str | None = None,
        google_credentials: str | None = None,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        wait_for_completion: bool = True,
        render: bool = True,
        render_exclude: Sequence[str] = (),
        ignore_fields: Sequence[str] | None = None,
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
            native, env = is_native(env), env.overlay(keep_trailing_newline=True)
            from airflow_customjob.spec import SpecError

            text = text_renderer(self._dag, context, render) if native and self._dag else render
            how: dict[str, Any] = {"exclude": self.render_exclude, "base": self.folder(), "literal": not given}
            with bad_input_fails(SpecError, TemplateRefused):
                return render_spec(content, render, text, enabled=self.render, **how)
        if content is self.backend:
            return render_backend(content, render)
        return super().render_template(content, context, jinja_env, seen_oids)

    def folder(self) -> Path | None:
        """That of the DAG's file: where relative paths start from."""
        return Path(self.dag.folder) if self._dag else None

    # -- a try of the task --------------------------------------------------------------------------------------------

    def execute(self, context: Context) -> Any:
        """Claim the job, then drive it here or in the triggerer."""
        return self._attempt(context).execute()

    def execute_complete(self, context: Context, event: Mapping[str, Any] | None = None) -> Any:
        """Called when a trigger has come to its end: what the job's record says counts.

        It may be the trigger of the try before: on sqlite Airflow gives the id of one that is gone again, and takes its late
        event for the new one's.
        """
        return self._attempt(context).complete((event or {}).get("what"))

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """As Airflow's; where the trigger crashed, or did not end in time, the job is cancelled first."""
        try:
            return super().resume_execution(next_method, next_kwargs, context)
        except (TaskDeferralError, TaskDeferralTimeout) as error:
            why = f"The job was cancelled: its task was deferred and cannot go on ({error})."
            self.log.error(why)
            self._attempt(context).cancel(why)
            raise

    def on_kill(self) -> None:
        """Called by Airflow's signal handler: only a flag is set here, see :mod:`~airflow_customjob.task.thread`."""
        if self._thread is not None:
            self._thread.tell(Stop.KILLED)

    def client(self) -> AsyncCustomJobClient:
        """Of the backend; a test has its own.

        :raises ValueError: there is no such backend.
        """
        from airflow_customjob.client import AsyncCustomJobClient

        return AsyncCustomJobClient(self.backend)

    def _attempt(self, context: Context) -> Attempt:
        """In a thread of its own; ``dag.test()`` runs every try with the same operator."""
        self._thread = thread = SupervisorThread()
        from airflow_customjob.operators.attempt import Attempt

        return Attempt(self, context, thread)


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
