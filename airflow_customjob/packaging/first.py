"""A look at a job's packages before anything of the job exists: what cannot be had is a problem of its spec."""

from __future__ import annotations

from airflow_customjob.packaging.fetch import fetch
from airflow_customjob.packaging.package import PackageError
from airflow_customjob.packaging.store import Say
from airflow_customjob.plan.types import JobRequest
from airflow_customjob.spec.parser import parse
from airflow_customjob.spec.problem import Problem

MISSING, UNREACHABLE = "package", "package-unreachable"
"""Rules: a package that is not what it should be, and one whose server may answer another time."""


async def package_problems(request: JobRequest, say: Say) -> list[Problem]:
    """Fetch every package of a job, and keep it; each that cannot be had, by its field path."""
    problems: list[Problem] = []
    seen: set[tuple[str, ...]] = set()
    for index, pool in enumerate(parse(request.job).job_spec.worker_pool_specs):
        uris = tuple(pool.python_package_spec.package_uris) if pool.replica_count else ()
        if not uris or uris in seen:
            continue
        seen.add(uris)
        path = f"job_spec.worker_pool_specs[{index}].python_package_spec.package_uris"
        try:
            await fetch(uris, say, gcp_conn_id=request.options.gcp_conn_id)
        except PackageError as error:
            for place, wrong in error.each:
                rule = UNREACHABLE if wrong.passing else MISSING
                problems.append(Problem(f"{path}[{place}]", wrong.message, None, rule))
    return problems


def needs_this_machine(request: JobRequest) -> bool:
    """Whether a package is a file of this machine, which the one that goes on with the job may not have."""
    from airflow_customjob.packaging.sources import is_local

    pools = parse(request.job).job_spec.worker_pool_specs
    return any(is_local(uri) for pool in pools for uri in pool.python_package_spec.package_uris)
