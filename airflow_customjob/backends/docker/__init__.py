"""Replicas as containers of one Docker host."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_customjob.backends.docker.backend import DockerBackend

if TYPE_CHECKING:
    from airflow_customjob.backends.docker.engine import DockerEngine

__all__ = ["DockerBackend", "DockerEngine"]


def __getattr__(name: str) -> Any:
    if name == "DockerEngine":
        from airflow_customjob.backends.docker.engine import DockerEngine

        return DockerEngine
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
