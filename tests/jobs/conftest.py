"""Whole jobs on the real engines: where they run, how they are started, and what is left of them.

A test asks for a ``place``, runs a job there through the client or the command, and looks at the engine with the engine's
own tools. Figures worth quoting go to ``figure`` and stand at the end of the test run.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from airflow_customjob.backends.base import Backend, LogLine, ReplicaRef, ReplicaStatus
from airflow_customjob.backends.docker import DockerBackend
from airflow_customjob.backends.kubernetes import KubernetesBackend
from airflow_customjob.backends.process import ProcessBackend
from airflow_customjob.client import CustomJobClient
from airflow_customjob.job import Job
from airflow_customjob.plan.identity import new_job_id
from airflow_customjob.plan.types import JobId, JobOptions

PATIENCE = 120.0
"""Seconds that a test waits for what must happen."""
FOR_EVER = ("sh", "-c", "exec sleep 1000000")

_figures: list[str] = []


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Takes a measured figure, which is shown at the end of the test run beside the test's name."""

    def keep(text: str) -> None:
        _figures.append(f"{request.node.name}: {text}")

    return keep


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _figures:
        terminalreporter.section("FIGURES")
        for line in _figures:
            terminalreporter.line(line)
        _figures.clear()


def pool(*command: str, count: int = 1, image: str = "local/py:1", machine: str = "n1-standard-4") -> dict[str, Any]:
    """A worker pool in which each replica runs this command."""
    return {
        "machineSpec": {"machineType": machine},
        "replicaCount": count,
        "containerSpec": {"imageUri": image, "command": [command[0]], "args": list(command[1:])},
    }


def shell(script: str, count: int = 1, **more: Any) -> dict[str, Any]:
    return pool("sh", "-c", script, count=count, **more)


def job_of(*pools: dict[str, Any], **scheduling: Any) -> dict[str, Any]:
    return {"displayName": "whole job", "jobSpec": {"workerPoolSpecs": list(pools), "scheduling": scheduling}}


@dataclass
class Told:
    """What a user is told of a job while it runs.

    :param seen: each incarnation as it was seen last.
    """

    lines: list[LogLine] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    seen: dict[ReplicaRef, ReplicaStatus] = field(default_factory=dict)

    def of(self, replica: str) -> list[str]:
        """A replica's lines, of all its incarnations."""
        return [line.text for line in self.lines if line.ref.replica == replica and not line.notice]

    def change(self, record: object, replicas: Any) -> None:
        self.seen |= {status.ref: status for status in replicas}

    def finished_at(self, replica: str) -> float:
        """When its last incarnation ended, by the engine's clock."""
        last = max(ref for ref in self.seen if ref.replica == replica)
        at = self.seen[last].finished_at
        assert at is not None, f"{last.name} was never seen to end: {self.seen[last]}"
        return at


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str

    @property
    def job(self) -> dict[str, Any]:
        """What ``--output json`` has printed."""
        return dict(json.loads(self.out))

    def lines_of(self, replica: str) -> list[str]:
        prefix = f"{replica}: "
        return [line.removeprefix(prefix) for line in self.err.splitlines() if line.startswith(prefix)]


