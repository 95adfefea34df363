"""One connection to a Docker daemon: requests, and what their failures mean."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_customjob.backends.base import EngineError
from airflow_customjob.backends.docker.labels import JOB, KIND

if TYPE_CHECKING:
    import aiodocker
    import aiohttp

TIMEOUT = 300.0
"""Seconds that a request may take: sixty jobs launched at once keep a daemon busy for minutes."""
CONNECT_TIMEOUT = 10.0
UNREACHABLE = 900
"""aiodocker's status for a daemon that does not answer."""


class DaemonError(EngineError):
    """The daemon refused a request.

    :param status: HTTP status; 900: nobody answered.
    :param words: the daemon's own message.
    """

    def __init__(self, what: str, status: int, words: str) -> None:
        super().__init__(f"Docker did not {what}: {words.strip()}")
        self.status = status
        self.words = words.strip()


class Missing(DaemonError):
    """404: there is no such object."""


class Conflicting(DaemonError):
    """409: the name is taken, or the object is not in a state for this."""


_BY_STATUS = {404: Missing, 409: Conflicting}


@dataclass(frozen=True)
class Access:
    """Where a daemon is and how to get in; never printed.

    :param url: None: ``DOCKER_HOST``, Docker's context or its default socket.
    :param ca_cert: path of a file, as the others; None: no TLS of our own.
    """

    url: str | None = None
    ca_cert: str | None = None
    client_cert: str | None = None
    client_key: str | None = None
    verify: bool = True


