"""The merged, live log of a job: every line of every replica once, in order within its replica."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import chain, repeat

import msgspec

from airflow_customjob.backends.base import Engine, EngineError, LogLine, ReplicaRef

Sink = Callable[[LogLine], None]

LAST_LINES = 20
"""Lines of a failed replica's output that its error tells."""
FIRST_BYTES, FURTHER_BYTES = 2000, 200
"""Bytes of them, as the record writes them, for the first failed replica and for each further one: a record stays small."""
TAIL_BUDGET = 2.0
"""Seconds that a failure may be held back to read its last lines."""
DRAIN_BUDGET = 10.0
"""Seconds that an ended replica is kept although no line of its log comes; as long as lines come, it is kept."""
RETRY = 0.5
"""Seconds after which a log that broke off is taken up again."""


class LogFollower:
    """Follows the logs of a job's replicas.

    :param sink: takes each line; None: nobody reads, and nothing is followed.
    :param say: takes notices.
    :param positions: by incarnation name, the position of the last line already given; kept up to date here.
    :param through: called whenever a log was given to its end.
    """

    def __init__(
        self,
        engine: Engine,
        sink: Sink | None,
        say: Callable[[str], None],
        positions: dict[str, str] | None = None,
        through: Callable[[], None] = lambda: None,
    ) -> None:
        self._engine = engine
        self._sink = sink
        self._say = say
        self._tasks: dict[ReplicaRef, asyncio.Task[None]] = {}
        self._seen: set[ReplicaRef] = set()
        self._through = through
        self.positions = {} if positions is None else positions

    def follow(self, refs: Iterable[ReplicaRef], *, seen: bool = True) -> None:
        """Follow these too; those that are followed already, or were to their end, stay as they are.

        :param seen: the engine shows that they have started. One that was only told to start may have been gone at that
            moment, and be created again by another supervisor: what ended without a line is then read once more.
        """
        if self._sink is None:
            return
        for ref in refs:
            task = self._tasks.get(ref)
            was_gone = task is not None and task.done() and ref.name not in self.positions
            if task is None or (seen and was_gone and ref not in self._seen):
                self._tasks[ref] = asyncio.create_task(self._follow(ref, self._sink))
            if seen:
                self._seen.add(ref)

    async def _follow(self, ref: ReplicaRef, sink: Sink) -> None:
        while True:
            try:
                async for line in self._engine.logs(ref, after=self.positions.get(ref.name)):
                    sink(line)
                    self.positions[ref.name] = line.position
            except EngineError:
                await asyncio.sleep(RETRY)
            else:
                asyncio.get_running_loop().call_soon(self._through)
                return

    def is_through(self, ref: ReplicaRef) -> bool:
        """Nothing of this ended replica's log is left to give."""
        return ref not in self._tasks or self._tasks[ref].done()

    def give_up(self, refs: Iterable[ReplicaRef]) -> None:
        """Follow these no longer; says which of them were not given to their end."""
        for ref in refs:
            if not self.is_through(ref):
                self._tasks[ref].cancel()
                self._say(
                    f"the end of the log of {ref.replica} could not be read: no line came for {DRAIN_BUDGET:g} s; lines may be missing"
                )

    async def tails(self, refs: Sequence[ReplicaRef]) -> dict[ReplicaRef, tuple[str, ...]]:
        """The last lines of each, most of the first one's; what cannot be read in time is left out."""

        async def tail(ref: ReplicaRef, limit: int) -> tuple[ReplicaRef, tuple[str, ...]]:
            lines: list[LogLine] = []
            with suppress(EngineError, TimeoutError):
                async with asyncio.timeout(TAIL_BUDGET):
                    async for line in self._engine.logs(ref, follow=False, tail=LAST_LINES):
                        lines.append(line)  # noqa: PERF401 - what was read before the time is up counts
            return ref, last_of([line.text for line in lines if not line.notice], limit)

        limits = chain([FIRST_BYTES], repeat(FURTHER_BYTES))
        return dict(await asyncio.gather(*(tail(ref, limit) for ref, limit in zip(refs, limits, strict=False))))

    async def close(self) -> None:
        """Stop following. What was not given yet is given by the next follower, from :attr:`positions` on."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)


def last_of(lines: Sequence[str], limit: int) -> tuple[str, ...]:
    """The last whole lines that take at most ``limit`` bytes in a record; of one that is too long alone, its end."""
    kept: list[str] = []
    for line in reversed(lines):
        size = _size(line)
        if size > limit:
            if not kept:
                kept.append(_end_of(line, limit))
            break
        kept.append(line)
        limit -= size
    return tuple(reversed(kept))


def _end_of(line: str, limit: int) -> str:
    while _size(f"...{line}") > limit:
        line = line[(len(line) + 1) // 2 :]
    return f"...{line}"


def _size(text: str) -> int:
    return len(msgspec.json.encode(text)) + 1
