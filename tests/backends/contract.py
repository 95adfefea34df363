"""What the contract suite needs of each engine: how to open it, and how to say what a replica is to do there.

A real engine runs ``sh`` (and ``python3``) commands; the fake one has scripts. An :class:`Act` says the same in both.
"""

from __future__ import annotations

import asyncio
import os
import shlex
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any, Protocol

from airflow_customjob.backends.base import (
    Backend,
    Engine,
    LogLine,
    RecordConflict,
    ReplicaRef,
    ReplicaStatus,
)
from airflow_customjob.backends.fake import FakeWorld, run_in_virtual_time
from airflow_customjob.backends.fake.script import (
    Script,
    cannot_start,
    exits,
    killed_by,
    runs_for_ever,
)
from airflow_customjob.plan.types import JobId, JobOptions, JobPlan, Package, PoolPlan, Prepared, ReplicaPlan, Resources

PATIENCE = 90.0
"""Seconds that a test waits for what must happen."""


@dataclass(frozen=True)
class Act:
    """What a replica does.

    :param command: for engines that run commands.
    :param script: for the fake one.
    """

    command: tuple[str, ...]
    script: Script
    args: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()


def shell(text: str, script: Script) -> Act:
    return Act(("sh", "-c", text), script)


def prints(count: int, code: int = 0, word: str = "line", every: float = 0.0) -> Act:
    """``line 0`` to ``line <count - 1>``, ``every`` seconds apart, then an exit."""
    pause = f"sleep {every}; " if every else ""
    loop = f'i=0; while [ $i -lt {count} ]; do {pause}echo "{word} $i"; i=$((i+1)); done; exit {code}'
    return shell(loop, exits(code, says=[f"{word} {number}" for number in range(count)], every=every))


def floods(count: int) -> Act:
    """The numbers from 1 on, as fast as it can."""
    return shell(f"exec seq 1 {count}", exits(says=[str(number) for number in range(1, count + 1)]))


def says(text: str, code: int = 0) -> Act:
    """This text to the byte, without another newline."""
    return shell(f"printf %s {shlex.quote(text)}; exit {code}", exits(code, says=text))


def sleeps() -> Act:
    """``ready``, then nothing for ever; SIGTERM ends it with 143."""
    return shell("echo ready; exec sleep 1000000", runs_for_ever(says=["ready"]))


def stubborn() -> Act:
    """``ready``, then nothing for ever; ignores SIGTERM."""
    loop = "trap '' TERM; echo ready; while :; do sleep 0.1; done"
    return shell(loop, runs_for_ever(says=["ready"]).ignoring_term())


def polite(code: int, after: float) -> Act:
    """``ready``, then nothing for ever; ``after`` seconds after SIGTERM it says ``bye`` and exits with ``code``."""
    loop = f"trap 'sleep {after}; echo bye; exit {code}' TERM; echo ready; while :; do sleep 0.05; done"
    return shell(loop, runs_for_ever(says=["ready"]).on_term(code=code, after=after, says="bye\n"))


def dies_by(signal: int) -> Act:
    return shell(f"kill -{signal} $$; sleep 5; exit 99", killed_by(signal))


def missing_command() -> Act:
    return Act(("/no/such/command",), cannot_start('exec: "/no/such/command": no such file or directory'))


class Adapter(Protocol):
    """One engine, to the suite."""

    runs_commands: bool

    def backend(self) -> Backend:
        """The configuration; the same at every call."""
        ...

    def image(self) -> str: ...

    def perform(self, job_id: JobId, acts: Sequence[Act]) -> None:
        """Told before a plan is used; engines that run commands read them from the plan."""

    def impossible(self, plan: JobPlan) -> JobPlan:
        """The same plan with something in its last pool that the engine can never have."""
        ...

    def run(self, main: Coroutine[Any, Any, None]) -> None:
        asyncio.run(main)


class FakeAdapter(Adapter):
    runs_commands = False

    def __init__(self, folder: Path) -> None:
        self.world = FakeWorld()

    def backend(self) -> Backend:
        return self.world.backend()

    def image(self) -> str:
        return "fake/image:1"

    def perform(self, job_id: JobId, acts: Sequence[Act]) -> None:
        for index, act in enumerate(acts):
            self.world.script(f"workerpool{index}-0", act.script)

    def impossible(self, plan: JobPlan) -> JobPlan:
        self.world.has_no_image("fake/none:404")
        return with_last_pool(plan, image="fake/none:404", image_requested="fake/none:404")

    def run(self, main: Coroutine[Any, Any, None]) -> None:
        run_in_virtual_time(main)