class Api:
    """Requests to a daemon. Every failure is an :class:`EngineError`."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._docker = _connect(access)
        self._info: dict[str, Any] | None = None

    async def close(self) -> None:
        await self._docker.close()

    async def info(self) -> dict[str, Any]:
        """What the daemon says of itself and its host; asked once."""
        if self._info is None:
            self._info = await self.call("GET", "info", what="describe itself")
        return self._info

    async def call(
        self,
        method: str,
        path: str,
        *,
        what: str,
        params: Mapping[str, Any] | None = None,
        body: Any = None,
        raw: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """One request; its JSON answer.

        :param what: completes 'Docker did not ...'.
        :param body: sent as JSON.
        :param raw: sent as it is (a tar).
        """
        data = raw if raw is not None else None if body is None else json.dumps(body)
        kind = {"Content-Type": "application/x-tar"} if raw is not None else {}
        async with _failures(what):
            return await self._docker._query_json(
                path, method, params=_params(params), data=data, headers={**kind, **(headers or {})}
            )

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        path: str,
        *,
        what: str,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        idle: float | None = None,
    ) -> AsyncIterator[aiohttp.StreamReader]:
        """A request whose answer goes on.

        :param idle: seconds without a byte after which it counts as broken.
        """
        import aiohttp

        timeout = aiohttp.ClientTimeout(sock_connect=CONNECT_TIMEOUT, sock_read=idle)
        async with _failures(what):
            response = await self._docker._do_query(
                path, method, params=_params(params), headers=headers, timeout=timeout
            )
            try:
                yield response.content
            finally:
                response.close()

    async def stop_container(self, container: str, seconds: int) -> None:
        """SIGTERM, and SIGKILL after some seconds, which the daemon sends whether or not anybody waits for it any more. Return when
        it does not run, or is gone."""
        try:
            async with self.stream(
                "POST", f"containers/{container}/stop", what=f"stop {container}", params={"t": seconds}
            ) as content:
                await content.read()
        except Missing:
            return

    async def wait_until_ended(self, container: str) -> None:
        """Return when it does not run, or is gone."""
        try:
            async with self.stream(
                "POST",
                f"containers/{container}/wait",
                what=f"wait for {container}",
                params={"condition": "not-running"},
            ) as content:
                await content.read()
        except Missing:
            return

    async def ask_anew(self, path: str, *, what: str) -> Any:
        """A GET over a connection of its own, which a daemon that is going down no longer accepts.

        On its way down a daemon closes its socket first and then stops its containers, but goes on answering over
        connections that are open. So an answer to this proves that whatever was seen before was not of that making.
        """
        fresh = _connect(self._access)
        try:
            async with _failures(what), asyncio.timeout(TIMEOUT):
                return await fresh._query_json(path)
        finally:
            await fresh.close()

    async def containers(self, labels: Mapping[str, str | None]) -> list[dict[str, Any]]:
        """Every container with these labels, whatever its state; None: any value."""
        found = await self.call(
            "GET", "containers/json", what="list containers", params={"all": "1", **_labelled(labels)}
        )
        return list(found)

    async def volumes(self, labels: Mapping[str, str | None]) -> list[dict[str, Any]]:
        found = await self.call("GET", "volumes", what="list volumes", params=_labelled(labels))
        return list(found["Volumes"] or [])

    async def networks(self, labels: Mapping[str, str | None]) -> list[dict[str, Any]]:
        return list(await self.call("GET", "networks", what="list networks", params=_labelled(labels)))

    async def inspect(self, container: str) -> dict[str, Any] | None:
        """None: there is no such container."""
        try:
            found: dict[str, Any] = await self.call("GET", f"containers/{container}/json", what=f"inspect {container}")
        except Missing:
            return None
        return found

    async def remove_container(self, container: str) -> None:
        """Running or not, with its anonymous volumes; returns when it is gone, whoever removed it."""
        params = {"force": "1", "v": "1"}
        for pause in _pauses():
            try:
                await self.call("DELETE", f"containers/{container}", what=f"remove {container}", params=params)
            except Missing:
                return
            except Conflicting:  # somebody else is removing it at this moment
                await asyncio.sleep(pause)
                if await self.inspect(container) is None:
                    return
            else:
                return
        raise EngineError(f"Docker did not remove {container}: its removal by somebody else has not come to an end")

    async def remove_volume(self, name: str) -> None:
        try:
            await self.call("DELETE", f"volumes/{name}", what=f"remove the volume {name}")
        except Missing:
            return

    async def create_volume(self, name: str, labels: Mapping[str, str]) -> dict[str, str]:
        """Create-once: gives the labels of the volume of that name, which are ``labels`` if it is ours."""
        made = await self.call(
            "POST", "volumes/create", what=f"create the volume {name}", body={"Name": name, "Labels": dict(labels)}
        )
        return dict(made["Labels"] or {})


def _pauses() -> list[float]:
    return [0.02, 0.05, 0.1, 0.2, 0.5, *[1.0] * 30]


def _labelled(labels: Mapping[str, str | None]) -> dict[str, str]:
    wanted = [key if value is None else f"{key}={value}" for key, value in labels.items()]
    return {"filters": json.dumps({"label": wanted})}


def of_job(job_id: str, kind: str | None = None) -> dict[str, str | None]:
    """Labels that select what belongs to a job."""
    return {JOB: job_id, **({} if kind is None else {KIND: kind})}


def _params(params: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if params is None else dict(params)


@asynccontextmanager
async def _failures(what: str) -> AsyncIterator[None]:
    import aiodocker
    import aiohttp

    try:
        yield
    except aiodocker.DockerError as error:
        if error.status == UNREACHABLE:
            words = f"{error.message}; is it up, and do DOCKER_HOST or the backend's docker_url name it?"
            raise DaemonError(what, error.status, words) from error
        raise _BY_STATUS.get(error.status, DaemonError)(what, error.status, error.message) from error
    except (aiohttp.ClientError, OSError, TimeoutError, json.JSONDecodeError) as error:
        words = f"the connection broke ({type(error).__name__}: {error})"
        raise DaemonError(what, UNREACHABLE, words) from error


def _connect(access: Access) -> aiodocker.Docker:
    """aiodocker finds the host. aiohttp's own limit of 100 connections goes: the logs of 100 replicas would use it up."""
    import aiodocker
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=TIMEOUT, sock_connect=CONNECT_TIMEOUT)
    url, tls = access.url, None
    if access.ca_cert or access.client_cert:
        tls = _tls(access)
        url = (url or os.environ.get("DOCKER_HOST", "")).replace("tcp://", "https://", 1) or None
    try:
        docker = aiodocker.Docker(url, timeout=timeout, ssl_context=tls)
    except (AssertionError, ValueError) as error:
        raise EngineError(
            "there is no Docker here: neither DOCKER_HOST nor a Docker socket was found; start Docker, or set docker_url"
        ) from error
    if docker.connector is not None:
        docker.connector._limit = 0
    return docker


def _tls(access: Access) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=access.ca_cert)
        if access.client_cert:
            context.load_cert_chain(access.client_cert, access.client_key)
    except OSError as error:
        raise EngineError(
            f"the TLS files of this Docker cannot be read: {error}; see tls_ca_cert, tls_client_cert, tls_client_key"
        ) from error
    if not access.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
