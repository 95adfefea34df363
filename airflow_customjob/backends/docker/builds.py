"""Images with Python packages in them: one for each content key, built once from the executor image, then reused.

The container that builds has a name that follows from the key, so there is one of it at a time, whoever asks. Whoever
asks while it is at work waits for it; whoever finds that it has ended finishes what its maker may no longer be there to
do: commit it, or tell why it failed; and remove it. All of these may be done twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from airflow_customjob.backends.base import EngineError, LaunchRefused, Say
from airflow_customjob.backends.docker.api import Api, Conflicting, DaemonError, Missing
from airflow_customjob.backends.docker.body import LOG_CONFIG, archive
from airflow_customjob.backends.docker.images import find
from airflow_customjob.backends.docker.labels import EXECUTOR, KIND, KIND_BUILD, NONCE, PACKAGES, seconds
from airflow_customjob.backends.docker.logs import entries
from airflow_customjob.packaging import Fetched, PackageError, content_key, fetch, install_commands
from airflow_customjob.plan.types import Package

REPOSITORY = "customjob"
"""Of the images that are built here; their tag is the key."""
FOLDER = "/tmp/customjob-packages"  # noqa: S108 - in a container of its own
LAST_LINES = 20
"""Lines of pip's output that the error of a failed installation tells."""
NOT_STARTED, SLOWEST = 15.0, 2_000_000.0
"""A builder that was created and not started has lost its maker after so many seconds, and those in which the packages are
sent to Docker at so many bytes a second."""
COMMITS = 600.0
"""Seconds after which whoever was to keep what a builder installed has died over it."""
AGAIN = 0.2
"""Seconds between two looks at a builder that another process is about to start or to remove."""


@dataclass(frozen=True)
class Built:
    """:param notes: provenance, for people."""

    image_id: str
    notes: tuple[str, ...]


