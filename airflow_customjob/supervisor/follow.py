"""The merged, live log of a job: every line of every followed replica once, in order within its replica.

Which replicas are followed is how somebody looks at a job, not what the job is: it is chosen by whoever looks, and is no part
of the request. Whoever fails is followed, whatever was chosen.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from fnmatch import fnmatchcase
from itertools import chain, repeat

import msgspec

from airflow_customjob.backends.base import Engine, EngineError, LogLine, Phase, ReplicaRef, ReplicaStatus
from airflow_customjob.plan.job_plan import replica_names
from airflow_customjob.spec.problem import Problem, SpecError
from airflow_customjob.supervisor.record import JobRecord
from airflow_customjob.supervisor.rules import order_of_ends
from airflow_customjob.supervisor.sentences import MAX_TOLD

Sink = Callable[[LogLine], None]

ALL, PRIMARY = "all", "primary"
FEW = 32
"""Replicas up to which all are followed where nobody has chosen."""
LAST_LINES = 20
"""Lines of a failed replica's output that its error tells."""
FIRST_BYTES, FURTHER_BYTES = 2000, 200
"""Bytes of them, as the record writes them, for the first failed replica and for each further one: a record stays small."""
TAIL_BUDGET = 2.0
"""Seconds that a failure may be held back to read its last lines."""
DRAIN_BUDGET = 10.0
"""Seconds that an ended replica is kept although no line of its log comes; as long as lines come, it is kept."""
BURST = 20
"""Lines that are told in one go."""
RETRY = 0.5
"""Seconds after which a log that broke off is taken up again."""


def chosen(logs: str | None, names: Sequence[str]) -> list[str]:
    """The replicas that are followed from their start, in rank order.

    :param logs: ``all``, ``primary``, a name, or a pattern as ``workerpool1-*``; None: all of up to :data:`FEW`, of more the
        primary.
    :param names: of all replicas, in rank order.
    """
    logs = logs or (ALL if len(names) <= FEW else PRIMARY)
    sets = {ALL: list(names), PRIMARY: list(names[:1])}
    return sets[logs] if logs in sets else [name for name in names if fnmatchcase(name, logs)]


def redacted(line: LogLine, redact: Callable[[str], str]) -> LogLine:
    text = redact(line.text)
    return line if text == line.text else replace(line, text=text)


def check_logs(logs: str | None, names: Sequence[str]) -> None:
    """:raises SpecError: there is no such replica, so that what was asked for would never be seen."""
    if not chosen(logs, names):
        message = (
            f"it fits none of the replicas {names[0]} to {names[-1]}: write 'all', 'primary', a name, or a pattern"
        )
        raise SpecError([Problem("logs", message, logs, "logs")])


def names_of(record: JobRecord, statuses: Iterable[ReplicaStatus]) -> Sequence[str]:
    """The job's replicas in rank order; of a request that this version cannot read those that the engine shows."""
    try:
        return replica_names(record.request)
    except SpecError:
        return sorted({status.ref.replica for status in statuses}, key=lambda name: (len(name), name))


def failing(record: JobRecord, statuses: Iterable[ReplicaStatus]) -> list[ReplicaStatus]:
    """Those whose end may decide the job's, or a restart; the first ones first, and no more than its error tells of."""
    if record.settled:
        return []
    present = (status for status in statuses if status.ref == record.ref(status.ref.replica))
    ended = (status for status in present if status.phase is Phase.LOST or (status.ended and status.exit_code))
    return sorted(ended, key=order_of_ends)[:MAX_TOLD]


class Selection:
    """Which replicas of a job are followed; tells once which are not.

    :param logs: as :func:`chosen` takes it.
    :param backend: name of the job's, for the user.
    :param tell: None: nobody is to be told.
    :param with_failing: whoever fails is followed too.
    """

    def __init__(
        self, logs: str | None, backend: str, *, tell: Callable[[str], None] | None, with_failing: bool = True
    ) -> None:
        self._logs = logs
        self._backend = backend
        self._tell = tell
        self._with_failing = with_failing
        self._names: frozenset[str] | None = None

    def of(self, record: JobRecord, statuses: Iterable[ReplicaStatus]) -> list[ReplicaRef]:
        """Those of these replicas that are followed."""
        names = self.names(record, statuses)
        failed = {s.ref for s in (*failing(record, statuses), *record.failed)} if self._with_failing else set()
        return [status.ref for status in statuses if status.ref.replica in names or status.ref in failed]

    def names(self, record: JobRecord, statuses: Iterable[ReplicaStatus] = ()) -> frozenset[str]:
        """Of all of the job's replicas that are followed from their start."""
        if self._names is None:
            names = names_of(record, statuses)
            self._names = frozenset(chosen(self._logs, names))
            others = [name for name in names if name not in self._names]
            if others and self._tell is not None and not record.settled:
                self._tell(self._told(record, len(names), others))
        return self._names

    def _told(self, record: JobRecord, count: int, others: Sequence[str]) -> str:
        shown = f"{others[0]} to {others[-1]}" if len(others) > 1 else others[0]
        unless = " unless they fail" if self._with_failing else ""
        return (
            f"{len(others):,} of {count:,} replicas are not followed here{unless} ({shown}): "
            f"`customjob logs --backend {self._backend} --replica {others[-1]} {record.job_id}` shows one of them"
        )


class LogFollower:
    """Follows the logs of a job's replicas.

    :param sink: takes each line; None: nobody reads, and nothing is followed.
    :param say: takes notices.
    :param positions: by incarnation name, the position of the last line already given; kept up to date here.
    :param through: called whenever a log was given to its end.
    :param redact: hides what is secret of a text.
    """

    def __init__(
        self,
        engine: Engine,
        sink: Sink | None,
        say: Callable[[str], None],
        positions: dict[str, str] | None = None,
        through: Callable[[], None] = lambda: None,
        redact: Callable[[str], str] = str,
    ) -> None:
        self._engine = engine
        self._sink = sink
        self._say = say
        self._tasks: dict[ReplicaRef, asyncio.Task[None]] = {}
        self._seen: set[ReplicaRef] = set()
        self._through = through
        self._redact = redact
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
                async for line in in_bursts(self._engine.logs(ref, after=self.positions.get(ref.name))):
                    sink(redacted(line, self._redact))
                    self.positions[ref.name] = line.position
            except EngineError:
                await asyncio.sleep(RETRY)
            else:
                asyncio.get_running_loop().call_soon(self._through)
                return

    def drop(self, refs: Iterable[ReplicaRef]) -> None:
        """Follow these no longer, and wait for nothing of them: they have no output."""
        for ref in refs:
            if task := self._tasks.pop(ref, None):
                task.cancel()

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
            return ref, last_of([self._redact(line.text) for line in lines if not line.notice], limit)

        limits = chain([FIRST_BYTES], repeat(FURTHER_BYTES))
        return dict(await asyncio.gather(*(tail(ref, limit) for ref, limit in zip(refs, limits, strict=False))))

    async def close(self) -> None:
        """Stop following. What was not given yet is given by the next follower, from :attr:`positions` on."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)


async def in_bursts(lines: AsyncIterator[LogLine]) -> AsyncIterator[LogLine]:
    """The same lines. An engine may have thousands at once, and where they are told may be slow: all others in this event loop get
    their turn in between."""
    number = 0
    async for line in lines:
        yield line
        number += 1
        if number % BURST == 0:
            await asyncio.sleep(0)


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
