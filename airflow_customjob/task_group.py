"""A CustomJob as a group of tasks: one row of the grid per replica."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from airflow.sdk import TaskGroup
from airflow.sdk.configuration import conf
from airflow.sdk.definitions.taskgroup import MappedTaskGroup

from airflow_customjob.operators.custom_job import CustomJobOperator
from airflow_customjob.operators.group import (
    CustomJobListOperator,
    CustomJobPlanOperator,
    CustomJobResultOperator,
    CustomJobRowsOperator,
    ReplicaRowOperator,
    literal_pools,
    parents,
    row_names,
)
from airflow_customjob.task.identity import RUN

DEFAULT_POOL = "default_pool"
ROW_GRACE = 5.0
"""Seconds that ended replicas are kept by default, for their rows to read the last lines."""

_RUN_ONLY = {"self", "kwargs", "deferrable", "wait_for_completion", "hold_removal", "logs"}
_PLANNING = {name for name in inspect.signature(CustomJobOperator.__init__).parameters if name not in _RUN_ONLY}
"""Arguments that say what the job is: for ``plan`` as for ``run``."""


Arguments = dict[str, Any]
_SILENT: Arguments = {"outlets": []}
"""Assets among ``default_args`` are for ``job``, which knows what became of them."""
_AFTER_FIRST: Arguments = {**_SILENT, "trigger_rule": "all_success"}
_ROW: Arguments = {**_AFTER_FIRST, "pool": DEFAULT_POOL, "pool_slots": 1}
"""A row that is deferred in a pool with ``include_deferred`` would keep a slot there from the job that it waits for."""


class CustomJobTaskGroup(TaskGroup):
    """
    Run a Vertex AI CustomJob as a group of tasks, with a row of its own for each replica.

    - ``plan`` checks the job before anything exists;
    - ``run`` is a :class:`~airflow_customjob.CustomJobOperator`: it owns the job. Retries, clears and callbacks are its own;
    - beside it, one row per replica, named ``workerpool1-3``, has that replica's log, state and duration. Rows only read: they
      hold no worker slot, a row that is cleared is read again, and a row that is marked as failed cancels the job;
    - ``job`` ends the group: it returns the CustomJob, and fails or is skipped as ``run`` did.

    A row has failed if its replica made the job fail, and is skipped if it was stopped with a job that did not succeed. Where the spec
    stands in the DAG as a dict, each pool is a group of its own; otherwise the rows are those that ``plan`` has found.

    :param group_id: as every group's.
    :param custom_job: as :class:`~airflow_customjob.CustomJobOperator` takes it.
    :param backend: likewise.
    :param rows: ``"replica"``, ``"pool"`` (one row for all of its replicas) or ``"none"``. None: a row per replica in pools of up
        to 200, and a row per pool above that.
    :param row_grace: seconds that ended replicas are kept, for their rows to read the last lines; the job ends so much later.
    :param outlets: of ``job``: its assets are told where the model is, see :mod:`~airflow_customjob.task.outlets`.
    :param default_args: of all tasks of the group; rows are in Airflow's default pool whatever is said here.
    :param tooltip: as every group's.
    :param group_display_name: as every group's.
    :param run: all other arguments are those of ``run``, as ``retries`` and ``deferrable``; ``trigger_rule`` is that of the group's
        first task.
    """

    def __init__(
        self,
        group_id: str,
        *,
        custom_job: Any,
        backend: Any = None,
        rows: str | None = None,
        row_grace: float = ROW_GRACE,
        outlets: Any = None,
        default_args: dict[str, Any] | None = None,
        tooltip: str = "",
        group_display_name: str = "",
        **run: Any,
    ) -> None:
        args: Any = default_args or {}
        super().__init__(group_id=group_id, default_args=args, tooltip=tooltip, group_display_name=group_display_name)
        if any(isinstance(group, MappedTaskGroup) for group in parents(self)):
            raise ValueError(
                f"CustomJobTaskGroup {group_id!r} cannot be inside a mapped task group, in which Airflow maps no rows: "
                "CustomJobTaskGroup.over(specs) is a group over several jobs"
            )
        if run.pop("wait_for_completion", True) is not True:
            raise ValueError(
                "wait_for_completion=False: a group waits for its job, as its rows do; take a CustomJobOperator"
            )
        assets = list(outlets) if isinstance(outlets, Sequence) else [outlets]
        told: Arguments = {} if outlets is None else {"outlets": assets}
        run |= {} if backend is None else {"backend": backend}
        begins = {name: run.pop(name) for name in ("trigger_rule",) if name in run}
        planning = {name: value for name, value in run.items() if name in _PLANNING}
        self._tasks(
            custom_job,
            rows,
            begins,
            plan={"task_id": "plan", "rows": rows, **_SILENT, **planning},
            run={"task_id": RUN, "hold_removal": 0.0 if rows == "none" else row_grace, **_AFTER_FIRST, **run},
            job={"task_id": "job", "trigger_rule": "all_success" if self.dag.fail_fast else "all_done", **told},
        )

    @classmethod
    def over(cls, custom_jobs: Any, *, group_id: str, **arguments: Any) -> CustomJobTaskGroup:
        """A group over several jobs, which run side by side: ``plan``, ``run`` and ``job`` are mapped over them.

        A bad spec among them costs nothing: none is run before all of them are planned. A row's name begins with the number of its
        job, as ``2/workerpool1-3``. What the group returns is a list; it fails if any of the jobs does.

        :param custom_jobs: a list of what ``custom_job`` takes, the output of a task that returns one, or a text or template that gives
            one.
        :param group_id: as every group's.
        :param arguments: as above; none of them is mapped over.
        :raises ValueError: there are more of them than Airflow maps over.
        """
        return _OverJobs(group_id, custom_job=custom_jobs, **arguments)

    def _tasks(self, custom_job: Any, rows: str | None, begins: Arguments, **tasks: Arguments) -> None:
        """Make the tasks of the group, with these arguments.

        :param begins: of the first one.
        """
        plan, run, job = begins | tasks["plan"], tasks["run"], tasks["job"]
        names = row_names(pools, rows) if (pools := literal_pools(custom_job)) else {}
        with self:
            planned = CustomJobPlanOperator(custom_job=custom_job, **plan)
            self.run: Any = CustomJobOperator(custom_job=custom_job, **run)
            self.job: Any = CustomJobResultOperator(run_task_id=self.run.task_id, **job)
            planned >> self.run >> self.job
            if pools is None and rows != "none":
                planned >> self._rows("replicas").expand(row=planned.output) >> self.job
        for pool, replicas in names.items():
            with TaskGroup(group_id=pool, parent_group=self):
                planned >> self._rows("replica").expand(row=replicas) >> self.job

    def _rows(self, task_id: str) -> Any:
        return ReplicaRowOperator.partial(
            task_id=task_id,
            run_task_id=self.run.task_id,
            map_index_template="{{ task.label }}",
            retries=0,
            execution_timeout=None,
            **_ROW,
        )

    @property
    def output(self) -> Any:
        """The job's CustomJob, for tasks that come after the group."""
        return self.job.output


