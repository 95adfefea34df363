"""Commands that drive a job: ``run`` and ``supervise``."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import shlex
import signal
import sys
from collections.abc import Coroutine
from contextlib import closing, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow_customjob.cli import arguments, exits
from airflow_customjob.cli.progress import Reporter, reporting

if TYPE_CHECKING:
    from airflow_customjob.client import AsyncCustomJobClient
    from airflow_customjob.job import Job
    from airflow_customjob.plan.types import JobId
    from airflow_customjob.supervisor.record import Owner

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What cancels a job; one that was ignored when the command started (``nohup``) stays so."""
ONE_INTERRUPT = 1.0
"""Seconds within which further signals are no second interrupt: timeout(1) and terminals send one to the process and its group."""


def run(args: argparse.Namespace) -> int:
    """``customjob run``."""
    from airflow_customjob.cli.reading import job_or_error
    from airflow_customjob.client import AsyncCustomJobClient
    from airflow_customjob.plan.identity import new_job_id

    _set_up_logging(args)
    client = AsyncCustomJobClient(arguments.backend(args))
    options = arguments.job_options(args)
    spec, problems = job_or_error(args)
    job_id = args.job_id or new_job_id()

    async def main(reporter: Reporter) -> Job:
        for problem in problems:
            reporter.say(str(problem))
        owner = await _owner(client, job_id)
        given = {str(problem) for problem in problems}
        return await client.run(
            spec,
            options,
            job_id=job_id,
            owner=owner,
            sink=reporter.line,
            logs=args.logs,
            say=lambda text: None if text in given else reporter.say(text),
            on_change=reporter.change,
        )

    async def submit() -> JobId:
        _, job = await client.submit(
            spec, options, job_id=job_id, owner=await _owner(client, job_id), logs=args.logs, say=_warn
        )
        return job.job_id

    if args.detach:
        return _detach(args, job_id, submit())
    return _drive(args, client, job_id, main)


def supervise(args: argparse.Namespace) -> int:
    """``customjob supervise``."""
    from airflow_customjob.client import AsyncCustomJobClient

    _set_up_logging(args)
    client = AsyncCustomJobClient(arguments.backend(args))

    async def main(reporter: Reporter) -> Job:
        record = (await client.get(args.job_id)).record
        return await client.drive(
            args.job_id,
            owner=record.owner,
            generation=record.generation,
            sink=reporter.line,
            logs=args.logs,
            say=reporter.say,
            on_change=reporter.change,
            hold_removal=args.hold,
        )

    return _drive(args, client, args.job_id, main)


async def _owner(client: AsyncCustomJobClient, job_id: JobId) -> Owner:
    """A later try of whoever has the job, so that the same spec adopts it; else somebody new."""
    from airflow_customjob.job import NoSuchJob, new_owner

    owner = new_owner()
    try:
        held = (await client.get(job_id)).record.owner
    except NoSuchJob:
        return owner
    return replace(
        owner,
        try_number=held.try_number + 1,
        max_tries=held.max_tries,
        clear_number=held.clear_number,
        where=held.where,
    )


def _drive(args: argparse.Namespace, client: AsyncCustomJobClient, job_id: JobId, main: Any) -> int:
    """Drive a job to its end, show it, and give the exit code."""
    with reporting(args.progress) as reporter:
        try:
            job = asyncio.run(_until_interrupted(main(reporter), client, job_id, reporter))
        except Exception:
            if reporter.record is not None and not reporter.record.state.terminal:
                _say_what_stays(client, job_id, reporter)
            raise
    if job is None:
        return exits.INTERRUPTED
    if args.output == "json":
        print(json.dumps(job.to_json(), indent=2))
    else:
        from airflow_customjob.cli.shown import model, summary
        from airflow_customjob.written import model_of

        print(summary(job, told=job.error in reporter.said and _read_together()))
        if job.state.succeeded and (written := model_of(job.record, job.backend)) and written.count:
            print(model(written))
    return exits.OF_STATE.get(job.state, exits.FAILED)


def _read_together() -> bool:
    """Whether stdout and stderr are one: a terminal, or what a log collects."""
    with suppress(OSError, ValueError):
        return os.path.sameopenfile(sys.stdout.fileno(), sys.stderr.fileno())
    return False


async def _until_interrupted(
    driving: Coroutine[Any, Any, Job], client: AsyncCustomJobClient, job_id: JobId, reporter: Reporter
) -> Job | None:
    """The ended job, also where a signal ended it; None where a second signal left it as it was."""
    from airflow_customjob.job import NoSuchJob

    task = asyncio.ensure_future(driving)
    loop = asyncio.get_running_loop()
    interrupts: list[float] = []

    def interrupted() -> None:
        if interrupts and loop.time() - interrupts[-1] < ONE_INTERRUPT:
            return
        interrupts.append(loop.time())
        if len(interrupts) == 1:
            reporter.say(f"interrupted: cancelling job {job_id}; interrupt again to leave it as it is")
        task.cancel()

    def on_signal(*_: object) -> None:
        with suppress(RuntimeError):  # the loop is closed: what was asked for is done
            loop.call_soon_threadsafe(interrupted)

    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, on_signal)
    try:
        return await task
    except asyncio.CancelledError:
        if len(interrupts) > 1:
            _say_what_stays(client, job_id, reporter)
            return None
    finally:
        for number, handler in before.items():
            # The same interrupt's further signals shall not hide the exit code, not even while the interpreter goes down.
            signal.signal(number, signal.SIG_IGN if interrupts else handler)
    try:
        return await client.get(job_id)
    except NoSuchJob:
        reporter.say("interrupted before anything was created")
        return None


def _say_what_stays(client: AsyncCustomJobClient, job_id: JobId, reporter: Reporter) -> None:
    left = [status.ref.name for status in reporter.replicas if not status.ended]
    shown = f"; perhaps still there: {', '.join(left[:10])}{' ...' if len(left) > 10 else ''}" if left else ""
    name = client.backend.name
    reporter.say(f"job {job_id} was left as it is{shown}")
    reporter.say(
        f"`customjob cancel --backend {name} {job_id}` ends it, `customjob supervise --backend {name} {job_id}` goes on"
    )


def _detach(args: argparse.Namespace, job_id: JobId, submit: Coroutine[Any, Any, JobId]) -> int:
    from airflow_customjob.cli.detach import leave, new_log

    with closing(submit), new_log(job_id) as log:  # where none can be written, nothing is submitted
        asyncio.run(submit)
        leave(job_id, [*_backend_arguments(args), *([f"--logs={args.logs}"] if args.logs else [])], log)
    follow = shlex.join(["customjob", "logs", "-f", *_backend_arguments(args), job_id])
    print(f"customjob: its process writes to {log.name}; follow it with `{follow}`", file=sys.stderr)
    print(job_id)
    return exits.OK


def _backend_arguments(args: argparse.Namespace) -> list[str]:
    from airflow_customjob.settings import setting

    given = [f"--backend-option={key}={json.dumps(value)}" for key, value in args.backend_option]
    return ["--backend", args.backend or setting("default_backend"), *given]


def _warn(text: str) -> None:
    print(f"customjob: {text}", file=sys.stderr)


def _set_up_logging(args: argparse.Namespace) -> None:
    logging.basicConfig(level=logging.WARNING, format="customjob: %(message)s", stream=sys.stderr)
    if args.verbose:
        logging.getLogger("airflow_customjob").setLevel(logging.DEBUG)
