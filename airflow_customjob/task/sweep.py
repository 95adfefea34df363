"""Where no hook runs at all (a worker or triggerer that died, without a retry) somebody else looks after the job.

Every live supervisor of an installation, in operators and triggers, takes part: once a minute for each engine and process it
cancels jobs whose task has ended or is gone, and drives those whose task did not wait for them.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

from airflow_customjob.client import AsyncCustomJobClient
from airflow_customjob.supervisor.follow import DRAIN_BUDGET
from airflow_customjob.supervisor.ownership import UNKNOWN
from airflow_customjob.supervisor.record import Owner
from airflow_customjob.task.comms import ask_airflow
from airflow_customjob.task.identity import DETACHED, state_at

EVERY = 60.0
"""Seconds between two sweeps of one engine by one process."""

_last: dict[str, float] = {}
"""By backend, when this process swept it last."""

Say = Callable[[str], None]


@asynccontextmanager
async def sweeping(client: AsyncCustomJobClient, where: Mapping[str, str], say: Say) -> AsyncIterator[None]:
    """Inside, the client's engine is swept, unless another task of this process does.

    :param where: of the task that lives meanwhile.
    """
    driven: dict[str, asyncio.Task[object]] = {}
    sweeps = asyncio.create_task(_sweep_again_and_again(client, where["installation"], say, driven))
    try:
        yield
    finally:
        tasks = (sweeps, *driven.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _sweep_again_and_again(
    client: AsyncCustomJobClient, installation: str, say: Say, driven: dict[str, asyncio.Task[object]]
) -> None:
    engine = json.dumps(client.backend.serialize(), sort_keys=True, default=str)
    _last.setdefault(engine, time.monotonic())
    while True:
        await asyncio.sleep(max(0.0, _last[engine] + EVERY - time.monotonic()))
        if time.monotonic() - _last[engine] < EVERY:
            continue
        _last[engine] = time.monotonic()
        try:
            await sweep(client, installation, say, driven)
        except Exception as error:  # noqa: BLE001 - it is for other jobs: this task's own goes on
            say(f"looking after other jobs on {client.backend.name} failed: {error}; again in {EVERY:.0f} s")


async def sweep(
    client: AsyncCustomJobClient, installation: str, say: Say, driven: dict[str, asyncio.Task[object]]
) -> None:
    """Look once at every job on the engine.

    :param installation: whose jobs may be cancelled and driven.
    :param driven: supervisions of detached jobs, by id; new ones are added.
    """

    async def owner_state(owner: Owner) -> str | None:
        return await state_of(owner, installation)

    await client.gc(owner_state=owner_state, say=say, hold_removal=DRAIN_BUDGET)
    for job in await client.list():
        where = job.record.owner.where
        detached = DETACHED in where and where.get("installation") == installation
        if detached and not job.state.terminal and (job.job_id not in driven or driven[job.job_id].done()):
            driven[job.job_id] = asyncio.create_task(client.supervise(job.job_id, say=say))


async def state_of(owner: Owner, installation: str) -> str | None:
    """State of the task that owns a job, as the sweep may take it.

    Another installation's is UNKNOWN. The success of a task that did not wait ends nothing.
    """
    where = owner.where
    if where.get("installation") != installation or "dag_id" not in where:
        return UNKNOWN
    state = await ask_airflow(state_at, where)
    if state == "success" and DETACHED in where:
        return "running"
    return state
