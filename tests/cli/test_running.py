"""``run``, ``supervise`` and what looks at a running job, as users type them, on real engines."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from airflow_customjob.backends.fake import FakeWorld
from airflow_customjob.cli.shown import summary
from airflow_customjob.client import CustomJobClient
from tests.cli.conftest import PATIENCE, Shell, ended, spec

ENGINES = [pytest.param("process", id="process"), pytest.param("docker", id="docker", marks=pytest.mark.docker)]
Write = Callable[[Any], str]


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def until_it_says(process: subprocess.Popen[str], text: str) -> str:
    """Reads stderr up to a line with this text."""
    assert process.stderr is not None
    for line in process.stderr:
        if text in line:
            return line
    raise AssertionError(f"it never said {text!r}")


def left(engine: str, shell: Shell, job_id: str) -> list[str]:
    """What of a job is on its engine, its record aside."""
    if engine == "docker":
        names = []
        for what in (["ps", "-a"], ["network", "ls"]):
            command = ["docker", *what, "--filter", f"label=customjob.job-id={job_id}", "--format", "{{.ID}}"]
            names += subprocess.run(command, capture_output=True, text=True, check=True, env=shell.env).stdout.split()
        return names
    replicas = Path(shell.env["AIRFLOW__CUSTOMJOB__PROCESS_DIR"]) / "jobs" / job_id / "replicas"
    here = [str(path) for path in replicas.iterdir()] if replicas.exists() else []
    return here + [name for name in os.listdir("/proc") if name.isdigit() and job_id in _environ(name)]


def _environ(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/environ").read_text(errors="replace")
    except OSError:
        return ""


def test_run_keeps_the_log_and_the_result_apart(engine: str, shell: Shell, write: Write) -> None:
    path = write(spec("echo hello; sleep 0.2; exit 0", "while :; do sleep 0.1; done"))
    done = shell.run("run", "--backend", engine, "--output", "json", path)
    assert done.code == 0, done.err
    assert json.loads(done.out)["state"] == "JOB_STATE_SUCCEEDED"
    assert "workerpool0-0: hello\n" in done.err
    assert left(engine, shell, json.loads(done.out)["name"].rpartition("/")[2]) == []


def test_a_failure_tells_its_last_lines(engine: str, shell: Shell, write: Write) -> None:
    done = shell.run("run", "--backend", engine, write(spec("echo no data; exit 7")))
    assert done.code == 1
    assert "The replica workerpool0-0 exited with a non-zero status of 7." in done.out
    assert "no data" in done.out


def test_a_failure_is_told_once_where_both_outputs_are_read_together(write: Write, shell: Shell) -> None:
    command = [sys.executable, "-m", "airflow_customjob.cli", "run", "--backend", "process", write(spec("exit 7"))]
    done = subprocess.run(
        command, env=shell.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=PATIENCE
    )
    assert done.stdout.count("exited with a non-zero status of 7") == 1
    assert ": FAILED" in done.stdout.splitlines()[-1]


def test_forty_replicas_and_the_one_that_fails(write: Write, shell: Shell) -> None:
    job = spec(
        "echo training; sleep 600", "echo $HOSTNAME; [ $RANK != 17 ] || { sleep 2; echo no data; exit 3; }; sleep 600"
    )
    job["jobSpec"]["workerPoolSpecs"][1]["replicaCount"] = 39
    done = shell.run("run", "--backend", "process", write(job))
    assert done.code == 1
    lines = [line.partition(": ") for line in done.err.splitlines() if line.startswith("workerpool")]
    assert {name for name, _, _ in lines} == {"workerpool0-0", "workerpool1-16"}
    assert ("workerpool1-16", "no data") in [(name, text) for name, _, text in lines]
    assert "39 of 40 replicas are not followed here unless they fail" in done.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_cancels_the_job_and_leaves_nothing(
    engine: str, shell: Shell, write: Write, number: signal.Signals
) -> None:
    process = shell.start("run", "--backend", engine, "--output", "json", write(spec("echo ready; sleep 1000000")))
    until_it_says(process, "ready")
    process.send_signal(number)
    done = ended(process)
    assert done.code == 3, done.err
    job = json.loads(done.out)
    assert (job["state"], job["error"]["message"]) == ("JOB_STATE_CANCELLED", "The job was interrupted by its user.")
    assert "interrupted: cancelling job" in done.err
    assert left(engine, shell, job["name"].rpartition("/")[2]) == []


def test_two_signals_at_once_are_one_interrupt(engine: str, shell: Shell, write: Write) -> None:
    """Regression: timeout(1) signals its child and then its child's group, and the job was left half cancelled."""
    process = shell.start("run", "--backend", engine, write(spec("echo ready; sleep 1000000")))
    until_it_says(process, "ready")
    process.send_signal(signal.SIGTERM)
    time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert ended(process).code == 3


