"""What Airflow's task states mean where each task is one replica of a job: the one table, and what follows for the job.

Where a job has a record on an engine, that record counts; this is for tasks that have none (yet).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from airflow_customjob.spec.job_state import JobState


@dataclass(frozen=True)
class Meaning:
    """What one task state says of the task's replica.

    :param why: for people.
    """

    state: JobState
    why: str


TASK_STATES: dict[str | None, Meaning] = {
    None: Meaning(JobState.JOB_STATE_QUEUED, "not scheduled yet; also a mapped task before it is expanded"),
    "scheduled": Meaning(JobState.JOB_STATE_QUEUED, "waits for a pool's slot or another limit of Airflow"),
    "queued": Meaning(JobState.JOB_STATE_PENDING, "handed to the executor, which starts it"),
    "running": Meaning(JobState.JOB_STATE_RUNNING, "a worker runs it"),
    "deferred": Meaning(JobState.JOB_STATE_RUNNING, "the triggerer waits for it"),
    "up_for_reschedule": Meaning(JobState.JOB_STATE_RUNNING, "between two looks of a sensor"),
    "awaiting_input": Meaning(JobState.JOB_STATE_PENDING, "waits for a person's answer"),
    "restarting": Meaning(JobState.JOB_STATE_PENDING, "cleared while it ran; it starts anew"),
    "up_for_retry": Meaning(JobState.JOB_STATE_PENDING, "failed, and is tried again"),
    "success": Meaning(JobState.JOB_STATE_SUCCEEDED, "ended well"),
    "failed": Meaning(JobState.JOB_STATE_FAILED, "ended with an error, or somebody said so"),
    "upstream_failed": Meaning(JobState.JOB_STATE_FAILED, "never begins: what it needs has failed"),
    "skipped": Meaning(JobState.JOB_STATE_CANCELLED, "skipped: by dagrun_timeout, a branch or soft_fail"),
    "removed": Meaning(JobState.JOB_STATE_CANCELLED, "no longer part of the DAG"),
}
"""Every member of Airflow's TaskInstanceState, and None."""

_HAS_RUN = frozenset({JobState.JOB_STATE_RUNNING, JobState.JOB_STATE_SUCCEEDED})


def replica_state(task_state: str | None) -> JobState:
    """State of the replica whose task is in this state; a task state that this version does not know may still become any."""
    known = TASK_STATES.get(task_state)
    return JobState.JOB_STATE_UNSPECIFIED if known is None else known.state


def aggregated(
    primary: JobState,
    others: Iterable[JobState] = (),
    *,
    timed_out: bool = False,
    timeout_state: JobState = JobState.JOB_STATE_CANCELLED,
) -> JobState:
    """State of the job whose replicas are in these states. The first row that fits decides.

    :param primary: of ``workerpool0-0``, whose end is the job's.
    :param timed_out: the job's ``scheduling.timeout`` has passed.
    :param timeout_state: how it ends then.
    """
    rest = list(others)
    every = [primary, *rest]
    rows = (
        (JobState.JOB_STATE_FAILED in every, JobState.JOB_STATE_FAILED),
        (primary.terminal, primary),
        (timed_out, timeout_state),
        (JobState.JOB_STATE_CANCELLED in rest, JobState.JOB_STATE_CANCELLING),
        (all(state in _HAS_RUN for state in every), JobState.JOB_STATE_RUNNING),
        (all(state is JobState.JOB_STATE_QUEUED for state in every), JobState.JOB_STATE_QUEUED),
    )
    return next((state for fits, state in rows if fits), JobState.JOB_STATE_PENDING)


def job_state_of(
    task_states: Mapping[str, str | None],
    *,
    primary: str | None = None,
    expected: int = 0,
    timed_out: bool = False,
    timeout_state: JobState = JobState.JOB_STATE_CANCELLED,
) -> JobState:
    """State of the job whose replicas are these tasks, as ``get_task_states`` gives them for one run.

    :param primary: key of the primary replica's task; None: the first one in the order of pools and indexes.
    :param expected: how many replicas there are; what is missing (a mapped task is one row before it is expanded) is QUEUED.
    """
    keys = sorted(task_states, key=_in_order)
    if not keys:
        return JobState.JOB_STATE_QUEUED
    primary = keys[0] if primary is None else primary
    states = {key: replica_state(task_states[key]) for key in keys}
    missing = [JobState.JOB_STATE_QUEUED] * max(0, expected - len(keys))
    return aggregated(
        states.pop(primary, JobState.JOB_STATE_QUEUED),
        [*states.values(), *missing],
        timed_out=timed_out,
        timeout_state=timeout_state,
    )


def _in_order(key: str) -> list[tuple[bool, int, str]]:
    """``workerpool2`` before ``workerpool10``, ``replica_9`` before ``replica_10``."""
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in re.findall(r"[0-9]+|[^0-9]+", key)]
