"""What a job looks like from outside: the CustomJob message of Vertex AI, made from the job's record. Pure."""

from __future__ import annotations

from airflow_customjob.plan.job_plan import DEFAULT_TIMEOUT
from airflow_customjob.spec.message import CustomJob
from airflow_customjob.spec.parser import parse_all
from airflow_customjob.spec.rules_job import seconds as seconds_of
from airflow_customjob.supervisor.record import JobRecord


def resource_name(record: JobRecord) -> str:
    """As Vertex AI names it: ``projects/<project>/locations/<region>/customJobs/<id>``."""
    options = record.request.options
    return f"projects/{options.project}/locations/{options.region}/customJobs/{record.job_id}"


def output_directory(record: JobRecord) -> str:
    """The job's ``baseOutputDirectory``; empty: it has none."""
    return str(record.request.job["jobSpec"].get("baseOutputDirectory", {}).get("outputUriPrefix", ""))


def ends_by(record: JobRecord) -> float | None:
    """When the job's ``scheduling.timeout`` passes, in seconds since the epoch; None: it has not been RUNNING yet."""
    if record.start_time is None:
        return None
    scheduling = parse_all(record.request.job).job.job_spec.scheduling
    return record.start_time + (seconds_of(scheduling.timeout) or DEFAULT_TIMEOUT)


def custom_job_of(record: JobRecord) -> CustomJob:
    """The job as it was asked for, with its name, state, times and error; without what this version cannot read."""
    job = parse_all(record.request.job).job
    job.name = resource_name(record)
    job.state = int(record.state)  # type: ignore[assignment]
    for field, seconds in (
        (job.create_time, record.create_time),
        (job.start_time, record.start_time),
        (job.end_time, record.end_time),
        (job.update_time, record.update_time),
    ):
        if seconds is not None:
            microseconds = round(seconds * 1e6)  # what JSON shows
            field.seconds, field.nanos = microseconds // 10**6, microseconds % 10**6 * 1000
    if record.error is not None and record.state.terminal:
        job.error.code, job.error.message = record.error.code, record.error.message
    return job
