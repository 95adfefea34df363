"""States of a job and google.rpc status codes, by the numbers Vertex AI gives them. Imports no protobuf."""

from __future__ import annotations

from enum import IntEnum


class JobState(IntEnum):
    """``google.cloud.aiplatform.v1.JobState``; a CustomJob passes through 1 to 7 (job_state.proto of Vertex AI)."""

    JOB_STATE_UNSPECIFIED = 0
    JOB_STATE_QUEUED = 1
    JOB_STATE_PENDING = 2
    JOB_STATE_RUNNING = 3
    JOB_STATE_SUCCEEDED = 4
    JOB_STATE_FAILED = 5
    JOB_STATE_CANCELLING = 6
    JOB_STATE_CANCELLED = 7
    JOB_STATE_PAUSED = 8
    JOB_STATE_EXPIRED = 9
    JOB_STATE_UPDATING = 10
    JOB_STATE_PARTIALLY_SUCCEEDED = 11

    @property
    def terminal(self) -> bool:
        """No other state can follow."""
        return self in TERMINAL

    @property
    def succeeded(self) -> bool:
        return self is JobState.JOB_STATE_SUCCEEDED

    @property
    def short(self) -> str:
        """The name without ``JOB_STATE_``, for people."""
        return self.name.removeprefix("JOB_STATE_")


TERMINAL = frozenset(
    {
        JobState.JOB_STATE_SUCCEEDED,
        JobState.JOB_STATE_FAILED,
        JobState.JOB_STATE_CANCELLED,
        JobState.JOB_STATE_EXPIRED,
        JobState.JOB_STATE_PARTIALLY_SUCCEEDED,
    }
)


class StatusCode(IntEnum):
    """``google.rpc.Code``: what ``error.code`` of a job says.

    Vertex AI gives INVALID_ARGUMENT for whatever user code did wrong and CANCELLED for a cancelled job.
    """

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16
