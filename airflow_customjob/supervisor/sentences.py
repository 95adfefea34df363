"""What a job's record and its error tell of failed replicas: Vertex AI's sentences, and no more than a record can keep."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import chain, repeat

from airflow_customjob.backends.base import Reason, ReplicaStatus

MAX_TOLD = 10
"""Failed or lost replicas that the record and the error tell of: the first ones are the cause, the others its echo."""
FIRST_WORDS, FURTHER_WORDS, MAX_REFUSAL = 1000, 100, 4000
"""Characters of an engine's words on the first failed replica, on each further one, and on a refusal, that the record keeps."""


def worth_telling(statuses: Iterable[ReplicaStatus]) -> tuple[ReplicaStatus, ...]:
    """As many of them, and as many of the engine's words, as a record keeps."""
    limits = chain([FIRST_WORDS], repeat(FURTHER_WORDS, MAX_TOLD - 1))
    return tuple(replace(s, message=s.message[:limit]) for s, limit in zip(statuses, limits, strict=False))


def failure_sentence(status: ReplicaStatus) -> str:
    """Vertex AI's sentence for one failed replica, to the letter."""
    name, code = status.ref.replica, status.exit_code
    if status.reason is Reason.OOM_KILLED:
        return f"The replica {name} ran out of memory and exited with a non-zero status of {code}."
    return f"The replica {name} exited with a non-zero status of {code}. Termination reason: {status.reason or Reason.ERROR}."


def failure_message(failures: Sequence[ReplicaStatus]) -> str:
    """The sentences of all failed replicas, first one first, each with the engine's words and its last lines."""
    parts = []
    for status in failures:
        details = [failure_sentence(status), status.message, *status.last_lines]
        parts.append("\n".join(line for line in details if line))
    return "\n\n".join(parts)
