"""How tests run the command: in process, or as users do."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from airflow_customjob.backends.fake import FakeWorld
from airflow_customjob.backends.fake.backend import register
from airflow_customjob.cli import main

PATIENCE = 60.0
"""Seconds that a test waits for what must happen."""


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


def spec(*commands: str, image: str = "local/py:1", **scheduling: Any) -> dict[str, Any]:
    """A job with one pool of one replica for each ``sh`` command."""
    pools = [
        {
            "machineSpec": {"machineType": "n1-standard-4"},
            "replicaCount": 1,
            "containerSpec": {"imageUri": image, "command": ["sh", "-c"], "args": [command]},
        }
        for command in commands
    ]
    return {"displayName": "a job", "jobSpec": {"workerPoolSpecs": pools, "scheduling": scheduling}}


@pytest.fixture
def write(tmp_path: Path) -> Callable[[Any], str]:
    """Writes a spec to a file and gives its name."""

    def write(content: Any) -> str:
        path = tmp_path / "job.json"
        path.write_text(json.dumps(content))
        return str(path)

    return write


@pytest.fixture
def world() -> FakeWorld:
    made = FakeWorld()
    register(made)
    return made


@pytest.fixture
def customjob(capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Runs the command in this process."""

    def run(*argv: str) -> Done:
        capsys.readouterr()
        code = main(argv)
        shown = capsys.readouterr()
        assert "Traceback" not in shown.err
        return Done(code, shown.out, shown.err)

    return run


class Shell:
    """The command as users run it, with a state folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.env = {
            **os.environ,
            "AIRFLOW__CUSTOMJOB__PROCESS_DIR": str(folder / "state"),
            "XDG_STATE_HOME": str(folder / "xdg"),
        }
        self._started: list[subprocess.Popen[str]] = []

    def start(self, *argv: str, **how: Any) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "airflow_customjob.cli", *argv],
            env=self.env,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            **how,
        )
        self._started.append(process)
        return process

    def run(self, *argv: str) -> Done:
        return ended(self.start(*argv))

    def describe(self, backend: str, job_id: str) -> dict[str, Any]:
        done = self.run("describe", "--backend", backend, "--format", "json", job_id)
        assert done.code == 0, done.err
        return dict(json.loads(done.out))

    def until(self, backend: str, job_id: str, state: str) -> dict[str, Any]:
        end = time.monotonic() + PATIENCE
        while (found := self.describe(backend, job_id))["customJob"]["state"] != state:
            assert time.monotonic() < end, found
            time.sleep(0.2)
        return found

    def close(self) -> None:
        for process in self._started:
            if process.poll() is None:
                process.kill()
                process.communicate()


def ended(process: subprocess.Popen[str]) -> Done:
    out, err = process.communicate(timeout=PATIENCE)
    return Done(process.returncode, out, err)


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # what is ignored here, children would ignore too
    made = Shell(tmp_path)
    yield made
    made.close()
    signal.signal(signal.SIGINT, before)
