"""A connection to a cluster; see :class:`airflow_customjob.backends.base.Engine`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow_customjob.backends.base import (
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
from airflow_customjob.backends.kubernetes import builds, manifests, names, packages, permissions, pins
from airflow_customjob.backends.kubernetes.api import STRATEGIC, Api, ApiError, Conflict, Missing
from airflow_customjob.backends.kubernetes.at_once import each
from airflow_customjob.backends.kubernetes.endings import Endings
from airflow_customjob.backends.kubernetes.judge import read_pods, status_of
from airflow_customjob.backends.kubernetes.logs import PodLog
from airflow_customjob.backends.kubernetes.reasons import Reasons
from airflow_customjob.backends.kubernetes.records import Records, stored
from airflow_customjob.backends.kubernetes.refusals import refusal
from airflow_customjob.backends.kubernetes.usage import usage_of
from airflow_customjob.backends.kubernetes.watcher import Watcher
from airflow_customjob.backends.secrets import google_key, resolve
from airflow_customjob.packaging import Fetched, PackageError, content_key, fetch, requires_nothing
from airflow_customjob.plan.types import JobId, JobPlan, PoolPlan, Prepared

if TYPE_CHECKING:
    from airflow_customjob.backends.kubernetes.backend import KubernetesBackend

ADDRESS_WAIT = 5.0
"""Seconds that the other replicas are held back for the primary to have an address: a name that is asked for before it has
one is remembered as missing for up to half a minute."""
REST = 0.001
"""Seconds, for each Pod of a job, between two looks at it: while thousands of them start, one event would follow the other."""


class KubernetesEngine:
    """:param backend: its configuration."""

    def __init__(self, backend: KubernetesBackend, api: Api) -> None:
        self.capabilities = backend.capabilities()
        self._backend = backend
        self._api = api
        self._watcher = Watcher(api)
        self._records = Records(api)
        self._reasons = Reasons(api)
        self._builds = builds.Builds(api, backend, manifests.template_of(backend))
        self._pins = pins.Pins(api, self._watcher)
        self._endings = Endings(api, self._watcher, self.observe, forcibly=backend.force_delete)
        self._identity = ""
        self._rests_until: dict[JobId, float] = {}

    async def close(self) -> None:
        await self._watcher.close()
        await self._api.close()

    async def identity(self) -> str:
        """The namespace's own uid: records of another namespace are not to be seen from here.

        :raises LaunchRefused: the account may not do all that jobs need. Who claims a job asks for the identity first, and
            so nothing is created that could then not be driven or cleared away.
        """
        if not self._identity:
            await permissions.check(self._api)
            found = await self._api.call("GET", f"/api/v1/namespaces/{self._api.namespace}")
            self._identity = f"kubernetes:{found['metadata']['uid']}"
        return self._identity

    # -- launching ----------------------------------------------------------------------------------------------------

    async def prepare(self, plan: JobPlan, say: Say) -> Prepared:
        artifacts: dict[str, str] = {}
        settled: dict[str, tuple[dict[str, str], ...]] = {}
        notes: list[str] = []
        for pools in plan.alike():
            pool, image = pools[0], pools[0].image
            fetched = await self._packages(pool, say)
            notes += [f"{package.uri} sha256:{package.sha256}" for package in fetched]
            if fetched and self._backend.registry:
                built = await self._builds.image(image, fetched, say)
                image = built.image
                notes += [f"installed {built.versions}"] if built.versions else []
            elif fetched:
                image = "/".join((content_key(image, fetched)[:24], *(package.filename for package in fetched)))
                if packages.by_uri(pool, fetched) or not await asyncio.to_thread(_require_nothing, fetched):
                    found = await self._settle(plan, pool, fetched, say)
                    settled[str(pool.index)] = found.pins
                    notes += found.notes
            artifacts |= dict.fromkeys((str(pool.index) for pool in pools), image)
        return Prepared(artifacts=artifacts, notes=tuple(dict.fromkeys(notes)), pins=settled)

    async def _settle(self, plan: JobPlan, pool: PoolPlan, fetched: Sequence[Fetched], say: Say) -> pins.Settled:
        """The versions of what a pool's packages depend on. What this brings to the cluster the replicas need too, or it goes with
        the job."""
        owner = await self._owner(plan.job_id)
        await self._create_companions(plan, owner)
        pod = manifests.owned(manifests.resolver(plan, pool, self._backend), owner)
        return await self._pins.settle(pod, ", ".join(package.filename for package in fetched), say)

    async def _owner(self, job_id: JobId) -> str | None:
        anchor = await self._records.config_map(job_id)
        return anchor["metadata"]["uid"] if anchor else None

    async def _packages(self, pool: PoolPlan, say: Say) -> tuple[Fetched, ...]:
        """:raises LaunchRefused: one cannot be had, or they are too large to be brought into the cluster."""
        if pool.package is None:
            return ()
        try:
            fetched = await fetch(pool.package.uris, say, gcp_conn_id=pool.package.gcp_conn_id)
        except PackageError as error:
            raise LaunchRefused(error.message) from error
        if self._backend.registry:
            builds.check_size(pool, fetched)
        else:
            packages.by_uri(pool, fetched)
        return fetched

    async def _archives(self, plan: JobPlan, pool: PoolPlan) -> dict[str, Any]:
        fetched = await self._packages(pool, _mute)
        urls = packages.by_uri(pool, fetched)
        brought = [package for number, package in enumerate(fetched) if number not in urls]
        archives = [await asyncio.to_thread(package.path.read_bytes) for package in brought]
        return packages.archives_of(plan, pool, fetched, archives, self._backend)

    async def create(self, plan: JobPlan, refs: Sequence[ReplicaRef]) -> None:
        owner = await self._owner(plan.job_id)
        await self._create_companions(plan, owner)
        pods = manifests.pods(plan, refs, self._backend, self._api.namespace)

        async def one(ref: ReplicaRef) -> None:
            with suppress(_Exists):
                await self._create(
                    "pods", manifests.owned(pods[ref], owner), f"the Pod of {ref.replica}", ref.replica, pods.values()
                )

        await each(refs, one)

    async def _create_companions(self, plan: JobPlan, owner: str | None) -> None:
        """What Pods need to be there; the Service first, by which a job that has anything is found. Where it was there
        already, what cannot be had a second time (a package's file, a variable of another process) has been brought before.
        """
        config_maps = manifests.files(plan)
        packaged = packages.installed_by_replicas(plan)
        if not (len(plan.replicas) > 1 or config_maps or packaged or manifests.secret_names(plan)):
            return
        fresh = await self._create_once("services", manifests.service(plan), owner, "the job's Service")
        for config_map in config_maps:
            await self._create_once("configmaps", config_map, owner, "the ConfigMap of the job's files")
        secrets: list[tuple[str, Callable[[], Awaitable[dict[str, Any]]]]] = []
        if manifests.secret_names(plan):
            secrets.append(("the Secret of secret_env", partial(_secret_env, plan)))
        secrets += [(f"the Secret of {pool.name}'s packages", partial(self._archives, plan, pool)) for pool in packaged]
        for what, make in secrets:
            try:
                secret = await make()
            except LaunchRefused:
                if fresh:
                    raise
            else:
                await self._create_once("secrets", secret, owner, what)
        for pool in packaged:
            await self._pin(plan, pool, owner)

    async def _pin(self, plan: JobPlan, pool: PoolPlan, owner: str | None) -> None:
        """Now that the record has them, the versions are told to those who install, and who settled them may go."""
        settled = packages.pins_of(plan, pool)
        if settled is not None:
            told = packages.config_map_of(plan, pool, settled)
            if await self._create_once("configmaps", told, owner, f"the ConfigMap of {pool.name}'s versions"):
                await self._pins.pods.remove(told["metadata"]["name"])

    async def _create_once(self, kind: str, body: dict[str, Any], owner: str | None, what: str) -> bool:
        """Whether it was not there yet."""
        try:
            await self._create(kind, manifests.owned(body, owner), what)
        except _Exists:
            return False
        return True

    async def _create(
        self, kind: str, body: dict[str, Any], what: str, replica: str = "", gang: Iterable[Mapping[str, Any]] = ()
    ) -> None:
        try:
            await self._api.create(kind, body)
        except Conflict as error:
            if error.reason == "AlreadyExists":
                raise _Exists from error
            raise
        except ApiError as error:
            raise refusal(error, what, replica, gang) from error

    async def start(self, plan: JobPlan, refs: Sequence[ReplicaRef]) -> None:
        primary = [ref for ref in refs if ref.replica == plan.primary.name]
        others = [ref for ref in refs if ref.replica != plan.primary.name]
        await each(primary, self._ungate)
        if primary and others:
            await self._until_address(primary[0])
        await each(others, self._ungate)

    async def _ungate(self, ref: ReplicaRef) -> None:
        body = {"spec": {"schedulingGates": [{"$patch": "delete", "name": names.GATE}]}}
        with suppress(Missing):
            await self._api.patch("pods", ref.name, body, STRATEGIC)

    async def _until_address(self, ref: ReplicaRef) -> None:
        """Its end, and a moment that is over, are as good."""
        with self._watcher.listening(ref.name) as changed, suppress(TimeoutError, Missing):
            async with asyncio.timeout(ADDRESS_WAIT):
                while True:
                    changed.clear()
                    status = (await self._api.get("pods", ref.name)).get("status", {})
                    if status.get("podIP") or status.get("phase") in ("Failed", "Succeeded"):
                        return
                    await changed.wait()

    # -- looking ------------------------------------------------------------------------------------------------------

    async def observe(self, job_id: JobId) -> Sequence[ReplicaStatus]:
        pods = await self._pods(job_id)
        return await self._reasons.explain(_statuses(pods), pods, time.time())

    async def _pods(self, job_id: JobId) -> list[dict[str, Any]]:
        await asyncio.sleep(self._rests_until.pop(job_id, 0.0) - time.monotonic())
        listed = await self._api.list("pods", f"{names.MANAGED_SELECTOR},{names.JOB}={job_id}", read_pods)
        if pods := listed["items"]:
            self._rests_until[job_id] = time.monotonic() + REST * len(pods)
        return list(pods)

    @asynccontextmanager
    async def watch(self, job_id: JobId) -> AsyncIterator[AsyncIterator[None]]:
        with self._watcher.listening(job_id) as heard:

            async def items() -> AsyncIterator[None]:
                while True:
                    await heard.wait()
                    heard.clear()
                    yield

            yield items()

    async def logs(
        self, ref: ReplicaRef, *, after: str | None = None, follow: bool = True, tail: int | None = None
    ) -> AsyncIterator[LogLine]:
        async for line in PodLog(self._api, self._watcher, ref).lines(after, follow, tail):
            yield line

    async def usage(self, job_id: JobId) -> Sequence[Usage]:
        return await usage_of(self._api, await self._pods(job_id))

    # -- ending -------------------------------------------------------------------------------------------------------

    async def stop(self, refs: Sequence[ReplicaRef], grace: float) -> None:
        await self._endings.stop(refs, grace)

    async def remove(self, refs: Sequence[ReplicaRef]) -> None:
        await self._endings.remove(refs)

    async def release(self, job_id: JobId) -> None:
        """The Service last: by it a job is found that has anything left."""
        ours = f"{names.MANAGED_SELECTOR},{names.JOB}={job_id}"
        others = f"{ours},{names.KIND}!={names.RECORD}"
        if not (await self._api.list("services", ours))["items"]:
            return
        for pod in (await self._api.list("pods", f"{ours},{names.KIND}={names.PINS}", read_pods))["items"]:
            await self._pins.pods.remove(pod["metadata"]["name"])
        await self._api.delete_all("secrets", ours)
        await self._api.delete_all("configmaps", others)
        await self._api.delete("services", names.object_name(job_id))

    async def prune(self, retention: Retention, in_use: Collection[str], now: float, *, dry_run: bool) -> Sequence[str]:
        return await builds.prune(self._api, retention, in_use, now, dry_run=dry_run)

    # -- records ------------------------------------------------------------------------------------------------------

    async def read_record(self, job_id: JobId) -> StoredRecord | None:
        return await self._records.read(job_id)

    async def write_record(
        self, job_id: JobId, data: str, *, if_version: int, labels: Mapping[str, str] | None = None
    ) -> int:
        return await self._records.write(job_id, data, if_version, labels or {})

    async def delete_record(self, job_id: JobId, *, if_version: int) -> None:
        await self._records.delete(job_id, if_version)

    async def jobs(self) -> Sequence[JobObjects]:
        kinds = ("configmaps", "services", "pods")
        every = f"{names.MANAGED_SELECTOR},{names.JOB}"
        listed = await asyncio.gather(
            *(self._api.list(kind, every) for kind in kinds[:2]), self._api.list("pods", every, read_pods)
        )
        records: dict[JobId, StoredRecord] = {}
        refs: dict[JobId, list[ReplicaRef]] = {}
        other: dict[JobId, list[str]] = {}
        created: dict[JobId, float] = {}
        for kind, answer in zip(kinds, listed, strict=True):
            for item in answer["items"]:
                metadata = item["metadata"]
                job_id = JobId(metadata["labels"][names.JOB])
                at = datetime.fromisoformat(metadata["creationTimestamp"]).timestamp()
                created[job_id] = min(at, created.get(job_id, at))
                record = stored(item) if kind == "configmaps" else None
                ref = names.ref_of(metadata) if kind == "pods" else None
                if record is not None:
                    records[job_id] = record
                elif ref is not None:
                    refs.setdefault(job_id, []).append(ref)
                else:
                    other.setdefault(job_id, []).append(f"{kind}/{metadata['name']}")
        return [
            JobObjects(job_id, records.get(job_id), tuple(refs.get(job_id, ())), tuple(other.get(job_id, ())), at)
            for job_id, at in created.items()
        ]


class _Exists(Exception):
    """It was created before."""


def _statuses(pods: Iterable[Mapping[str, Any]]) -> list[ReplicaStatus]:
    now = time.time()
    return [status for pod in pods if (status := status_of(pod, now)) is not None]


async def _secret_env(plan: JobPlan) -> dict[str, Any]:
    values = await asyncio.to_thread(resolve, plan.options.secret_env)
    key = await asyncio.to_thread(google_key, plan.options.google_credentials)
    return manifests.secret_env(plan, values | ({manifests.KEY_FILE: key} if key else {}))


def _require_nothing(fetched: Iterable[Fetched]) -> bool:
    return all(requires_nothing(package.path, package.filename) for package in fetched)


def _mute(line: str) -> None:
    pass
