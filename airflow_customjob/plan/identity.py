"""Names that follow from who asks: the same asker finds the same job again, another one never does."""

from __future__ import annotations

import hashlib
from uuid import uuid4

from airflow_customjob.plan.types import JobId

ID_DIGITS = 18
NETWORK_DIGITS = 10


def job_id_of(*parts: str) -> JobId:
    """The id of the job that these parts identify: decimal digits, as Vertex AI's own ids.

    :param parts: installation, dag_id, run_id, task_id, map_index; or anything that is unique.
    """
    digest = hashlib.sha256("\0".join(parts).encode()).digest()
    return JobId(str(10 ** (ID_DIGITS - 1) + int.from_bytes(digest) % (9 * 10 ** (ID_DIGITS - 1))))


def new_job_id() -> JobId:
    """The id of a job that nobody has asked for before."""
    return job_id_of("new", uuid4().hex)


def network_of(job_id: JobId, generation: int) -> str:
    """Ten hexadecimal digits that the hosts of one generation have in common."""
    return hashlib.sha256(f"{job_id}/{generation}".encode()).hexdigest()[:NETWORK_DIGITS]


def host_of(network: str, pool: int, index: int) -> str:
    """The host name of a replica, a DNS label (as Vertex AI names its hosts)."""
    return f"cmle-training-workerpool{pool}-{network}-{index}"
