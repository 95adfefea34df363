"""The ``customjob`` command on each engine, from end to end: output, exit codes, Ctrl-C, cancel, and nothing left."""

from __future__ import annotations

import json
import signal

import pytest

from tests.jobs.conftest import FOR_EVER, Place, ended, eventually, job_of, pool, shell, until_it_says


@pytest.mark.parametrize(
    ("script", "scheduling", "code", "state"),
    [
        ("echo hello; exit 0", {}, 0, "JOB_STATE_SUCCEEDED"),
        ("echo hello; exit 1", {}, 1, "JOB_STATE_FAILED"),
        ("echo hello; exec sleep 1000000", {"timeout": "2s"}, 3, "JOB_STATE_CANCELLED"),
    ],
)
def test_run_exits_as_the_job_ended(
    place: Place, script: str, scheduling: dict[str, str], code: int, state: str
) -> None:
    job_id = place.new_job()
    path = place.write(job_of(shell(script), pool(*FOR_EVER), **scheduling))
    done = ended(place.customjob("run", "--job-id", job_id, "--output", "json", path))
    assert (done.code, done.job["state"]) == (code, state), done.err
    assert done.job["name"].endswith(f"/customJobs/{job_id}")
    assert done.lines_of("workerpool0-0") == ["hello"]
    assert place.remains(job_id) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_cancels_the_job_and_leaves_nothing(place: Place, number: signal.Signals) -> None:
    job_id = place.new_job()
    path = place.write(job_of(shell("echo ready; exec sleep 1000000"), pool(*FOR_EVER, count=2)))
    process = place.customjob("run", "--job-id", job_id, "--output", "json", path)
    until_it_says(process, "workerpool0-0: ready")
    process.send_signal(number)
    done = ended(process)
    assert (done.code, done.job["state"]) == (3, "JOB_STATE_CANCELLED"), done.err
    assert done.job["error"]["message"] == "The job was interrupted by its user."
    assert place.remains(job_id) == []


def test_an_interrupt_during_the_launch_leaves_nothing(place: Place) -> None:
    job_id = place.new_job()
    process = place.customjob("run", "--job-id", job_id, place.write(job_of(pool(*FOR_EVER), pool(*FOR_EVER, count=3))))
    until_it_says(process, "JOB_STATE_PENDING")
    process.send_signal(signal.SIGINT)
    done = ended(process)
    assert done.code == 3, done.err
    assert place.remains(job_id) == []


def test_a_detached_job_is_looked_at_and_cancelled_from_elsewhere(place: Place) -> None:
    job_id = place.new_job()
    path = place.write(job_of(shell("echo ready; exec sleep 1000000"), shell("echo me too; exec sleep 1000000")))
    assert ended(place.customjob("run", "--detach", "--job-id", job_id, path)).out.strip() == job_id

    def state() -> str:
        shown = json.loads(ended(place.customjob("describe", "--format", "json", job_id)).out)
        return str(shown["customJob"]["state"])

    eventually(lambda: state() == "JOB_STATE_RUNNING", "the job runs")
    listed = ended(place.customjob("list", "--format", "json"))
    assert [job["state"] for job in json.loads(listed.out) if job["id"] == job_id] == ["JOB_STATE_RUNNING"]
    eventually(
        lambda: (
            sorted(ended(place.customjob("logs", job_id)).out.splitlines())
            == ["workerpool0-0: ready", "workerpool1-0: me too"]
        ),
        "both replicas' lines",
    )
    assert ended(place.customjob("cancel", job_id)).code == 0
    assert state() == "JOB_STATE_CANCELLED"
    assert place.remains(job_id) == []


def test_a_wrong_spec_costs_nothing(place: Place) -> None:
    spec = job_of(pool(*FOR_EVER, machine="n1-standard-5"), network="projects/1/global/networks/n")
    job_id = place.new_job()
    done = ended(place.customjob("run", "--job-id", job_id, place.write(spec)))
    assert done.code == 2
    assert "jobSpec.scheduling.network" in done.err or "job_spec.scheduling.network" in done.err
    assert ended(place.customjob("describe", job_id)).code == 1
    assert place.objects(job_id) == {}
