"""How long after the primary's exit the end is recorded, the stop is sent, and the others are gone: medians, shown only."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from statistics import median
from typing import Any

from airflow_customjob.backends.base import Backend
from airflow_customjob.plan.types import JobOptions
from airflow_customjob.spec.job_state import JobState
from tests.jobs.conftest import FOR_EVER, KubernetesPlace, Place, Told, job_of, pool, shell

RUNS = 7


class Timed:
    """A backend that notes when the end was recorded, and when its stop was sent and had ended the others."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.at: dict[str, float] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Any]:
        async with self._backend.open() as engine:
            yield _TimedEngine(engine, self.at)


class _TimedEngine:
    def __init__(self, engine: Any, at: dict[str, float]) -> None:
        self._engine = engine
        self._at = at

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def write_record(self, job_id: Any, data: str, **how: Any) -> int:
        version = await self._engine.write_record(job_id, data, **how)
        if json.loads(data)["state"] == JobState.JOB_STATE_SUCCEEDED:
            self._at.setdefault("recorded", time.time())
        return int(version)

    async def stop(self, refs: Any, grace: float) -> None:
        self._at.setdefault("stop sent", time.time())
        await self._engine.stop(refs, grace)
        self._at.setdefault("others gone", time.time())


@contextmanager
def report_of(place: Place, told: Told) -> Iterator[Callable[[], float]]:
    """Gives when the engine reported the primary's exit: its own time of it, or when Kubernetes told its watchers."""
    if not isinstance(place, KubernetesPlace):
        yield lambda: told.finished_at("workerpool0-0")
        return
    ends = "custom-columns=NAME:.metadata.name,CODE:.status.containerStatuses[0].state.terminated.exitCode"
    watching = subprocess.Popen(
        ["kubectl", "-n", place.namespace, "get", "pods", "-w", "--no-headers", "-o", ends],
        env=place.env, text=True, stdout=subprocess.PIPE,
    )  # fmt: skip
    reported: list[float] = []

    def read() -> None:
        assert watching.stdout is not None
        for line in watching.stdout:
            if "-workerpool0-0-" in line and line.split()[-1] == "0":
                reported.append(time.time())  # noqa: PERF401 - as each line comes

    reader = threading.Thread(target=read)
    reader.start()
    time.sleep(1)  # it lists first
    try:
        yield lambda: reported[0]
    finally:
        watching.kill()
        watching.wait()
        reader.join()


def test_the_end_is_recorded_and_carried_out_at_once(place: Place, figure: Callable[[str], None]) -> None:
    spec = job_of(shell("sleep 1; exit 0"), pool(*FOR_EVER, count=2))
    after: dict[str, list[float]] = {"recorded": [], "stop sent": [], "others gone": []}
    for _ in range(RUNS):
        timed, told = Timed(place.backend()), Told()
        with report_of(place, told) as reported:
            job = place.carry_out(spec, JobOptions(), timed, told, place.new_job())
            assert job.state is JobState.JOB_STATE_SUCCEEDED, job.error
            for what, seconds in after.items():
                seconds.append(timed.at[what] - reported())
        assert place.remains(job.job_id) == []
    figure(
        f"medians of {RUNS} after the report of the primary's exit (grace 0.5 s): "
        + ", ".join(f"{what} {median(seconds):.3f} s (most {max(seconds):.3f})" for what, seconds in after.items())
    )
