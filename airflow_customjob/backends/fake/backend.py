"""Configuration of the fake engine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any

from airflow_customjob.backends.base import Engine
from airflow_customjob.backends.fake.world import FakeWorld
from airflow_customjob.plan.capabilities import capabilities_of
from airflow_customjob.plan.types import Capabilities, JobPlan

_worlds: dict[str, FakeWorld] = {}


def register(world: FakeWorld) -> None:
    """Let a :class:`FakeBackend` of this name connect to this world."""
    _worlds[world.name] = world


def world_named(name: str) -> FakeWorld:
    """The world of this name in this process; made when it is asked for first."""
    return _worlds.setdefault(name, FakeWorld(name))


@dataclass(frozen=True)
class FakeBackend:
    """An engine in memory that runs nothing: replicas follow scripts.

    :param world: name of a :class:`FakeWorld` of this process.
    """

    world: str = "default"

    @property
    def name(self) -> str:
        return "fake"

    def serialize(self) -> dict[str, Any]:
        return {"name": self.name} | ({} if self.world == "default" else {"world": self.world})

    def capabilities(self) -> Capabilities:
        return capabilities_of("fake")

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Engine]:
        async with world_named(self.world).connect() as engine:
            yield engine

    def render(self, plan: JobPlan) -> list[dict[str, Any]]:
        return [
            {"replica": replica.name, "image": plan.pool_of(replica).image, **_plain(asdict(replica))}
            | ({"files": _plain(files)} if (files := plan.files_of(replica)) else {})
            for replica in plan.replicas
        ]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
