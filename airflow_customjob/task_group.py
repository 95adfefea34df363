"""A CustomJob as a group of tasks: one row of the grid per replica."""

from __future__ import annotations

import inspect
from typing import Any

from airflow.sdk import TaskGroup
from airflow.sdk.definitions.taskgroup import MappedTaskGroup

from airflow_customjob.operators.custom_job import CustomJobOperator
from airflow_customjob.operators.group import (
    CustomJobPlanOperator,
    CustomJobResultOperator,
    ReplicaRowOperator,
    literal_pools,
    parents,
    row_names,
)
from airflow_customjob.task.identity import RUN

ROW_GRACE = 5.0
"""Seconds that ended replicas are kept by default, for their rows to read the last lines."""

_RUN_ONLY = {"self", "kwargs", "deferrable", "wait_for_completion", "hold_removal"}
_PLANNING = {name for name in inspect.signature(CustomJobOperator.__init__).parameters if name not in _RUN_ONLY}
"""Arguments that say what the job is: for ``plan`` as for ``run``."""


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
    :param default_args: of all tasks of the group.
    :param tooltip: as every group's.
    :param group_display_name: as every group's.
    :param run: all other arguments are those of ``run``, as ``retries`` and ``deferrable``.
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
                "make one group per spec in a loop, or map a CustomJobOperator"
            )
        if run.pop("wait_for_completion", True) is not True:
            raise ValueError(
                "wait_for_completion=False: a group waits for its job, as its rows do; take a CustomJobOperator"
            )
        job = {"custom_job": custom_job, "backend": backend}
        names = row_names(pools, rows) if (pools := literal_pools(custom_job)) else {}
        with self:
            plan = CustomJobPlanOperator(
                task_id="plan", rows=rows, **job, **{name: value for name, value in run.items() if name in _PLANNING}
            )
            hold = 0.0 if rows == "none" else row_grace
            self.run = CustomJobOperator(task_id=RUN, hold_removal=hold, **job, **run)
            self.job = CustomJobResultOperator(
                task_id="job", run_task_id=self.run.task_id, trigger_rule="all_done", outlets=outlets
            )
            plan >> self.run >> self.job
            if pools is None and rows != "none":
                plan >> self._rows("replicas", plan.output) >> self.job
        for pool, replicas in names.items():
            with TaskGroup(group_id=pool, parent_group=self):
                plan >> self._rows("replica", replicas) >> self.job

    def _rows(self, task_id: str, names: Any) -> Any:
        rows = ReplicaRowOperator.partial(
            task_id=task_id,
            run_task_id=self.run.task_id,
            map_index_template="{{ task.row }}",
            retries=0,
            execution_timeout=None,
        )
        return rows.expand(row=names)

    @property
    def output(self) -> Any:
        """The job's CustomJob, for tasks that come after the group."""
        return self.job.output
