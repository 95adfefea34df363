"""A sensor that waits for a state of a CustomJob."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from airflow.sdk import BaseSensorOperator, PokeReturnValue
from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import (
    AirflowException,
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
)

from airflow_customjob.spec.job_state import JobState
from airflow_customjob.task.thread import Stop, Stopping, SupervisorThread
from airflow_customjob.triggers.sensor import CustomJobSensorTrigger

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_customjob.task.watching import JobWatch, Outcome, Watched

T = TypeVar("T")

DRIVE_FOR = 5.0
"""Seconds that one look of a sensor in ``mode="reschedule"`` drives a job that nobody waits for."""
FOR_EVER = timedelta(days=3650)
"""Of a sensor that has no timeout of its own."""


class CustomJobSensor(BaseSensorOperator):
    """
    Wait until a CustomJob has come to a state; give the CustomJob as ``CustomJob.to_dict`` does.

    Which job it is, is said by ``custom_job``, or by the task or task group that runs it, of this or another DAG. A job that
    ends otherwise fails the sensor at once, unless its task is going to be tried again. The sensor cancels nothing, whatever
    happens to it. A job that was submitted with ``wait_for_completion=False`` is driven by the sensor, and its replicas' output is
    in the sensor's log: at every moment where it is deferred or pokes, for some seconds at each look with ``mode="reschedule"``.

    There is no timeout but the job's own ``scheduling.timeout``, which counts from the job's start and ends the job; a job that
    is still there a minute later, because nobody drives it, is a timeout of the sensor. ``timeout`` sets a further one, which counts
    from the sensor's start, as every sensor's.

    :param custom_job: the XCom ``custom_job_ref`` of the submitting task: a mapping, JSON, or a template that gives either. (templated)
    :param external_dag_id: whose task or group runs the job. None: this DAG. (templated)
    :param external_run_id: the run of that DAG. None: this run's own id. (templated)
    :param external_task_id: the task that runs the job. (templated)
    :param external_task_group_id: the group that runs it: a CustomJobTaskGroup, or one whose tasks are the replicas. (templated)
    :param external_map_index: of a mapped task.
    :param target_states: what is waited for: names with or without ``JOB_STATE_``, or :class:`~airflow_customjob.JobState`.
    :param deferrable: hold no worker slot meanwhile.
    :param poke_interval: seconds between two looks. None: 5, and 60 with ``mode="reschedule"``: Airflow 3.3.2 fails a task that is
        rescheduled every few seconds.
    :param timeout: seconds since the sensor's start; see above.
    """

    template_fields: Sequence[str] = (
        "custom_job",
        "external_dag_id",
        "external_run_id",
        "external_task_id",
        "external_task_group_id",
    )
    ui_color = "#a8c7fa"

    def __init__(
        self,
        *,
        custom_job: Any = None,
        external_dag_id: str | None = None,
        external_run_id: str | None = None,
        external_task_id: str | None = None,
        external_task_group_id: str | None = None,
        external_map_index: int = -1,
        target_states: Sequence[str | JobState] = ("SUCCEEDED",),
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        poke_interval: timedelta | float | None = None,
        timeout: timedelta | float | None = None,
        **kwargs: Any,
    ) -> None:
        if poke_interval is None:
            poke_interval = 60 if kwargs.get("mode") == "reschedule" else 5
        super().__init__(poke_interval=poke_interval, timeout=FOR_EVER if timeout is None else timeout, **kwargs)
        named = (custom_job, external_task_id, external_task_group_id)
        if sum(one is not None for one in named) != 1:
            raise ValueError(
                "give one of custom_job, external_task_id and external_task_group_id: it says which job is meant"
            )
        self.custom_job = custom_job
        self.external_dag_id = external_dag_id
        self.external_run_id = external_run_id
        self.external_task_id = external_task_id
        self.external_task_group_id = external_task_group_id
        self.external_map_index = external_map_index
        self.target_states = [_name_of(state) for state in target_states]
        self.deferrable = deferrable
        self._thread = SupervisorThread()

    def execute(self, context: Context) -> Any:
        """Wait here or in the triggerer, or look once."""
        self._thread = SupervisorThread()  # ``dag.test()`` runs every look with the same sensor
        if self.reschedule and not self.deferrable:
            return super().execute(context)
        with self._softly():
            if not self.deferrable:
                return self._result(self._run(context, self._to_its_end))
            outcome = self._run(context, lambda watch: watch.once(drive_for=0.0))
            if outcome is not None:
                return self._result(outcome)
        return self.defer(
            trigger=CustomJobSensorTrigger(self._watched(context).to_json(), self._me(context), self.poke_interval),
            method_name=self.execute_complete.__name__,
            timeout=self._left(context),
        )

    def _left(self, context: Context) -> timedelta | None:
        """Until one of its timeouts is over; Airflow looks at no ``execution_timeout`` of a deferred task."""
        limits = [timedelta(seconds=self.timeout)] if self.timeout < FOR_EVER.total_seconds() else []
        if self.execution_timeout is not None:
            used = datetime.now(UTC) - context["ti"].start_date
            limits.append(max(timedelta(0), self.execution_timeout - used))
        return min(limits, default=None)

    def execute_complete(self, context: Context, event: Mapping[str, Any]) -> Any:
        """Called with what the trigger has found."""
        from airflow_customjob.task.watching import Outcome

        with self._softly():
            return self._result(Outcome.from_json(event))

    def poke(self, context: Context) -> PokeReturnValue:
        """One look of ``mode="reschedule"``."""
        outcome = self._run(context, lambda watch: watch.once(DRIVE_FOR))
        return PokeReturnValue(outcome is not None, outcome and self._result(outcome))

    def on_kill(self) -> None:
        """Called by Airflow's signal handler; the job goes on."""
        self._thread.tell(Stop.KILLED)

    # -- how ----------------------------------------------------------------------------------------------------------

    def _run(self, context: Context, look: Callable[[JobWatch], Coroutine[Any, Any, T]]) -> T:
        from airflow_customjob.task.watching import JobWatch

        watch = JobWatch(self._watched(context), say=self._say, sink=self._sink, positions={})

        async def unless_killed(stopping: Stopping) -> T:
            found = await stopping.unless_told(_marked(look(watch)))
            if found is None:
                raise AirflowException("this sensor's process was told to stop; the job goes on")
            return found[0]

        return self._thread.run(unless_killed)

    async def _to_its_end(self, watch: JobWatch) -> Outcome:
        try:
            async with asyncio.timeout(self.timeout):
                return await watch.until_decided(self.poke_interval)
        except TimeoutError:
            targets = ", ".join(self.target_states)
            raise AirflowSensorTimeout(f"the job has not come to {targets} within {self.timeout:g} s") from None

    def _watched(self, context: Context) -> Watched:
        from airflow_customjob.task.watching import RefError, Watched, parse_ref

        targets = tuple(self.target_states)
        if self.custom_job is not None:
            try:
                return Watched(ref=parse_ref(self.custom_job), targets=targets)
            except RefError as error:
                raise AirflowFailException(str(error)) from None
        ti = context["ti"]
        where = {
            "dag_id": self.external_dag_id or ti.dag_id,
            "run_id": self.external_run_id or ti.run_id,
            "map_index": str(self.external_map_index),
            "task_id": self.external_task_id,
            "task_group_id": self.external_task_group_id,
        }
        return Watched(where={key: value for key, value in where.items() if value is not None}, targets=targets)

    def _me(self, context: Context) -> dict[str, str]:
        from airflow_customjob.task.identity import place_of

        return place_of(context["ti"])

    def _result(self, outcome: Outcome) -> dict[str, Any]:
        """:raises AirflowException: there is none."""
        from airflow_customjob.task.watching import Verdict

        if outcome.why and (self.soft_fail or self.never_fail):
            self.log.warning("%s", outcome.why)  # Airflow's skip does not say why
        match outcome.verdict:
            case Verdict.MET:
                return outcome.result
            case Verdict.TIMED_OUT:
                raise AirflowSensorTimeout(outcome.why)
            case _:
                raise AirflowFailException(outcome.why)

    @contextmanager
    def _softly(self) -> Iterator[None]:
        """As sensors do that poke: what ends them is a skip for ``soft_fail`` and ``never_fail``."""
        try:
            yield
        except (AirflowSensorTimeout, AirflowFailException) as error:
            if self.soft_fail or self.never_fail:
                raise AirflowSkipException(f"skipped, since it may fail softly: {error}") from error
            raise

    def _say(self, text: str) -> None:
        self.log.info("%s", text)

    def _sink(self, line: Any) -> None:
        self.log.info("%s", line.prefixed)


async def _marked(look: Coroutine[Any, Any, T]) -> tuple[T]:
    """Its result, told apart from none."""
    return (await look,)


def _name_of(state: str | JobState) -> str:
    """:raises ValueError: there is no such state."""
    name = state.name if isinstance(state, JobState) else f"JOB_STATE_{str(state).removeprefix('JOB_STATE_')}"
    if name not in JobState.__members__:
        raise ValueError(
            f"target_states: there is no state {state!r}: choose of {', '.join(s.short for s in JobState)}"
        )
    return name
