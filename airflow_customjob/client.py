"""The one facade: what the command line, the operators, notebooks and tests call.

    >>> client = CustomJobClient("docker")
    >>> job = client.run("job.yaml", sink=lambda line: print(line.prefixed))
    >>> job.state
    <JobState.JOB_STATE_SUCCEEDED: 4>

:class:`AsyncCustomJobClient` is the same for code that lives in an event loop, as triggers do.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import aclosing, suppress
from functools import wraps
from queue import SimpleQueue
from typing import Any, Concatenate, ParamSpec, TypeVar

from airflow_customjob.anywhere import Thread
from airflow_customjob.anywhere import run as run_anywhere
from airflow_customjob.backends import backend_of
from airflow_customjob.backends.base import Backend, Engine, EngineError, LogLine, ReplicaStatus, Retention, Usage
from airflow_customjob.backends.secrets import redactor
from airflow_customjob.job import Job, NoSuchJob, new_owner, request_of
from airflow_customjob.plan.identity import new_job_id
from airflow_customjob.plan.job_plan import make_plan, replica_names, request_digest
from airflow_customjob.plan.types import JobId, JobOptions, JobPlan, JobRequest
from airflow_customjob.settings import setting
from airflow_customjob.spec.job_state import JobState
from airflow_customjob.spec.problem import SpecError
from airflow_customjob.supervisor.claims import cancel_job, claim_job
from airflow_customjob.supervisor.follow import Sink, check_logs
from airflow_customjob.supervisor.gc import Collected, OwnerState, collect
from airflow_customjob.supervisor.merge import merged
from airflow_customjob.supervisor.ownership import Canceller, Claim, Verdict
from airflow_customjob.supervisor.record import JobRecord, Owner, RecordError, decode
from airflow_customjob.supervisor.supervise import Fenced, OnChange, Supervisor

log = logging.getLogger(__name__)

BackendLike = str | Mapping[str, Any] | Backend | None
Say = Callable[[str], None]
P = ParamSpec("P")
T = TypeVar("T")

CANCEL_RETRY = 1.0
"""Seconds after which an interrupted job's cancel is tried again on an engine that failed."""


