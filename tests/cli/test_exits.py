"""Every exit code of every command, and that an error is one sentence."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from airflow_customjob.backends.base import EngineError
from airflow_customjob.backends.fake import FakeWorld, exits, killed_by, runs_for_ever
from airflow_customjob.cli.exits import HELP
from airflow_customjob.plan.types import JobId
from tests.cli.conftest import Done, spec

Command = Callable[..., Done]
COMMANDS = ("validate", "render", "run", "supervise", "list", "describe", "logs", "cancel", "gc")


def on(world: FakeWorld) -> tuple[str, ...]:
    return ("--backend", "fake", "--backend-option", f"world={world.name}")


@pytest.mark.parametrize(
    ("script", "options", "scheduling", "code", "state"),
    [
        (exits(0), (), {}, 0, "SUCCEEDED"),
        (exits(1), (), {}, 1, "FAILED"),
        (killed_by(11), (), {"disableRetries": True}, 1, "FAILED"),
        (runs_for_ever(), (), {"timeout": "0.3s"}, 3, "CANCELLED"),
        (runs_for_ever(), ("--timeout-state", "EXPIRED"), {"timeout": "0.3s"}, 3, "EXPIRED"),
        (runs_for_ever(), ("--timeout-state", "FAILED"), {"timeout": "0.3s"}, 1, "FAILED"),
    ],
)
def test_run_exits_with_the_end_of_its_job(
    customjob: Command,
    world: FakeWorld,
    write: Callable[[Any], str],
    script: Any,
    options: tuple[str, ...],
    scheduling: dict[str, Any],
    code: int,
    state: str,
) -> None:
    world.script("workerpool0-0", script)
    done = customjob("run", *on(world), *options, "--output", "json", write(spec("true", **scheduling)))
    assert done.code == code, done.err
    assert json.loads(done.out)["state"] == f"JOB_STATE_{state}"


@pytest.mark.parametrize(
    "argv",
    [
        (),
        ("dance",),
        ("run",),
        ("run", "--timeout-state", "SUCCEEDED", "SPEC"),
        ("run", "--stop-grace", "soon", "SPEC"),
        ("run", "--stop-grace", "nan", "SPEC"),
        ("run", "--image-map", "local/py", "SPEC"),
        ("run", "--backend", "vertex", "SPEC"),
        ("run", "--backend", "fake", "--backend-option", "colour=red", "SPEC"),
        ("run", "--backend", "fake", "--ignore-field", "colour", "SPEC"),
        ("run", "--backend", "fake", "--secret-env", "A", "SPEC"),
        ("run", "--backend", "fake", "--job-id", "one", "SPEC"),
        ("describe", "--backend", "fake", "my job"),
        ("logs", "--backend", "fake", "--tail", "-1", "7"),
        ("validate", "/no/such/file.yaml"),
        ("render", "--backend", "fake", "/no/such/file.yaml"),
        ("run", "--backend", "fake", "/no/such/file.yaml"),
    ],
)
def test_a_wrong_command_line_exits_with_2(
    customjob: Command, write: Callable[[Any], str], argv: tuple[str, ...]
) -> None:
    path = write(spec("true"))
    done = customjob(*(path if part == "SPEC" else part for part in argv))
    assert done.code == 2
    assert (done.err + done.out).strip()


def test_a_misspelled_argument_of_a_backend_gets_the_nearest_name(customjob: Command) -> None:
    done = customjob("list", "--backend", "docker", "--backend-option", "docker_urll=tcp://host:2376")
    assert (done.code, done.err) == (
        2,
        "customjob: backend docker has no argument docker_urll: did you mean docker_url?\n",
    )


def test_a_wrong_option_is_told_without_a_page_of_options(customjob: Command) -> None:
    done = customjob("run", "--timeout-state", "LATE", "job.yaml")
    assert done.err.splitlines()[0] == "usage: customjob run [options] SPEC"
    assert "'LATE' (choose from" in done.err.splitlines()[1]


@pytest.mark.parametrize(
    "argv", [("describe", "7"), ("logs", "7"), ("cancel", "7"), ("supervise", "projects/p/locations/l/customJobs/7")]
)
def test_a_job_that_is_not_there_is_said_so(customjob: Command, world: FakeWorld, argv: tuple[str, ...]) -> None:
    done = customjob(argv[0], *on(world), argv[1])
    assert done.code == 1
    assert done.err.startswith("customjob: fake has no job 7 ")
    assert done.out == ""


@pytest.mark.parametrize(
    ("call", "argv"),
    [
        ("jobs", ("list",)),
        ("jobs", ("gc",)),
        ("read_record", ("describe", "7")),
        ("read_record", ("logs", "7")),
        ("read_record", ("cancel", "7")),
        ("identity", ("run", "SPEC")),
    ],
)
def test_an_engine_that_does_not_answer_is_one_sentence(
    customjob: Command, world: FakeWorld, write: Callable[[Any], str], call: str, argv: tuple[str, ...]
) -> None:
    world.fail(call, EngineError("nobody answers at unix:///tmp/x.sock: start it"))
    path = write(spec("true"))
    done = customjob(argv[0], *on(world), *(path if part == "SPEC" else part for part in argv[1:]))
    assert (done.code, done.err) == (1, "customjob: nobody answers at unix:///tmp/x.sock: start it\n")


@pytest.mark.parametrize(("given", "code"), [((), 0), (("--generation", "1"), 0), (("--generation", "2"), 1)])
def test_cancel(customjob: Command, world: FakeWorld, submitted: JobId, given: tuple[str, ...], code: int) -> None:
    done = customjob("cancel", *on(world), *given, submitted)
    assert done.code == code, done.err
    shown = json.loads(customjob("describe", *on(world), "--format", "json", submitted).out)
    assert shown["customJob"]["state"] == ("JOB_STATE_QUEUED" if code else "JOB_STATE_CANCELLED")


@pytest.fixture
def submitted(world: FakeWorld) -> JobId:
    from airflow_customjob.client import CustomJobClient

    return CustomJobClient(world.backend()).submit(spec("true")).job_id


def test_what_should_not_happen_has_no_traceback_unless_asked_for(
    customjob: Command, world: FakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.fail("jobs", ZeroDivisionError("oh"), times=2)
    done = customjob("list", *on(world))
    assert done.code == 1
    assert "ZeroDivisionError: oh" in done.err
    assert "CUSTOMJOB_DEBUG=1" in done.err
    monkeypatch.setenv("CUSTOMJOB_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        customjob("list", *on(world))


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example_and_the_exit_codes(customjob: Command, command: str) -> None:
    done = customjob(command, "--help")
    assert done.code == 0
    assert f"  customjob {command}" in done.out or f"=$(customjob {command}" in done.out
    assert HELP in done.out


def test_version(customjob: Command) -> None:
    done = customjob("--version")
    assert done.code == 0
    assert done.out.startswith("customjob ")


def test_a_reader_that_goes_away_is_no_error(write: Callable[[Any], str]) -> None:
    job = spec("true", "true")
    job["jobSpec"]["workerPoolSpecs"][1]["replicaCount"] = 300  # more than a pipe holds
    command = (
        f"{sys.executable} -m airflow_customjob.cli render --backend fake {write(job)} | true; exit ${{PIPESTATUS[0]}}"
    )
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (141, "")


def test_who_fails_over_a_running_job_says_that_it_is_still_there(
    customjob: Command, world: FakeWorld, write: Callable[[Any], str]
) -> None:
    """It said that this should not have happened, and left a job running that nobody knew of."""
    world.script("workerpool0-0", runs_for_ever())
    world.fail("start", RuntimeError("a bug"))
    done = customjob("run", *on(world), "--job-id", "77", write(spec("true")))
    assert done.code == 1
    assert "this should not have happened: RuntimeError: a bug" in done.err
    assert "`customjob cancel --backend fake 77` ends it" in done.err
