"""Exit codes, and errors as one sentence."""

from __future__ import annotations

from airflow_customjob.spec.job_state import JobState

OK = 0
FAILED = 1
USAGE = 2
CANCELLED = 3
INTERRUPTED = 130
BROKEN_PIPE = 141

OF_STATE = {
    JobState.JOB_STATE_SUCCEEDED: OK,
    JobState.JOB_STATE_FAILED: FAILED,
    JobState.JOB_STATE_CANCELLED: CANCELLED,
    JobState.JOB_STATE_EXPIRED: CANCELLED,
}
"""What ``run`` and ``supervise`` exit with, by the job's end."""

HELP = """exit codes:
  0    done; the job SUCCEEDED
  1    the job FAILED, or the command could not do what it was asked to
  2    the spec or the command line is wrong; nothing was created
  3    the job ended CANCELLED or EXPIRED
  130  interrupted, and something was left as it was
  141  nobody reads the output any more"""


class UsageError(Exception):
    """The command line asks for what cannot be."""


def explain(error: Exception) -> tuple[str, int]:
    """An error in words for people, and the exit code."""
    from airflow_customjob.backends.base import EngineError
    from airflow_customjob.job import NoSuchJob
    from airflow_customjob.spec.problem import SpecError
    from airflow_customjob.supervisor.claims import ClaimRefused
    from airflow_customjob.supervisor.record import RecordError
    from airflow_customjob.supervisor.supervise import Fenced

    if isinstance(error, (SpecError, UsageError)):
        return str(error), USAGE
    if isinstance(error, NoSuchJob):
        return str(error.args[0]), FAILED
    if isinstance(error, (EngineError, ClaimRefused, RecordError, Fenced)):
        return str(error), FAILED
    if isinstance(error, OSError):
        name = f"{error.filename}: " if error.filename else ""
        return f"{name}{error.strerror or error}", FAILED
    hint = "CUSTOMJOB_DEBUG=1 shows where"
    return f"this should not have happened: {type(error).__name__}: {error} ({hint})", FAILED
