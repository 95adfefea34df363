"""Every way to end a task or a run of Airflow, what becomes of its job, and a scene in which all of them happen side by side."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from airflow_customjob import CustomJobClient
from tests.airflow.remains import remains
from tests.airflow.running import DagRun, RunningAirflow

GOES_ON, STARTS_ANEW, ENDS = "goes on", "starts anew", "ends"
AT_A_TIME = 8
"""Runs that are being started."""
PATIENCE, FOR_EACH = 300, 10
"""Seconds that the whole may take, but for its end; and more of them for each path."""
OF_A_JOB = 2
"""Replicas of each job here."""


@dataclass(frozen=True)
class KillPath:
    """
    :param do: None: nobody does anything, a time-out passes.
    :param job: what becomes of it.
    :param states: what the task that owns the job may be afterwards.
    :param within: seconds in which every replica is gone, on a machine that is busy with all paths at once.
    """

    name: str
    kind: str
    do: Callable[[Case], None] | None
    job: str
    states: tuple[str, ...]
    within: float = 60.0
    modes: tuple[str, ...] = ("sync", "deferred")
    whos: tuple[str, ...] = ("task", "group")


@dataclass(eq=False)
class Case:
    """One path, taken by one run.

    :param since: the kill, in seconds since the epoch.
    :param took: seconds from then until the last of its replicas was seen; of one that goes on, until its log did.
    :param final: state of the task that owns it, afterwards.
    :param still: in the end, the very replicas that there were at the kill.
    :param left: of its job in the end.
    """

    way: Way
    run: DagRun
    job_id: str = ""
    before: frozenset[str] = frozenset()
    since: float = 0.0
    took: float | None = None
    final: str = ""
    still: bool = False
    left: list[str] = field(default_factory=list)

    def remains(self) -> list[str]:
        """Of its job."""
        self.left = remains(self.backend, self.job_id)
        return self.left

    def __getattr__(self, name: str) -> Any:
        return getattr(self.way, name)

    @property
    def owner_id(self) -> str:
        return "train" if self.who == "task" else "train.run"

    def owner(self) -> dict[str, Any]:
        """The task instance that owns the job."""
        return self.run.tasks()[self.owner_id]

    def xcom(self, key: str) -> Any:
        return self.run.xcom_of(self.owner_id, key)

    def is_ready(self, watch: Watch) -> bool:
        """Its job runs, its task waits for it, and its rows follow."""
        self.job_id = self.job_id or self.xcom("custom_job_id") or ""
        if not self.job_id or len(alive := watch.alive(self.backend, self.job_id)) != OF_A_JOB:
            return False
        tasks = self.run.tasks()
        rows = [task["state"] for name, task in tasks.items() if name.startswith("workerpool")]
        waits = tasks[self.owner_id]["state"] == {"sync": "running", "deferred": "deferred"}[self.mode]
        if not waits or (self.who == "group" and rows != ["deferred"] * OF_A_JOB):
            return False
        self.before = frozenset(alive)
        return True

    def ticks_of(self, try_number: int) -> list[int]:
        """Numbers of the primary's lines in the log of a try of the task that owns the job."""
        lines = self.run.log_of({**self.owner(), "try_number": try_number})
        prefix = "workerpool0-0: tick "
        return [int(line.removeprefix(prefix)) for line in lines if line.startswith(prefix)]

    def logged(self) -> list[int]:
        """All of them that the user can read now: a try that takes the job over tells its log from the beginning."""
        return self.ticks_of(self.owner()["try_number"])

    def has_gone_on(self) -> bool:
        """Its log has lines that are newer than the kill."""
        return self.path is AT_LAST or (self.owner()["try_number"] == 2 and bool(self.ticks_of(2)))

    def has_told_its_end(self) -> bool:
        """The state that is shown is its last one."""
        return (self.xcom("custom_job") or {}).get("state") == "JOB_STATE_CANCELLED"

    def timed_out_at(self) -> float:
        """When a time-out passed; 0: it has not yet."""
        if self.path.kind == "timed":
            return datetime.fromisoformat(self.owner()["start_date"]).timestamp() + 100
        ended = self.run.ended_at()
        return 0.0 if ended is None else ended


def _clear(case: Case) -> None:
    case.run.clear(*{task["task_id"] for task in case.run.tasks().values()})


def _mark(case: Case) -> None:
    case.run.mark(case.owner(), "failed")


def _mark_row(case: Case) -> None:
    case.run.mark(case.run.tasks()["workerpool1-0"], "failed")


def _signal(how: signal.Signals) -> Callable[[Case], None]:
    return lambda case: os.kill(task_process(case.owner()["id"]), how)


