"""A connection to a cluster; see :class:`airflow_customjob.backends.base.Engine`."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_customjob.backends.base import (
    EngineBusy,
    EngineError,
    JobObjects,
    LaunchRefused,
    LogLine,
    Phase,
    ReplicaRef,
    ReplicaStatus,
    Say,
    StoredRecord,
    Usage,
)
from airflow_customjob.backends.kubernetes import manifests, names, permissions
from airflow_customjob.backends.kubernetes.api import MERGE, STRATEGIC, Api, ApiError, Conflict, Missing
from airflow_customjob.backends.kubernetes.judge import read_pods, status_of
from airflow_customjob.backends.kubernetes.logs import PodLog
from airflow_customjob.backends.kubernetes.reasons import Reasons
from airflow_customjob.backends.kubernetes.records import Records, stored
from airflow_customjob.backends.kubernetes.refusals import refusal
from airflow_customjob.backends.kubernetes.usage import usage_of
from airflow_customjob.backends.kubernetes.watcher import Watcher
from airflow_customjob.backends.secrets import google_key, resolve
from airflow_customjob.packaging import Fetched, PackageError, content_key, fetch
from airflow_customjob.plan.types import JobId, JobPlan, PoolPlan, Prepared

if TYPE_CHECKING:
    from airflow_customjob.backends.kubernetes.backend import KubernetesBackend

AT_ONCE = 32
"""Calls that are under way at once for one job."""
ADDRESS_WAIT = 5.0
"""Seconds that the other replicas are held back for the primary to have an address: a name that is asked for before it has
one is remembered as missing for up to half a minute."""
PATIENCE = 30.0
"""Seconds past their grace after which Pods that do not go are told of as an error, and asked again."""
LOOK_AGAIN = 2.0
"""Seconds after which Pods are looked at again that nothing was heard of."""
REST = 0.001
"""Seconds, for each Pod of a job, between two looks at it: while thousands of them start, one event would follow the other."""
MAX_PACKAGES = 1_000_000
"""Bytes of a pool's packages, all together; a Secret takes 1 MiB."""

T = TypeVar("T")


class KubernetesEngine:
    """:param backend: its configuration."""

    def __init__(self, backend: KubernetesBackend, api: Api) -> None:
        self.capabilities = backend.capabilities()
        self._backend = backend
        self._api = api
        self._watcher = Watcher(api)
        self._records = Records(api)
        self._reasons = Reasons(api)
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
        artifacts, notes = {}, []
        for pool in plan.pools:
            packages = await _packages(pool, say)
            path = [content_key(pool.image, packages)[:24], *(package.filename for package in packages)]
            artifacts[str(pool.index)] = "/".join(path) if packages else pool.image
            notes += [f"{package.uri} sha256:{package.sha256}" for package in packages]
        return Prepared(artifacts=artifacts, notes=tuple(dict.fromkeys(notes)))

    async def create(self, plan: JobPlan, refs: Sequence[ReplicaRef]) -> None:
        anchor = await self._records.config_map(plan.job_id)
        owner = anchor["metadata"]["uid"] if anchor else None
        await self._create_companions(plan, owner)
        pods = manifests.pods(plan, refs, self._backend, self._api.namespace)

        async def one(ref: ReplicaRef) -> None:
            with suppress(_Exists):
                await self._create(
                    "pods", manifests.owned(pods[ref], owner), f"the Pod of {ref.replica}", ref.replica, pods.values()
                )

        await _each(refs, one)

    async def _create_companions(self, plan: JobPlan, owner: str | None) -> None:
        """What Pods need to be there; the Service first, by which a job that has anything is found. Where it was there
        already, what cannot be had a second time (a package's file, a variable of another process) has been brought before.
        """
        config_maps = manifests.files(plan)
        packaged = [pool for pool in plan.pools if pool.package is not None]
        if not (len(plan.replicas) > 1 or config_maps or packaged or manifests.secret_names(plan)):
            return
        fresh = await self._create_once("services", manifests.service(plan), owner, "the job's Service")
        for config_map in config_maps:
            await self._create_once("configmaps", config_map, owner, "the ConfigMap of the job's files")
        secrets: list[tuple[str, Callable[[], Awaitable[dict[str, Any]]]]] = []
        if manifests.secret_names(plan):
            secrets.append(("the Secret of secret_env", partial(_secret_env, plan)))
        secrets += [(f"the Secret of {pool.name}'s packages", partial(_package, plan, pool)) for pool in packaged]
        for what, make in secrets:
            try:
                secret = await make()
            except LaunchRefused:
                if fresh:
                    raise
            else:
                await self._create_once("secrets", secret, owner, what)

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
        await _each(primary, self._ungate)
        if primary and others:
            await self._until_address(primary[0])
        await _each(others, self._ungate)

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
        """A Pod that outlives its deadline is ended by its node, and stays with its log and exit codes; deleting it would
        take them along. Its grace was settled when it was created, in whole seconds, of which its node gives two at least.
        """
        wanted = set(refs)
        await _each(await self._at_work(wanted), self._end)
        await self._until(wanted, self._at_work, max(grace, 2.0) + PATIENCE, "end")

    async def _at_work(self, refs: set[ReplicaRef]) -> list[ReplicaRef]:
        statuses = await self._seen(refs)
        return [status.ref for status in statuses if status.phase in (Phase.RUNNING, Phase.WAITING)]

    async def _end(self, ref: ReplicaRef) -> None:
        body = {
            "metadata": {"annotations": {names.STOPPED: datetime.now(UTC).isoformat(timespec="seconds")}},
            "spec": {"activeDeadlineSeconds": 1},
        }
        with suppress(Missing):
            patched = await self._api.patch("pods", ref.name, body, MERGE)
            if not patched["spec"].get("nodeName"):  # nobody's deadline: it never ran, and now never will
                await self._delete(ref)

    async def remove(self, refs: Sequence[ReplicaRef]) -> None:
        wanted = set(refs)

        async def one(ref: ReplicaRef) -> None:
            await self._delete(ref, gracePeriodSeconds=0 if self._backend.force_delete else 1)

        async def left(refs: set[ReplicaRef]) -> list[ReplicaRef]:
            return [status.ref for status in await self._seen(refs)]

        await _each(await left(wanted), one)
        await self._until(wanted, left, PATIENCE, "go")

    async def _delete(self, ref: ReplicaRef, **options: Any) -> None:
        """Kueue would keep it until another one takes its place, which for us comes only after it is gone."""
        deleted = await self._api.delete("pods", ref.name, **options)
        if names.KUEUE_FINALIZER in deleted.get("metadata", {}).get("finalizers", ()):
            body = {"metadata": {"$deleteFromPrimitiveList/finalizers": [names.KUEUE_FINALIZER]}}
            with suppress(Missing):
                await self._api.patch("pods", ref.name, body, STRATEGIC)

    async def _seen(self, refs: set[ReplicaRef]) -> list[ReplicaStatus]:
        statuses: list[ReplicaStatus] = []
        for job_id in {ref.job_id for ref in refs}:
            statuses += [status for status in await self.observe(job_id) if status.ref in refs]
        return statuses

    async def _until(
        self,
        refs: set[ReplicaRef],
        left: Callable[[set[ReplicaRef]], Awaitable[list[ReplicaRef]]],
        seconds: float,
        what: str,
    ) -> None:
        """Wait until none is left.

        :raises EngineError: some are, after this time.
        """
        end = time.monotonic() + seconds
        heard = asyncio.Event()
        listening = [self._watcher.listening(job_id, heard) for job_id in {ref.job_id for ref in refs}]
        try:
            for waiting in listening:
                waiting.__enter__()
            while True:
                heard.clear()
                there = await left(refs)
                if not there:
                    return
                if time.monotonic() > end:
                    raise EngineError(_still_there(there, await self._seen(set(there)), what, seconds))
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_AGAIN):
                        await heard.wait()
        finally:
            for waiting in listening:
                waiting.__exit__(None, None, None)

    async def release(self, job_id: JobId) -> None:
        """The Service last: by it a job is found that has anything left."""
        ours = f"{names.MANAGED_SELECTOR},{names.JOB}={job_id}"
        others = f"{ours},{names.KIND}!={names.RECORD}"
        if not (await self._api.list("services", ours))["items"]:
            return
        await self._api.delete_all("secrets", ours)
        await self._api.delete_all("configmaps", others)
        await self._api.delete("services", names.object_name(job_id))

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


