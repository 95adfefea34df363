"""Replicas as processes of this host, kept in a folder that any process can pick them up from."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from airflow_customjob.backends.base import (
    EngineError,
    JobObjects,
    LaunchRefused,
    LogLine,
    ReplicaRef,
    ReplicaStatus,
    Retention,
    Say,
    StoredRecord,
    Usage,
)
from airflow_customjob.backends.process import records, replicas
from airflow_customjob.backends.process.environments import environment_for, prune
from airflow_customjob.backends.process.folders import locked, names_in, ref_of
from airflow_customjob.backends.process.inotify import Inotify
from airflow_customjob.backends.process.leases import choose_ports, lease_gpus, release_ports
from airflow_customjob.backends.process.logs import LogFile
from airflow_customjob.backends.process.proc import engine_identity, processes, tree
from airflow_customjob.backends.process.requests import request_of
from airflow_customjob.backends.secrets import google_key, resolve
from airflow_customjob.packaging import PackageError, fetch
from airflow_customjob.plan.environment import GOOGLE_KEY
from airflow_customjob.plan.types import JobId, JobPlan, Prepared

if TYPE_CHECKING:
    from airflow_customjob.backends.process.backend import ProcessBackend

P = ParamSpec("P")
T = TypeVar("T")


class ProcessEngine:
    """See :class:`airflow_customjob.backends.base.Engine`.

    :raises EngineError: the state folder, or the kernel's notices of changes, cannot be had.
    """

    def __init__(self, backend: ProcessBackend) -> None:
        self.capabilities = backend.capabilities()
        self._backend = backend
        self._folders = backend.folders
        self._folders.make()
        self._inotify = Inotify()
        self._sampled: dict[ReplicaRef, tuple[float, float]] = {}

    async def close(self) -> None:
        self._inotify.close()

    async def identity(self) -> str:
        return engine_identity(self._folders.root)

    # -- launching ----------------------------------------------------------------------------------------------------

    async def prepare(self, plan: JobPlan, say: Say) -> Prepared:
        artifacts: dict[str, str] = {}
        notes: list[str] = []
        for pool, *others in plan.alike():
            if pool.package is None:
                continue
            try:
                packages = await fetch(pool.package.uris, say, gcp_conn_id=pool.package.gcp_conn_id)
            except PackageError as error:
                raise LaunchRefused(f"{pool.name}: {error.message}") from None
            environment = await environment_for(
                self._folders.environments,
                packages,
                say,
                python=self._backend.python,
                requirements=self._backend.requirements,
            )
            artifacts |= {str(each.index): environment for each in (pool, *others)}
            notes += [f"{pool.name}: {package.filename} sha256:{package.sha256}" for package in packages]
        ports = await _in_thread(choose_ports, self._folders, plan.job_id, len(plan.replicas) + 1)
        return Prepared(artifacts, ports, tuple(notes))

    async def create(self, plan: JobPlan, refs: Sequence[ReplicaRef]) -> None:
        await _in_thread(self._create, plan, refs)

    def _create(self, plan: JobPlan, refs: Sequence[ReplicaRef]) -> None:
        resolve(plan.options.secret_env)  # what cannot be had is refused before anything exists
        google_key(plan.options.google_credentials)
        inventory = self._backend.gpus
        wants_gpus = any(pool.resources.gpus for pool in plan.pools)
        with locked(self._folders.root / "leases.lock") if wants_gpus else nullcontext():
            leases = lease_gpus(self._folders, plan, refs, inventory)
            for ref in refs:
                request = request_of(
                    plan,
                    plan.replica(ref.replica),
                    self._folders.replica(ref),
                    bucket_root=self._backend.bucket_root,
                    gpus=leases[ref],
                    hide_gpus=bool(inventory),
                )
                replicas.create(self._folders, ref, request)

    async def start(self, plan: JobPlan, refs: Sequence[ReplicaRef]) -> None:
        await _in_thread(self._start, plan, refs)

    def _start(self, plan: JobPlan, refs: Sequence[ReplicaRef]) -> None:
        waiting = replicas.startable(self._folders, refs)
        if waiting:
            if key := google_key(plan.options.google_credentials):
                for ref in waiting:
                    replicas.keep_private(self._folders.replica(ref) / "files" / os.path.basename(GOOGLE_KEY), key)
            replicas.start(self._folders, waiting, resolve(plan.options.secret_env))

    # -- looking ------------------------------------------------------------------------------------------------------

    async def observe(self, job_id: JobId) -> Sequence[ReplicaStatus]:
        return await _in_thread(self._observe, job_id)

    def _observe(self, job_id: JobId) -> list[ReplicaStatus]:
        found = (replicas.status(self._folders, ref) for ref in replicas.refs_of(self._folders, job_id))
        return [status for status in found if status is not None]

    @asynccontextmanager
    async def watch(self, job_id: JobId) -> AsyncIterator[AsyncIterator[None]]:
        heard = asyncio.Event()

        def told(name: str) -> None:
            ref = ref_of(name)
            if not name or (ref is not None and ref.job_id == job_id):
                heard.set()

        def written(name: str) -> None:
            if name in ("", records.RECORD):
                heard.set()

        with (
            self._inotify.listening(self._folders.events, told),
            self._inotify.listening(self._folders.job(job_id), written),
        ):
            yield _items(heard)

    async def logs(
        self, ref: ReplicaRef, *, after: str | None = None, follow: bool = True, tail: int | None = None
    ) -> AsyncIterator[LogLine]:
        changed = asyncio.Event()
        log = LogFile(self._folders.replica(ref) / "log", ref, after)
        with self._inotify.listening(self._folders.replica(ref), lambda name: changed.set()) as exists:
            if not exists:
                return
            try:
                if tail is not None:
                    log.seek_tail(tail)
                over = False
                while not over:
                    changed.clear()
                    over = await _in_thread(replicas.is_over, self._folders, ref)
                    for lines in log.read(over=over):
                        for line in lines:
                            yield line
                        await asyncio.sleep(0)
                    if not over and not follow:
                        return
                    if not over:
                        await changed.wait()
            finally:
                log.close()

    async def usage(self, job_id: JobId) -> Sequence[Usage]:
        return await _in_thread(self._usage, job_id)

    def _usage(self, job_id: JobId) -> list[Usage]:
        """CPUs since the sample before; in the first one, since the replica started."""
        everything, now = processes(), time.time()
        samples = []
        for status in self._observe(job_id):
            shim = replicas.holder(self._folders.replica(status.ref) / "claim")
            if shim is None or status.started_at is None:
                self._sampled.pop(status.ref, None)
                continue
            mine = tree(everything, shim)
            spent = sum(process.cpu_seconds for process in mine)
            since, before = self._sampled.get(status.ref, (status.started_at, 0.0))
            self._sampled[status.ref] = (now, spent)
            cpus = max(0.0, spent - before) / max(now - since, 0.01)
            samples.append(Usage(status.ref, now, cpus, sum(process.memory_bytes for process in mine)))
        return samples

    # -- ending -------------------------------------------------------------------------------------------------------

    async def stop(self, refs: Sequence[ReplicaRef], grace: float) -> None:
        await asyncio.gather(*(self._stop(ref, grace) for ref in refs))

    async def _stop(self, ref: ReplicaRef, grace: float) -> None:
        with replicas.shim_of(self._folders.replica(ref)) as shim:
            if shim is None:
                return
            if grace > 0:
                await _in_thread(replicas.grant, self._folders.replica(ref), grace)
            steps = [(signal.SIGTERM, grace)] if grace > 0 else []
            steps += [(signal.SIGUSR1, replicas.KILL_PATIENCE), (signal.SIGKILL, 1.0)]
            for number, patience in steps:
                replicas.tell(shim, number)
                if await _readable(shim, patience):
                    break
        await _in_thread(replicas.status, self._folders, ref)

    async def remove(self, refs: Sequence[ReplicaRef]) -> None:
        await self.stop(refs, 0.0)
        await asyncio.gather(*(_in_thread(replicas.remove, self._folders, ref) for ref in refs))
        for ref in refs:
            self._sampled.pop(ref, None)

    async def release(self, job_id: JobId) -> None:
        await _in_thread(self._release, job_id)

    def _release(self, job_id: JobId) -> None:
        replicas.sweep(self._folders, job_id)
        release_ports(self._folders, job_id)
        records.tidy(self._folders, job_id)

    async def prune(self, retention: Retention, in_use: Collection[str], now: float, *, dry_run: bool) -> Sequence[str]:
        return await _in_thread(prune, self._folders.environments, retention, in_use, now, dry_run)

    # -- records ------------------------------------------------------------------------------------------------------

    async def read_record(self, job_id: JobId) -> StoredRecord | None:
        return await _in_thread(records.read_record, self._folders, job_id)

    async def write_record(
        self, job_id: JobId, data: str, *, if_version: int, labels: Mapping[str, str] | None = None
    ) -> int:
        return await _in_thread(records.write_record, self._folders, job_id, data, if_version, labels)

    async def delete_record(self, job_id: JobId, *, if_version: int) -> None:
        await _in_thread(records.delete_record, self._folders, job_id, if_version)

    async def jobs(self) -> Sequence[JobObjects]:
        return await _in_thread(self._jobs)

    def _jobs(self) -> list[JobObjects]:
        found = (self._job(JobId(name)) for name in names_in(self._folders.jobs))
        return [job for job in found if job.record or job.refs or job.other]

    def _job(self, job_id: JobId) -> JobObjects:
        refs = tuple(replicas.refs_of(self._folders, job_id))
        record = records.read_record(self._folders, job_id)
        times = [replicas.time_of(self._folders.replica(ref) / "request.json") for ref in refs]
        if record is not None:
            times.append(record.version / 1e6)  # it begins at the record's creation, and only counts from there
        other = tuple(name for name in names_in(self._folders.replicas(job_id)) if ref_of(name) is None)
        return JobObjects(job_id, record, refs, other, min(filter(None, times), default=None))


async def _in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """
    :raises EngineError: also where the kernel refuses something: the state folder's disk is full, say.
    """
    try:
        return await asyncio.to_thread(function, *args, **kwargs)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise EngineError(f"the state folder cannot be used: {where}{error.strerror or error}") from error


async def _items(heard: asyncio.Event) -> AsyncIterator[None]:
    while True:
        await heard.wait()
        heard.clear()
        yield


async def _readable(handle: int, patience: float) -> bool:
    """Whether the process of this pidfd ends within so many seconds."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    mine = os.dup(handle)  # a loop has one reader for each descriptor
    loop.add_reader(mine, ended.set)
    try:
        async with asyncio.timeout(patience):
            await ended.wait()
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(mine)
        os.close(mine)
    return True
