"""Leaving a job to a process of its own, which outlives the terminal."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from airflow_customjob.supervisor.follow import ALL, chosen

HOLD = 1.0
"""Seconds that a detached job's ended replicas are kept for whoever follows its log."""


def log_file(job_id: str) -> Path:
    """Where the process of a detached job writes all that ``run`` would show."""
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(state).expanduser() / "airflow-customjob" / "detached" / f"{job_id}.log"


@contextmanager
def new_log(job_id: str) -> Iterator[BinaryIO]:
    """The log file of a job that is to be detached, which only this user can read; none is left of a job that comes to nothing."""
    path = log_file(job_id)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with open(path, "ab", opener=lambda name, flags: os.open(name, flags, 0o600)) as log:
        try:
            yield log
        except BaseException:
            if not log.tell():
                path.unlink(missing_ok=True)
            raise


def leave(job_id: str, arguments: Sequence[str], log: BinaryIO) -> None:
    """Start a process in a session of its own that supervises this job.

    :param arguments: options of ``supervise``: the backend, and which logs are followed.
    :param log: takes all that it says.
    """
    command = [sys.executable, "-m", "airflow_customjob.cli", "supervise", job_id, "--progress", "plain"]
    subprocess.Popen(
        [*command, "--hold", str(HOLD), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )


def kept_lines(job_id: str, replica: str | None, tail: int | None) -> Iterator[str] | None:
    """The replicas' lines in a detached job's log file; None: this host has no such file.

    :param replica: a name or a pattern; None: all.
    :param tail: only so many last lines of each replica.
    """
    try:
        text = log_file(job_id).read_text("utf-8", "replace")
    except OSError:
        return None
    lines = [(line.partition(": ")[0], line) for line in text.split("\n") if line.startswith("workerpool")]
    names = set(chosen(replica or ALL, sorted({name for name, _ in lines})))
    lines = [(name, line) for name, line in lines if name in names]
    if tail is not None:
        seen: Counter[str] = Counter()
        lines = [pair for pair in reversed(lines) if (seen.update([pair[0]]), seen[pair[0]] <= tail)[1]][::-1]
    return (line for _, line in lines)