class Place(ABC):
    """An engine, with a folder that every replica sees under the same path.

    :param folder: on this host and in each replica.
    """

    name: str

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = {**os.environ, "XDG_STATE_HOME": str(folder / "xdg")}
        self._jobs: list[JobId] = []
        self._started: list[subprocess.Popen[str]] = []

    @abstractmethod
    def backend(self) -> Backend: ...

    @abstractmethod
    def remains(self, job_id: str) -> list[str]:
        """What of a job is on the engine beside its record, as the engine's own tools show it."""

    @abstractmethod
    def objects(self, job_id: str) -> dict[str, str]:
        """The engine's own id of each replica object that is there now, by its name."""

    @abstractmethod
    def forget(self, job_id: str) -> None:
        """Remove whatever is left of a job, its record too."""

    def new_job(self) -> JobId:
        """The id of a job of which nothing stays after the test."""
        self._jobs.append(new_job_id())
        return self._jobs[-1]

    def run(
        self, spec: dict[str, Any], options: JobOptions | None = None, backend: Backend | None = None
    ) -> tuple[Job, Told]:
        """Through the client, to the job's end."""
        told = Told()
        job = self.carry_out(spec, options, backend, told, self.new_job())
        return job, told

    def start(
        self, spec: dict[str, Any], options: JobOptions | None = None, backend: Backend | None = None
    ) -> tuple[Future[Job], Told, JobId]:
        """Through the client, in the background."""
        told, job_id = Told(), self.new_job()
        with_one = ThreadPoolExecutor(1)
        running = with_one.submit(self.carry_out, spec, options, backend, told, job_id)
        with_one.shutdown(wait=False)
        return running, told, job_id

    def carry_out(
        self, spec: dict[str, Any], options: JobOptions | None, backend: Backend | None, told: Told, job_id: JobId
    ) -> Job:
        client = CustomJobClient(backend or self.backend())
        return client.run(
            spec, options, job_id=job_id, sink=told.lines.append, say=told.said.append, on_change=told.change
        )

    # -- the command ------------------------------------------------------------------------------------------------

    def customjob(self, *argv: str, module: str = "airflow_customjob.cli", **env: str) -> subprocess.Popen[str]:
        """The command in a process of its own, as users type it; its backend is this place's."""
        given = self.backend().serialize()
        name = given.pop("name")
        chosen = ["--backend", name, *(f"--backend-option={key}={json.dumps(value)}" for key, value in given.items())]
        process = subprocess.Popen(
            [sys.executable, "-m", module, argv[0], *chosen, *argv[1:]],
            env=self.env | env, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self._started.append(process)
        return process

    def write(self, spec: dict[str, Any]) -> str:
        path = self.folder / f"job-{uuid4().hex[:8]}.json"
        path.write_text(json.dumps(spec))
        return str(path)

    def close(self) -> None:
        for process in self._started:
            if process.poll() is None:
                process.kill()
            process.communicate()
        for job_id in self._jobs:
            self.forget(job_id)


def ended(process: subprocess.Popen[str]) -> Done:
    out, err = process.communicate(timeout=PATIENCE)
    return Done(process.returncode, out, err)


def until_it_says(process: subprocess.Popen[str], text: str) -> str:
    """All of its stderr up to and with the first line that has this text."""
    read = ""
    assert process.stderr is not None
    for line in process.stderr:
        read += line
        if text in line:
            return read
    raise AssertionError(f"it never said {text!r}, but:\n{read}")


def eventually(look: Callable[[], Any], what: str) -> Any:
    """What ``look`` gives as soon as that is not empty."""
    end = time.monotonic() + PATIENCE
    while not (found := look()):
        assert time.monotonic() < end, f"in vain: {what}"
        time.sleep(0.05)
    return found


def _tool(*command: str, env: dict[str, str] | None = None, check: bool = True) -> str:
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=60)
    assert done.returncode == 0 or not check, f"{' '.join(command)}: {done.stderr}"
    return done.stdout


class ProcessPlace(Place):
    name = "process"

    def backend(self) -> ProcessBackend:
        return ProcessBackend(state_folder=str(self.folder / "state"))

    def remains(self, job_id: str) -> list[str]:
        folder = self.folder / "state" / "jobs" / job_id / "replicas"
        return [*map(str, folder.iterdir() if folder.exists() else ()), *self._pids(job_id)]

    def objects(self, job_id: str) -> dict[str, str]:
        folder = self.folder / "state" / "jobs" / job_id / "replicas"
        return {path.name: str(path.stat().st_ino) for path in folder.iterdir()} if folder.exists() else {}

    def forget(self, job_id: str) -> None:
        for pid in self._pids(job_id):
            os.kill(int(pid), signal.SIGKILL)

    @staticmethod
    def _pids(job_id: str) -> list[str]:
        """Processes that have the job in their environment."""
        wanted, found = f"CLOUD_ML_JOB_ID={job_id}".encode(), []
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                found += [path.parent.name] if wanted in path.read_bytes() else []
            except OSError:
                continue
        return found