AT_ONCE = (
    KillPath("task marked failed", "once", _mark, ENDS, ("failed",)),
    KillPath("cleared", "once", _clear, STARTS_ANEW, ("running", "deferred")),
    KillPath("run marked failed", "once", lambda case: case.run.end("failed"), ENDS, ("failed", "skipped")),
    KillPath("execution_timeout", "timed", None, ENDS, ("failed",)),
    KillPath("dagrun_timeout", "run_timed", None, ENDS, ("skipped",)),
    KillPath("row marked failed", "once", _mark_row, ENDS, ("failed",), whos=("group",)),
    KillPath("task killed -9", "once", _signal(signal.SIGKILL), ENDS, ("failed",), 130, ("sync",)),
    KillPath("-9 and a retry", "retried", _signal(signal.SIGKILL), GOES_ON, ("running",), modes=("sync",)),
    KillPath("worker's SIGTERM", "once", _signal(signal.SIGTERM), ENDS, ("failed",), modes=("sync",)),
    KillPath("SIGTERM and a retry", "retried", _signal(signal.SIGTERM), GOES_ON, ("running",), modes=("sync",)),
    KillPath("failed, stop_grace=8", "patient", _mark, ENDS, ("failed",), 90, whos=("task",)),
)
AT_LAST = KillPath("triggerer killed -9", "once", None, GOES_ON, ("deferred",), modes=("deferred",))
"""All deferred tasks feel it; until then these are the live ones that look after the jobs of dead ones."""
IN_CI = {
    "process": (
        ("task marked failed", "group", "deferred"),
        ("cleared", "group", "deferred"),
        ("run marked failed", "group", "sync"),
        ("dagrun_timeout", "group", "deferred"),
        ("row marked failed", "group", "sync"),
        ("row marked failed", "group", "deferred"),
        ("triggerer killed -9", "group", "deferred"),
        *((path.name, "task", mode) for path in AT_ONCE for mode in path.modes),
    ),
    "docker": (
        ("task marked failed", "task", "deferred"),
        ("cleared", "group", "deferred"),
        ("row marked failed", "group", "deferred"),
        ("SIGTERM and a retry", "task", "sync"),
        ("failed, stop_grace=8", "task", "sync"),
        ("triggerer killed -9", "task", "deferred"),
    ),
}
"""All paths on one engine, by the task; what a group and another engine add, at each of their own parts once."""


@dataclass(frozen=True)
class Way:
    """A path as one kind of task takes it."""

    path: KillPath
    who: str
    mode: str
    backend: str

    def __str__(self) -> str:
        return f"{self.path.name}-{self.who}-{self.mode}-{self.backend}"

    @property
    def is_long(self) -> bool:
        return (self.path.name, self.who, self.mode) not in IN_CI[self.backend]


def ways(*backends: str) -> list[Way]:
    """All there are."""
    return [
        Way(path, who, mode, backend)
        for backend in backends
        for path in (*AT_ONCE, AT_LAST)
        for who in path.whos
        for mode in path.modes
    ]


HEAD = f"{'kill path':22}{'of a':7}{'mode':10}{'engine':9}{'its job':13}{'after':>8}  task"


class Watch:
    """Looks at all replicas on this host, some times a second."""

    def __init__(self, *backends: str) -> None:
        self._look = {"process": _processes, "docker": _containers}
        self._backends = backends
        self._alive: dict[str, dict[str, set[str]]] = {}
        self._seen: dict[str, float] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def alive(self, backend: str, job_id: str) -> set[str]:
        return set(self._alive.get(backend, {}).get(job_id, ()))

    def last_seen(self, replica: str) -> float:
        return self._seen.get(replica, 0.0)

    def close(self) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(0.2):
            for backend in self._backends:
                now = time.time()
                found = self._look[backend]()
                self._seen |= {replica: now for replicas in found.values() for replica in replicas}
                self._alive[backend] = found


def _processes() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environ = (folder / "environ").read_bytes().split(b"\0")
            (job_id,) = (entry[len("CLOUD_ML_JOB_ID=") :] for entry in environ if entry.startswith(b"CLOUD_ML_JOB_ID="))
            started = (folder / "stat").read_text().rpartition(")")[2].split()[19]
        except (OSError, ValueError):  # it has ended, is not ours, or is no replica
            continue
        found.setdefault(job_id.decode(), set()).add(f"{folder.name}@{started}")
    return found


