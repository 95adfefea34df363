"""Images with Python packages in them, made in the cluster: one for each content key, built once, then reused.

The Pod that builds has a name that follows from the key, so there is one at a time, whoever asks; whoever asks while it is at
work waits for it. A ConfigMap of the same name remembers the image: a job that finds one makes one call, whatever its size.
Who waits leaves a mark on the Pod, so that the last one whose job is cancelled takes it away.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow_customjob.backends.base import EngineError, LaunchRefused, Retention, Say
from airflow_customjob.backends.indexes import read_authorities, resolve_indexes
from airflow_customjob.backends.kubernetes import judge, names
from airflow_customjob.backends.kubernetes.api import MERGE, STRATEGIC, Api, ApiError, Conflict, Missing
from airflow_customjob.backends.kubernetes.builders import MAX_BUILD, Build, builder, builder_secrets, cuts
from airflow_customjob.backends.kubernetes.one_off import OneOffs, age, ended_how, has_ended, waits
from airflow_customjob.backends.kubernetes.refusals import refusal
from airflow_customjob.backends.kubernetes.tags import pinned
from airflow_customjob.packaging import Fetched
from airflow_customjob.plan.types import PoolPlan

if TYPE_CHECKING:
    from airflow_customjob.backends.kubernetes.backend import KubernetesBackend

NOT_BROUGHT, SLOWEST = 15.0, 1_000_000.0
"""A builder that still waits for its packages has lost its maker after so many seconds, and those in which they are sent to the
cluster at so many bytes a second."""
AGAIN = 0.5
"""Seconds between two looks at a builder that has nothing to tell yet."""
USED_EVERY = 24 * 3600.0
"""Seconds after which it is written down again that an image is in use."""
ARCHITECTURE = "kubernetes.io/arch"
"""Kubernetes' label of nodes: an image that is made on one kind of them is of no use to another."""
IMAGE, VERSIONS = "image", "versions"
USED_AT = f"{names.PREFIX}/used-at"
_WAITS = f"{names.PREFIX}/waits-"
_WORK = (names.INSTALLER, names.APPENDER)
"""Its containers that do it, in turn."""


@dataclass(frozen=True)
class Built:
    """:param versions: of what was installed: ``name==version``, as far as a Pod's last words reach."""

    image: str
    versions: str = ""