class DockerPlace(Place):
    name = "docker"

    def backend(self) -> DockerBackend:
        return DockerBackend(volumes=(f"{self.folder}:{self.folder}",))

    def docker(self, *argv: str, check: bool = True) -> list[str]:
        return _tool("docker", *argv, env=self.env, check=check).split()

    def _named(self, job_id: str) -> tuple[list[str], list[str], list[str]]:
        label = f"label=customjob.job-id={job_id}"
        return (
            self.docker("ps", "-a", "--filter", label, "--format", "{{.Names}}"),
            self.docker("network", "ls", "--filter", label, "--format", "{{.Name}}"),
            self.docker("volume", "ls", "--filter", label, "--format", "{{.Name}}"),
        )

    def remains(self, job_id: str) -> list[str]:
        containers, networks, volumes = self._named(job_id)
        return containers + networks + [name for name in volumes if not name.startswith(f"customjob-{job_id}-record")]

    def objects(self, job_id: str) -> dict[str, str]:
        label = f"label=customjob.job-id={job_id}"
        shown = self.docker("ps", "-a", "--no-trunc", "--filter", label, "--format", "{{.Names}}={{.ID}}")
        return dict(line.split("=") for line in shown)

    def forget(self, job_id: str) -> None:
        for remove, names in zip((("rm", "-f"), ("network", "rm"), ("volume", "rm")), self._named(job_id), strict=True):
            if names:
                self.docker(*remove, *names, check=False)


class KubernetesPlace(Place):
    name = "kubernetes"

    def __init__(self, folder: Path, namespace: str) -> None:
        super().__init__(folder)
        self.namespace = namespace

    def backend(self, **more: Any) -> KubernetesBackend:
        path = str(self.folder)
        template = {
            "spec": {
                "containers": [{"name": "replica", "volumeMounts": [{"name": "kept", "mountPath": path}]}],
                "volumes": [{"name": "kept", "hostPath": {"path": path}}],
            }
        }
        small = {"*": {"cpu": "10m", "memory": "16Mi"}}
        return KubernetesBackend(
            **{"namespace": self.namespace, "pod_template": template, "machine_types": small, **more}
        )

    def kubectl(self, *argv: str, check: bool = True) -> str:
        return _tool("kubectl", "--namespace", self.namespace, *argv, env=self.env, check=check)

    def remains(self, job_id: str) -> list[str]:
        kinds = "pods,services,secrets,configmaps"
        shown = self.kubectl("get", kinds, "-l", f"airflow-customjob/job-id={job_id}", "-o", "name").split()
        return [name for name in shown if name != f"configmap/customjob-{job_id}"]

    def objects(self, job_id: str) -> dict[str, str]:
        form = "jsonpath={range .items[*]}{.metadata.name}={.metadata.uid}{'\\n'}{end}"
        shown = self.kubectl("get", "pods", "-l", f"airflow-customjob/job-id={job_id}", "-o", form)
        return dict(line.split("=") for line in shown.split())

    def forget(self, job_id: str) -> None:
        kinds = "pods,services,secrets,configmaps"
        self.kubectl("delete", kinds, "-l", f"airflow-customjob/job-id={job_id}", "--wait=false", check=False)


@pytest.fixture(scope="session")
def namespace() -> Iterator[str]:
    """A Kubernetes namespace of this test session's own."""
    name = f"customjob-jobs-{uuid4().hex[:8]}"
    _tool("kubectl", "create", "namespace", name)
    eventually(lambda: _tool("kubectl", "-n", name, "get", "serviceaccounts", "-o", "name"), "a service account")
    yield name
    _tool("kubectl", "delete", "namespace", name, "--wait=false", check=False)


def place_of(name: str, folder: Path, request: pytest.FixtureRequest) -> Place:
    if name == "kubernetes":
        return KubernetesPlace(folder, request.getfixturevalue("namespace"))
    return {"process": ProcessPlace, "docker": DockerPlace}[name](folder)


PROCESS = pytest.param("process", id="process")
DOCKER = pytest.param("docker", id="docker", marks=pytest.mark.docker)
KUBERNETES = pytest.param("kubernetes", id="kubernetes", marks=pytest.mark.kubernetes)


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where replicas on this host's engines can write."""
    path = Path(tempfile.mkdtemp(prefix="customjob-jobs-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(params=[PROCESS, DOCKER, KUBERNETES])
def place(request: pytest.FixtureRequest, folder: Path) -> Iterator[Place]:
    """Each engine in turn; ``indirect`` parameters choose some."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # what is ignored here, children would ignore too
    made = place_of(request.param, folder, request)
    yield made
    made.close()
    signal.signal(signal.SIGINT, before)


def on(*places: Any) -> pytest.MarkDecorator:
    """Run a test on these engines only."""
    return pytest.mark.parametrize("place", places, indirect=True)
