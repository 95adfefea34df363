"""Images with Python packages in them: one for each content key, built once from the executor image, then reused.

The container that builds has a name that follows from the key, so there is one of it at a time, whoever asks. Whoever
asks while it is at work waits for it; whoever finds that it has ended finishes what its maker may no longer be there to
do: commit it, or tell why it failed; and remove it. All of these may be done twice. Who waits leaves a mark, so that the last
one whose job is cancelled takes the builder away.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from airflow_customjob.backends.base import EngineError, LaunchRefused, Say
from airflow_customjob.backends.docker.api import UNREACHABLE, Api, Conflicting, DaemonError, Missing
from airflow_customjob.backends.docker.body import BuildSettings, Host, shm_bytes
from airflow_customjob.backends.docker.builders import (
    INSTALLED,
    REPOSITORY,
    Build,
    builder_body,
    builder_files,
    gate_body,
    gate_files,
    image_config,
    versions_in,
)
from airflow_customjob.backends.docker.images import find
from airflow_customjob.backends.docker.labels import NONCE, UNTIL, VERSIONS, WAITS_FOR, seconds
from airflow_customjob.backends.docker.logs import entries
from airflow_customjob.backends.indexes import read_authorities, resolve_indexes
from airflow_customjob.packaging import PackageError, fetch
from airflow_customjob.plan.types import Package

LAST_LINES = 20
"""Lines of pip's output that the error of a failed installation tells."""
TOLD_LINES = 2_000
"""Lines of pip's output that are told while it runs."""
NOT_STARTED, SLOWEST = 15.0, 2_000_000.0
"""A builder that was created and not started has lost its maker after so many seconds, and those in which the packages are
sent to Docker at so many bytes a second."""
KILLED = (137, 143)
"""Exit codes of a builder that somebody stopped, as a daemon does that goes down."""
COMMITS = 600.0
"""Seconds after which whoever was to keep what a builder installed has died over it."""
AGAIN = 0.2
"""Seconds between two looks at a builder that another process is about to start or to remove."""
DRAIN = 5.0
"""Seconds in which the rest of an ended builder's log arrives."""
MAX_INSTALLED = 2**20
"""Bytes of the list of what was installed."""
MAX_VERSIONS = 100
"""Projects whose versions stand in a job's record; all of them are in the image's label."""


@dataclass(frozen=True)
class Built:
    """:param notes: provenance, for people."""

    image_id: str
    notes: tuple[str, ...]


