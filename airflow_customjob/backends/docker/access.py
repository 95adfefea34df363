"""How to get into a Docker daemon, and into the registries that its images come from."""

from __future__ import annotations

import asyncio
import base64
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_customjob.backends.base import EngineError
from airflow_customjob.backends.docker.api import Access

if TYPE_CHECKING:
    from airflow_customjob.backends.docker.backend import DockerBackend

DOCKER_HUB = "https://index.docker.io/v1/"
"""Docker Hub's name in Docker's own configuration."""
_HUB_NAMES = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io", DOCKER_HUB})


@dataclass(frozen=True)
class Login:
    """A registry's login; never printed."""

    registry: str
    username: str
    password: str

    def __repr__(self) -> str:
        return f"Login({self.registry!r})"


async def access_of(backend: DockerBackend) -> tuple[Access, Login | None]:
    """The daemon's address, and the login that the connection holds.

    :raises EngineError: Airflow has no such connection.
    """
    extra: dict[str, Any] = {}
    login: Login | None = None
    if backend.conn_id:
        connection = await _airflow_connection(backend.conn_id)
        extra = connection.extra_dejson or {}
        if connection.host and connection.login:
            host = f"{connection.host}:{connection.port}" if connection.port else connection.host
            login = Login(host, connection.login, connection.password or "")

    def given(name: str) -> str | None:
        return getattr(backend, name) or extra.get(name) or None

    verify = backend.tls_verify and extra.get("tls_verify", True) not in (False, "false", "False", "0")
    access = Access(
        given("docker_url"), given("tls_ca_cert"), given("tls_client_cert"), given("tls_client_key"), verify
    )
    return access, login


async def _airflow_connection(conn_id: str) -> Any:
    """Awaited, since a triggerer may not block its loop."""
    try:
        from airflow.sdk import BaseHook

        return await BaseHook.aget_connection(conn_id)
    except Exception as error:
        raise EngineError(
            f"the connection {conn_id!r} of the Docker backend cannot be read from Airflow ({type(error).__name__}); "
            "create it, or leave conn_id out"
        ) from error


def registry_of(image: str) -> str:
    """The registry's host (and port); Docker Hub for a name without one."""
    first, slash, _ = image.partition("/")
    return first if slash and ("." in first or ":" in first or first == "localhost") else "docker.io"


async def registry_auth(image: str, login: Login | None) -> dict[str, str]:
    """The header that lets a daemon pull this image; empty where no login is known."""
    registry = registry_of(image)
    names = _HUB_NAMES if registry in _HUB_NAMES else frozenset({registry})
    if login is not None and _bare(login.registry) in {_bare(name) for name in names}:
        return _header(login.username, login.password, login.registry)
    for name in sorted(names):
        found = await _from_docker_config(name)
        if found is not None:
            return _header(*found, name)
    return {}


def _bare(registry: str) -> str:
    return registry.removeprefix("https://").removeprefix("http://").split("/")[0]


def _header(username: str, password: str, registry: str) -> dict[str, str]:
    token = {"identitytoken": password} if username == "<token>" else {"username": username, "password": password}
    auth = json.dumps({**token, "serveraddress": registry})
    return {"X-Registry-Auth": base64.urlsafe_b64encode(auth.encode()).decode()}


async def _from_docker_config(registry: str) -> tuple[str, str] | None:
    folder = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return None
    helper = (config.get("credHelpers") or {}).get(registry) or config.get("credsStore")
    if helper:
        found = await _from_helper(helper, registry)
        if found is not None:
            return found
    for name, entry in (config.get("auths") or {}).items():
        if _bare(name) == _bare(registry) and entry.get("auth"):
            username, _, password = base64.b64decode(entry["auth"]).decode().partition(":")
            return ("<token>", entry["identitytoken"]) if entry.get("identitytoken") else (username, password)
    return None


async def _from_helper(helper: str, registry: str) -> tuple[str, str] | None:
    """What ``docker-credential-HELPER get`` says, as Docker's own client asks it."""
    try:
        process = await asyncio.create_subprocess_exec(
            f"docker-credential-{helper}",
            "get",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        out, _ = await process.communicate(registry.encode())
        found = json.loads(out) if process.returncode == 0 else {}
    except (OSError, ValueError):
        return None
    return (found["Username"], found["Secret"]) if found.get("Secret") else None
