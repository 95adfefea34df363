"""In a running Airflow with its default settings: eight mapped DockerOperators, and one CustomJobOperator."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from airflow_customjob.client import AsyncCustomJobClient
from bench import docker_launch

DAGS = """
from airflow.providers.docker.operators.docker import DockerOperator
from airflow.sdk import DAG
from airflow_customjob import CustomJobOperator

JOB = {job!r}

with DAG("mapped", schedule=None):
    DockerOperator.partial(
        task_id="replica", image={image!r}, command="sleep {stays}", auto_remove="force", mount_tmp_dir=False,
        labels={{"bench": "mapped"}},
    ).expand(environment=[{{"RANK": str(rank)}} for rank in range({replicas})])

with DAG("ours", schedule=None):
    CustomJobOperator(task_id="job", custom_job=JOB, backend="docker")
"""
NAME = "bench-airflow"
LABELS = {"mapped": "bench=mapped", "ours": f"customjob.display-name={NAME}"}
STAYS = 20
"""Seconds that a container runs: longer than all of them take to start."""
PATIENCE = 120


class Airflow:
    """A running Airflow's REST API."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/api/v2"

    def ask(self, method: str, path: str, body: object = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"{self._url}/{path}", data, {"Content-Type": "application/json"}, method=method
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def has(self, dag_id: str) -> bool:
        try:
            self.ask("PATCH", f"dags/{dag_id}", {"is_paused": False})
        except OSError:
            return False
        return True

    def wait_for(self, *dag_ids: str) -> None:
        """Until it knows them; they are not paused then."""
        for dag_id in dag_ids:
            _until(lambda dag_id=dag_id: self.has(dag_id), lambda: None, 1)

    def start(self, dag_id: str, task_id: str = "job") -> str:
        """A run; the path of its task."""
        run = self.ask("POST", f"dags/{dag_id}/dagRuns", {"logical_date": None})["dag_run_id"]
        return f"dags/{dag_id}/dagRuns/{quote(run)}/taskInstances/{task_id}"

    def launch(self, dag_id: str, replicas: int) -> float:
        """Seconds from the request for a run until the last of its containers has started, by Docker's own clock."""
        asked = time.time()
        run = self.ask("POST", f"dags/{dag_id}/dagRuns", {"logical_date": None})["dag_run_id"]
        ids: list[str] = []
        _until(lambda: len(ids) == replicas, lambda: ids.__setitem__(slice(None), _running(LABELS[dag_id])), 0.2)
        started = max(_started(ids))
        done = f"dags/{dag_id}/dagRuns/{run}"
        _until(lambda: self.ask("GET", done)["state"] in ("success", "failed"), lambda: None, 1)
        return started - asked


def measure(job: dict[str, Any], image: str, replicas: int, runs: int) -> dict[str, list[float]]:
    """Seconds of each launch, by DAG; the first of each, which warms caches, is left out."""
    for pool in job["jobSpec"]["workerPoolSpecs"]:
        pool["containerSpec"]["command"] = ["sleep", str(STAYS)]
    job["displayName"] = NAME
    seconds: dict[str, list[float]] = {dag_id: [] for dag_id in LABELS}
    with running_airflow(DAGS.format(job=job, image=image, stays=STAYS, replicas=replicas)) as airflow:
        airflow.wait_for(*LABELS)
        for run in range(runs + 1):
            for dag_id in LABELS:
                taken = airflow.launch(dag_id, replicas)
                if run:
                    seconds[dag_id].append(taken)
    asyncio.run(_forget_all())
    return seconds


async def _forget_all() -> None:
    for found in await AsyncCustomJobClient(docker_launch.BACKEND).list():
        if found.record.state.terminal and found.message().display_name == NAME:
            await docker_launch.forget(found.job_id)


@contextmanager
def running_airflow(*dags: str) -> Iterator[Airflow]:
    """:param dags: of a file each."""
    ports = _free_ports(3)
    with tempfile.TemporaryDirectory(prefix="customjob-bench-", ignore_cleanup_errors=True) as home:
        (Path(home) / "dags").mkdir()
        for index, source in enumerate(dags):
            (Path(home) / "dags" / f"bench_{index}.py").write_text(source)
        env = os.environ | {
            "AIRFLOW_HOME": home,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # standalone starts `airflow`
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{ports[0]}/execution/",
            "AIRFLOW__API__PORT": str(ports[0]),
            "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(ports[1]),
            "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(ports[2]),
        }
        with (Path(home) / "log").open("wb") as log:
            command = [sys.executable, "-m", "airflow", "standalone"]
            process = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
            try:
                yield Airflow(ports[0])
            except TimeoutError as error:
                said = (Path(home) / "log").read_text(errors="replace")[-2000:]
                raise TimeoutError(f"{error}; Airflow's last words:\n{said}") from None
            finally:
                for last in (signal.SIGTERM, signal.SIGKILL):
                    with suppress(ProcessLookupError, subprocess.TimeoutExpired):
                        os.killpg(process.pid, last)
                        process.wait(20)


def _until(done: Any, do: Any, pause: float) -> None:
    end = time.monotonic() + PATIENCE
    while True:
        do()
        if done():
            return
        if time.monotonic() > end:
            raise TimeoutError(f"nothing came of it within {PATIENCE} s")
        time.sleep(pause)


def _running(label: str) -> list[str]:
    return _docker("ps", "-q", "--no-trunc", "--filter", f"label={label}").split()


def _started(ids: list[str]) -> list[float]:
    lines = _docker("inspect", "--format", "{{.State.StartedAt}}", *ids).split()
    return [datetime.fromisoformat(line).timestamp() for line in lines]


def _docker(*args: str) -> str:
    return subprocess.run(["docker", *args], capture_output=True, text=True, check=True).stdout


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
