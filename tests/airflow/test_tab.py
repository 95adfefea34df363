"""The tab "Custom Job" as a browser shows it, on the pages of a running Airflow."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_customjob.backends.base import Phase, Reason, ReplicaRef, ReplicaStatus, Usage
from airflow_customjob.plan.types import JobId, JobRequest
from airflow_customjob.spec.job_state import JobState
from airflow_customjob.supervisor.record import JobError, JobRecord, Owner, new_record, touched
from airflow_customjob.task import xcoms
from airflow_customjob.task.usage import UsageHistory
from tests.airflow.running import DagRun, RunningAirflow, wait_for
from tests.browser import Browser, Page, chromium

pytestmark = [pytest.mark.airflow, pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(600)]

NASTY = "<img src=x onerror='globalThis.harmed = true'>"
LIGHTNESS = """(() => {
    const canvas = Object.assign(document.createElement('canvas').getContext('2d'), {
        fillStyle: getComputedStyle(document.querySelector(%s,
    });
    canvas.fillRect(0, 0, 1, 1);
    const [red, green, blue] = canvas.getImageData(0, 0, 1, 1).data;
    return (red + green + blue) / 3;
})()"""
"""0 to 255, in whatever notation the theme has its colours."""
HOUR_AGO = time.time() - 3600


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture
def page(browser: Browser) -> Page:
    return browser.page()


@pytest.fixture(scope="module")
def plain(airflow: RunningAirflow) -> DagRun:
    """A run of a task that has no job of its own."""
    run = airflow.run("plain")
    run.wait_until("success")
    return run


@pytest.fixture(scope="module")
def watched(airflow: RunningAirflow) -> Iterator[DagRun]:
    """A group of three replicas that runs until it is stopped."""
    run = airflow.run("group_ticks")
    wait_for("a job", lambda: run.xcom_of("train.run", "custom_job_replicas"), 240, 0.5)
    yield run
    run.end("failed")


@pytest.fixture(scope="module")
def guarded(airflow: RunningAirflow) -> Iterator[Callable[[Page, str], str]]:
    """A second API server, below a path, in which a viewer may not read XComs: signs a page in, and gives the address."""
    users = {"viewer": "viewer", "admin": "admin"}
    passwords = airflow.home / "passwords.json"
    passwords.write_text(json.dumps(users))
    port = airflow.free_port()
    base = f"http://127.0.0.1:{port}/air"
    airflow.start(
        "guarded",
        "api-server",
        AIRFLOW__API__BASE_URL=base,
        AIRFLOW__API__PORT=str(port),
        AIRFLOW__CORE__AUTH_MANAGER="tests.airflow.auth.XComsForAdmins",
        AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS="False",
        AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE=str(passwords),
        AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS=",".join(f"{user}:{role}" for user, role in users.items()),
        PYTHONPATH=str(Path(__file__).parents[2]),
    )

    def token(user: str) -> str:
        body = json.dumps({"username": user, "password": users[user]}).encode()
        request = urllib.request.Request(f"{base}/auth/token", body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return str(json.load(answer)["access_token"])
        except ConnectionError:
            return ""
        except urllib.error.URLError as error:
            if isinstance(error.reason, ConnectionError):
                return ""
            raise

    def sign_in(page: Page, user: str) -> str:
        page.cookie("_token", wait_for("a token", lambda: token(user), 240, 0.5), base)
        return base

    yield sign_in
    airflow.stop("guarded")


def troubles(page: Page) -> list[str]:
    """Of the tab, not of Airflow's own page; nor that other networks of this machine came and went."""
    return [text for text in page.troubles() if "customjob" in text.lower()]


def shown(run: DagRun, record: JobRecord, replicas: list[ReplicaStatus], usage: UsageHistory) -> None:
    """Tell a job that nobody runs, as its task would."""
    now = time.time()
    run.set_xcom(xcoms.JOB, xcoms.job_document(record, now))
    run.set_xcom(xcoms.REPLICAS, xcoms.replicas_document(record, replicas, now))
    run.set_xcom(xcoms.USAGE, usage.document(now))


def two_hundred() -> tuple[JobRecord, list[ReplicaStatus], UsageHistory]:
    """A job of 200 replicas that failed; the 78th was out of memory."""

    def pool(count: int) -> dict[str, Any]:
        container = {"imageUri": "local/py:1"}
        return {"machineSpec": {"machineType": "n1-standard-4"}, "replicaCount": str(count), "containerSpec": container}

    spec = {"displayName": NASTY, "jobSpec": {"workerPoolSpecs": [pool(1), pool(199)]}}
    record = touched(
        new_record(JobId("4711"), Owner("o"), "e", JobRequest(spec), "d", HOUR_AGO),
        HOUR_AGO + 600,
        state=JobState.JOB_STATE_FAILED,
        start_time=HOUR_AGO + 10,
        end_time=HOUR_AGO + 600,
        error=JobError(3, f"The replica workerpool1-77 exited with a non-zero status of 137.\n{NASTY}"),
    )
    replicas, usage = [], UsageHistory(1)
    for rank in range(200):
        name = f"workerpool1-{rank - 1}" if rank else "workerpool0-0"
        is_culprit = rank == 78
        replicas.append(
            ReplicaStatus(
                ReplicaRef(JobId("4711"), 1, 0, name, 0),
                Phase.EXITED,
                exit_code=137,
                reason=Reason.OOM_KILLED if is_culprit else Reason.ERROR,
                node=NASTY,
                started_at=HOUR_AGO + 10 + rank / 10,
                finished_at=HOUR_AGO + (590 if is_culprit else 600),
            )
        )
    for at in range(20, 600, 10):
        usage.add(
            [Usage(s.ref, HOUR_AGO + at, 0.5 + rank % 5 / 10, (100 + at) << 20) for rank, s in enumerate(replicas)]
        )
    return record, replicas, usage


def test_a_deferred_job_is_shown_live(watched: DagRun, page: Page) -> None:
    page.open(watched.page("train.run", "/plugin/customjob"))
    page.wait_for_text("RUNNING")
    assert watched.tasks()["train.run"]["state"] == "deferred"
    wait_for("the usage of three replicas", lambda: page.count(".cj-usage svg") == 6, 120, 0.5)
    assert page.count(".cj tbody tr .cj-kind-running") == 3 * 2  # its badge and its bar
    assert "QUEUED" in page.text(".cj-steps")
    logs = page.run("[...document.querySelectorAll('.cj td a')].map((a) => a.pathname)")
    assert logs == [watched.path("train.workerpool0.replica", 0)] + [
        watched.path("train.workerpool1.replica", index) for index in (0, 1)
    ]
    assert troubles(page) == []


def test_a_row_shows_the_job_of_its_group(watched: DagRun, page: Page) -> None:
    page.open(watched.page("train.workerpool1.replica", "/mapped/1/plugin/customjob"))
    page.wait_for_text("this row")
    assert page.text(".cj-here th") == "workerpool1-1"


def test_a_group_over_several_jobs_shows_each_its_own(airflow: RunningAirflow, page: Page) -> None:
    run = airflow.run("group_over")
    row = wait_for(
        "rows", lambda: next((row for name, row in run.tasks().items() if name == "1/workerpool0-0"), None), 240, 0.5
    )
    wait_for("a job", lambda: run.xcom_of("train.run", "custom_job_replicas", 1), 240, 0.5)
    page.open(run.page("train.replicas", f"/mapped/{row['map_index']}/plugin/customjob"))
    page.wait_for_text("middle")
    page.wait_for_text("this row")
    assert page.text(".cj-here th") == "workerpool0-0"
    page.open(run.page("train.run", "/mapped/1/plugin/customjob"))
    page.wait_for_text("middle")
    wait_for("the link of its row", lambda: page.count(".cj td a"), 60, 0.5)
    assert page.run("[...document.querySelectorAll('.cj td a')].map((a) => a.pathname)") == [
        run.path("train.replicas", row["map_index"])
    ]
    run.end("failed")


def test_a_run_shows_its_jobs(watched: DagRun, page: Page) -> None:
    page.open(watched.page("", "/plugin/customjob-run"))
    page.wait_for_text("train.run")
    assert page.run("document.querySelector('.cj tbody a').pathname") == watched.path("train.run") + "/plugin/customjob"


def test_the_buttons_of_a_deferred_task(airflow: RunningAirflow, watched: DagRun) -> None:
    links = watched.links_of("train.run")
    assert links == {
        "Custom Job": watched.page("train.run", "/plugin/customjob"),
        "Output directory": None,
        "Primary replica's log": watched.page("train.workerpool0.replica", "/mapped/0"),
    }


def test_two_hundred_replicas_are_read_at_a_glance(plain: DagRun, page: Page) -> None:
    shown(plain, *two_hundred())
    page.open(plain.page("train", "/plugin/customjob"))
    page.wait_for_text("FAILED")
    assert page.count(".cj-squares span") == 199
    rows = page.run("[...document.querySelectorAll('.cj tbody tr:not(.cj-pool) th')].map((th) => th.innerText)")
    assert rows == ["workerpool0-0", "workerpool1-77"]
    assert "OOMKilled" in page.text(".cj table")
    assert page.text(".cj-filter") == "200 replicas\nfailed 1\nstopped 199"
    page.click(".cj-about button")
    wait_for("all rows", lambda: page.count(".cj tbody tr:not(.cj-pool)") == 200, 120)
    page.click(".cj-filter button")
    wait_for("the failed one alone", lambda: page.count(".cj tbody tr:not(.cj-pool)") == 1, 120)
    assert not page.run("document.documentElement.scrollWidth > innerWidth")

    assert page.run("document.querySelector('.cj h2').innerText").startswith(NASTY)
    assert page.count(".cj img") == 0
    assert not page.run("globalThis.harmed")

    asked = "performance.getEntriesByType('resource').filter((one) => one.name.includes('xcomEntries')).length"
    wait_for("its last question", lambda: page.run(asked) == (time.sleep(5), page.run(asked))[1], 120)
    assert troubles(page) == []


def test_it_is_dark_where_airflow_is(plain: DagRun, page: Page) -> None:
    shown(plain, *two_hundred())
    looks = []
    for is_dark in (False, True):
        page.run(f"localStorage.setItem('theme', {'dark' if is_dark else 'light'!r})") if looks else None
        page.open(plain.page("train", "/plugin/customjob"))
        page.wait_for_text("FAILED")
        looks.append([page.run(LIGHTNESS % look) for look in ("'.cj h2')).color", "'.cj button')).backgroundColor")])
    (ink, paper), (dark_ink, dark_paper) = looks
    assert ink < 100 < paper
    assert dark_paper < 100 < dark_ink


def test_a_task_without_a_job_says_so_in_a_sentence(airflow: RunningAirflow, page: Page) -> None:
    run = airflow.run("plain")
    run.wait_until("success")
    page.open(run.page("train", "/plugin/customjob"))
    page.wait_for_text("This task runs no custom job.")
    assert page.text() == "This task runs no custom job."


def test_who_may_not_read_xcoms_sees_why_and_nothing_else(
    guarded: Callable[[Page, str], str], watched: DagRun, page: Page, browser: Browser
) -> None:
    base = guarded(page, "viewer")
    page.open(watched.page("train.run", "/plugin/customjob", base))
    page.wait_for_text("You may not read the XComs of this DAG")
    assert watched.xcom_of("train.run", "custom_job_id") not in page.run("document.body.innerText")
    assert page.count(".cj *") == 1

    other = browser.page()
    other.open(watched.page("train.run", "/plugin/customjob", guarded(other, "admin")))
    other.wait_for_text("RUNNING")


def test_a_job_that_is_stopped_is_shown_to_its_end(watched: DagRun, page: Page) -> None:
    page.open(watched.page("train.run", "/plugin/customjob"))
    page.wait_for_text("RUNNING")
    watched.end("failed")
    page.wait_for_text("CANCELLED")
    page.wait_for_text("The job was cancelled")
