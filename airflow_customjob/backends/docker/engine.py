"""A connection to a Docker daemon, as the contract wants it; the parts are in the modules beside this one."""

from __future__ import annotations

import asyncio
import math
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow_customjob.backends import secrets
from airflow_customjob.backends.base import (
    EngineBusy,
    EngineError,
    JobObjects,
    LaunchRefused,
    LogLine,
    Phase,
    ReplicaRef,
    ReplicaStatus,
    Retention,
    Say,
    StoredRecord,
    Usage,
)
from airflow_customjob.backends.docker import images
from airflow_customjob.backends.docker.access import Login
from airflow_customjob.backends.docker.api import Access, Api, Conflicting, DaemonError, Missing, of_job
from airflow_customjob.backends.docker.backend import DockerBackend
from airflow_customjob.backends.docker.body import Host, archive, container_body, network_of
from airflow_customjob.backends.docker.events import EventHub
from airflow_customjob.backends.docker.follow import read_log
from airflow_customjob.backends.docker.gpus import Gpus
from airflow_customjob.backends.docker.labels import (
    JOB,
    KIND,
    KIND_END,
    KIND_RECORD,
    KIND_REPLICA,
    KIND_START,
    ref_of,
    seconds,
)
from airflow_customjob.backends.docker.networks import ensure_network, release_networks
from airflow_customjob.backends.docker.records import Records, record_among
from airflow_customjob.backends.docker.starts import Starts
from airflow_customjob.backends.docker.status import Statuses
from airflow_customjob.plan.environment import GOOGLE_KEY
from airflow_customjob.plan.types import JobId, JobPlan, Prepared

if TYPE_CHECKING:
    from airflow_customjob.backends.docker.builds import Builds