@dataclass
class Builds:
    """:param host: what the Docker host has."""

    api: Api
    settings: BuildSettings

    async def install(self, base: dict[str, Any], image: str, package: Package, host: Host, say: Say) -> Built:
        """The executor image with these packages.

        :param base: the executor image, as inspected.
        :param image: its name, for people.
        :raises LaunchRefused: a package cannot be had, or pip failed.
        """
        try:
            packages = await fetch(package.uris, say, gcp_conn_id=package.gcp_conn_id)
        except PackageError as error:
            raise LaunchRefused(error.message) from error
        build = Build(base, image, packages, self.settings)
        found = await find(self.api, build.tag)
        if found is not None:
            say(f"{build.names}: installed before, image {build.tag} (cache hit)")
            await self._used(found, build)
        else:
            say(f"installing {build.names} into {image}")
            began = time.monotonic()
            async with self._waiting(build):
                found = await self._build(build, host, say)
            say(f"installed {build.names} into {image} in {time.monotonic() - began:.1f} s, image {build.tag}")
        return Built(found["Id"], _notes(build, found))

    async def _used(self, found: dict[str, Any], build: Build) -> None:
        """Docker keeps the time when an image was last given a name: ``gc`` goes by it."""
        params = {"repo": REPOSITORY, "tag": build.key}
        await self.api.call("POST", f"images/{found['Id']}/tag", what=f"name {build.tag}", params=params)

    @contextlib.asynccontextmanager
    async def _waiting(self, build: Build) -> AsyncIterator[None]:
        mark = f"{build.name}-waits-{secrets.token_hex(6)}"
        try:
            await self.api.create_volume(mark, {**build.until(time.time()), WAITS_FOR: build.key})
            yield
        except asyncio.CancelledError:
            await self.api.remove_volume(mark)
            if not await self.api.volumes({WAITS_FOR: build.key}):
                await self._remove(build.name)
                await self.api.remove_volume(_claim(build))
            raise
        finally:
            await self.api.remove_volume(mark)

    async def _build(self, build: Build, host: Host, say: Say) -> dict[str, Any]:
        may_be_lost = True
        while True:
            found = await find(self.api, build.tag)
            if found is not None:
                return found
            builder = await self.api.inspect(build.name)
            if builder is None:
                await self._make(build, host)
            elif builder["State"]["Status"] == "created":
                await self._not_started(build, builder)
            elif builder["State"]["Status"] != "exited":
                await self._follow(build, builder, say)
            elif builder["State"]["ExitCode"] == 0:
                committed = await self._commit(build, builder)
                if committed is not None:
                    return committed
                await asyncio.sleep(AGAIN)
            elif may_be_lost and builder["State"]["ExitCode"] in KILLED and not builder["State"]["OOMKilled"]:
                may_be_lost = False
                say(f"what installed {build.names} was killed (a restart of Docker?): once more")
                await self._remove(build.name)
            else:
                await self._failed(build, builder)

    async def _make(self, build: Build, host: Host) -> None:
        """A builder and its way out, unless there is one by now. Its password is sent last, and read by one process only."""
        certificates = await asyncio.to_thread(read_authorities, self.settings.ca_bundle)
        indexes = await asyncio.to_thread(resolve_indexes, self.settings.index_urls)
        memory = shm_bytes(self.settings.memory, host)
        now = time.time()
        gate: str = (await self._create(f"{build.name}-gate-{secrets.token_hex(6)}", gate_body(build, now)))["Id"]
        try:
            await self._create(build.name, builder_body(build, gate, int(memory), host, now))
        except Conflicting:
            await self.api.remove_container(gate)
            return
        except BaseException:
            await self.api.remove_container(gate)
            raise
        tar = await asyncio.to_thread(builder_files, build, certificates)
        await self._put(build.name, tar)
        await self._put(gate, gate_files(build, indexes, certificates))
        for container in (gate, build.name):
            try:
                await self.api.call("POST", f"containers/{container}/start", what=f"start {container}")
            except DaemonError as error:
                lines = [] if error.status == UNREACHABLE else await self._last_lines(gate)
                if error.status == UNREACHABLE or not await self._remove(build.name):
                    raise
                raise LaunchRefused(
                    f"packages cannot be installed into {build.image}; is a python3 on its PATH? "
                    + "\n".join([error.words, *lines])
                ) from error

    async def _create(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        what, params = f"create the builder {name}", {"name": name}
        created: dict[str, Any] = await self.api.call("POST", "containers/create", what=what, params=params, body=body)
        return created

    async def _put(self, container: str, tar: bytes) -> None:
        what = f"put the packages into {container}"
        await self.api.call("PUT", f"containers/{container}/archive", what=what, params={"path": "/"}, raw=tar)

    async def _remove(self, name: str) -> bool:
        """A builder and its way out. False: it was not there."""
        builder = await self.api.inspect(name)
        if builder is None:
            return False
        await self.api.remove_container(name)
        await self.api.remove_container(builder["HostConfig"]["NetworkMode"].removeprefix("container:"))
        return True

    async def _not_started(self, build: Build, builder: dict[str, Any]) -> None:
        patience = NOT_STARTED + sum(item.size for item in build.packages) / SLOWEST
        if time.time() - (seconds(builder["Created"]) or 0.0) > patience:
            await self._remove(build.name)
        else:
            await asyncio.sleep(AGAIN)

    async def _follow(self, build: Build, builder: dict[str, Any], say: Say) -> None:
        """Tell its output until it has ended.

        :raises LaunchRefused: it goes on beyond its time: something in it holds up what was to end it.
        """
        telling = asyncio.create_task(self._tell(build.name, say))
        try:
            async with asyncio.timeout(max(0.0, float(builder["Config"]["Labels"][UNTIL]) - time.time())):
                await self.api.wait_until_ended(build.name)
            await asyncio.wait([telling], timeout=DRAIN)
        except TimeoutError:
            await self._remove(build.name)
            raise LaunchRefused(
                f"{build.names}: the installation into {build.image} did not end in build_timeout, "
                f"{self.settings.timeout:.0f} s, and was removed"
            ) from None
        finally:
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)

    async def _tell(self, name: str, say: Say) -> None:
        params = {"stdout": "1", "stderr": "1", "timestamps": "1", "follow": "1"}
        left = TOLD_LINES
        async with self.api.stream("GET", f"containers/{name}/logs", what="give pip's output", params=params) as log:
            async for bunch in entries(log):
                for entry in bunch[:left]:
                    say(entry.data.decode(errors="replace").rstrip())
                left -= len(bunch[:left])

    async def _commit(self, build: Build, builder: dict[str, Any]) -> dict[str, Any] | None:
        """The image; None: another process is making it at this moment, since two would be two images."""
        claim, nonce = _claim(build), secrets.token_hex(6)
        got = await self.api.create_volume(claim, {**build.until(time.time()), NONCE: nonce})
        if got.get(NONCE) != nonce:
            if time.time() - (seconds(builder["State"]["FinishedAt"]) or 0.0) > COMMITS:
                await self.api.remove_volume(claim)
            return None
        found = await find(self.api, build.tag)
        if found is None:
            what = f"keep what {build.name} installed"
            params = {"container": build.name, "repo": REPOSITORY, "tag": build.key, "comment": "python_package_spec"}
            with contextlib.suppress(Missing):
                config = image_config(build, await self._installed(build.name))
                await self.api.call("POST", "commit", what=what, params={**params, "pause": "0"}, body=config)
            found = await find(self.api, build.tag)
        await self._remove(build.name)
        await self.api.remove_volume(claim)
        if found is None:
            raise EngineError(f"the image {build.tag} was removed while it was made")
        return found

    async def _installed(self, name: str) -> dict[str, str]:
        params, tar = {"path": INSTALLED}, b""
        with contextlib.suppress(Missing):
            async with self.api.stream(
                "GET", f"containers/{name}/archive", what="tell versions", params=params
            ) as content:
                while left := MAX_INSTALLED - len(tar):
                    chunk = await content.read(left)
                    if not chunk:
                        break
                    tar += chunk
        return versions_in(tar)

    async def _failed(self, build: Build, builder: dict[str, Any]) -> None:
        """:raises LaunchRefused: with pip's own last lines, and what the indexes answered."""
        state = builder["State"]
        gate = builder["HostConfig"]["NetworkMode"].removeprefix("container:")
        try:
            lines = await self._last_lines(build.name)
            answers = await self._last_lines(gate)
        except Missing:
            return
        await self._remove(build.name)
        why = f"exit code {state['ExitCode']}"
        if state["OOMKilled"]:
            why += f"; out of memory: build_memory is {self.settings.memory}"
        raise LaunchRefused(
            f"pip could not install {build.names} into {build.image} ({why}):\n"
            + "\n".join([*lines, *(f"index: {line}" for line in answers)])
        )

    async def _last_lines(self, name: str) -> list[str]:
        params = {"stdout": "1", "stderr": "1", "timestamps": "1", "tail": str(LAST_LINES)}
        async with self.api.stream("GET", f"containers/{name}/logs", what="give pip's output", params=params) as log:
            return [entry.data.decode(errors="replace").rstrip() async for bunch in entries(log) for entry in bunch]


def _claim(build: Build) -> str:
    return f"{build.name}-commit"


def _notes(build: Build, image: dict[str, Any]) -> tuple[str, ...]:
    versions = ((image.get("Config") or {}).get("Labels") or {}).get(VERSIONS, "").split()
    more = f" and {len(versions) - MAX_VERSIONS} more" if len(versions) > MAX_VERSIONS else ""
    packages = [f"{item.uri} sha256:{item.sha256}" for item in build.packages]
    return (*packages, *([f"installed {' '.join(versions[:MAX_VERSIONS])}{more}"] if versions else []))