def test_a_second_interrupt_leaves_the_job_and_says_so(shell: Shell, write: Write) -> None:
    stubborn = "trap '' TERM; echo ready; while :; do sleep 0.1; done"
    path = write(spec(stubborn))
    process = shell.start("run", "--backend", "process", "--stop-grace", "600", path)
    until_it_says(process, "ready")
    process.send_signal(signal.SIGINT)
    until_it_says(process, "interrupted: cancelling job")
    time.sleep(1.2)
    process.send_signal(signal.SIGINT)
    done = ended(process)
    assert done.code == 130
    assert "was left as it is" in done.err
    assert "customjob cancel --backend process" in done.err
    job_id = json.loads(shell.run("list", "--backend", "process", "--format", "json").out)[0]["id"]
    assert left("process", shell, job_id)
    killing = json.loads(shell.run("describe", "--backend", "process", "--format", "json", job_id).out)
    assert killing["customJob"]["state"] in ("JOB_STATE_CANCELLING", "JOB_STATE_CANCELLED")
    for status in killing["replicas"]:
        _kill_those_of(job_id, status["name"])
    assert shell.run("supervise", "--backend", "process", job_id).code == 3
    assert left("process", shell, job_id) == []


def _kill_those_of(job_id: str, replica: str) -> None:
    for name in os.listdir("/proc"):
        if name.isdigit() and f"CLOUD_ML_JOB_ID={job_id}" in _environ(name):
            os.kill(int(name), signal.SIGKILL)


def test_a_detached_job_is_followed_listed_and_cancelled(engine: str, shell: Shell, write: Write) -> None:
    path = write(spec("i=0; while :; do echo line $i; i=$((i+1)); sleep 0.2; done"))
    done = shell.run("run", "--backend", engine, "--detach", path)
    assert done.code == 0, done.err
    job_id = done.out.strip()
    assert job_id.isdigit()
    assert f"follow it with `customjob logs -f --backend {engine} {job_id}`" in done.err
    shell.until(engine, job_id, "JOB_STATE_RUNNING")

    following = shell.start("logs", "-f", "--backend", engine, job_id)
    assert following.stdout is not None
    assert [following.stdout.readline() for _ in range(3)] == [f"workerpool0-0: line {n}\n" for n in range(3)]
    assert job_id in shell.run("list", "--backend", engine).out
    assert "RUNNING" in shell.run("describe", "--backend", engine, job_id).out
    assert shell.run("logs", "--backend", engine, "--tail", "1", job_id).out.count("\n") == 1

    assert shell.run("cancel", "--backend", engine, job_id).code == 0
    assert ended(following).code == 0
    assert left(engine, shell, job_id) == []
    lines = shell.run("logs", "--backend", engine, job_id).out.splitlines()
    assert lines[:3] == [f"workerpool0-0: line {n}" for n in range(3)]
    assert shell.run("logs", "--backend", engine, "--tail", "2", job_id).out.splitlines() == lines[-2:]
    log = next(Path(shell.env["XDG_STATE_HOME"]).rglob(f"{job_id}.log"))
    assert log.stat().st_mode & 0o777 == 0o600
    wait_for_the_end_of(job_id)


def wait_for_the_end_of(job_id: str) -> None:
    """Of the process that supervises a detached job."""
    end = time.monotonic() + PATIENCE
    while any(job_id in _arguments(name) for name in os.listdir("/proc") if name.isdigit()):
        assert time.monotonic() < end, "the supervising process does not end"
        time.sleep(0.1)


def _arguments(pid: str) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except OSError:
        return []


def test_where_no_log_can_be_written_nothing_is_detached(shell: Shell, write: Write, tmp_path: Path) -> None:
    """The job was submitted first, and waited for a process that never came."""
    path = write(spec("true"))
    shell.env["XDG_STATE_HOME"] = "/proc/none"
    done = shell.run("run", "--backend", "process", "--detach", path)
    assert (done.code, done.out) == (1, "")
    assert json.loads(shell.run("list", "--backend", "process", "--format", "json").out) == []

    shell.env["XDG_STATE_HOME"] = str(tmp_path / "xdg")
    assert shell.run("run", "--backend", "process", "--detach", "--secret-env", "A=b", path).code == 2
    assert not list((tmp_path / "xdg").rglob("*.log"))


def test_a_detached_job_ends_by_itself_in_a_session_of_its_own(shell: Shell, write: Write) -> None:
    done = shell.run("run", "--backend", "process", "--detach", write(spec("sleep 1; ps -o sid= -p $PPID; echo done")))
    job_id = done.out.strip()
    supervising = [int(name) for name in os.listdir("/proc") if name.isdigit() and job_id in _arguments(name)]
    assert [os.getsid(pid) for pid in supervising] == supervising
    shell.until("process", job_id, "JOB_STATE_SUCCEEDED")
    wait_for_the_end_of(job_id)
    assert left("process", shell, job_id) == []
    assert shell.run("logs", "--backend", "process", job_id).out.endswith("workerpool0-0: done\n")


