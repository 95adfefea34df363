"""The merged, live log of a job: every line of every replica once, in order within its replica."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

from airflow_customjob.backends.base import Engine, EngineError, LogLine, ReplicaRef

Sink = Callable[[LogLine], None]

LAST_LINES = 20
"""Lines of a failed replica's output that its error tells."""
TAIL_BUDGET = 2.0
"""Seconds that a failure may be held back to read its last lines."""
DRAIN_BUDGET = 10.0
"""Seconds that an ended replica is kept for its log to be read to the end."""
RETRY = 0.5
"""Seconds after which a log that broke off is taken up again."""


class LogFollower:
    """Follows the logs of a job's replicas.

    :param sink: takes each line; None: nobody reads, and nothing is followed.
    :param say: takes notices.
    :param positions: by incarnation name, the position of the last line already given; kept up to date here.
    """

    def __init__(
        self, engine: Engine, sink: Sink | None, say: Callable[[str], None], positions: dict[str, str] | None = None
    ) -> None:
        self._engine = engine
        self._sink = sink
        self._say = say
        self._tasks: dict[ReplicaRef, asyncio.Task[None]] = {}
        self.positions = {} if positions is None else positions

    def follow(self, refs: Iterable[ReplicaRef]) -> None:
        """Follow these too; those that are followed already, or were to their end, stay as they are."""
        if self._sink is None:
            return
        for ref in refs:
            if ref not in self._tasks:
                self._tasks[ref] = asyncio.create_task(self._follow(ref, self._sink))

    async def _follow(self, ref: ReplicaRef, sink: Sink) -> None:
        while True:
            try:
                async for line in self._engine.logs(ref, after=self.positions.get(ref.name)):
                    sink(line)
                    self.positions[ref.name] = line.position
                return
            except EngineError:
                await asyncio.sleep(RETRY)

    async def drain(self, refs: Sequence[ReplicaRef]) -> None:
        """Wait until the logs of these ended replicas were given to the end; say so where that takes too long."""
        tasks = {self._tasks[ref]: ref for ref in refs if ref in self._tasks}
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=DRAIN_BUDGET)
        for task in late:
            task.cancel()
            self._say(
                f"the end of the log of {tasks[task].replica} could not be read within {DRAIN_BUDGET:g} s; lines may be missing"
            )

    async def tails(self, refs: Sequence[ReplicaRef]) -> dict[ReplicaRef, tuple[str, ...]]:
        """The last lines of each; what cannot be read in time is left out."""

        async def tail(ref: ReplicaRef) -> tuple[ReplicaRef, tuple[str, ...]]:
            lines: list[LogLine] = []
            with suppress(EngineError, TimeoutError):
                async with asyncio.timeout(TAIL_BUDGET):
                    async for line in self._engine.logs(ref, follow=False, tail=LAST_LINES):
                        lines.append(line)  # noqa: PERF401 - what was read before the time is up counts
            return ref, tuple(line.text for line in lines if not line.notice)

        return dict(await asyncio.gather(*(tail(ref) for ref in refs)))

    async def close(self) -> None:
        """Stop following. What was not given yet is given by the next follower, from :attr:`positions` on."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