class AsyncCustomJobClient:
    """Jobs on one backend, for code in an event loop.

    :param backend: a name, a configured backend, what its ``serialize()`` gave; None: ``[customjob] default_backend``.
    :param clock: seconds since the epoch.
    """

    def __init__(self, backend: BackendLike = None, *, clock: Callable[[], float] = time.time) -> None:
        self.backend = backend_of(backend)
        self._clock = clock

    def plan(
        self, custom_job: object, options: JobOptions | None = None, *, job_id: JobId | None = None, **reading: Any
    ) -> JobPlan:
        """What each replica would see; asks no engine.

        :raises SpecError: it would be refused.
        """
        capabilities = self.backend.capabilities()
        request, _ = request_of(custom_job, capabilities, options, **reading)
        return make_plan(request, capabilities, job_id=job_id or new_job_id())

    async def submit(
        self,
        custom_job: object,
        options: JobOptions | None = None,
        *,
        job_id: JobId | None = None,
        owner: Owner | None = None,
        logs: str | None = None,
        say: Say = log.info,
        **reading: Any,
    ) -> tuple[Claim, Job]:
        """Write the job's record. Nothing runs before somebody supervises it (:meth:`supervise`).

        :param job_id: submitting the same id again adopts that job, or starts it anew (:mod:`.supervisor.ownership`).
        :param owner: who will drive it.
        :param logs: which replicas :meth:`supervise` will be told to follow: names that do not exist are refused here.
        :returns: how it was claimed, and the job.
        :raises SpecError: it is refused; nothing was created.
        :raises EngineError: the engine, or the server of a package, does not answer.
        :raises ClaimRefused: somebody else has it.
        """
        request, warnings = request_of(custom_job, self.backend.capabilities(), options, **reading)
        check_logs(logs, replica_names(request))
        for problem in warnings:
            say(str(problem))

        async def first() -> None:
            if not (self.backend.capabilities().fetches and _has_packages(request)):
                return
            from airflow_customjob.packaging.first import UNREACHABLE, package_problems

            if problems := await package_problems(request, say):
                refused = SpecError([*problems, *warnings])
                raise refused if any(problem.rule != UNREACHABLE for problem in problems) else EngineError(str(refused))

        async with self.backend.open() as engine:
            verdict, record = await claim_job(
                engine,
                job_id or new_job_id(),
                owner or new_owner(),
                request,
                request_digest(request),
                first=first,
                clock=self._clock,
            )
        return verdict, self._job(record)

    async def supervise(
        self,
        job_id: str,
        *,
        owner: Owner | None = None,
        generation: int | None = None,
        sink: Sink | None = None,
        logs: str | None = None,
        say: Say = log.info,
        on_change: OnChange | None = None,
        positions: dict[str, str] | None = None,
        hold_removal: float = 0.0,
        until: Callable[[JobRecord], bool] = lambda record: False,
    ) -> Job:
        """Drive a job to its end and clear it away. Any number may do so for one job, and each may die at any line.

        :param owner: whose claim it is; None: whoever has it.
        :param generation: what was claimed; None: the present one.
        :param sink: takes each line of each followed replica.
        :param logs: which replicas are followed: ``all``, ``primary``, a name, or a pattern as ``workerpool1-*``. None: all of up to
            32, of more the primary. Whoever fails is followed too.
        :param say: takes lines of progress.
        :param on_change: called with the record and the replicas whenever either has changed.
        :param positions: of log lines that were given to the user already, by incarnation; kept up to date.
        :param hold_removal: seconds that ended replicas are kept, for others to read their logs to the end.
        :param until: stop driving when this says so of the record.
        :raises NoSuchJob: there is none.
        :raises Fenced: somebody else has it now.
        """
        async with self.backend.open() as engine:
            record = await self._read(engine, job_id)
            redact = await redactor(record.request.options)
            supervisor = Supervisor(
                engine,
                record.job_id,
                owner or record.owner,
                generation or record.generation,
                sink=sink,
                logs=logs,
                say=say,
                on_change=on_change,
                positions=positions,
                hold_removal=hold_removal,
                redact=redact,
                clock=self._clock,
            )
            return self._job(await supervisor.run(until))

    async def drive(self, job_id: str, *, owner: Owner, **driving: Any) -> Job:
        """As :meth:`supervise`; a cancellation of this task cancels the job, and is over when nothing of it is left."""
        try:
            return await self.supervise(job_id, owner=owner, **driving)
        except asyncio.CancelledError:
            await self._call_off(job_id, owner, driving)
            raise

    async def run(
        self,
        /,
        custom_job: object,
        options: JobOptions | None = None,
        *,
        job_id: JobId | None = None,
        owner: Owner | None = None,
        sink: Sink | None = None,
        logs: str | None = None,
        say: Say = log.info,
        on_change: OnChange | None = None,
        **reading: Any,
    ) -> Job:
        """Submit a job and drive it to its end. An interrupt (of this task, by Ctrl-C) cancels the job, and leaves nothing.

        :param sink: takes each line of each followed replica.
        :param logs: which replicas are followed, as in :meth:`supervise`.
        :param say: takes lines of progress.
        :param on_change: called with the record and the replicas whenever either has changed.
        :returns: the ended job, whatever its end.
        :raises SpecError: it is refused; nothing was created.
        """
        job_id, owner = job_id or new_job_id(), owner or new_owner()
        driving: dict[str, Any] = {"sink": sink, "logs": logs, "positions": {}, "say": say, "on_change": on_change}
        async with self.backend.open():  # one connection for all that follows
            try:
                _, job = await self.submit(
                    custom_job, options, job_id=job_id, owner=owner, logs=logs, say=say, **reading
                )
            except asyncio.CancelledError:
                await self._call_off(job_id, owner, driving)
                raise
            return await self.drive(job_id, owner=owner, generation=job.record.generation, **driving)

    async def _call_off(self, job_id: str, owner: Owner, driving: Mapping[str, Any]) -> None:
        """Cancel what is this owner's, and carry it out, however often the engine has to be asked."""
        why = "The job was interrupted by its user."
        with suppress(NoSuchJob, Fenced):
            while True:
                try:
                    _, job = await self.cancel(job_id, who=Canceller.OPERATOR, owner=owner, why=why)
                    if job.record.owner.key == owner.key:
                        await self.supervise(job_id, **{**driving, "owner": owner, "generation": job.record.generation})
                except EngineError as error:
                    driving.get("say", log.info)(f"the job could not be cancelled yet: {error}; trying again")
                    await asyncio.sleep(CANCEL_RETRY)
                else:
                    return

    async def get(self, job_id: str) -> Job:
        """:raises NoSuchJob: there is none."""
        async with self.backend.open() as engine:
            record = await self._read(engine, job_id)
            return self._job(record, await engine.observe(record.job_id))

    async def list(self) -> list[Job]:
        """Every job on the engine that has a record, latest first; a record that this version cannot read is logged."""
        found = []
        async with self.backend.open() as engine:
            for objects in await engine.jobs():
                try:
                    found += [decode(objects.record.data)] if objects.record else []
                except RecordError as error:
                    log.warning("job %s: %s", objects.job_id, error)
        return [self._job(record) for record in sorted(found, key=lambda record: -record.create_time)]

    async def cancel(
        self,
        job_id: str,
        *,
        generation: int | None = None,
        who: Canceller = Canceller.USER,
        why: str = "The job was cancelled by its user.",
        **asking: Any,
    ) -> tuple[Verdict, Job]:
        """Mark a job as CANCELLING; whoever supervises it stops its replicas. :meth:`supervise` it where nobody may be left.

        :param generation: which one is meant; a later one stays.
        :param why: the error message of the cancelled job.
        :param asking: who asks, as for :func:`~airflow_customjob.supervisor.ownership.may_cancel`.
        :raises NoSuchJob: there is none.
        """
        async with self.backend.open() as engine:
            verdict, record = await cancel_job(
                engine, JobId(job_id), who, why, generation=generation, clock=self._clock, **asking
            )
        if record is None:
            raise self._no_such_job(job_id)
        return verdict, self._job(record)

    async def logs(
        self,
        job_id: str,
        *,
        replica: str | None = None,
        follow: bool = False,
        tail: int | None = None,
        say: Say = log.info,
    ) -> AsyncIterator[LogLine]:
        """Lines of the replicas that are there: replica by replica, with ``follow`` as they come.

        :param replica: only of these: a name, a pattern as ``workerpool1-*``, ``all`` or ``primary``. None: all; with ``follow`` all
            of up to 32, of more the primary and those that fail.
        :param follow: until the job has ended, replicas that start later included.
        :param tail: only so many last lines of each.
        :param say: is told which replicas are not followed.
        :raises NoSuchJob: there is none.
        """
        async with self.backend.open() as engine:
            record = await self._read(engine, job_id)
            lines = merged(engine, record, replica=replica, follow=follow, tail=tail, say=say)
            async with aclosing(lines):
                async for line in lines:
                    yield line

    async def usage(self, job_id: str) -> Sequence[Usage]:
        """One sample of each running replica."""
        async with self.backend.open() as engine:
            return await engine.usage(JobId(job_id))

    async def gc(
        self,
        *,
        owner_state: OwnerState | None = None,
        dry_run: bool = False,
        say: Say = log.info,
        hold_removal: float = 0.0,
        retention: Retention | None = None,
    ) -> Sequence[Collected]:
        """Remove what is left of ended jobs, records that are past their time, and what a dead host left.

        :param owner_state: tells the state of a job's owner (inside Airflow); jobs whose owner has ended are cancelled.
        :param dry_run: only say what would be removed.
        :param hold_removal: seconds that ended replicas are kept, for a supervisor that still reads their logs to the end.
        :param retention: of installed packages; None: they are left alone.
        """
        async with self.backend.open() as engine:
            return await collect(
                engine,
                owner_state=owner_state,
                dry_run=dry_run,
                say=say,
                hold_removal=hold_removal,
                retention=retention,
                clock=self._clock,
            )

    async def _read(self, engine: Engine, job_id: str) -> JobRecord:
        stored = await engine.read_record(JobId(job_id))
        if stored is None:
            raise self._no_such_job(job_id)
        return decode(stored.data)

    def _no_such_job(self, job_id: str) -> NoSuchJob:
        return NoSuchJob(
            f"{self.backend.name} has no job {job_id} (records are kept for record_ttl after a job's end); "
            f"is it on another backend or host? `customjob list --backend {self.backend.name}` shows what is here"
        )

    def _job(self, record: JobRecord, replicas: Sequence[ReplicaStatus] = ()) -> Job:
        return Job(record, self.backend.serialize(), tuple(sorted(replicas, key=lambda status: status.ref)))