class _OverJobs(CustomJobTaskGroup):
    def _tasks(self, custom_job: Any, rows: str | None, begins: Arguments, **tasks: Arguments) -> None:
        plan, run, job = tasks["plan"], tasks["run"], tasks["job"]
        most = conf.getint("core", "max_map_length", fallback=1024)
        if isinstance(custom_job, (list, tuple)) and len(custom_job) > most:
            raise ValueError(
                f"CustomJobTaskGroup {self.group_id!r} is over {len(custom_job)} jobs, which are more than [core] "
                f"max_map_length = {most}: make several groups"
            )
        with self:
            if isinstance(custom_job, str):
                listed = CustomJobListOperator(task_id="jobs", custom_jobs=custom_job, **_SILENT, **begins)
                custom_job, begins = listed.output, _AFTER_FIRST
            planned = CustomJobPlanOperator.partial(**plan | begins).expand(custom_job=custom_job)
            self.run = CustomJobOperator.partial(**run).expand(custom_job=custom_job)
            self.job = CustomJobResultOperator.partial(run_task_id=self.run.task_id, **job).expand(
                custom_job=custom_job
            )
            planned >> self.run >> self.job
            if rows != "none":
                names = CustomJobRowsOperator(task_id="rows", plans=planned.output, rows=rows, **_AFTER_FIRST)
                names >> self._rows("replicas").expand_kwargs(names.output) >> self.job
