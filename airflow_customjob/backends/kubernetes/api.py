"""Calls to the API server: JSON in, JSON out, and errors that say what was asked of whom."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from airflow_customjob.backends.base import EngineError

TIMEOUT = 60.0
"""Seconds that one call may take."""
CONNECT_TIMEOUT = 10.0
TRIES = 6
"""Of a call that the API server puts off (too many requests, a quota that is being counted)."""
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"

Json = dict[str, Any]
Read = Callable[[bytes], Any]


class ApiError(EngineError):
    """The API server answered with an error.

    :param status: HTTP status.
    :param reason: its machine-readable reason (``AlreadyExists``, ``Forbidden``).
    :param said: its own sentence.
    """

    def __init__(self, doing: str, status: int, reason: str, said: str) -> None:
        super().__init__(f"Kubernetes refused to {doing}: {said} ({status} {reason})")
        self.status = status
        self.reason = reason
        self.said = said


class Missing(ApiError):
    """404: there is no such object."""


class Conflict(ApiError):
    """409: it exists already, or was changed meanwhile."""


class Unreachable(EngineError):
    """No answer."""


_BY_STATUS = {404: Missing, 409: Conflict}


class Api:
    """One cluster, one namespace.

    :param connect: gives a kubernetes_asyncio ``ApiClient`` with fresh credentials.
    """

    def __init__(self, client: Any, connect: Callable[[], Awaitable[Any]], namespace: str) -> None:
        self._client = client
        self._connect = connect
        self._refreshing = asyncio.Lock()
        self._retired: list[Any] = []
        self.namespace = namespace
        self.calls = 0

    async def close(self) -> None:
        for client in (self._client, *self._retired):
            await client.close()

    def path(self, kind: str, name: str = "", *more: str) -> str:
        """Of a core resource in the namespace."""
        return "/".join(filter(None, (f"/api/v1/namespaces/{self.namespace}/{kind}", name, *more)))

    async def get(self, kind: str, name: str) -> Json:
        """:raises Missing: there is none."""
        return await self.call("GET", self.path(kind, name))

    async def list(self, kind: str, selector: str, read: Read = msgspec.json.decode, **query: Any) -> Json:
        """Read from the cluster's database, not from anybody's cache."""
        return await self.call("GET", self.path(kind), query={"labelSelector": selector, **query}, read=read)

    async def create(self, kind: str, body: Json) -> Json:
        return await self.call("POST", self.path(kind), body=body)

    async def patch(self, kind: str, name: str, body: Json, content_type: str) -> Json:
        return await self.call("PATCH", self.path(kind, name), body=body, content_type=content_type)

    async def replace(self, kind: str, name: str, body: Json) -> Json:
        return await self.call("PUT", self.path(kind, name), body=body)

    async def delete(self, kind: str, name: str, **options: Any) -> Json:
        """One that is gone is fine.

        :return: the object, where it goes later (a grace, a finalizer).
        """
        try:
            return await self.call(
                "DELETE", self.path(kind, name), body={"kind": "DeleteOptions", "apiVersion": "v1", **options}
            )
        except Missing:
            return {}

    async def delete_all(self, kind: str, selector: str) -> None:
        await self.call("DELETE", self.path(kind), query={"labelSelector": selector})

    async def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Json | None = None,
        content_type: str = "application/json",
        read: Read = msgspec.json.decode,
    ) -> Json:
        for turn in range(1, TRIES + 1):
            try:
                async with self._answer(method, path, query, body, content_type, TIMEOUT) as response:
                    return read(await response.read())  # type: ignore[no-any-return] # JSON, or what the caller reads
            except ApiError as error:
                if turn == TRIES or not _is_put_off(error):
                    raise
                await asyncio.sleep(random.uniform(0.05, 0.1) * 2**turn)  # noqa: S311 - it spreads callers, and hides nothing
        raise AssertionError("unreachable")

    @asynccontextmanager
    async def stream(self, path: str, query: Mapping[str, Any], silence: float) -> AsyncIterator[AsyncIterator[bytes]]:
        """Pieces of an answer that may go on for long.

        :param silence: seconds without a byte after which the connection counts as dead, and the answer as ended.
        """
        import aiohttp

        limits = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT, sock_read=silence)
        async with self._answer("GET", path, query, None, "application/json", limits) as response:

            async def pieces() -> AsyncIterator[bytes]:
                try:
                    async for piece in response.content.iter_any():
                        yield piece
                except TimeoutError:  # silence: whoever reads opens it again
                    return
                except (aiohttp.ClientError, OSError) as error:
                    raise Unreachable(f"Kubernetes broke off: {_words(error)}") from error

            yield pieces()

    @asynccontextmanager
    async def _answer(
        self, method: str, path: str, query: Mapping[str, Any] | None, body: Json | None, content_type: str, limits: Any
    ) -> AsyncIterator[Any]:
        response = await self._send(method, path, query, body, content_type, limits)
        if response.status == 401:
            response.release()
            await self._refresh(self._client)
            response = await self._send(method, path, query, body, content_type, limits)
        try:
            if response.status >= 400:
                raise _error(f"{method} {path}", response.status, await response.read())
            yield response
        except Exception as error:
            import aiohttp

            if isinstance(error, (aiohttp.ClientError, TimeoutError)):
                raise Unreachable(f"Kubernetes broke off while answering {method} {path}: {_words(error)}") from error
            raise
        finally:
            response.release()

    async def _send(
        self, method: str, path: str, query: Mapping[str, Any] | None, body: Json | None, content_type: str, limits: Any
    ) -> Any:
        import aiohttp

        self.calls += 1
        try:
            return await self._client.call_api(
                path,
                method,
                {},
                [(name, value) for name, value in (query or {}).items() if value is not None],
                {"Accept": "application/json", "Content-Type": content_type},
                body=body,
                auth_settings=["BearerToken"],
                _preload_content=False,
                _request_timeout=limits,
            )
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            host = self._client.configuration.host
            raise Unreachable(f"Kubernetes does not answer at {host}: {_words(error)}") from error

    async def _refresh(self, used: Any) -> None:
        """Credentials that were refused are read again, once for all that were refused with them."""
        async with self._refreshing:
            if self._client is used:
                self._retired.append(used)  # others still read from it
                self._client = await self._connect()


def _is_put_off(error: ApiError) -> bool:
    counting = error.status == 409 and "resourcequotas" in error.said
    return error.status == 429 or counting or (error.status == 500 and "try again" in error.said.lower())


def _error(doing: str, status: int, data: bytes) -> ApiError:
    try:
        answer = msgspec.json.decode(data)
        said, reason = str(answer["message"]), str(answer.get("reason", ""))
    except (msgspec.DecodeError, KeyError, TypeError):
        said, reason = data.decode(errors="replace").strip()[:500] or "no reason given", ""
    return _BY_STATUS.get(status, ApiError)(doing, status, reason, said)


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__