def test_a_job_whose_process_died_is_picked_up_again(engine: str, shell: Shell, write: Write) -> None:
    process = shell.start("run", "--backend", engine, write(spec("echo one; sleep 5; echo two")))
    until_it_says(process, "workerpool0-0: one")
    process.kill()
    process.communicate()
    job_id = json.loads(shell.run("list", "--backend", engine, "--format", "json").out)[0]["id"]
    done = shell.run("supervise", "--backend", engine, "--output", "json", job_id)
    assert done.code == 0, done.err
    assert [line for line in done.err.splitlines() if line.startswith("workerpool")] == [
        "workerpool0-0: one",
        "workerpool0-0: two",
    ]
    assert left(engine, shell, job_id) == []


def test_the_same_id_and_spec_run_once(shell: Shell, write: Write, tmp_path: Path) -> None:
    """Run again it tells its success; with another spec it starts anew."""
    count = tmp_path / "count"
    argv = ("run", "--backend", "process", "--job-id", "1234567")
    path = write(spec(f"echo x >>{count}"))
    assert shell.run(*argv, path).code == 0
    assert shell.run(*argv, path).code == 0
    assert count.read_text() == "x\n"
    assert shell.run(*argv, write(spec(f"echo y >>{count}"))).code == 0
    assert count.read_text() == "x\ny\n"
    assert shell.describe("process", "1234567")["generation"] == 2


def test_a_secret_stands_nowhere(engine: str, shell: Shell, write: Write, tmp_path: Path) -> None:
    shell.env["HIDDEN"] = "hunter2-" + "x" * 8
    argv = ("run", "--backend", engine, "--output", "json", "--secret-env", "TOKEN=env:HIDDEN")
    done = shell.run(*argv, write(spec("echo ${#TOKEN}")))
    assert done.code == 0, done.err
    assert "workerpool0-0: 16\n" in done.err
    job_id = json.loads(done.out)["name"].rpartition("/")[2]
    shown = json.dumps(shell.describe(engine, job_id))
    assert "hunter2" not in done.out + done.err + shown
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or b"hunter2" not in path.read_bytes()


def test_running_on_processes_needs_no_airflow(write: Write, shell: Shell) -> None:
    script = (
        f"import sys; from airflow_customjob.cli import main; code = main(['run', '--backend', 'process', {write(spec('true'))!r}]);"
        "print([name for name in ('airflow', 'aiodocker', 'rich') if name in sys.modules], code)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, env=shell.env)
    assert done.stdout.splitlines()[-1] == "[] 0", done.stderr


def test_the_log_and_the_replicas_on_a_terminal(shell: Shell, write: Write) -> None:
    master, slave = os.openpty()
    shell.env |= {"TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
    process = subprocess.Popen(
        [sys.executable, "-m", "airflow_customjob.cli", "run", "--backend", "process", write(spec("echo hello; sleep 1.5"))],
        env=shell.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=slave, text=True,
    )  # fmt: skip
    os.close(slave)
    shown = b""
    try:
        while chunk := os.read(master, 65536):
            shown += chunk
    except OSError:  # the other side is closed
        pass
    finally:
        os.close(master)
    done = ended(process)
    assert done.code == 0
    text = shown.decode()
    assert "hello" in text
    assert "▶ workerpool0-0" in text
    assert done.out.startswith("job ")


def test_no_time_is_told_of_a_job_that_ended_before_all_of_it_ran() -> None:
    """It said: SUCCEEDED in 0.0s, of a job that had taken eight seconds."""
    job = CustomJobClient(FakeWorld().backend()).run(spec("true"))
    ended = job.record.end_time
    never_running = replace(job, record=replace(job.record, start_time=ended))
    assert summary(never_running) == f"job {job.job_id}: SUCCEEDED"
    assert ended is not None
    ran = replace(job, record=replace(job.record, start_time=ended - 8))
    assert summary(ran) == f"job {job.job_id}: SUCCEEDED in 8.0s"


def test_the_model_that_a_job_has_written_is_listed(write: Write, shell: Shell, tmp_path: Path) -> None:
    job = spec('mkdir -p "$AIP_MODEL_DIR" && printf 12345 > "${AIP_MODEL_DIR}model.bin"')
    job["jobSpec"]["baseOutputDirectory"] = {"outputUriPrefix": str(tmp_path / "out")}
    done = shell.run("run", "--backend", "process", write(job))
    assert done.out.endswith(f"\nmodel: 1 file, 5 bytes in {tmp_path}/out/model/: model.bin\n")
