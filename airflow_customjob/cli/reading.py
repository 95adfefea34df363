"""Commands that only read a spec: ``validate`` and ``render``; and how every command reads it."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_customjob.cli import arguments, exits
from airflow_customjob.packaging.local import local_code
from airflow_customjob.spec.loader import check
from airflow_customjob.spec.output import to_canonical
from airflow_customjob.spec.problem import Problem, errors
from airflow_customjob.spec.text import MAX_TEXT

if TYPE_CHECKING:
    from airflow_customjob.spec.message import CustomJob


def source(spec: str) -> Path | bytes:
    """What the command line's SPEC means: a file, or what stands on stdin."""
    if spec != "-":
        return Path(spec)
    data = sys.stdin.buffer.read(4 * MAX_TEXT + 1)
    return data if b"\n" in data else data + b"\n"  # one line alone might be taken for the name of a file


def read_job(args: argparse.Namespace, *, strict: bool = False) -> tuple[CustomJob | None, list[Problem]]:
    """The job that SPEC holds, under the name that the command line gives it; None if it has errors; its problems."""
    amend = local_code(args.local_package_path, args.python_module, None)
    job, problems = check(source(args.spec), strict=strict, amend=amend)
    if job is not None and args.display_name:
        from airflow_customjob.spec.validator import validate as problems_of

        job.display_name = args.display_name
        problems += [problem for problem in problems_of(job) if problem not in problems]
    return (None if errors(problems) else job), problems


def validate(args: argparse.Namespace) -> int:
    """``customjob validate``."""
    job, problems = read_job(args, strict=args.strict)
    if job is not None and args.backend:
        problems = [*_backend_problems(args, job), *problems]
    refused = problems if args.strict else errors(problems)
    name = "stdin" if args.spec == "-" else args.spec
    if args.format == "json":
        for problem in [] if refused else problems:
            print(problem, file=sys.stderr)
        _print_json(to_canonical(job) if job is not None and not refused else [asdict(problem) for problem in problems])
    else:
        for problem in problems:
            print(problem)
        found = f"{len(refused)} problem{'' if len(refused) == 1 else 's'}"
        print(f"{name}: {found if refused or job is None else f'valid: {outline(job)}'}")
    return exits.USAGE if refused else exits.OK


def render(args: argparse.Namespace) -> int:
    """``customjob render``."""
    from airflow_customjob.job import request_of
    from airflow_customjob.plan.identity import new_job_id
    from airflow_customjob.plan.job_plan import make_plan

    backend = arguments.backend(args)
    job, problems = job_or_error(args)
    request, more = request_of(job, backend.capabilities(), arguments.job_options(args))
    for problem in dict.fromkeys([*problems, *more]):
        print(problem, file=sys.stderr)
    plan = make_plan(request, backend.capabilities(), job_id=args.job_id or new_job_id())
    if args.format == "text":
        from airflow_customjob.cli.shown import plan_text

        print(plan_text(plan, backend.name))
    elif args.format == "json":
        _print_json(backend.render(plan))
    else:
        print(_yaml(json.loads(json.dumps(backend.render(plan), default=list))), end="")  # YAML has no tuples
    return exits.OK


def _yaml(documents: list[Any]) -> str:
    """With texts of several lines (a Dockerfile, a script) as they are."""
    import yaml

    class Dumper(yaml.SafeDumper):
        def represent_text(self, text: str) -> yaml.ScalarNode:
            return self.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)

    Dumper.add_representer(str, Dumper.represent_text)
    return str(yaml.dump_all(documents, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=10**6))


def job_or_error(args: argparse.Namespace) -> tuple[CustomJob, list[Problem]]:
    """The job that SPEC holds, and its warnings.

    :raises SpecError: it has errors.
    """
    from airflow_customjob.spec.problem import SpecError

    job, problems = read_job(args)
    if job is None:
        raise SpecError(problems)
    return job, problems


def outline(job: CustomJob) -> str:
    """A job in a few words."""
    pools = [pool for pool in job.job_spec.worker_pool_specs if pool.replica_count]
    count = sum(pool.replica_count for pool in pools)
    return f"{job.display_name!r}, {count} replica{'' if count == 1 else 's'} in {len(pools)} pool{'' if len(pools) == 1 else 's'}"


def _backend_problems(args: argparse.Namespace, job: CustomJob) -> list[Problem]:
    from airflow_customjob.plan.identity import new_job_id
    from airflow_customjob.plan.job_plan import make_request, plan_or_problems

    request = make_request(job, arguments.job_options(args))
    return plan_or_problems(request, arguments.backend(args).capabilities(), job_id=new_job_id())[1]


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, default=list))
