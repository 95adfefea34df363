"""What a fake replica does from its start on, as data: a script.

>>> exits(1, says="no data under /gcs/bucket")
>>> runs_for_ever(says="serving").on_term(code=0, after=2.0, says="saved a checkpoint")
>>> out_of_memory(after=30.0)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from airflow_customjob.backends.base import Phase, Reason

SIGKILL, SIGTERM = 9, 15


@dataclass(frozen=True)
class Ending:
    """How a replica ends.

    :param after: seconds after its start, or after SIGTERM.
    :param exit_code: what the engine shows.
    :param phase: EXITED, or LOST where the infrastructure took it away.
    :param message: the engine's own words.
    :param says: output just before the end.
    """

    after: float = 0.0
    exit_code: int | None = 0
    reason: Reason = Reason.COMPLETED
    phase: Phase = Phase.EXITED
    message: str = ""
    says: str = ""


@dataclass(frozen=True)
class Script:
    """A replica's life. Build it with the functions of this module.

    :param output: pairs of seconds after the start and text; a line ends at its newline.
    :param ending: None: it runs until it is stopped.
    :param term: its reaction to SIGTERM; None: it ignores it.
    :param waits: seconds between the engine being told to start it and its start.
    :param waits_for: what the engine says meanwhile.
    :param queued: it is a queue's admission that it waits for.
    """

    output: tuple[tuple[float, str], ...] = ()
    ending: Ending | None = None
    term: Ending | None = Ending(exit_code=128 + SIGTERM, reason=Reason.ERROR)
    waits: float = 0.0
    waits_for: str = ""
    queued: bool = False

    def ignoring_term(self) -> Script:
        """The same, but only SIGKILL stops it."""
        return replace(self, term=None)

    def on_term(self, *, code: int = 0, after: float = 0.0, says: str = "") -> Script:
        """The same, but ``after`` seconds after SIGTERM it says something and exits with ``code``."""
        return replace(self, term=Ending(after, code, _reason(code), says=says))

    def waiting(self, seconds: float, message: str = "its image is being pulled") -> Script:
        """The same, but the engine is held up for that long before it starts."""
        return replace(self, waits=seconds, waits_for=message)

    def queueing(self, seconds: float, message: str = "the queue has not admitted the job yet") -> Script:
        """The same, but a queue lets it in only after that long."""
        return replace(self.waiting(seconds, message), queued=True)


def exits(code: int = 0, *, says: str | Sequence[str] = (), after: float = 0.0, every: float = 0.0) -> Script:
    """Says something and exits.

    :param code: 0..255.
    :param says: text as it is, or lines.
    :param after: seconds from the start to the exit, or from the last line if that is later.
    :param every: seconds before each line.
    """
    return _script(says, every, Ending(after, code, _reason(code)))


def killed_by(signal: int, *, says: str | Sequence[str] = (), after: float = 0.0, every: float = 0.0) -> Script:
    """Is killed by a signal: its exit code is 128 + signal."""
    return exits(128 + signal, says=says, after=after, every=every)


def runs_for_ever(*, says: str | Sequence[str] = (), every: float = 0.0) -> Script:
    """Says something and then runs until it is stopped."""
    return _script(says, every, None)


def out_of_memory(*, says: str | Sequence[str] = (), after: float = 0.0) -> Script:
    """Is killed by the kernel for want of memory."""
    return _script(says, 0.0, Ending(after, 128 + SIGKILL, Reason.OOM_KILLED))


def cannot_start(message: str = 'exec: "train": executable file not found in $PATH', *, code: int = 127) -> Script:
    """The engine cannot start it."""
    return Script(ending=Ending(0.0, code, Reason.START_ERROR, message=message))


def is_lost(message: str = "its host is gone", *, says: str | Sequence[str] = (), after: float = 0.0) -> Script:
    """Is taken away by the infrastructure."""
    return _script(says, 0.0, Ending(after, None, Reason.LOST, Phase.LOST, message))


def _reason(code: int) -> Reason:
    return Reason.ERROR if code else Reason.COMPLETED


def _script(says: str | Sequence[str], every: float, ending: Ending | None) -> Script:
    texts = [says] if isinstance(says, str) else [f"{line}\n" for line in says]
    output = tuple((every * (number + 1), text) for number, text in enumerate(texts) if text)
    if ending is not None and output:
        ending = replace(ending, after=max(ending.after, output[-1][0]))
    return Script(output, ending)
