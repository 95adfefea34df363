"""The same command as ``airflow customjob ...``, with Airflow's configuration, Variables and Connections at hand."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from airflow_customjob.cli import main

if TYPE_CHECKING:
    from airflow.cli.cli_config import CLICommand


def get_commands() -> list[CLICommand]:
    """What Airflow's command line adds to its own."""
    from airflow.cli.cli_config import ActionCommand, Arg

    told = "validate, render, run, supervise, list, describe, logs, cancel or gc, and its arguments; COMMAND --help shows an example"
    rest = Arg(("argv",), nargs=argparse.REMAINDER, metavar="COMMAND ...", help=told)  # type: ignore[no-untyped-call] # Airflow gives it none
    return [ActionCommand("customjob", "Run Vertex AI's CustomJobs on one's own machines", _run, (rest,))]


def _run(args: argparse.Namespace) -> None:
    sys.exit(main(args.argv))
