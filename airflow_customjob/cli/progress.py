"""What a running job shows on stderr: plain lines, or on a terminal the log with a line for each replica below it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Protocol

from airflow_customjob.backends.base import LogLine, Phase, ReplicaStatus

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

    from airflow_customjob.supervisor.record import JobRecord

MAX_ROWS = 12
"""Replicas that have a line of their own on a terminal; of further ones only the number is shown."""
COLOURS = ("cyan", "magenta", "green", "yellow", "blue", "bright_cyan", "bright_magenta", "bright_green")
ICONS = {Phase.CREATED: "·", Phase.WAITING: "…", Phase.RUNNING: "▶", Phase.EXITED: "■", Phase.LOST: "?"}


class Reporter(Protocol):
    """Takes all that happens to a job."""

    record: JobRecord | None
    replicas: Sequence[ReplicaStatus]
    said: set[str]

    def line(self, line: LogLine) -> None:
        """A replica's output."""

    def say(self, text: str) -> None:
        """A word on the job itself."""

    def change(self, record: JobRecord, replicas: Sequence[ReplicaStatus]) -> None:
        """How the job is now."""


class Plain:
    """Lines on stderr. When nobody reads them any more the job goes on without."""

    def __init__(self) -> None:
        self.record: JobRecord | None = None
        self.replicas: Sequence[ReplicaStatus] = ()
        self.said: set[str] = set()

    def line(self, line: LogLine) -> None:
        self._write(line.prefixed)

    def say(self, text: str) -> None:
        self.said.add(text)
        for part in text.splitlines():
            self._write(f"customjob: {part}")

    def change(self, record: JobRecord, replicas: Sequence[ReplicaStatus]) -> None:
        self.record, self.replicas = record, replicas

    def _write(self, text: str) -> None:
        with suppress(OSError, ValueError):
            print(text, file=sys.stderr, flush=True)


class Rich(Plain):
    """The log scrolls by; below it stand the job's state and its replicas, and are gone at the end."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        super().__init__()
        self._colours: dict[str, str] = {}
        self._doing = ""
        self._console = Console(stderr=True, highlight=False)
        self.live = Live(
            console=self._console,
            get_renderable=self._render,
            refresh_per_second=4,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def line(self, line: LogLine) -> None:
        from rich.text import Text

        text = Text(f"{line.ref.replica}: ", self._colour(line.ref.replica)) + Text.from_ansi(line.text)
        self._console.print(text, soft_wrap=True)

    def say(self, text: str) -> None:
        from rich.text import Text

        self.said.add(text)
        self._doing = text.splitlines()[-1] if text else ""
        for part in text.splitlines():
            self._console.print(Text(f"customjob: {part}", "bold"), soft_wrap=True)

    def _colour(self, replica: str) -> str:
        return self._colours.setdefault(replica, COLOURS[len(self._colours) % len(COLOURS)])

    def _render(self) -> RenderableType:
        from rich.console import Group
        from rich.spinner import Spinner

        if self.record is None:
            return Spinner("dots", self._doing or "asking the engine")
        present = {status.ref.replica: status for status in sorted(self.replicas, key=lambda status: status.ref)}
        rows = [self._row(status) for status in list(present.values())[:MAX_ROWS]]
        more = len(present) - len(rows)
        since = time.time() - (self.record.start_time or self.record.create_time)
        head = f"job {self.record.job_id}  {self.record.state.short}  {_clock(since)}  {self.record.message}".rstrip()
        return Group(Spinner("dots", head), *rows, *([f"  and {more} more"] if more else []))

    def _row(self, status: ReplicaStatus) -> Text:
        from rich.text import Text

        from airflow_customjob.cli.shown import replica_time

        end = f"exit {status.exit_code}" if status.exit_code is not None else status.message
        row = Text("  ") + Text(f"{ICONS[status.phase]} {status.ref.replica}", self._colour(status.ref.replica))
        row.append(f"  {status.phase.value}  {replica_time(status, time.time())}  {end}".rstrip(), "dim")
        row.truncate(max(self._console.width - 1, 20), overflow="ellipsis")
        return row


def _clock(seconds: float) -> str:
    whole = max(int(seconds), 0)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


@contextmanager
def reporting(how: str) -> Iterator[Reporter]:
    """A reporter for ``--progress``: ``rich``, ``plain``, or ``auto``: what fits stderr."""
    terminal = sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    if how == "plain" or (how == "auto" and not terminal):
        yield Plain()
        return
    rich = Rich()
    with rich.live:
        yield rich
