"""Engines by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING, Any

from airflow_customjob.settings import setting

if TYPE_CHECKING:
    from airflow_customjob.backends.base import Backend

BACKENDS = {
    "process": ("process", "ProcessBackend"),
    "docker": ("docker", "DockerBackend"),
    "kubernetes": ("kubernetes", "KubernetesBackend"),
    "fake": ("fake", "FakeBackend"),
}
"""Name, module below this package and class."""


def backend_of(value: str | Mapping[str, Any] | Backend | None = None) -> Backend:
    """The backend that a user means.

    :param value: a backend; its name; what its ``serialize()`` gave, ``{"name": ..., **arguments}``;
        None: ``[customjob] default_backend``.
    :raises ValueError: there is no such backend, or it has no such argument.
    """
    if value is None:
        return backend_of(setting("default_backend"))
    if isinstance(value, str):
        return _make(value, {})
    if isinstance(value, Mapping):
        arguments = dict(value)
        return _make(arguments.pop("name", ""), arguments)
    return value


def _make(name: str, arguments: dict[str, Any]) -> Backend:
    if name not in BACKENDS:
        raise ValueError(
            f"there is no backend {name!r}: choose one of {', '.join(BACKENDS)}, or pass a configured backend"
        )
    module, class_name = BACKENDS[name]
    factory = getattr(import_module(f"{__name__}.{module}"), class_name)
    known = [field.name for field in fields(factory)]
    if unknown := sorted(arguments.keys() - set(known)):
        near = get_close_matches(unknown[0], known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(known)}"
        raise ValueError(f"backend {name} has no argument {unknown[0]}: {hint}")
    try:
        backend: Backend = factory(**{key: _frozen(item) for key, item in arguments.items()})
    except TypeError as error:
        raise ValueError(f"backend {name}: {error}") from None
    return backend


def _frozen(value: Any) -> Any:
    """Lists that JSON made of tuples become tuples again."""
    if isinstance(value, list):
        return tuple(_frozen(item) for item in value)
    return value
