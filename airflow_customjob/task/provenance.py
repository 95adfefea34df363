"""What a job runs, and what of it is not simply as on Vertex AI, for people. Pure."""

from __future__ import annotations

from typing import Any

from airflow_customjob.plan.job_plan import make_plan
from airflow_customjob.plan.types import Capabilities, PoolPlan, Prepared
from airflow_customjob.supervisor.record import JobRecord


def plan_document(record: JobRecord, capabilities: Capabilities, now: float) -> dict[str, Any]:
    prepared = record.prepared or Prepared()
    plan = make_plan(
        record.request, capabilities, job_id=record.job_id, generation=record.generation, prepared=prepared
    )
    return {
        "generation": record.generation,
        "revision": int(now * 1000),
        "backend": capabilities.backend,
        "engine": record.engine,
        "timeout": plan.timeout,
        "pools": [_pool(pool) for pool in plan.pools],
        "provenance": list(prepared.notes),
        "notes": [str(note) for note in plan.notes],
    }


def _pool(pool: PoolPlan) -> dict[str, Any]:
    return {
        "name": pool.name,
        "replicas": pool.replica_count,
        "image": pool.image,
        "image_requested": pool.image_requested,
        "packages": list(pool.package.uris) if pool.package else [],
        "module": pool.package.module if pool.package else "",
        "machine": pool.machine_type,
        "cpus": pool.resources.cpus,
        "memory_bytes": pool.resources.memory_bytes,
        "gpus": pool.resources.gpus,
        "gpu_type": pool.resources.gpu_type or "",
    }
