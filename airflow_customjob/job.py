"""A job as users see it, and how what they give becomes the request for one."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from airflow_customjob.backends import backend_of
from airflow_customjob.backends.base import ReplicaStatus
from airflow_customjob.plan.identity import new_job_id
from airflow_customjob.plan.job_plan import make_request, plan_or_problems
from airflow_customjob.plan.types import Capabilities, JobId, JobOptions, JobRequest
from airflow_customjob.spec.job_state import JobState
from airflow_customjob.spec.loader import check
from airflow_customjob.spec.message import CustomJob
from airflow_customjob.spec.output import to_canonical, to_sdk_dict
from airflow_customjob.spec.parser import DISPLAY_NAME
from airflow_customjob.spec.problem import Problem, SpecError, errors
from airflow_customjob.supervisor.record import JobRecord, Owner
from airflow_customjob.supervisor.result import custom_job_of, resource_name


class NoSuchJob(LookupError):
    """The engine knows no job of this id, or no longer: its record is kept for ``record_ttl`` after its end."""


@dataclass(frozen=True)
class Job:
    """A job as it is now.

    :param record: its record on the engine.
    :param backend: where it is, as ``serialize()`` gives it.
    :param replicas: its replica objects; empty once it was cleared away.
    """

    record: JobRecord
    backend: dict[str, Any]
    replicas: tuple[ReplicaStatus, ...] = ()

    @property
    def job_id(self) -> JobId:
        return self.record.job_id

    @property
    def name(self) -> str:
        """``projects/<project>/locations/<region>/customJobs/<id>``."""
        return resource_name(self.record)

    @property
    def state(self) -> JobState:
        return self.record.state

    @property
    def error(self) -> str:
        """Why it failed or was cancelled; empty while it runs and when it succeeded."""
        return self.record.error.message if self.record.error and self.record.state.terminal else ""

    def message(self) -> CustomJob:
        """The CustomJob message, with name, state, times and error."""
        return custom_job_of(self.record)

    def to_dict(self) -> dict[str, Any]:
        """As google-cloud-aiplatform's ``CustomJob.to_dict``: snake_case, enums as integers."""
        return to_sdk_dict(self.message())

    def to_json(self) -> dict[str, Any]:
        """As Vertex AI's REST API: canonical proto3 JSON."""
        return to_canonical(self.message())

    def refusal(self) -> list[Problem]:
        """Why this version refuses the job, which another one has accepted: it can be cancelled and cleared away, but not driven.
        Empty: it does not."""
        capabilities = backend_of(self.backend).capabilities()
        return errors(plan_or_problems(self.record.request, capabilities, job_id=self.job_id)[1])

    def ref(self) -> dict[str, Any]:
        """All that another process needs to find this job again: id, backend and the engine's identity; JSON."""
        return {"custom_job_id": self.job_id, "backend": self.backend, "engine": self.record.engine}


def new_owner(where: Mapping[str, str] | None = None) -> Owner:
    """An owner that is nobody else, and later than all before it."""
    return Owner(key=f"{time.time_ns():020d}-{uuid4().hex[:8]}", where=dict(where or {}))


def request_of(
    custom_job: object,
    capabilities: Capabilities,
    options: JobOptions | None = None,
    *,
    display_name: str = DISPLAY_NAME,
    base: Path | None = None,
    local_package_path: str | Path | None = None,
    python_module: str | None = None,
) -> tuple[JobRequest, list[Problem]]:
    """Read, validate and plan a job for a backend, and create nothing.

    :param custom_job: a CustomJob or a CustomJobSpec in any form.
    :param display_name: of a bare CustomJobSpec.
    :param base: directory that a relative path starts from.
    :param local_package_path: a folder or a script of this machine that becomes a package of each pool that runs one.
    :param python_module: what is run of it; None: what the spec says, or the script.
    :returns: the request and the warnings.
    :raises SpecError: with every problem of the spec, and every field that the backend cannot honour.
    """
    amend = None
    if local_package_path is not None:
        from airflow_customjob.packaging.local import local_code

        amend = local_code(local_package_path, python_module, base)
    job, problems = check(custom_job, display_name=display_name, base=base, amend=amend)
    if job is None:
        raise SpecError(problems)
    request = make_request(job, options)
    _, more = plan_or_problems(request, capabilities, job_id=new_job_id())
    if errors(more):
        raise SpecError([*more, *problems])
    return request, [*problems, *more]