class ProcessAdapter(Adapter):
    runs_commands = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def backend(self) -> Backend:
        from airflow_customjob.backends.process import ProcessBackend

        return ProcessBackend(state_folder=str(self.folder))

    def image(self) -> str:
        return "not/honoured:1"

    def perform(self, job_id: JobId, acts: Sequence[Act]) -> None:
        pass

    def impossible(self, plan: JobPlan) -> JobPlan:
        return with_last_pool(plan, package=Package(("/no/such/trainer-0.1.tar.gz",), "trainer.task"))


class DockerAdapter(Adapter):
    runs_commands = True

    def __init__(self, folder: Path) -> None:
        pass

    def backend(self) -> Backend:
        from airflow_customjob.backends.docker import DockerBackend

        return DockerBackend()

    def image(self) -> str:
        return os.environ.get("CUSTOMJOB_TEST_IMAGE", "local/py:1")

    def perform(self, job_id: JobId, acts: Sequence[Act]) -> None:
        pass

    def impossible(self, plan: JobPlan) -> JobPlan:
        return with_last_pool(plan, image="127.0.0.1:1/none:404", image_requested="127.0.0.1:1/none:404")


class KubernetesAdapter(Adapter):
    runs_commands = True

    def __init__(self, folder: Path) -> None:
        pass

    def backend(self) -> Backend:
        from airflow_customjob.backends.kubernetes import KubernetesBackend

        return KubernetesBackend()

    def image(self) -> str:
        return os.environ.get("CUSTOMJOB_TEST_IMAGE", "local/py:1")

    def perform(self, job_id: JobId, acts: Sequence[Act]) -> None:
        pass

    def impossible(self, plan: JobPlan) -> JobPlan:
        return with_last_pool(plan, image=" white/space:1", image_requested=" white/space:1")


def with_last_pool(plan: JobPlan, **changes: Any) -> JobPlan:
    return replace(plan, pools=(*plan.pools[:-1], replace(plan.pools[-1], **changes)))


def plan_of(job_id: JobId, acts: Sequence[Act], image: str, generation: int = 1) -> JobPlan:
    """A job with one pool of one replica for each act."""
    pools = tuple(
        PoolPlan(index, f"workerpool{index}", 1, image, image, None, Resources(), "n1-standard-4")
        for index in range(len(acts))
    )
    network = f"{int(job_id) % 16**10:010x}"
    replicas = tuple(
        ReplicaPlan(
            name=f"workerpool{index}-0",
            pool=index,
            index=0,
            rank=index,
            host=f"cmle-training-workerpool{index}-{network}-0",
            env=(("CLOUD_ML_JOB_ID", job_id), *act.env),
            command=act.command,
            args=act.args,
        )
        for index, act in enumerate(acts)
    )
    return JobPlan(
        job_id=job_id,
        display_name="contract",
        generation=generation,
        digest="0123456789abcdef" * 4,
        network=network,
        pools=pools,
        replicas=replicas,
        timeout=0.0,
        disable_retries=False,
        restart_job_on_worker_restart=False,
        options=JobOptions(),
        prepared=Prepared(),
    )


Check = Callable[[dict[str, ReplicaStatus]], bool]


