"""A whole Airflow of its own: scheduler, triggerer, DAG processor and API server, each a process that a test may kill."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from airflow_customjob.backends.process.shim import descendants
from tests.postgres import airflow_database

T = TypeVar("T")

COMPONENTS = ("api-server", "scheduler", "dag-processor", "triggerer")


def wait_for(what: str, ask: Callable[[], T], seconds: float = 120.0, every: float = 0.05) -> T:
    """Ask until the answer is true."""
    end = time.monotonic() + seconds
    while True:
        if answer := ask():
            return answer
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds:g} s: {what}; last answer: {answer!r}")
        time.sleep(every)


class RunningAirflow:
    """
    :param home: its AIRFLOW_HOME; DAG files are in ``home/dags``.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self._port, *log_ports = _free_ports(3)
        self.environ = {
            **os.environ,
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__API__BASE_URL": f"http://127.0.0.1:{self._port}",
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(self._port),
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__API__SECRET_KEY": "only-for-this-test",
            "AIRFLOW__API_AUTH__JWT_SECRET": "only-for-this-test-" * 4,
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{self._port}/execution/",
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            "AIRFLOW__CORE__FERNET_KEY": "b25seS1mb3ItdGhpcy10ZXN0LW9ubHktZm9yLXRlc3Q=",
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "AIRFLOW__CUSTOMJOB__INSTALLATION_ID": f"test-{os.getpid()}",
            "AIRFLOW__CUSTOMJOB__PROCESS_DIR": str(home / "customjob"),
            "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "3600",
            "AIRFLOW__DAG_PROCESSOR__PARSING_PROCESSES": "1",
            "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "3600",
            "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(log_ports[0]),
            "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(log_ports[1]),
            "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.1",
            "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "2",
            "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "10",
        }
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.runs: list[DagRun] = []

    @contextmanager
    def up(self) -> Iterator[RunningAirflow]:
        """Inside, it runs, and its DAGs are there to be triggered."""
        with airflow_database() as url:
            self.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = url
            with self._started():
                yield self

    @contextmanager
    def _started(self) -> Iterator[None]:
        (self.home / "airflow.cfg").touch()  # else each component writes one, at the same time
        try:
            for name in COMPONENTS:
                self.start(name)
            wait_for("a healthy Airflow", self._is_healthy, 240, 0.2)
            yield
        finally:
            tasks = [pid for process in self._processes.values() for pid in descendants(process.pid)]
            for name in list(self._processes):
                self.kill(name)
                self._end(name)
            for pid in tasks:  # each in a group of its own, and with a title where its environment was
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            for folder in Path("/proc").glob("[0-9]*"):  # replicas of a test that failed
                with suppress(OSError):
                    if f"AIRFLOW_HOME={self.home}".encode() in (folder / "environ").read_bytes():
                        os.kill(int(folder.name), signal.SIGKILL)

    def start(self, name: str, component: str = "", **environ: str) -> None:
        """Start a component; a second one of a kind needs a name of its own.

        :param environ: for it alone.
        """
        ports = {} if not component else {"AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(_free_ports(1)[0])}
        with (self.home / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [*_AIRFLOW, component or name],
                env=self.environ | ports | environ,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @staticmethod
    def free_port() -> int:
        """For one more component."""
        return _free_ports(1)[0]

    def log_of(self, name: str) -> str:
        """What a component printed."""
        return (self.home / f"{name}.log").read_text(errors="replace")

    def kill(self, name: str, how: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to a component and all its children."""
        os.killpg(self._processes[name].pid, how)

    def restart(self, name: str) -> None:
        """Start a component that was killed."""
        self._end(name)
        self.start(name)

    def stop(self, name: str) -> None:
        """Let a component end in order."""
        self.kill(name, signal.SIGTERM)
        self._end(name)

    def _end(self, name: str) -> None:
        process = self._processes.pop(name)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(15)

    def keeps(self) -> str:
        """All that its database holds, and all files below its home: its logs, its components' output."""
        import psycopg

        url = self.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].replace("+psycopg", "", 1)
        with psycopg.connect(url) as session:
            tables = session.execute("select tablename from pg_tables where schemaname = 'public'").fetchall()
            rows = [
                f"{table}: {row}"
                for (table,) in tables
                for (row,) in session.execute(f'select t::text from "{table}" t').fetchall()
            ]
        files = [path for path in self.home.rglob("*") if path.is_file() and not path.is_symlink()]
        return "\n".join([*rows, *(f"{path}: {path.read_text(errors='replace')}" for path in files)])

    # -- its API --------------------------------------------------------------------------------------------------------

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Ask the REST API.

        :param path: below ``/api/v2``.
        """
        data = None if body is None else json.dumps(body).encode()
        url = f"http://127.0.0.1:{self._port}/api/v2{path}"
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        request = urllib.request.Request(url, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=90) as answer:
                return json.load(answer) if answer.status != 204 else None
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise AssertionError(f"{method} {path}: {error.code} {error.read().decode()}") from None

    def _is_healthy(self) -> bool:
        try:
            health = self.call("GET", "/monitor/health")
        except OSError:
            return False
        return all(health[part]["status"] == "healthy" for part in ("scheduler", "dag_processor", "triggerer"))

    def run(self, dag_id: str, run_id: str | None = None, **conf: str) -> DagRun:
        """Trigger a DAG."""
        wait_for(f"DAG {dag_id}", lambda: self.call("GET", f"/dags/{dag_id}"), every=0.5)
        body = {"logical_date": None, "dag_run_id": run_id, "conf": conf}
        started = self.call("POST", f"/dags/{dag_id}/dagRuns", body)
        run = DagRun(self, dag_id, started["dag_run_id"])
        self.runs.append(run)
        return run


class DagRun:
    """A run of a DAG; ``train`` is the task that is meant where none is named."""

    def __init__(self, airflow: RunningAirflow, dag_id: str, run_id: str) -> None:
        self._airflow = airflow
        self._dag_id, self._run_id = dag_id, run_id
        self._path = f"/dags/{dag_id}/dagRuns/{urllib.parse.quote(run_id)}"

    def task(self) -> dict[str, Any]:
        """The task instance."""
        return dict(self._airflow.call("GET", f"{self._path}/taskInstances/train"))

    def wait_until(self, *states: str, seconds: float = 120.0) -> dict[str, Any]:
        """Until the task is in one of these states."""
        wait_for(f"{self._dag_id} {states}", lambda: self.task()["state"] in states, seconds, 0.2)
        return self.task()

    def started_at(self) -> float:
        return datetime.fromisoformat(self.task()["start_date"]).timestamp()

    def xcom(self, key: str) -> Any:
        """None: there is none (yet)."""
        found = self._airflow.call("GET", f"{self._path}/taskInstances/train/xcomEntries/{key}?stringify=false")
        return None if found is None else found["value"]

    def job_id(self) -> str:
        return wait_for("XCom custom_job_id", lambda: self.xcom("custom_job_id"), 180, 0.2)

    def job_state(self) -> str:
        return str((self.xcom("custom_job") or {}).get("state"))

    def wait_until_running(self) -> str:
        """Until the job runs, as its live XCom says; gives its id."""
        wait_for("a running job", lambda: self.job_state() == "JOB_STATE_RUNNING", 180, 0.2)
        return self.job_id()

    def tasks(self) -> dict[str, dict[str, Any]]:
        """All task instances, by their ids; of a mapped one, by the name that the grid shows."""
        found = self._airflow.call("GET", f"{self._path}/taskInstances?limit=100")["task_instances"]
        return {task["rendered_map_index"] or task["task_id"]: task for task in found}

    def state(self) -> str:
        return str(self._airflow.call("GET", self._path)["state"])

    def set_xcom(self, key: str, value: Any) -> None:
        """Make an XCom of the task, or write over it."""
        where = f"{self._path}/taskInstances/train/xcomEntries"
        if self.xcom(key) is None:
            self._airflow.call("POST", where, {"key": key, "value": value})
        else:
            self._airflow.call("PATCH", f"{where}/{key}", {"value": value})

    def path(self, task_id: str, map_index: int = -1) -> str:
        """Of the UI's page of a task instance."""
        path = f"/dags/{self._dag_id}/runs/{urllib.parse.quote(self._run_id, '')}"
        task = f"/tasks/{task_id}" if task_id else ""
        return f"{path}{task}" + (f"/mapped/{map_index}" if map_index >= 0 else "")

    def page(self, task_id: str, below: str = "", base: str = "") -> str:
        """Address of that page, or of the run's where no task is named; something below it, on another API server."""
        return f"{base or self._airflow.environ['AIRFLOW__API__BASE_URL']}{self.path(task_id)}{below}"

    def links_of(self, task_id: str) -> dict[str, str | None]:
        """The addresses behind a task's buttons."""
        found = self._airflow.call("GET", f"{self._path}/taskInstances/{task_id}/links")
        return dict(found["extra_links"])

    def ended_at(self) -> float | None:
        """Seconds since the epoch; None: it runs."""
        ended = self._airflow.call("GET", self._path)["end_date"]
        return ended and datetime.fromisoformat(ended).timestamp()

    def xcom_of(self, task_id: str, key: str = "return_value", map_index: int = -1) -> Any:
        where = f"{self._path}/taskInstances/{task_id}/xcomEntries/{key}"
        found = self._airflow.call("GET", f"{where}?stringify=false&map_index={map_index}")
        return None if found is None else found["value"]

    def log_of(self, task: dict[str, Any]) -> list[str]:
        """The lines of a task instance's log."""
        where = (
            f"taskInstances/{task['task_id']}/logs/{task['try_number']}?map_index={task['map_index']}&full_content=true"
        )
        logs = self._airflow.call("GET", f"{self._path}/{where}")
        return [text for line in (logs or {"content": []})["content"] for text in _texts(line)]

    def log_files(self) -> list[Path]:
        """Of ``train``, of all its tries, workers and triggerers; in order of nothing."""
        logs = self._airflow.home / "logs" / f"dag_id={self._dag_id}" / f"run_id={self._run_id}" / "task_id=train"
        return [file for file in logs.iterdir() if file.is_file()]

    def mark(self, task: dict[str, Any], state: str) -> None:
        where = f"{self._path}/taskInstances/{task['task_id']}"
        if task["map_index"] >= 0:
            where += f"/{task['map_index']}"
        self._airflow.call("PATCH", where, {"new_state": state})

    def mark_failed(self) -> None:
        body = {"new_state": "failed"}
        self._airflow.call("PATCH", f"{self._path}/taskInstances/train", body)

    def delete(self) -> None:
        self._airflow.call("DELETE", self._path)

    def end(self, state: str) -> None:
        """Mark the whole run."""
        self._airflow.call("PATCH", self._path, {"state": state})

    def clear(self, *task_ids: str) -> None:
        tasks = list(task_ids) or ["train"]
        body = {"dag_run_id": self._run_id, "task_ids": tasks, "dry_run": False, "only_failed": False}
        self._airflow.call("POST", f"/dags/{self._dag_id}/clearTaskInstances", body)

    def log(self, try_number: int = 1) -> list[str]:
        """The lines of the task's log, as the UI shows them."""
        logs = self._airflow.call("GET", f"{self._path}/taskInstances/train/logs/{try_number}?full_content=true")
        content = [] if logs is None else logs["content"]
        return [text for line in content for text in _texts(line)]


def _texts(line: str | dict[str, Any]) -> list[str]:
    """A line of a log, and the exceptions that came with it."""
    if isinstance(line, str):
        return [line]
    return [str(line.get("event", "")), *(str(error["exc_value"]) for error in line.get("error_detail") or ())]


_AIRFLOW = (sys.executable, "-m", "airflow")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
