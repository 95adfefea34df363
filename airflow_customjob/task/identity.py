"""Who an Airflow task is to its job: the job's id, its owner, and the state of that owner's task in the database."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any
from uuid import uuid4

from airflow_customjob.plan.identity import job_id_of
from airflow_customjob.plan.types import JobId
from airflow_customjob.settings import setting
from airflow_customjob.supervisor.ownership import GONE, UNKNOWN
from airflow_customjob.supervisor.record import Owner

INSTALLATION = "customjob_installation_id"
"""Airflow's Variable that holds the installation's id where the configuration gives none."""
MEANWHILE = 1.0
"""Seconds in which several tasks that found no such Variable have all made one: the last one's counts."""

IDENTITY = ("installation", "dag_id", "run_id", "task_id", "map_index")
"""The parts of ``Owner.where`` that a job's id follows from, in that order."""
RUN_STARTED = "run_started"
"""Key of ``Owner.where``: start of the DAG run, by which a run that was deleted and made again under its old id is another one."""
DETACHED = "detached"
"""Key of ``Owner.where``: the task did not wait for the job, so its success does not end the job."""

RUN = "run"
"""Id, within its group, of the task of a CustomJobTaskGroup that owns the job."""


@dataclass(frozen=True)
class Held:
    """The claim that a task has on a job: all that its trigger needs to go on with it. Its form is JSON.

    :param engine: identity of the engine that keeps the job.
    :param backend: as ``serialize()`` gives it.
    :param hold_removal: seconds that ended replicas are kept, for others to read their logs to the end.
    :param logs: whose output is in the task's log.
    """

    job_id: str
    generation: int
    engine: str
    owner: Owner
    backend: dict[str, Any]
    hold_removal: float = 0.0
    logs: str | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Held:
        return cls(**{**data, "owner": Owner(**data["owner"])})


@cache
def installation_id(meanwhile: float = MEANWHILE) -> str:
    """The configured one; else one that only this Airflow has, since its database keeps it. Blocks: it asks Airflow."""
    if given := setting("installation_id"):
        return given
    from airflow.sdk import Variable

    if (known := Variable.get(INSTALLATION, default=None)) is not None:
        return str(known)
    Variable.set(INSTALLATION, uuid4().hex[:12], description="Part of the identity of every CustomJob: keep it")
    time.sleep(meanwhile)
    return str(Variable.get(INSTALLATION))


def place_of(ti: Any) -> dict[str, str]:
    """Where a task instance of a context is, within its installation."""
    map_index = -1 if ti.map_index is None else ti.map_index
    return dict(zip(IDENTITY[1:], (ti.dag_id, ti.run_id, ti.task_id, str(map_index)), strict=True))


def where_of(context: Mapping[str, Any], *, detached: bool = False) -> dict[str, str]:
    """Where a try of a task is: what ``Owner.where`` holds."""
    started = context["dag_run"].start_date
    return {
        "installation": installation_id(0.0 if is_dag_test(context) else MEANWHILE),
        **place_of(context["ti"]),
        RUN_STARTED: "" if started is None else started.isoformat(),
        **({DETACHED: "true"} if detached else {}),
    }


def job_id_at(where: Mapping[str, str]) -> JobId:
    """The id of the job of the task instance there; every try has the same."""
    return job_id_of(*(where[part] for part in IDENTITY))


def is_same_task(one: Owner, other: Owner) -> bool:
    """Whether both are tries of one task instance."""
    return all(one.where.get(part) == other.where.get(part) for part in IDENTITY)


def owner_of(context: Mapping[str, Any], *, detached: bool = False) -> Owner:
    """The owner that this try of a task is."""
    ti, run = context["ti"], context["dag_run"]
    return Owner(
        key=str(ti.id),
        try_number=ti.try_number,
        max_tries=ti.max_tries,
        clear_number=run.clear_number or 0,
        where=where_of(context, detached=detached),
    )


def is_dag_test(context: Mapping[str, Any]) -> bool:
    """Whether this is ``dag.test()``, which runs one task after the other, and a trigger to its end before the next task."""
    return bool(context["dag_run"].triggering_user_name == "dag_test")


def will_retry(ti: Any) -> bool:
    """Whether Airflow would start this task again if its process died now."""
    said = getattr(ti, "_ti_context_from_server", None)
    return bool(said.should_retry) if said is not None else ti.try_number <= ti.max_tries


def state_at(where: Mapping[str, str]) -> str | None:
    """State of the task instance there, as Airflow's database has it now. Blocks: it asks Airflow.

    :returns: None: cleared and not scheduled yet; GONE: there is no such task instance; UNKNOWN: it could not be read.
    """
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    try:
        states = RuntimeTaskInstance.get_task_states(
            dag_id=where["dag_id"],
            run_ids=[where["run_id"]],
            task_ids=[where["task_id"]],
            map_index=int(where["map_index"]),
        )
        found = list(states.get(where["run_id"], {}).values())
    except Exception:  # noqa: BLE001 - whatever keeps it from being read: nobody may act on a guess
        return UNKNOWN
    if not found:
        return GONE
    return None if found[0] is None else str(found[0])


def told(state: str | None) -> str:
    """What somebody did to a task that is in this state now."""
    return "cleared" if state in (None, "scheduled", "queued", "running", "restarting") else f"marked as {state}"
