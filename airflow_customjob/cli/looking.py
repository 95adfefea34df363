"""Commands on jobs that are there: ``list``, ``describe``, ``logs``, ``cancel``, ``gc``."""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import TYPE_CHECKING

from airflow_customjob.cli import arguments, detach, exits, shown

if TYPE_CHECKING:
    from airflow_customjob.client import CustomJobClient
    from airflow_customjob.job import Job


def _client(args: argparse.Namespace) -> CustomJobClient:
    from airflow_customjob.client import CustomJobClient

    return CustomJobClient(arguments.backend(args))


def list_jobs(args: argparse.Namespace) -> int:
    """``customjob list``."""
    jobs = _client(args).list()
    if args.format == "json":
        print(json.dumps([shown.job_row(job) for job in jobs], indent=2))
    else:
        print(shown.jobs_table(jobs, time.time()))
    return exits.OK


def describe(args: argparse.Namespace) -> int:
    """``customjob describe``."""
    client = _client(args)
    job = client.get(args.job_id)
    usage = [] if job.state.terminal else client.usage(args.job_id)
    if args.format == "json":
        print(json.dumps(shown.job_data(job, usage, _notes(client, job)), indent=2))
    else:
        print(shown.job_text(job, usage, _notes(client, job), time.time()))
    return exits.OK


def _notes(client: CustomJobClient, job: Job) -> list[str]:
    """What is not simply as on Vertex AI, and what the engine settled on: image digests, package hashes. Of a job that this version
    refuses, why."""
    from airflow_customjob.plan.job_plan import plan_or_problems

    record = job.record
    plan, problems = plan_or_problems(record.request, client.backend.capabilities(), job_id=record.job_id)
    if plan is None:
        return [
            "this version refuses the job: it can be cancelled and cleared away, but not driven",
            *map(str, problems),
        ]
    return [*map(str, plan.notes), *(record.prepared.notes if record.prepared else ())]


def logs(args: argparse.Namespace) -> int:
    """``customjob logs``."""
    from airflow_customjob.supervisor.follow import chosen, names_of

    client = _client(args)
    job = client.get(args.job_id)
    if job.state.terminal and not job.replicas:
        return _kept_logs(args, job)
    count = 0
    for line in client.logs(args.job_id, replica=args.replica, follow=args.follow, tail=args.tail, say=_say):
        print(line.prefixed, flush=args.follow)
        count += 1
    if not count and not chosen(args.replica, names_of(job.record, job.replicas)):
        print(f"customjob: job {job.job_id} has no replica {args.replica}", file=sys.stderr)
        return exits.FAILED
    return exits.OK


def _kept_logs(args: argparse.Namespace, job: Job) -> int:
    """Of a job that was cleared away: what the process of a detached job has written."""
    lines = detach.kept_lines(job.job_id, args.replica, args.tail)
    if lines is None:
        told = "its replicas are gone, and their logs were given to whoever ran it"
        print(f"customjob: job {job.job_id} has ended ({job.state.short}); {told}", file=sys.stderr)
        return exits.FAILED
    for line in lines:
        print(line)
    return exits.OK


def cancel(args: argparse.Namespace) -> int:
    """``customjob cancel``."""
    job = _client(args).cancel(args.job_id, generation=args.generation, say=_say)
    if args.generation not in (None, job.record.generation):
        _say(f"job {job.job_id} is in generation {job.record.generation}, not {args.generation}: nothing was cancelled")
        return exits.FAILED
    print(f"job {job.job_id}: {job.state.short}")
    return exits.OK


def gc(args: argparse.Namespace) -> int:
    """``customjob gc``."""
    done = _client(args).gc(dry_run=args.dry_run, say=print)
    if not done:
        _say("nothing is left to remove")
    return exits.OK


def _say(text: str) -> None:
    print(f"customjob: {text}", file=sys.stderr)
