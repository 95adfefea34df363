"""Whatever ends a task, nothing of its job is left, and what is going to be tried again goes on: all at once in one Airflow."""

from __future__ import annotations

from pathlib import Path

import pytest

from airflow_customjob import CustomJobClient, ProcessBackend
from tests.airflow.kill_paths import ENDS, GOES_ON, Case, KillPath, Scene, ways
from tests.airflow.running import RunningAirflow
from tests.engines import why_not

pytestmark = [pytest.mark.airflow, pytest.mark.slow, pytest.mark.timeout(600)]

KEPT = Path(__file__).parents[2] / "build" / "kill-paths.txt"
"""The table, to be read."""
Way = tuple[KillPath, str, str, str]
WAYS = ways("process", *([] if why_not("docker") else ["docker"]))


@pytest.fixture(scope="module")
def scene(airflow: RunningAirflow) -> dict[Way, Case]:
    played = Scene(airflow, WAYS)
    played.play()
    print(played.table())
    KEPT.parent.mkdir(exist_ok=True)
    KEPT.write_text(played.table())
    return {(case.path, case.who, case.mode, case.backend): case for case in played.cases}


@pytest.mark.parametrize("way", WAYS, ids=lambda way: "-".join((way[0].name, *way[1:])))
def test_what_becomes_of_a_job(scene: dict[Way, Case], way: Way) -> None:
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
    if case.path.job == ENDS:
        assert case.xcom("custom_job")["state"] in ("JOB_STATE_CANCELLED", "JOB_STATE_RUNNING")
    assert not {"running", "deferred"} & {task["state"] for task in case.run.tasks().values()}


def test_no_trace_of_any_replica(airflow: RunningAirflow, scene: dict[Way, Case]) -> None:
    client = CustomJobClient(ProcessBackend(state_folder=str(airflow.home / "customjob")))
    of_here = {case.job_id for case in scene.values() if case.backend == "process"}
    assert {job_id: client.get(job_id).replicas for job_id in of_here} == dict.fromkeys(of_here, ())