class DockerEngine:
    """See :class:`airflow_customjob.backends.base.Engine`."""

    def __init__(self, backend: DockerBackend, way_in: tuple[Access, Login | None]) -> None:
        access, self._login = way_in
        self.capabilities = backend.capabilities()
        self._backend = backend
        self._api = Api(access)
        self._hub = EventHub(self._api)
        self._statuses = Statuses(self._api, self._hub)
        self._records = Records(self._api)
        self._gpus = Gpus(self._api, backend.gpus)
        self._starts = Starts(self._api)

    @cached_property
    def _builds(self) -> Builds:
        from airflow_customjob.backends.docker.builds import Builds

        return Builds(self._api, self._backend.build_settings)

    async def close(self) -> None:
        await self._hub.close()
        await self._api.close()

    async def identity(self) -> str:
        return str((await self._api.info())["ID"])

    # -- launching ----------------------------------------------------------------------------------------------------

    async def prepare(self, plan: JobPlan, say: Say) -> Prepared:
        artifacts: dict[str, str] = {}
        notes: list[str] = []

        for pool, *others in plan.alike():
            image = await images.have(self._api, pool.image, self._login, say)
            ident = str(image["Id"])
            notes.append(f"{pool.image} {ident}")
            if pool.package is not None:
                built = await self._builds.install(image, pool.image, pool.package, await self._host(), say)
                ident = built.image_id
                notes.extend((*built.notes, f"{pool.name} {ident}"))
            artifacts |= {str(each.index): ident for each in (pool, *others)}
        return Prepared(artifacts=artifacts, notes=tuple(dict.fromkeys(notes)))

    async def create(self, plan: JobPlan, refs: Sequence[ReplicaRef]) -> None:
        host = await self._host()
        hidden = await asyncio.to_thread(secrets.resolve, plan.options.secret_env)
        await asyncio.to_thread(secrets.google_key, plan.options.google_credentials)  # refused before anything exists
        network = network_of(plan, self._backend.settings)
        if network is not None and not self._backend.network:
            await ensure_network(self._api, plan.job_id, network, len(plan.replicas), self._backend.subnets)
        leased = await self._gpus.lease(plan, refs)

        async def create(ref: ReplicaRef) -> None:
            body = container_body(
                plan,
                ref,
                self._backend.settings,
                host=host,
                secrets=hidden,
                devices=leased.get(ref.replica, ()),
            )
            await self._create(plan, ref, body)

        await _all(create(ref) for ref in refs)

    async def _create(self, plan: JobPlan, ref: ReplicaRef, body: dict[str, Any]) -> None:
        what = f"create {ref.replica} (container {ref.name})"
        try:
            await self._api.call("POST", "containers/create", what=what, params={"name": ref.name}, body=body)
        except Conflicting:
            return
        except DaemonError as error:
            if not (400 <= error.status < 500 or error.words.startswith("invalid ")):  # a volume's: 500 in Docker 20.10
                raise
            raise LaunchRefused(_refused(plan, ref, error.words), replica=ref.replica) from error

    async def start(self, plan: JobPlan, refs: Sequence[ReplicaRef]) -> None:
        """Docker would run an ended container again: only those that were never started are."""
        found = await self._api.containers(of_job(plan.job_id, KIND_REPLICA)) if refs else []
        created = {ref_of(container["Labels"]) for container in found if container["State"] == "created"}
        key = await asyncio.to_thread(secrets.google_key, plan.options.google_credentials) if created else None
        private = [(GOOGLE_KEY, key)] if key else []
        await _all(self._start(ref, plan, private) for ref in refs if ref in created)

    async def _start(self, ref: ReplicaRef, plan: JobPlan, private: Sequence[tuple[str, str]]) -> None:
        """Files are delivered here: whoever starts a replica may find it created by one who died before that."""
        async with self._starts.turn(ref) as is_mine:
            if is_mine:
                await self._do_start(ref, [*plan.files_of(plan.replica(ref.replica)), *private])

    async def _do_start(self, ref: ReplicaRef, files: Sequence[tuple[str, str]]) -> None:
        what = f"start {ref.replica} (container {ref.name})"
        try:
            if files:
                tar = archive([(path, content.encode()) for path, content in files])
                await self._api.call("PUT", f"containers/{ref.name}/archive", what=what, params={"path": "/"}, raw=tar)
            await self._api.call("POST", f"containers/{ref.name}/start", what=what)
        except DaemonError as error:
            container = await self._api.inspect(ref.name)
            if container is None or container["State"]["Status"] in ("removing", "dead"):
                return
            if container["State"]["Status"] != "created" or not container["State"]["Error"]:
                raise EngineError(str(error)) from error
            self._statuses.start_refused(container["Id"])

    async def _host(self) -> Host:
        info = await self._api.info()
        return Host(float(info["NCPU"]), int(info["MemTotal"]))

    # -- looking ------------------------------------------------------------------------------------------------------

    async def observe(self, job_id: JobId) -> Sequence[ReplicaStatus]:
        return await self._statuses.of_job(job_id)

    def watch(self, job_id: JobId) -> AbstractAsyncContextManager[AsyncIterator[None]]:
        return self._hub.watch(job_id)

    def logs(
        self, ref: ReplicaRef, *, after: str | None = None, follow: bool = True, tail: int | None = None
    ) -> AsyncIterator[LogLine]:
        return read_log(self._api, self._hub, ref, after, follow, tail)

    async def usage(self, job_id: JobId) -> Sequence[Usage]:
        statuses = await self.observe(job_id)
        samples = await asyncio.gather(*(self._usage(s.ref) for s in statuses if s.phase is Phase.RUNNING))
        return [sample for sample in samples if sample is not None]

    async def _usage(self, ref: ReplicaRef) -> Usage | None:
        """Docker takes two samples a second apart for a rate of its own."""
        params = {"stream": "0"}
        try:
            stats = await self._api.call(
                "GET", f"containers/{ref.name}/stats", what=f"sample {ref.name}", params=params
            )
        except (Missing, Conflicting):
            return None
        cpu, before, memory = stats["cpu_stats"], stats["precpu_stats"], stats.get("memory_stats") or {}
        spent = cpu["cpu_usage"]["total_usage"] - before["cpu_usage"]["total_usage"]
        passed = cpu.get("system_cpu_usage", 0) - before.get("system_cpu_usage", 0)
        if not memory.get("usage"):
            return None  # it has ended meanwhile
        detail = memory.get("stats") or {}
        cache = detail.get("total_inactive_file", detail.get("inactive_file", 0))
        cpus = spent / passed * cpu.get("online_cpus", 1) if passed > 0 else 0.0
        return Usage(ref, seconds(stats["read"]) or 0.0, max(0.0, cpus), memory["usage"] - cache)

    async def jobs(self) -> Sequence[JobObjects]:
        labels: dict[str, str | None] = {JOB: None}
        containers, volumes, networks = await asyncio.gather(
            self._api.containers(labels), self._api.volumes(labels), self._api.networks(labels)
        )
        found: dict[JobId, list[dict[str, Any]]] = defaultdict(list)
        for thing in (*containers, *volumes, *networks):
            found[JobId(thing["Labels"][JOB])].append(thing)
        return [_objects(job_id, things) for job_id, things in sorted(found.items())]

    # -- ending -------------------------------------------------------------------------------------------------------

    async def stop(self, refs: Sequence[ReplicaRef], grace: float) -> None:
        await _all(self._stop(ref, grace) for ref in refs)

    async def _stop(self, ref: ReplicaRef, grace: float) -> None:
        """Docker's own stop counts in whole seconds: its final signal is for the case that this process does not live to send it."""
        self._statuses.dismiss(ref.name)
        if grace > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(grace):
                    await self._api.stop_container(ref.name, math.ceil(grace))
                    self._hub.died.add(ref.name)
                    return
        if await self._kill(ref):
            await self._api.wait_until_ended(ref.name)
        self._hub.died.add(ref.name)

    async def _kill(self, ref: ReplicaRef) -> bool:
        """False: it does not run."""
        try:
            await self._api.call("POST", f"containers/{ref.name}/kill", what=f"stop {ref.name}")
        except (Missing, Conflicting):
            return False
        return True

    async def remove(self, refs: Sequence[ReplicaRef]) -> None:
        await _all(self._api.remove_container(ref.name) for ref in refs)
        self._starts.forget(refs)

    async def release(self, job_id: JobId) -> None:
        async def forget(kind: str) -> None:
            volumes = await self._api.volumes(of_job(job_id, kind))
            await _all(self._api.remove_volume(volume["Name"]) for volume in volumes)

        await _all(
            [release_networks(self._api, job_id), forget(KIND_START), forget(KIND_END), self._gpus.release(job_id)]
        )

    async def prune(self, retention: Retention, in_use: Collection[str], now: float, *, dry_run: bool) -> Sequence[str]:
        from airflow_customjob.backends.docker.prune import prune

        return await prune(self._api, retention, in_use, now, dry_run=dry_run)

    # -- records ------------------------------------------------------------------------------------------------------

    async def read_record(self, job_id: JobId) -> StoredRecord | None:
        return await self._records.read(job_id)

    async def write_record(
        self, job_id: JobId, data: str, *, if_version: int, labels: Mapping[str, str] | None = None
    ) -> int:
        return await self._records.write(job_id, data, if_version, labels or {})

    async def delete_record(self, job_id: JobId, *, if_version: int) -> None:
        await self._records.delete(job_id, if_version)


