"""The ``customjob`` command: jobs without a scheduler. Imports Airflow, engines and rich only for what needs them."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress

from airflow_customjob.cli import arguments, exits


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    :returns: its exit code, one of :mod:`.exits`.
    """
    _never_fail_to_encode()
    try:
        code = _command(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
    except BrokenPipeError:
        _discard_output()
        return exits.BROKEN_PIPE
    return code


def _command(argv: Sequence[str]) -> int:
    try:
        args = arguments.parser().parse_args(argv)
    except SystemExit as asked:  # argparse has said why, or printed the help
        return int(asked.code or 0)
    try:
        return int(args.command(args))
    except BrokenPipeError:
        raise
    except KeyboardInterrupt:
        return exits.INTERRUPTED
    except Exception as error:
        if os.environ.get("CUSTOMJOB_DEBUG"):
            raise
        message, code = exits.explain(error)
        print(f"customjob: {message}", file=sys.stderr)
        return code


def _never_fail_to_encode() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, ValueError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr] # one that cannot is passed over


def _discard_output() -> None:
    """Nobody reads any more: what is buffered shall not fail again when the interpreter ends."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