def _containers() -> dict[str, set[str]]:
    command = ["docker", "ps", "--no-trunc", "--filter", "name=customjob-", "--format", "{{.ID}} {{.Names}}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    found: dict[str, set[str]] = {}
    for line in done.stdout.splitlines():
        container, name = line.split()
        found.setdefault(name.split("-")[1], set()).add(container)
    return found


class Scene:
    """All cases in one Airflow, each killed as soon as its replicas run, and the next one started then."""

    def __init__(self, airflow: RunningAirflow, clients: Mapping[str, CustomJobClient], ways: list[Way]) -> None:
        self._airflow = airflow
        self._clients = clients
        backends = {way.backend for way in ways}
        self._watch = Watch(*backends)
        lookouts = {Way(AT_LAST, "task", "deferred", backend) for backend in backends}
        self._coming = sorted(
            {*ways, *lookouts}, key=lambda way: (way.path is not AT_LAST, way.path.do is not None, str(way))
        )
        self.cases: list[Case] = []

    def play(self) -> None:
        """To its end; what came of it is for the caller to judge."""
        try:
            starting: list[Case] = []
            undecided: list[Case] = []
            until = time.monotonic() + PATIENCE + FOR_EACH * len(self._coming)
            while (self._coming or starting or undecided) and time.monotonic() < until:
                while self._coming and len(starting) < AT_A_TIME:
                    starting.append(self._start(self._coming.pop(0)))
                ready = [case for case in starting if case.is_ready(self._watch)]
                for case in ready:
                    self._kill(case)
                starting = [case for case in starting if case not in ready]
                undecided = [
                    case for case in (*undecided, *ready) if case.path is not AT_LAST and not self._is_over(case)
                ]
                time.sleep(0.1)
            # Whoever ends a job, or holds its ended replicas for a group's rows, is the triggerer: nobody would go on when all are over.
            self._wait([case for case in self.cases if case.path is not AT_LAST and case.job_id], self._is_cleared)
            self._kill_triggerer([case for case in self.cases if case.path is AT_LAST])
            self._wait(self.cases, lambda case: not case.remains())
        finally:
            self._watch.close()

    def rows(self) -> dict[str, str]:
        """What became of each, for people."""
        return {str(case.way): _row(case) for case in self.cases}

    def _start(self, way: Way) -> Case:
        case = Case(way, self._airflow.run(f"{way.path.kind}_{way.who}_{way.mode}_{way.backend}"))
        self.cases.append(case)
        return case

    def _kill(self, case: Case) -> None:
        if case.path.do is not None:
            case.since = time.time()
            case.path.do(case)

    def _kill_triggerer(self, cases: list[Case]) -> None:
        told = {case: max(case.logged(), default=0) for case in cases}
        self._airflow.kill("triggerer")
        self._airflow.restart("triggerer")
        for case in cases:
            case.since = time.time()
        self._wait(cases, lambda case: max(case.logged(), default=0) > told[case] + 10 and self._is_over(case))

    def _is_over(self, case: Case) -> bool:
        """It has come to where its path leads; what goes on is ended then."""
        case.since = case.since or case.timed_out_at()
        alive = self._watch.alive(case.backend, case.job_id)
        case.final = str(case.owner()["state"])
        if case.path.job == GOES_ON:
            seen, at = case.has_gone_on(), time.time()
        else:
            seen, at = bool(case.since) and not case.before & alive, max(map(self._watch.last_seen, case.before))
        if case.took is None and seen:
            case.took = at - case.since
        if case.path.job == STARTS_ANEW:
            seen = seen and (case.xcom("custom_job") or {}).get("generation") == 2 and len(alive) == OF_A_JOB
        if not seen or case.final not in case.path.states:
            return False
        if case.path.job == ENDS and case.mode == "deferred" and not case.has_told_its_end():
            return False  # the triggerer is killed as soon as all are over
        case.still = alive == case.before
        if case.path.job != ENDS:
            case.run.end("failed")
        return True

    def _is_cleared(self, case: Case) -> bool:
        return not self._clients[case.backend].get(case.job_id).replicas

    @staticmethod
    def _wait(cases: list[Case], done: Callable[[Case], bool], seconds: float = 180) -> None:
        """Until it is so of each; those of which it never is, are for the judge."""
        end, waiting = time.monotonic() + seconds, list(cases)
        while waiting and time.monotonic() < end:
            waiting = [case for case in waiting if not done(case)]
            time.sleep(0.2)


def _row(case: Case) -> str:
    took = "" if case.took is None else f"{case.took:.1f} s"
    return f"{case.path.name:22}{case.who:7}{case.mode:10}{case.backend:9}{case.path.job:13}{took:>8}  {case.final}"


def task_process(ti_id: str) -> int:
    """The process that runs a task's operator, below the one that supervises it."""
    title = f"airflow worker -- {ti_id}".encode()

    def title_of(folder: Path) -> bytes:
        try:
            return (folder / "cmdline").read_bytes().strip(b"\0")
        except OSError:  # it has ended meanwhile
            return b""

    (found,) = (folder for folder in Path("/proc").glob("[0-9]*") if title_of(folder) == title)
    return int(found.name)
