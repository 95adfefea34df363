"""GPUs of a Docker host, leased to replicas: distinct across concurrent jobs, whichever processes launch them.

A lease is the latest revision of a device's sequence of volumes (:mod:`.revisions`); its labels name the replica. A
replica keeps its device through its restarts, until its job is released. A lease whose job was lost without a trace (it
has no containers, and no record or a terminal one) is taken over when devices are short.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from airflow_customjob.backends.base import EngineBusy, LaunchRefused, RecordConflict, ReplicaRef
from airflow_customjob.backends.docker.api import Api, of_job
from airflow_customjob.backends.docker.labels import (
    DELETED,
    DEVICE,
    JOB,
    KIND,
    KIND_GPU,
    KIND_RECORD,
    KIND_REPLICA,
    REPLICA,
    STATE,
)
from airflow_customjob.backends.docker.revisions import Revision, Revisions, latest, revisions
from airflow_customjob.plan.types import JobId, JobPlan
from airflow_customjob.spec.job_state import JobState


@dataclass(frozen=True)
class Gpus:
    """The GPUs that may be leased.

    :param inventory: device ids, as the backend names them.
    """

    api: Api
    inventory: tuple[str, ...]

    async def lease(self, plan: JobPlan, refs: Sequence[ReplicaRef]) -> dict[str, tuple[str, ...]]:
        """Devices for each of these replicas that wants any, by the replica's name: all of them, or none.

        :raises LaunchRefused: the job asks for more than the host has.
        :raises EngineBusy: other jobs hold them.
        """
        wanted = {
            ref.replica: count for ref in refs if (count := plan.pool_of(plan.replica(ref.replica)).resources.gpus)
        }
        if not wanted:
            return {}
        self._check_inventory(plan)
        holders = await self._holders()
        mine = _held(plan.job_id, holders)
        gained: list[Revision] = []
        for replica, count in wanted.items():
            while len(mine[replica]) < count:
                revision = await self._take_one(holders, plan.job_id, replica)
                if revision is None:
                    await self._give_back(gained)
                    raise EngineBusy(_shortage(plan.job_id, replica, count, holders, self.inventory))
                gained.append(revision)
                mine[replica].append(revision.labels[DEVICE])
        return {replica: tuple(mine[replica][:count]) for replica, count in wanted.items()}

    async def release(self, job_id: JobId) -> None:
        await self._give_back(revisions(await self.api.volumes(of_job(job_id, KIND_GPU))))

    def _check_inventory(self, plan: JobPlan) -> None:
        total = sum(plan.pool_of(replica).resources.gpus for replica in plan.replicas)
        if total > len(self.inventory):
            has = f"has {len(self.inventory)} (gpus={self.inventory!r})" if self.inventory else "was given none"
            raise LaunchRefused(
                f"the job asks for {total} GPUs at once (machine_spec.accelerator_count x replicas), and the Docker "
                f"backend {has}: name the host's GPUs in its gpus argument, ask for fewer, or run without them by "
                "accelerator_count in ignore_fields",
                code=8,
            )

    async def _holders(self) -> dict[str, Revision | None]:
        """By device: the latest revision of its lease."""
        volumes = await self.api.volumes({KIND: KIND_GPU})
        return {
            device: latest(volume for volume in volumes if volume["Labels"].get(DEVICE) == device)
            for device in self.inventory
        }

    async def _take_one(self, holders: dict[str, Revision | None], job_id: JobId, replica: str) -> Revision | None:
        """One more device, a free one or one that was left behind; None: all are in use."""
        for again in (False, True):
            if again:
                holders.update(await self._holders())
            free = [device for device, holder in holders.items() if holder is None]
            for device in free or await self._left_behind(holders, job_id):
                with suppress(RecordConflict):
                    labels = {JOB: job_id, REPLICA: replica}
                    holders[device] = taken = await self._sequence(device).append(holders[device], labels)
                    return taken
        return None

    async def _left_behind(self, holders: Mapping[str, Revision | None], job_id: JobId) -> list[str]:
        """Devices whose holder has no containers, and no record or a terminal one; never this job's own."""
        containers, records = await asyncio.gather(
            self.api.containers({KIND: KIND_REPLICA}), self.api.volumes({KIND: KIND_RECORD})
        )
        alive: set[str] = {job_id} | {container["Labels"][JOB] for container in containers}
        by_job = defaultdict(list)
        for volume in records:
            by_job[volume["Labels"].get(JOB, "")].append(volume)
        alive |= {job for job, volumes in by_job.items() if _at_work(latest(volumes))}
        return [
            device
            for device, holder in holders.items()
            if holder is not None and not holder.deleted and holder.labels.get(JOB) not in alive
        ]

    async def _give_back(self, leases: Iterable[Revision]) -> None:
        async def give_back(lease: Revision) -> None:
            sequence = self._sequence(lease.labels[DEVICE])
            if lease.deleted:
                await sequence.bury(lease, await sequence.read())
                return
            with suppress(RecordConflict):
                await sequence.delete(lease)

        await asyncio.gather(*map(give_back, leases))

    def _sequence(self, device: str) -> Revisions:
        safe = "".join(letter if letter.isalnum() else "-" for letter in device)
        return Revisions(self.api, f"customjob-gpu-{safe}", {KIND: KIND_GPU, DEVICE: device})


def _held(job_id: JobId, holders: Mapping[str, Revision | None]) -> dict[str, list[str]]:
    held: dict[str, list[str]] = defaultdict(list)
    for device, holder in holders.items():
        if holder is not None and holder.labels.get(JOB) == job_id and DELETED not in holder.labels:
            held[holder.labels.get(REPLICA, "")].append(device)
    return held


def _at_work(record: Revision | None) -> bool:
    if record is None or record.deleted:
        return False
    name = record.labels.get(STATE, "")
    return name not in JobState.__members__ or not JobState[name].terminal


def _shortage(
    job_id: JobId, replica: str, count: int, holders: Mapping[str, Revision | None], inventory: tuple[str, ...]
) -> str:
    others = sorted({h.labels.get(JOB, "?") for h in holders.values() if h is not None} - {job_id})
    return (
        f"{replica} waits for {count} GPU{'s' * (count > 1)}: all {len(inventory)} of this Docker host are leased"
        f"{' to the jobs ' if others else ''}{', '.join(others)}"
    )