async def _each(items: Sequence[T], do: Callable[[T], Awaitable[None]]) -> None:
    """For all of them, some at once. The rest is not begun after an error; of several, a refusal counts most."""
    errors: list[BaseException] = []
    queue = iter(items)

    async def worker() -> None:
        for item in queue:
            if errors:
                return
            try:
                await do(item)
            except EngineError as error:
                errors.append(error)

    await asyncio.gather(*(worker() for _ in range(min(AT_ONCE, len(items)))))
    for error in sorted(errors, key=_weight):
        raise error


def _weight(error: BaseException) -> int:
    return next((weight for weight, kind in enumerate((LaunchRefused, EngineBusy)) if isinstance(error, kind)), 2)


def _statuses(pods: Iterable[Mapping[str, Any]]) -> list[ReplicaStatus]:
    now = time.time()
    return [status for pod in pods if (status := status_of(pod, now)) is not None]


def _still_there(refs: Sequence[ReplicaRef], statuses: Sequence[ReplicaStatus], what: str, seconds: float) -> str:
    nodes = {status.ref: status.node for status in statuses}
    ref = refs[0]
    return (
        f"{len(refs)} Pods did not {what} within {seconds:.0f} s, the first is {ref.name} on {nodes.get(ref) or 'no node'}. If that "
        "node is gone for good, taint it (kubectl taint node NODE node.kubernetes.io/out-of-service=lost:NoExecute), or set force_delete"
    )


async def _secret_env(plan: JobPlan) -> dict[str, Any]:
    values = await asyncio.to_thread(resolve, plan.options.secret_env)
    key = await asyncio.to_thread(google_key, plan.options.google_credentials)
    return manifests.secret_env(plan, values | ({manifests.KEY_FILE: key} if key else {}))


async def _package(plan: JobPlan, pool: PoolPlan) -> dict[str, Any]:
    packages = await _packages(pool, _mute)
    return manifests.package(plan, pool, [base64.b64encode(item.path.read_bytes()).decode() for item in packages])


def _mute(line: str) -> None:
    pass


async def _packages(pool: PoolPlan, say: Say) -> tuple[Fetched, ...]:
    """:raises LaunchRefused: one cannot be had, or they are too large to be carried by the cluster's own database."""
    if pool.package is None:
        return ()
    try:
        packages = await fetch(pool.package.uris, say, gcp_conn_id=pool.package.gcp_conn_id)
    except PackageError as error:
        raise LaunchRefused(error.message) from error
    size = sum(package.size for package in packages)
    if size > MAX_PACKAGES:
        uris = ", ".join(package.uri for package in packages)
        raise LaunchRefused(
            f"the packages of {pool.name} have {size:,} bytes ({uris}); up to {MAX_PACKAGES:,} can be brought to Pods by a "
            "Secret: put them into the executor image, or install them from an index by a small package that depends on them"
        )
    return packages
