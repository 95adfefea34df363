"""``customjob`` that kills itself with SIGKILL at a chosen change of the engine: ``python -m tests.jobs.mortal ARGV``.

``DIE_AT`` in the environment says when: ``before:1`` before the first change, ``after:3`` when the third one has taken
effect, ``amid:4`` when half of the replicas that the fourth is about were treated. Each change is counted on stderr.
Calls that only read change nothing: to die beside one of them is to die after the change before it.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from airflow_customjob.backends.docker import DockerBackend
from airflow_customjob.backends.kubernetes import KubernetesBackend
from airflow_customjob.backends.process import ProcessBackend
from airflow_customjob.cli import main

CHANGES = ("prepare", "create", "start", "stop", "remove", "release", "write_record")
REFS = {"create": 1, "start": 1, "stop": 0, "remove": 0}
"""At which place a change has the replicas that it is about."""


class Mortal:
    """An engine on which this process dies."""

    count = 0
    moment, _, number = os.environ.get("DIE_AT", "never:0").partition(":")

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._engine, name)
        if name not in CHANGES:
            return call

        async def changing(*args: Any, **kwargs: Any) -> Any:
            Mortal.count += 1
            due = Mortal.count == int(self.number)
            refs = args[REFS[name]] if name in REFS else ()
            print(f"change {Mortal.count}: {name} {len(refs)}", file=sys.stderr, flush=True)
            if due and self.moment == "before":
                die()
            if due and self.moment == "amid" and len(refs) > 1:
                half = list(args)
                half[REFS[name]] = refs[: len(refs) // 2]
                await call(*half, **kwargs)
                die()
            given = await call(*args, **kwargs)
            if due and self.moment == "after":
                die()
            return given

        return changing


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def let_die(kind: Any) -> None:
    opened = kind.open

    @asynccontextmanager
    async def open_(self: Any) -> AsyncIterator[Any]:
        async with opened(self) as engine:
            yield Mortal(engine)

    kind.open = open_


if __name__ == "__main__":
    for kind in (ProcessBackend, DockerBackend, KubernetesBackend):
        let_die(kind)
    sys.exit(main())
