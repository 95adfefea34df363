"""Requests for the tests of the plan."""

from __future__ import annotations

from typing import Any

from airflow_customjob.plan.capabilities import capabilities_of
from airflow_customjob.plan.job_plan import make_plan, make_request, plan_or_problems
from airflow_customjob.plan.types import JobId, JobOptions, JobPlan, JobRequest
from airflow_customjob.spec.parser import parse
from airflow_customjob.spec.problem import Problem

JOB = JobId("123456789012345678")


def container(count: int = 1, image: str = "europe-docker.pkg.dev/p/r/i:1", **task: Any) -> dict[str, Any]:
    return {
        "machineSpec": {"machineType": "n1-standard-4"},
        "replicaCount": count,
        "containerSpec": {"imageUri": image, **task},
    }


def package(count: int = 1, **task: Any) -> dict[str, Any]:
    spec = {
        "executorImageUri": "europe-docker.pkg.dev/vertex-ai/training/tf-cpu.2-12:latest",
        "packageUris": ["gs://b/one-1.tar.gz", "gs://b/two-2.whl"],
        "pythonModule": "trainer.task",
        **task,
    }
    return {"machineSpec": {"machineType": "n1-standard-4"}, "replicaCount": count, "pythonPackageSpec": spec}


def env(**variables: str) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in variables.items()]


def request(*pools: dict[str, Any], options: JobOptions | None = None, **spec: Any) -> JobRequest:
    job = {"displayName": "a job", "jobSpec": {"workerPoolSpecs": list(pools) or [container()], **spec}}
    return make_request(parse(job), options)


def plan(*pools: dict[str, Any], backend: str = "fake", options: JobOptions | None = None, **spec: Any) -> JobPlan:
    return make_plan(request(*pools, options=options, **spec), capabilities_of(backend), job_id=JOB)


def problems(
    *pools: dict[str, Any], backend: str = "docker", options: JobOptions | None = None, **spec: Any
) -> list[Problem]:
    return plan_or_problems(request(*pools, options=options, **spec), capabilities_of(backend), job_id=JOB)[1]
