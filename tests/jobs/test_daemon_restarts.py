"""A Docker daemon that is restarted or killed under a running job: its replicas are lost, start again, and the job succeeds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from airflow_customjob.backends.base import ReplicaRef
from airflow_customjob.client import CustomJobClient
from airflow_customjob.spec.job_state import JobState
from tests.engines import OwnDocker
from tests.jobs.conftest import PATIENCE, DockerPlace, Told, eventually, job_of, shell

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]

HOW = [pytest.param(True, id="gracefully"), pytest.param(False, id="by SIGKILL")]


@pytest.fixture
def place(own_docker: OwnDocker, folder: Path) -> Iterator[DockerPlace]:
    made = DockerPlace(folder)
    yield made
    own_docker.up()
    made.close()


def restart(docker: OwnDocker, gracefully: bool, while_down: Callable[[], None] = lambda: None) -> None:
    """:param while_down: called between a killed daemon's end and its next start."""
    if gracefully:
        docker.restart()
    else:
        docker.kill()
        while_down()
        docker.up()


REPLICAS = ("workerpool0-0", "workerpool1-0", "workerpool1-1")


def refs_of(told: Told) -> list[ReplicaRef]:
    """The first incarnation of each."""
    return [min(line.ref for line in told.lines if line.ref.replica == replica) for replica in REPLICAS]


def said_of(place: DockerPlace, ref: ReplicaRef) -> list[str]:
    """What it had said on its first start, by its own words."""
    return (place.folder / f"said.{REPLICAS.index(ref.replica)}").read_text().splitlines()


def counts_its_starts(folder: Path) -> str:
    """On its first start it runs until SIGTERM, and then exits with 0; on the next ones it succeeds at once."""
    return (
        f"echo start >>{folder}/$RANK; n=$(wc -l <{folder}/$RANK); trap 'echo stopped $n; exit 0' TERM; "
        "i=0; while [ $n = 1 ] && [ $i -lt 3000 ]; do echo tick $i; echo tick $i >>"
        f"{folder}/said.$RANK; i=$((i+1)); sleep 0.1; done; echo done $n"
    )


@pytest.mark.parametrize("gracefully", HOW)
def test_replicas_are_lost_and_start_again(
    own_docker: OwnDocker, place: DockerPlace, gracefully: bool, figure: Callable[[str], None]
) -> None:
    """A replica that handles SIGTERM reads as exit 0 after the restart: as a success that never was.

    A daemon that is killed takes with it the lines that it has read of a replica and not yet put away; all others are told.
    """
    script = counts_its_starts(place.folder)
    running, told, job_id = place.start(job_of(shell(script), shell(script, count=2)))
    eventually(lambda: len([line for line in told.lines if line.text == "tick 5"]) == 3, "three replicas at work")
    in_flight: dict[str, list[str]] = {}

    def look() -> None:
        for ref in refs_of(told):
            in_flight[ref.replica] = said_of(place, ref)[len(own_docker.stored(ref.name)) :]

    restart(own_docker, gracefully, look)
    job = running.result(PATIENCE)
    assert job.state is JobState.JOB_STATE_SUCCEEDED, job.error
    assert (job.record.attempt, job.record.restarts["workerpool0-0"]) == (0, 1)
    assert (place.folder / "0").read_text() == "start\n" * 2
    assert sum("was lost and starts again (1 of 5)" in said for said in told.said) >= 1, told.said
    lost = 0
    for ref in refs_of(told):
        ticks = [line for line in told.of(ref.replica) if line.startswith("tick")]
        said = said_of(place, ref)
        missing = [line for line in said if line not in ticks]
        assert missing == in_flight.get(ref.replica, [])[: len(missing)], "the daemon had not put away these alone"
        said = [line for line in said if line not in missing]
        assert said == ticks[: len(said)], f"{ref.replica} has a gap"
        assert len(ticks) - len(said) in (0, 1), "it may die between the two"
        lost += len(missing)
    assert told.of("workerpool0-0")[-1] == "done 2"
    figure(
        f"restarts: {job.record.restarts}; {len(told.lines)} lines; the daemon took {lost} with it, none else missing"
    )
    assert place.remains(job_id) == []


@pytest.mark.parametrize("gracefully", HOW)
def test_a_job_without_retries_fails_and_never_succeeds(
    own_docker: OwnDocker, place: DockerPlace, gracefully: bool
) -> None:
    script = counts_its_starts(place.folder)
    running, told, job_id = place.start(job_of(shell(script), shell(script), disableRetries=True))
    eventually(lambda: len([line for line in told.lines if line.text == "tick 5"]) == 2, "two replicas at work")
    restart(own_docker, gracefully)
    job = running.result(PATIENCE)
    assert job.state is JobState.JOB_STATE_FAILED
    assert job.message().error.code == 13
    assert "was lost" in job.error
    assert place.remains(job_id) == []


def test_an_end_of_the_job_before_the_daemons_death_stays(own_docker: OwnDocker, place: DockerPlace) -> None:
    job, _ = place.run(job_of(shell("exit 0"), shell("exec sleep 1000000")))
    restart(own_docker, gracefully=False)
    found = CustomJobClient(place.backend()).get(job.job_id)
    assert found.record == job.record
    assert found.state is JobState.JOB_STATE_SUCCEEDED
