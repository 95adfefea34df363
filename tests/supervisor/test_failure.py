"""A replica that exits with another code than 0 fails the job, in Vertex AI's words and with status code 3."""

from __future__ import annotations

import pytest

from airflow_customjob.backends.base import Reason
from airflow_customjob.supervisor.follow import FIRST_BYTES, FURTHER_BYTES
from airflow_customjob.supervisor.record import encode
from airflow_customjob.supervisor.rules import Remove, Stop
from airflow_customjob.supervisor.sentences import FIRST_WORDS, FURTHER_WORDS, MAX_TOLD
from tests.supervisor.jobs import CREATED, T0, F, Shown, exited, running_job

PLAIN = "The replica workerpool1-1 exited with a non-zero status of {}. Termination reason: {}."
SENTENCES = [
    (exited(1), PLAIN.format(1, "Error")),
    (exited(137), PLAIN.format(137, "Error")),
    (exited(143), PLAIN.format(143, "Error")),
    (exited(2, reason=None), PLAIN.format(2, "Error")),
    (exited(128, reason=Reason.START_ERROR), PLAIN.format(128, "StartError")),
    (
        exited(137, reason=Reason.OOM_KILLED),
        "The replica workerpool1-1 ran out of memory and exited with a non-zero status of 137.",
    ),
]


@pytest.mark.parametrize(("worker", "sentence"), SENTENCES, ids=[text for _, text in SENTENCES])
def test_sentence(worker: Shown, sentence: str) -> None:
    job = running_job()
    decision = job.decide(job.statuses(w1=worker), now=T0 + 6)
    record = decision.record
    assert record.error is not None
    assert (record.state, record.error.code, record.error.message) == (F, 3, sentence)
    assert (record.end_time, [s.ref.replica for s in record.failed]) == (T0 + 6, ["workerpool1-1"])
    assert decision.actions == (
        Stop(job.refs("workerpool0-0", "workerpool1-0"), job.plan.options.stop_grace),
        Remove(job.refs("workerpool1-1")),
    )


def test_the_primary_s_failure_is_one_like_any_other() -> None:
    job = running_job()
    record = job.decide(job.statuses(p=exited(7))).record
    assert record.error is not None
    assert record.error.message.startswith("The replica workerpool0-0 exited with a non-zero status of 7.")


def test_the_engine_s_words_and_the_last_lines_follow_the_sentence() -> None:
    job = running_job()
    broken = exited(127, reason=Reason.START_ERROR, message='"train" is not in $PATH', last_lines=("one", "two"))
    record = job.decide(job.statuses(w1=broken)).record
    assert record.error is not None
    assert record.error.message.split("\n")[1:] == ['"train" is not in $PATH', "one", "two"]


def test_several_failures_are_told_first_one_first() -> None:
    job = running_job()
    record = job.decide(job.statuses(w0=exited(2, at=T0 + 6), w1=exited(1, at=T0 + 5), p=exited(3, at=T0 + 7))).record
    assert record.error is not None
    told = [part.split()[2] for part in record.error.message.split("\n\n")]
    assert told == ["workerpool1-1", "workerpool1-0", "workerpool0-0"]


def test_what_never_started_is_removed_and_not_stopped() -> None:
    job = running_job()
    decision = job.decide(job.statuses(w0=CREATED, w1=exited(1)))
    assert Remove(job.refs("workerpool1-0", "workerpool1-1")) in decision.actions


def test_a_thousand_failures_are_told_by_the_first_ones() -> None:
    job = running_job(pools=(1, 999))
    worker = exited(1, at=T0 + 6, message="x" * 5000, last_lines=("y" * FURTHER_BYTES,))
    first = exited(1, message="x" * 5000, last_lines=("y" * FIRST_BYTES,))
    record = job.decide(job.statuses(others=worker, w7=first)).record
    assert [len(status.message) for status in record.failed] == [FIRST_WORDS, *[FURTHER_WORDS] * (MAX_TOLD - 1)]
    assert record.failed[0].ref.replica == "workerpool1-7"
    assert len(encode(record)) - len(encode(job.record)) < 16_000
