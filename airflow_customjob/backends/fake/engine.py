"""A connection to a :class:`FakeWorld`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from typing import Any, Self, TypeVar

from airflow_customjob.backends.base import (
    EngineError,
    JobObjects,
    LaunchRefused,
    LogLine,
    Phase,
    ReplicaRef,
    ReplicaStatus,
    Say,
    StoredRecord,
    Usage,
)
from airflow_customjob.backends.fake.faults import Call, Fault
from airflow_customjob.backends.fake.pulse import Pulse
from airflow_customjob.backends.fake.replica import FakeReplica
from airflow_customjob.backends.fake.world import AT_WORK, FakeWorld
from airflow_customjob.plan.capabilities import capabilities_of
from airflow_customjob.plan.types import JobId, JobPlan, Prepared

T = TypeVar("T")


class FakeEngine:
    """A connection to a world; see :class:`airflow_customjob.backends.base.Engine`.

    :param name: what the world's history and its faults call it.
    """

    def __init__(self, world: FakeWorld, name: str) -> None:
        self.capabilities = capabilities_of("fake")
        self.name = name
        self._by = name
        self._world = world
        self._open = False
        self._stack = ExitStack()
        self._pulse: Pulse

    async def __aenter__(self) -> Self:
        self._pulse = self._stack.enter_context(self._world.pulse())
        self._open = True
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.cut()

    def cut(self) -> None:
        """End the connection, as the death of its process does: nothing goes through it any more."""
        self._open = False
        self._stack.close()

    # -- the contract -------------------------------------------------------------------------------------------------

    async def identity(self) -> str:
        return await self._call("identity", lambda: f"fake:{self._world.name}")

    async def prepare(self, plan: JobPlan, say: Say) -> Prepared:
        await self._call("prepare", lambda: self._world.check_images(plan), plan.job_id)
        return Prepared(artifacts={str(pool.index): f"fake:{pool.image}" for pool in plan.pools})

    async def create(self, plan: JobPlan, refs: Sequence[ReplicaRef]) -> None:
        await self._each("create", refs, lambda ref: self._world.create(plan, ref, self._by))

    async def start(self, plan: JobPlan, refs: Sequence[ReplicaRef]) -> None:
        await self._each("start", refs, lambda ref: self._world.start(ref, self._by))

    async def observe(self, job_id: JobId) -> Sequence[ReplicaStatus]:
        return await self._call(
            "observe", lambda: tuple(replica.status for replica in self._world.replicas(job_id)), job_id
        )

    @asynccontextmanager
    async def watch(self, job_id: JobId) -> AsyncIterator[AsyncIterator[None]]:
        heard = asyncio.Event()
        loop = asyncio.get_running_loop()

        def tell() -> None:
            for delay in self._world.faults.event(self.name, job_id):
                loop.call_later(delay, heard.set) if delay else heard.set()

        async def items() -> AsyncIterator[None]:
            while True:
                await heard.wait()
                heard.clear()
                yield

        self._check_open()
        with self._pulse.listening(job_id, tell):
            yield items()

    async def stop(self, refs: Sequence[ReplicaRef], grace: float) -> None:
        await self._each("stop", refs, lambda ref: self._world.stop(ref, grace, self._by), then=self._ended)

    async def remove(self, refs: Sequence[ReplicaRef]) -> None:
        await self._each("remove", refs, lambda ref: self._world.remove(ref, self._by))

    async def release(self, job_id: JobId) -> None:
        await self._call("release", lambda: self._world.release(job_id, self._by), job_id)

    async def logs(
        self, ref: ReplicaRef, *, after: str | None = None, follow: bool = True, tail: int | None = None
    ) -> AsyncIterator[LogLine]:
        replica = await self._call("logs", lambda: self._world.replica(ref), ref.job_id, ref)
        if replica is None:
            return
        grown = asyncio.Event()
        number = 0 if after is None else int(after)
        if number > len(replica.lines):
            yield LogLine(
                ref,
                f"the log of {ref.replica} is another one than before: told from its beginning",
                self._world.now(),
                "0",
                notice=True,
            )
            number = 0
        if tail is not None:
            number = max(number, len(replica.lines) - tail)
        with self._pulse.listening(ref, grown.set):
            while True:
                grown.clear()
                for at, text in replica.lines[number:]:
                    number += 1
                    yield LogLine(ref, text, at, str(number))
                if number == len(replica.lines) and not (follow and self._can_grow(replica)):
                    return
                if number == len(replica.lines):
                    await grown.wait()
                    await self._call("logs", lambda: None, ref.job_id, ref)

    async def usage(self, job_id: JobId) -> Sequence[Usage]:
        now = self._world.now()
        running = (status for status in await self.observe(job_id) if status.phase is Phase.RUNNING)
        return [Usage(status.ref, now, cpus=1.0, memory_bytes=100 * 2**20) for status in running]

    async def read_record(self, job_id: JobId) -> StoredRecord | None:
        return await self._call("read_record", lambda: self._world.record(job_id), job_id)

    async def write_record(
        self, job_id: JobId, data: str, *, if_version: int, labels: Mapping[str, str] | None = None
    ) -> int:
        return await self._call(
            "write_record", lambda: self._world.write_record(job_id, data, if_version, self._by), job_id
        )

    async def delete_record(self, job_id: JobId, *, if_version: int) -> None:
        await self._call("delete_record", lambda: self._world.delete_record(job_id, if_version, self._by), job_id)

    async def jobs(self) -> Sequence[JobObjects]:
        return await self._call("jobs", self._world.jobs)

    # -- how a call goes ----------------------------------------------------------------------------------------------

    async def _each(
        self,
        method: str,
        refs: Sequence[ReplicaRef],
        effect: Callable[[ReplicaRef], T],
        then: Callable[[T], Coroutine[Any, Any, None]] | None = None,
    ) -> None:
        """One call for each replica, concurrently; a refusal counts more than any other error."""

        async def one(ref: ReplicaRef) -> None:
            result = await self._call(method, lambda: effect(ref), ref.job_id, ref)
            if then is not None:
                await then(result)

        results = await asyncio.gather(*(one(ref) for ref in refs), return_exceptions=True)
        errors = [result for result in results if isinstance(result, BaseException)]
        for error in sorted(errors, key=lambda error: not isinstance(error, LaunchRefused)):
            raise error

    async def _call(
        self, method: str, effect: Callable[[], T], job_id: JobId | None = None, ref: ReplicaRef | None = None
    ) -> T:
        self._check_open()
        fault = self._world.fault(Call(self.name, method, job_id, ref))
        if fault is None:
            return self._world.apply(effect)
        if fault.before:
            await self._until_effect(fault, effect)
            self._check_open()
        if fault.error is not None and not fault.takes_effect:
            raise fault.error
        if fault.error is not None and fault.late:
            self._later(fault.late, effect)
            raise fault.error
        result = self._world.apply(effect)
        if fault.after:
            await asyncio.sleep(fault.after)
            self._check_open()
        if fault.error is not None:
            raise fault.error
        return result

    async def _until_effect(self, fault: Fault, effect: Callable[[], Any]) -> None:
        due = self._world.now() + fault.before
        try:
            await asyncio.sleep(fault.before)
        except asyncio.CancelledError:
            if fault.outlives and fault.takes_effect:
                self._later(due - self._world.now(), effect)
            raise

    def _later(self, seconds: float, effect: Callable[[], Any]) -> None:
        def do() -> None:
            self._by = f"{self.name}, late"
            try:
                with suppress(EngineError):
                    effect()
            finally:
                self._by = self.name

        self._world.at(self._world.now() + seconds, do)

    async def _ended(self, replica: FakeReplica | None) -> None:
        if replica is None:
            return
        ended = asyncio.Event()
        with self._pulse.listening(replica.ref, ended.set):
            while replica.phase in AT_WORK:
                ended.clear()
                await ended.wait()

    def _can_grow(self, replica: FakeReplica) -> bool:
        return not replica.removed and replica.phase in (Phase.CREATED, *AT_WORK)

    def _check_open(self) -> None:
        if not self._open:
            raise EngineError(f"the connection {self.name} to the fake engine is closed: open it again")