class Builds:
    """:param template: the user's Pod."""

    def __init__(self, api: Api, backend: KubernetesBackend, template: dict[str, Any]) -> None:
        self._api = api
        self._pods = OneOffs(api)
        self._backend = backend
        self._template = template

    async def image(self, base: str, packages: tuple[Fetched, ...], say: Say) -> Built:
        """The executor image with these packages, in ``registry``.

        :raises LaunchRefused: they cannot be installed, or the image cannot be kept.
        """
        platform = str(self._template.get("spec", {}).get("nodeSelector", {}).get(ARCHITECTURE, ""))
        build = Build(await pinned(base, self._backend, say), packages, self._backend, platform)
        known = await self._known(build)
        if known is not None:
            say(f"{build.names}: installed before, image {known.image} (cache hit)")
            return known
        began = time.monotonic()
        say(f"installing {build.names} into {build.base}, in the Pod {build.name}")
        async with self._waiting(build):
            built = await self._built(build, say)
        say(f"installed {build.names} into {base} in {time.monotonic() - began:.1f} s, image {built.image}")
        return built

    async def _known(self, build: Build) -> Built | None:
        with suppress(Missing):
            found = await self._api.get("configmaps", build.name)
            annotations = found["metadata"].setdefault("annotations", {})
            if time.time() - _seconds(annotations.get(USED_AT)) > USED_EVERY:
                annotations[USED_AT] = _now()
                with suppress(Conflict):
                    await self._api.replace("configmaps", build.name, found)
            return Built(found["data"][IMAGE], found["data"].get(VERSIONS, ""))
        return None

    async def _built(self, build: Build, say: Say) -> Built:
        while True:
            known = await self._known(build)
            if known is not None:
                return known
            pod = await self._pods.find(build.name)
            if pod is None:
                await self._make(build)
            elif pod["metadata"].get("deletionTimestamp"):
                await asyncio.sleep(AGAIN)
            elif has_ended(pod):
                await self._finish(build, pod)
            elif _is_abandoned(pod, sum(item.size for item in build.packages)):
                await self._pods.remove(build.name)
            elif _waits_for_packages(pod):
                await asyncio.sleep(AGAIN)
            else:
                await self._follow(build, pod, say)

    async def _make(self, build: Build) -> None:
        """A builder, unless there is one by now; no node gets it before its Secrets are there, which go with it."""
        indexes = await asyncio.to_thread(resolve_indexes, self._backend.index_urls)
        authorities = await asyncio.to_thread(read_authorities, self._backend.ca_bundle)
        archives = [await asyncio.to_thread(item.path.read_bytes) for item in build.packages]
        pod = builder(build, self._template, sum(len(cuts(archive)) for archive in archives))
        try:
            made = await self._api.create("pods", pod)
        except Conflict as error:
            if error.reason == "AlreadyExists":
                return
            raise
        except ApiError as error:
            raise refusal(error, f"the Pod {build.name} that installs {build.names}", "") from error
        owner = {"apiVersion": "v1", "kind": "Pod", "name": build.name, "uid": made["metadata"]["uid"]}
        try:
            for secret in builder_secrets(build, archives, indexes, owner, authorities):
                await self._api.create("secrets", secret)
            gates = {"spec": {"schedulingGates": [{"$patch": "delete", "name": names.GATE}]}}
            with suppress(Missing):
                await self._api.patch("pods", build.name, gates, STRATEGIC)
        except Conflict:  # of a builder that has just gone: they go with it
            await self._pods.remove(build.name)
            await asyncio.sleep(AGAIN)
        except ApiError as error:
            await self._pods.remove(build.name)
            raise refusal(error, f"a Secret of {build.names}", "") from error

    @asynccontextmanager
    async def _waiting(self, build: Build) -> AsyncIterator[None]:
        mark = _WAITS + secrets.token_hex(6)
        marking = asyncio.create_task(self._mark(build, mark))
        try:
            yield
        except asyncio.CancelledError:
            with suppress(Missing):
                left = await self._api.patch("pods", build.name, {"metadata": {"annotations": {mark: None}}}, MERGE)
                if not any(name.startswith(_WAITS) for name in left["metadata"].get("annotations") or ()):
                    await self._pods.remove(build.name)
            raise
        finally:
            marking.cancel()

    async def _mark(self, build: Build, mark: str) -> None:
        while True:
            with suppress(EngineError):
                await self._api.patch("pods", build.name, {"metadata": {"annotations": {mark: _now()}}}, MERGE)
                return
            await asyncio.sleep(AGAIN)

    async def _follow(self, build: Build, pod: Mapping[str, Any], say: Say) -> None:
        """Tell its output until it has ended.

        :raises LaunchRefused: it waits for what will not come.
        """
        for container in _WORK:
            while not judge.container_state(pod, container).keys() & {"running", "terminated"}:
                if has_ended(pod):
                    return
                try:
                    waits(pod, f"{build.names} cannot be installed into {build.base}")
                except LaunchRefused:
                    await self._pods.remove(build.name)
                    raise
                await asyncio.sleep(AGAIN)
                if (found := await self._pods.find(build.name)) is None:
                    return
                pod = found
            await self._pods.tell(build.name, container, say)
        while (found := await self._pods.find(build.name)) and not has_ended(found):
            await asyncio.sleep(AGAIN)

    async def _finish(self, build: Build, pod: Mapping[str, Any]) -> None:
        """Remember the image, or tell why there is none; both may be done twice.

        :raises LaunchRefused: with the last lines of what failed.
        """
        if pod["status"]["phase"] == "Succeeded":
            done = json.loads(judge.container_state(pod, names.APPENDER)["terminated"]["message"])
            data = {IMAGE: f"{build.repository}@{done['digest']}", VERSIONS: done["noted"], "executor": build.base}
            metadata = {"name": build.name, "labels": build.labels, "annotations": {USED_AT: _now()}}
            with suppress(Conflict):
                await self._api.create(
                    "configmaps", {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}
                )
            await self._pods.remove(build.name)
            return
        ends = {name: judge.container_state(pod, name).get("terminated") or {} for name in _WORK}
        failed = next((name for name, ended in ends.items() if ended.get("exitCode")), "")
        lines = await self._pods.last_lines(build.name, failed) if failed else []
        if build.has_gate:
            lines += [f"index: {line}" for line in await self._pods.last_lines(build.name, names.INDEXES)]
        why = ended_how(pod, failed)
        await self._pods.remove(build.name)
        what = (
            "could not be kept in the registry"
            if failed == names.APPENDER
            else f"could not be installed into {build.base}"
        )
        raise LaunchRefused("\n".join([f"{build.names} {what} ({why}):", *lines]))


async def prune(api: Api, retention: Retention, in_use: Collection[str], now: float, *, dry_run: bool) -> list[str]:
    """See :meth:`airflow_customjob.backends.base.KeepsInstallations.prune`. An image stays in its registry, which has rules of its
    own for what nobody names any more; what goes is the memory of it."""
    ours = f"{names.MANAGED_SELECTOR},{names.KIND}={names.BUILD}"
    removed = []
    for pod in (await api.list("pods", ours))["items"]:
        if has_ended(pod) or _is_abandoned(pod, MAX_BUILD):
            removed.append(f"builder {pod['metadata']['name']}")
            if not dry_run:
                await api.delete("pods", pod["metadata"]["name"], gracePeriodSeconds=0)
    used = {
        found["metadata"]["name"]: _seconds((found["metadata"].get("annotations") or {}).get(USED_AT))
        for found in (await api.list("configmaps", ours))["items"]
        if found["data"].get(IMAGE) not in in_use
    }
    for name in retention.beyond(used, now):
        removed.append(f"what is known of the image {name}")
        if not dry_run:
            await api.delete("configmaps", name)
    return removed


def _waits_for_packages(pod: Mapping[str, Any]) -> bool:
    return bool(pod["spec"].get("schedulingGates"))


def _is_abandoned(pod: Mapping[str, Any], size: int) -> bool:
    """:param size: bytes of its packages."""
    return _waits_for_packages(pod) and age(pod) > NOT_BROUGHT + size / SLOWEST


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _seconds(text: str | None) -> float:
    return datetime.fromisoformat(text).timestamp() if text else 0.0


def check_size(pool: PoolPlan, packages: Sequence[Fetched]) -> None:
    """:raises LaunchRefused: they are too large to be brought into the cluster, by way of its own database."""
    size = sum(package.size for package in packages)
    if size <= MAX_BUILD:
        return
    uris = ", ".join(package.uri for package in packages)
    raise LaunchRefused(
        f"the packages of {pool.name} have {size:,} bytes ({uris}); {MAX_BUILD:,} can be brought to a Pod by Secrets: "
        "put data and large libraries into the executor image, or let the package depend on what an index has"
    )
