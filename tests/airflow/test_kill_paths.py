"""Whatever ends a task, nothing of its job is left, and what is going to be tried again goes on: all at once in one Airflow."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from airflow_customjob import CustomJobClient, DockerBackend, JobState, ProcessBackend
from tests.airflow.kill_paths import ENDS, FOR_EACH, GOES_ON, HEAD, PATIENCE, Case, Scene, Way, ways
from tests.airflow.running import RunningAirflow, wait_for
from tests.engines import why_not

KEPT = Path(__file__).parents[2] / "build" / "kill-paths.json"
"""What became of each way when it was last taken: all of them at once are much for a small machine. Beside it, for people, as text."""
WAYS = ways("process", *([] if why_not("docker") else ["docker"]))

pytestmark = [pytest.mark.airflow, pytest.mark.slow, pytest.mark.timeout(PATIENCE + FOR_EACH * len(WAYS) + 600)]


def table(rows: dict[str, str]) -> str:
    """All ways, in their order, and those that were not taken yet."""
    return "\n".join(["", HEAD, *(rows.get(str(way), f"{way}: not taken yet") for way in WAYS)])


@pytest.fixture(scope="module")
def scene(
    airflow: RunningAirflow, clients: dict[str, CustomJobClient], request: pytest.FixtureRequest
) -> dict[Way, Case]:
    """Played by the ways that were asked for."""
    items = [item for item in request.session.items if getattr(item, "module", None) is request.module]
    played = Scene(airflow, clients, [item.callspec.params["way"] for item in items if hasattr(item, "callspec")])
    played.play()
    KEPT.parent.mkdir(exist_ok=True)
    rows = (json.loads(KEPT.read_text()) if KEPT.exists() else {}) | played.rows()
    KEPT.write_text(json.dumps(rows, indent=1))
    KEPT.with_suffix(".txt").write_text(table(rows))
    print(table(rows))
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
    client = clients[case.backend]
    wait_for("nothing of the job", lambda: not client.get(case.job_id).replicas, 60, 0.5)
    assert client.get(case.job_id).state is JobState.JOB_STATE_CANCELLED
    if case.mode == "deferred" and case.path.job == ENDS:
        assert case.has_told_its_end()
    assert not {"running", "deferred"} & {task["state"] for task in case.run.tasks().values()}