def _has_packages(request: JobRequest) -> bool:
    return any("pythonPackageSpec" in pool for pool in request.job["jobSpec"]["workerPoolSpecs"])


def _prune_packages(dry_run: bool, say: Say) -> None:
    """One that is removed comes again when it is needed."""
    from airflow_customjob.packaging.store import Store, packages_folder

    age = float(setting("packages_ttl"))
    for package in Store(packages_folder()).prune(age, time.time(), dry_run=dry_run):
        say(f"package {package}: remove: it was not used for {age:.0f} s (packages_ttl)")


def _waiting(
    call: Callable[Concatenate[AsyncCustomJobClient, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[CustomJobClient, P], T]:
    """The same for code outside an event loop, with the same arguments and documentation."""

    @wraps(call)
    def waits(self: CustomJobClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return run_anywhere(call(self._client, *args, **kwargs))

    return waits


class CustomJobClient:
    """Jobs on one backend. Each call opens a connection, and closes it before it returns.

    :param backend: a name, a configured backend, what its ``serialize()`` gave; None: ``[customjob] default_backend``.
    """

    def __init__(self, backend: BackendLike = None) -> None:
        self._client = AsyncCustomJobClient(backend)

    @property
    def backend(self) -> Backend:
        return self._client.backend

    def plan(self, custom_job: object, options: JobOptions | None = None, **reading: Any) -> JobPlan:
        """See :meth:`AsyncCustomJobClient.plan`."""
        return self._client.plan(custom_job, options, **reading)

    def submit(self, custom_job: object, options: JobOptions | None = None, **how: Any) -> Job:
        """See :meth:`AsyncCustomJobClient.submit`."""
        return run_anywhere(self._client.submit(custom_job, options, **how))[1]

    run = _waiting(AsyncCustomJobClient.run)
    supervise = _waiting(AsyncCustomJobClient.supervise)
    get = _waiting(AsyncCustomJobClient.get)
    list = _waiting(AsyncCustomJobClient.list)
    usage = _waiting(AsyncCustomJobClient.usage)

    def cancel(
        self, job_id: str, *, generation: int | None = None, wait: bool = True, say: Say = log.info, **how: Any
    ) -> Job:
        """Cancel a job.

        :param wait: carry it out, until nothing of the job is left; otherwise whoever supervises it does.
        :param say: takes lines of progress.
        :raises NoSuchJob: there is none.
        """

        async def main() -> Job:
            _, job = await self._client.cancel(job_id, generation=generation, **how)
            if wait and job.state is JobState.JOB_STATE_CANCELLING:
                return await self._client.supervise(job.job_id, say=say)
            return job

        return run_anywhere(main())

    def logs(self, job_id: str, **which: Any) -> Iterator[LogLine]:
        """See :meth:`AsyncCustomJobClient.logs`."""
        lines: SimpleQueue[LogLine | None] = SimpleQueue()

        async def main() -> None:
            try:
                async for line in self._client.logs(job_id, **which):
                    lines.put(line)
            finally:
                lines.put(None)

        thread = Thread(main())
        try:
            while (line := lines.get()) is not None:
                yield line
            thread.result()
        finally:
            thread.cancel()

    def gc(
        self, *, owner_state: OwnerState | None = None, dry_run: bool = False, say: Say = log.info
    ) -> Sequence[Collected]:
        """See :meth:`AsyncCustomJobClient.gc`; packages go too that nobody has used for ``packages_ttl``,
        and installed ones beyond ``installations_ttl`` and ``installations_count``."""
        _prune_packages(dry_run, say)
        retention = Retention(float(setting("installations_ttl")), int(setting("installations_count")))
        return run_anywhere(self._client.gc(owner_state=owner_state, dry_run=dry_run, say=say, retention=retention))
