"""The tasks of a CustomJobTaskGroup beside the one that owns the job."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import (
    AirflowException,
    AirflowFailException,
    AirflowRescheduleException,
    AirflowSkipException,
)

from airflow_customjob.operators.custom_job import CustomJobOperator
from airflow_customjob.operators.rendering import bad_input_fails
from airflow_customjob.spec.job_state import JobState
from airflow_customjob.supervisor.ownership import ENDED_TASK, GONE, UNKNOWN
from airflow_customjob.task.identity import is_dag_test, place_of, state_at
from airflow_customjob.task.thread import Stop, SupervisorThread
from airflow_customjob.triggers.row import ReplicaRowTrigger

if TYPE_CHECKING:
    from airflow.sdk import Context

MAX_REPLICA_ROWS = 200
"""Replicas of a pool that has a row for each of them by default; a triggerer takes 1,000 triggers."""
NOT_BEGUN = (None, "scheduled", "queued")


def row_names(pools: Sequence[tuple[str, int]], rows: str | None) -> dict[str, list[str]]:
    """The rows of each pool: names of replicas, or the pool's own.

    :param pools: names and numbers of replicas.
    :param rows: ``replica``, ``pool``, ``none``; None: a row per replica in pools of up to 200.
    :raises ValueError: there is no such kind of row, or Airflow does not map over so many.
    """
    if rows not in (None, "replica", "pool", "none"):
        raise ValueError(f"rows={rows!r}: choose one of 'replica', 'pool' and 'none', or leave it to the pools' sizes")
    if rows == "none":
        return {}
    pools = [(pool, count) for pool, count in pools if count]
    most = conf.getint("core", "max_map_length", fallback=1024)
    if rows == "replica" and (count := sum(count for _, count in pools)) > most:
        raise ValueError(f"rows='replica': {count} rows are more than [core] max_map_length = {most}: take rows='pool'")
    limit = {"replica": most, "pool": 0, None: MAX_REPLICA_ROWS}[rows]
    names = {pool: [f"{pool}-{index}" for index in range(count)] if count <= limit else [pool] for pool, count in pools}
    if sum(map(len, names.values())) > most:
        return {pool: [pool] for pool, _ in pools}
    return names


def literal_pools(custom_job: object) -> list[tuple[str, int]] | None:
    """The pools of a spec that stands in the DAG as a mapping, with their numbers of replicas; None: known at run time only.

    It reads no more than that, since it is done at each parse; whether the spec is right is for the ``plan`` task to say.
    """
    spec = _field(custom_job, "jobspec") or custom_job
    pools = _field(spec, "workerpoolspecs")
    if not isinstance(pools, (list, tuple)) or not pools:
        return None
    found: list[tuple[str, int]] = []
    for index, pool in enumerate(pools):
        count = str(_field(pool, "replicacount") or "")
        if not count.isascii() or not count.isdigit():
            return None
        found.append((f"workerpool{index}", int(count)))
    return found


def _field(mapping: object, name: str) -> Any:
    items = mapping.items() if isinstance(mapping, Mapping) else ()
    return next((value for key, value in items if str(key).replace("_", "").lower() == name), None)


class CustomJobPlanOperator(CustomJobOperator):
    """
    Check a job before anything of it exists, and return the names of its group's rows.

    :param rows: see :func:`row_names`. All others are those of :class:`~airflow_customjob.CustomJobOperator`.
    """

    ui_color = "#e8f0fe"
    ui_fgcolor = "#000000"

    def __init__(self, *, rows: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rows = rows

    def execute(self, context: Context) -> list[str]:
        from airflow_customjob.operators.attempt import options_of, reading_of

        with bad_input_fails(ValueError):
            plan = self.client().plan(self.custom_job, options_of(self), **reading_of(self))
            rows = row_names([(pool.name, pool.replica_count) for pool in plan.pools], self.rows)
        for pool in plan.pools:
            self.log.info("%s: %s of %s", pool.name, pool.replica_count, pool.image)
        for note in plan.notes:
            self.log.info("%s", note)
        return [row for names in rows.values() for row in names]


class CustomJobListOperator(BaseOperator):
    """
    Return the jobs that a text lists, for others to be mapped over.

    :param custom_jobs: YAML, JSON, or what a template makes of a list (Python's own notation). (templated)
    """

    ui_color = "#e8f0fe"
    template_fields: Sequence[str] = ("custom_jobs",)

    def __init__(self, *, custom_jobs: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.custom_jobs = custom_jobs

    def execute(self, context: Context) -> list[Any]:
        import yaml

        found: Any = self.custom_jobs
        for read in (ast.literal_eval, yaml.safe_load):
            if isinstance(found, str):
                with suppress(ValueError, SyntaxError, yaml.YAMLError):
                    found = read(found)
        if not isinstance(found, (list, tuple)):
            raise AirflowFailException(
                f"custom_jobs is {self.custom_jobs[:200]!r}, which is no list of jobs: give YAML, JSON, or a template that gives a list"
            )
        return list(found)


class CustomJobRowsOperator(BaseOperator):
    """
    Return the rows of a group over several jobs, for :class:`ReplicaRowOperator` to be mapped over.

    :param plans: names of the rows of each job. (templated)
    :param rows: see :func:`row_names`.
    """

    ui_color = "#e8f0fe"
    template_fields: Sequence[str] = ("plans",)

    def __init__(self, *, plans: Any, rows: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.plans = plans
        self.rows = rows

    def execute(self, context: Context) -> list[dict[str, Any]]:
        try:
            return rows_of([list(names) for names in self.plans], self.rows)
        except ValueError as error:
            raise AirflowFailException(str(error)) from None


def rows_of(plans: Sequence[Sequence[str]], rows: str | None) -> list[dict[str, Any]]:
    """Arguments of the rows of several jobs; rows of replicas become those of pools, where they would be too many.

    :param plans: names of the rows of each job.
    :param rows: see :func:`row_names`.
    :raises ValueError: Airflow does not map over so many.
    """
    most = conf.getint("core", "max_map_length", fallback=1024)
    if rows is None and sum(map(len, plans)) > most:
        plans = [list(dict.fromkeys(name.partition("-")[0] for name in names)) for names in plans]
    found = [{"row": name, "run_map_index": index} for index, names in enumerate(plans) for name in names]
    if len(found) > most:
        raise ValueError(
            f"{len(found)} rows of {len(plans)} jobs are more than [core] max_map_length = {most}: take rows='pool' or "
            "rows='none', or fewer jobs in one group"
        )
    return found


class ReplicaRowOperator(BaseOperator):
    """
    A row of the grid for one replica of a job that another task owns: its log, its state, its duration. It only reads.

    :param row: the replica's name, or a pool's.
    :param run_task_id: the task that owns the job.
    :param run_map_index: of that task, where it is mapped.
    """

    ui_color = "#e8f0fe"

    def __init__(self, *, row: str, run_task_id: str, run_map_index: int = -1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.row = row
        self.run_task_id = run_task_id
        self.run_map_index = run_map_index
        self._thread = SupervisorThread()

    @property
    def label(self) -> str:
        """Its name in the grid."""
        return self.row if self.run_map_index < 0 else f"{self.run_map_index}/{self.row}"

    def execute(self, context: Context) -> Any:
        """Read on in the triggerer, so that no number of rows can take the slot that the job's owner needs."""
        me, run = _places(context, self.run_task_id, self.run_map_index)
        state = state_at(run)
        if state not in ENDED_TASK:
            if is_dag_test(context):
                pause = timedelta(seconds=0 if state in NOT_BEGUN else 1)
                raise AirflowRescheduleException(datetime.now(UTC) + pause)  # type: ignore[no-untyped-call] # Airflow gives it none
            self.defer(trigger=ReplicaRowTrigger(run, me, self.row), method_name=self.execute_complete.__name__)
        return self._result(self._replay(run))

    def execute_complete(self, context: Context, event: Mapping[str, Any]) -> Any:
        """Called when the job's owner has ended."""
        return self._result(event)

    def on_kill(self) -> None:
        self._thread.tell(Stop.KILLED)

    def _replay(self, run: Mapping[str, str]) -> Mapping[str, Any]:
        """What is left to be told when the owner has ended already."""
        from airflow_customjob.task.rows import RowWatch

        async def main(stopping: Any) -> Mapping[str, Any] | None:
            watch = RowWatch(
                run,
                self.row,
                sink=lambda line: self.log.info("%s", line.text),
                say=lambda text: self.log.info("%s", text),
            )
            end = await stopping.unless_told(watch.to_its_end())
            return None if end is None else end.to_json()

        end: Mapping[str, Any] | None = self._thread.run(main)
        if end is None:
            raise AirflowException("this row's process was told to stop; the job goes on")
        return end

    def _result(self, end: Mapping[str, Any]) -> list[dict[str, Any]]:
        """:raises AirflowException: the row ends otherwise than in success."""
        state, text = JobState[end["state"]], end["text"]
        if state is JobState.JOB_STATE_FAILED:
            raise AirflowFailException(f"{text}; the job has failed by it")
        if not state.succeeded:
            raise AirflowSkipException(f"{text}; the job did not succeed")
        self.log.info("%s", text)
        return list(end["replicas"])


class CustomJobResultOperator(BaseOperator):
    """
    The end of a group: returns the job's CustomJob if its owner has succeeded, is skipped if that was, and fails otherwise.

    :param run_task_id: the task that owns the job.
    :param custom_job: what both are mapped over, if they are; not used here.
    """

    ui_color = "#e8f0fe"

    def __init__(self, *, run_task_id: str, custom_job: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.run_task_id = run_task_id

    def execute(self, context: Context) -> Any:
        from airflow_customjob.task.outlets import tell_assets
        from airflow_customjob.task.xcoms import JOB, OUTPUT

        index = int(place_of(context["ti"])["map_index"])
        _, run = _places(context, self.run_task_id, index)
        pull = partial(context["ti"].xcom_pull, task_ids=self.run_task_id, map_indexes=index)
        match state_at(run):
            case "success":
                tell_assets(context, self.outlets, pull(key=OUTPUT) or {})
                return pull()
            case "skipped":
                raise AirflowSkipException(f"{self.run_task_id} was skipped")
            case state if state == UNKNOWN:
                raise AirflowException(f"the state of {self.run_task_id} could not be read")
            case state:
                job = pull(key=JOB) or {}
                why = (job.get("error") or {}).get("message") or "see its log"
                said = "not there" if state == GONE else state
                raise AirflowFailException(f"{self.run_task_id} is {said}: {why}")


def _places(context: Context, run_task_id: str, run_map_index: int) -> tuple[dict[str, str], dict[str, str]]:
    """Where this task is, and where the job's owner."""
    me = place_of(context["ti"])
    return me, {**me, "task_id": run_task_id, "map_index": str(run_map_index)}


def parents(group: Any) -> Iterator[Any]:
    """The group and those around it."""
    while group is not None:
        yield group
        group = group.parent_group
