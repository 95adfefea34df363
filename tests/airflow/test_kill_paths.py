"""Whatever ends a task, nothing of its job is left, and what is going to be tried again goes on: all at once in one Airflow."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from airflow_customjob import CustomJobClient, DockerBackend, JobState, ProcessBackend
from tests.airflow.kill_paths import ENDS, GOES_ON, Case, Scene, Way, ways
from tests.airflow.running import RunningAirflow
from tests.engines import why_not

pytestmark = [pytest.mark.airflow, pytest.mark.slow, pytest.mark.timeout(900)]

KEPT = Path(__file__).parents[2] / "build" / "kill-paths.txt"
"""The table, to be read."""
WAYS = ways("process", *([] if why_not("docker") else ["docker"]))


@pytest.fixture(scope="module")
def scene(airflow: RunningAirflow, request: pytest.FixtureRequest) -> dict[Way, Case]:
    """Played by the ways that were asked for."""
    items = [item for item in request.session.items if getattr(item, "module", None) is request.module]
    played = Scene(airflow, [item.callspec.params["way"] for item in items if hasattr(item, "callspec")])
    played.play()
    print(played.table())
    KEPT.parent.mkdir(exist_ok=True)
    KEPT.write_text(played.table())
    return {case.way: case for case in played.cases}


@pytest.fixture(scope="module")
def clients(airflow: RunningAirflow) -> dict[str, CustomJobClient]:
    process = ProcessBackend(state_folder=str(airflow.home / "customjob"))
    return {"process": CustomJobClient(process), "docker": CustomJobClient(DockerBackend())}


@pytest.mark.parametrize(
    "way", [pytest.param(way, id=str(way), marks=[pytest.mark.long] if way.is_long else []) for way in WAYS]
)
def test_what_becomes_of_a_job(scene: dict[Way, Case], clients: dict[str, CustomJobClient], way: Way) -> None:
    case = scene[way]
    assert case.took is not None, f"{case.path.job}: not seen"
    assert case.final in case.path.states
    assert not case.left
    if case.path.job == GOES_ON:
        ticks = case.logged()
        assert case.still
        assert sorted(set(ticks)) == list(range(max(ticks) + 1))
    else:
        assert case.took < case.path.within
    for _ in range(100):  # a group's ended replicas are kept for its rows to read their last lines
        job = clients[case.backend].get(case.job_id)
        if not job.replicas:
            break
        time.sleep(0.2)
    assert (job.state, job.replicas) == (JobState.JOB_STATE_CANCELLED, ())
    if case.mode == "deferred" and case.path.job == ENDS:
        assert case.xcom("custom_job")["state"] == job.state.name
    assert not {"running", "deferred"} & {task["state"] for task in case.run.tasks().values()}