@dataclass
class Builds:
    """:param binds: the backend's volumes: a ``pip.conf``, wheels, certificates."""

    api: Api
    binds: tuple[str, ...] = ()
    _locks: dict[str, asyncio.Lock] = field(default_factory=dict)

    async def install(self, base: dict[str, Any], image: str, package: Package, say: Say) -> Built:
        """The executor image with these packages.

        :param base: the executor image, as inspected.
        :param image: its name, for people.
        :raises LaunchRefused: a package cannot be had, or pip failed.
        """
        try:
            packages = await fetch(package.uris, say)
        except PackageError as error:
            raise LaunchRefused(error.message) from error
        key = content_key(base["Id"], packages)[:24]
        names = ", ".join(item.filename for item in packages)
        notes = tuple(f"{item.uri} sha256:{item.sha256}" for item in packages)
        began = time.monotonic()
        async with self._locks.setdefault(key, asyncio.Lock()):
            found = await find(self.api, f"{REPOSITORY}:{key}")
            if found is not None:
                say(f"{names}: installed before, image {REPOSITORY}:{key} (cache hit)")
                return Built(found["Id"], notes)
            say(f"installing {names} into {image}")
            built = await self._build(key, base, image, packages)
        say(f"installed {names} into {image} in {time.monotonic() - began:.1f} s, image {REPOSITORY}:{key}")
        return Built(built, notes)

    async def _build(self, key: str, base: dict[str, Any], image: str, packages: Sequence[Fetched]) -> str:
        name = f"customjob-build-{key}"
        while True:
            found = await find(self.api, f"{REPOSITORY}:{key}")
            if found is not None:
                return str(found["Id"])
            if await self._create(name, base, image, packages):
                await self._set_off(name, packages)
            await self.api.wait_until_ended(name)
            builder = await self.api.inspect(name)
            if builder is None:
                continue  # its maker has kept what it made; or it failed, and its maker has told so: see for ourselves
            state = builder["State"]
            if state["Status"] == "created":
                await self._not_started(name, builder, packages)
            elif state["Status"] == "exited" and state["ExitCode"] == 0:
                committed = await self._commit(key, name, base, image, packages, state)
                if committed is not None:
                    return committed
                await asyncio.sleep(AGAIN)
            elif state["Status"] == "exited":
                await self._failed(name, image, packages, state)
            else:
                await asyncio.sleep(AGAIN)

    async def _create(self, name: str, base: dict[str, Any], image: str, packages: Sequence[Fetched]) -> bool:
        """True: it is ours. False: it was there."""
        body = {
            "Image": base["Id"],
            "Entrypoint": [],
            "Cmd": ["sh", "-c", _script(packages)],
            "WorkingDir": "/",
            "Labels": _labels(image, packages),
            "HostConfig": {"Init": True, "LogConfig": LOG_CONFIG, "Binds": list(self.binds)},
        }
        try:
            await self.api.call(
                "POST", "containers/create", what=f"create the builder {name}", params={"name": name}, body=body
            )
        except Conflicting:
            return False
        return True

    async def _set_off(self, name: str, packages: Sequence[Fetched]) -> None:
        tar = await asyncio.to_thread(_tar, packages)
        await self.api.call(
            "PUT", f"containers/{name}/archive", what=f"put the packages into {name}", params={"path": "/"}, raw=tar
        )
        try:
            await self.api.call("POST", f"containers/{name}/start", what=f"start the builder {name}")
        except DaemonError as error:
            if await self.api.inspect(name) is not None:
                await self.api.remove_container(name)
                raise LaunchRefused(
                    f"packages cannot be installed: the executor image has no sh: {error.words}"
                ) from error
            raise

    async def _not_started(self, name: str, builder: dict[str, Any], packages: Sequence[Fetched]) -> None:
        patience = NOT_STARTED + sum(item.size for item in packages) / SLOWEST
        if time.time() - (seconds(builder["Created"]) or 0.0) > patience:
            await self.api.remove_container(name)
        else:
            await asyncio.sleep(AGAIN)

    async def _commit(
        self,
        key: str,
        name: str,
        base: dict[str, Any],
        image: str,
        packages: Sequence[Fetched],
        state: dict[str, Any],
    ) -> str | None:
        """The image's id; None: another process is making it at this moment, since two would be two images."""
        claim, nonce = f"{name}-commit", secrets.token_hex(6)
        got = await self.api.create_volume(claim, {KIND: KIND_BUILD, NONCE: nonce})
        if got.get(NONCE) != nonce:
            if time.time() - (seconds(state["FinishedAt"]) or 0.0) > COMMITS:
                await self.api.remove_volume(claim)
            return None
        found = await find(self.api, f"{REPOSITORY}:{key}")
        if found is None:
            params = {"container": name, "repo": REPOSITORY, "tag": key, "comment": "python_package_spec", "pause": "0"}
            config = {**(base.get("Config") or {}), "Labels": _image_labels(base, image, packages)}
            with contextlib.suppress(Missing):
                await self.api.call("POST", "commit", what=f"keep what {name} installed", params=params, body=config)
            found = await find(self.api, f"{REPOSITORY}:{key}")
        await self.api.remove_container(name)
        await self.api.remove_volume(claim)
        if found is None:
            raise EngineError(f"the image {REPOSITORY}:{key} was removed while it was made")
        return str(found["Id"])

    async def _failed(self, name: str, image: str, packages: Sequence[Fetched], state: dict[str, Any]) -> None:
        """:raises LaunchRefused: with pip's own last lines."""
        try:
            lines = await self._last_lines(name)
        except Missing:
            return
        await self.api.remove_container(name)
        names = ", ".join(item.filename for item in packages)
        raise LaunchRefused(
            f"pip could not install {names} into {image} (exit code {state['ExitCode']}):\n" + "\n".join(lines)
        )

    async def _last_lines(self, name: str) -> list[str]:
        params = {"stdout": "1", "stderr": "1", "timestamps": "1", "tail": str(LAST_LINES)}
        async with self.api.stream("GET", f"containers/{name}/logs", what="give pip's output", params=params) as log:
            return [entry.data.decode(errors="replace").rstrip() async for bunch in entries(log) for entry in bunch]


def _tar(packages: Sequence[Fetched]) -> bytes:
    return archive([(path, item.path.read_bytes()) for path, item in zip(_paths(packages), packages, strict=True)])


def _paths(packages: Sequence[Fetched]) -> list[str]:
    return [f"{FOLDER}/{number}/{item.filename}" for number, item in enumerate(packages)]


def _script(packages: Sequence[Fetched]) -> str:
    commands = [shlex.join(command) for path in _paths(packages) for command in install_commands(path)]
    return " && ".join(["set -e", *commands])


def _labels(image: str, packages: Sequence[Fetched]) -> dict[str, str]:
    return {
        KIND: KIND_BUILD,
        EXECUTOR: image,
        PACKAGES: " ".join(f"{item.filename}@sha256:{item.sha256}" for item in packages),
    }


def _image_labels(base: dict[str, Any], image: str, packages: Sequence[Fetched]) -> dict[str, str]:
    return {**((base.get("Config") or {}).get("Labels") or {}), **_labels(image, packages)}