def _objects(job_id: JobId, things: Iterable[dict[str, Any]]) -> JobObjects:
    records, refs, other, times = [], [], [], []
    for thing in things:
        created = thing.get("Created") or thing.get("CreatedAt") or ""
        moment = float(created) if isinstance(created, int) else seconds(created)
        times += [moment] if moment else []
        if thing["Labels"].get(KIND) == KIND_RECORD:
            records.append(thing)
        elif ref := ref_of(thing["Labels"]):
            refs.append(ref)
        else:
            other.append(str(thing.get("Name") or thing["Id"]))
    record = record_among(job_id, records)
    return JobObjects(job_id, record, tuple(sorted(refs)), tuple(sorted(other)), min(times, default=None))


def _refused(plan: JobPlan, ref: ReplicaRef, words: str) -> str:
    image = plan.pool_of(plan.replica(ref.replica)).image
    if "No command specified" in words:
        return f"{ref.replica}: the image {image} has neither ENTRYPOINT nor CMD, and container_spec gives no command: give one"
    if "No such image" in words:
        return f"{ref.replica}: the image {image} was removed from the Docker host after it was prepared: run the job again"
    return f"{ref.replica} (image {image}) cannot be created: {words}"


async def _all(calls: Iterable[Awaitable[None]]) -> None:
    """All of them concurrently, to their end; then the gravest error there was."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    errors = [result for result in results if isinstance(result, BaseException)]
    for error in sorted(errors, key=_gravity):
        raise error


def _gravity(error: BaseException) -> int:
    return next(
        (rank for rank, kind in enumerate((LaunchRefused, EngineBusy, EngineError)) if isinstance(error, kind)), 3
    )
