"""One connection to a Docker for all jobs of an event loop."""

from __future__ import annotations

import os
from contextlib import AbstractAsyncContextManager

from airflow_customjob.backends.docker.access import access_of
from airflow_customjob.backends.docker.backend import DockerBackend
from airflow_customjob.backends.docker.engine import DockerEngine
from airflow_customjob.backends.sharing import Connections

_connections: Connections[DockerEngine] = Connections()


def connection(backend: DockerBackend) -> AbstractAsyncContextManager[DockerEngine]:
    """The running loop's connection to this Docker."""

    async def connect() -> DockerEngine:
        return DockerEngine(backend, await access_of(backend))

    return _connections.share((backend, os.environ.get("DOCKER_HOST")), connect)