class Bench:
    """An engine with one job on it, and a second connection to the same engine."""

    def __init__(self, adapter: Adapter, engine: Engine, other: Engine) -> None:
        self.adapter = adapter
        self.engine = engine
        self.other = other
        self.job_id = self.new_job()

    _jobs: list[JobId]

    def new_job(self) -> JobId:
        """The id of a job that is cleared away after the test."""
        job_id = JobId(str(Random().randrange(10**17, 10**18)))
        self._jobs = [*getattr(self, "_jobs", []), job_id]
        return job_id

    def plan(self, *acts: Act, generation: int = 1, job_id: JobId | None = None) -> JobPlan:
        """Not prepared yet."""
        self.adapter.perform(job_id or self.job_id, acts)
        return plan_of(job_id or self.job_id, acts, self.adapter.image(), generation)

    async def prepared(self, *acts: Act, generation: int = 1, job_id: JobId | None = None) -> JobPlan:
        plan = self.plan(*acts, generation=generation, job_id=job_id)
        return replace(plan, prepared=await self.engine.prepare(plan, lambda line: None))

    def refs(self, plan: JobPlan, attempt: int = 0, restart: int = 0) -> list[ReplicaRef]:
        return [ReplicaRef(plan.job_id, plan.generation, attempt, replica.name, restart) for replica in plan.replicas]

    async def created(self, *acts: Act) -> tuple[JobPlan, list[ReplicaRef]]:
        plan = await self.prepared(*acts)
        refs = self.refs(plan)
        await self.engine.create(plan, refs)
        return plan, refs

    async def launched(self, *acts: Act) -> tuple[JobPlan, list[ReplicaRef]]:
        plan, refs = await self.created(*acts)
        await self.engine.start(plan, refs)
        return plan, refs

    async def seen(self) -> dict[str, ReplicaStatus]:
        """By replica name; of one that has several incarnations, the latest."""
        return {
            status.ref.replica: status for status in sorted(await self.engine.observe(self.job_id), key=lambda s: s.ref)
        }

    async def until(self, check: Check) -> dict[str, ReplicaStatus]:
        """Wait until the replicas are so; gives them."""
        end = asyncio.get_running_loop().time() + PATIENCE
        while not check(statuses := await self.seen()):
            assert asyncio.get_running_loop().time() < end, f"still {statuses}"
            await asyncio.sleep(0.02)
        return statuses

    async def ended(self) -> dict[str, ReplicaStatus]:
        return await self.until(lambda statuses: all(status.ended for status in statuses.values()))

    async def lines(self, ref: ReplicaRef, **how: Any) -> list[LogLine]:
        async with asyncio.timeout(PATIENCE):
            return [line async for line in self.engine.logs(ref, **how)]

    async def texts(self, ref: ReplicaRef, **how: Any) -> list[str]:
        return [line.text for line in await self.lines(ref, **how)]

    async def until_it_says(self, ref: ReplicaRef, text: str) -> None:
        """Wait until the replica has printed this line."""
        async with asyncio.timeout(PATIENCE):
            async for line in self.engine.logs(ref):
                if line.text == text:
                    return
        raise AssertionError(f"{ref.name} ended without saying {text!r}")

    async def clear_away(self) -> None:
        """Remove all that the test's jobs have, as a supervisor and ``gc`` would; nothing may be left."""
        for job_id in self._jobs:
            await self.engine.remove([status.ref for status in await self.engine.observe(job_id)])
            await self.engine.release(job_id)
            while record := await self.engine.read_record(job_id):
                try:
                    await self.engine.delete_record(job_id, if_version=record.version)
                except RecordConflict:
                    continue
        left = [job for job in await self.engine.jobs() if job.job_id in self._jobs]
        assert not left, f"left on the engine: {left}"


@asynccontextmanager
async def bench_on(adapter: Adapter) -> AsyncIterator[Bench]:
    async with adapter.backend().open() as engine, adapter.backend().open() as other:
        bench = Bench(adapter, engine, other)
        try:
            yield bench
        finally:
            await bench.clear_away()


Test = Callable[[Bench], Awaitable[None]]


def on_each_engine(test: Test) -> Callable[[Adapter], None]:
    """Makes a test function of a coroutine function that wants a :class:`Bench`."""

    def run(adapter: Adapter) -> None:
        async def main() -> None:
            async with asyncio.timeout(300), bench_on(adapter) as bench:
                await test(bench)

        adapter.run(main())

    run.__name__, run.__qualname__, run.__doc__, run.__module__ = (
        test.__name__,
        test.__qualname__,
        test.__doc__,
        test.__module__,
    )
    return run


@asynccontextmanager
async def following(bench: Bench, ref: ReplicaRef, **how: Any) -> AsyncIterator[list[LogLine]]:
    """The lines given so far by a follower in the background."""
    lines: list[LogLine] = []

    async def follow() -> None:
        async for line in bench.engine.logs(ref, **how):
            lines.append(line)  # noqa: PERF401 - each is wanted at once

    task = asyncio.create_task(follow())
    try:
        yield lines
        async with asyncio.timeout(PATIENCE):
            await task
    finally:
        task.cancel()


async def eventually(look: Callable[[], Any]) -> Any:
    """What ``look`` gives, or what its coroutine does, as soon as that is not empty."""
    async with asyncio.timeout(PATIENCE):
        while True:
            found = look()
            if asyncio.iscoroutine(found):
                found = await found
            if found:
                return found
            await asyncio.sleep(0.02)


class Stopwatch:
    """Seconds by the running loop's clock, which is virtual on the fake engine."""

    def __init__(self) -> None:
        self._clock = asyncio.get_running_loop().time
        self._since = self._clock()

    @property
    def seconds(self) -> float:
        return self._clock() - self._since
