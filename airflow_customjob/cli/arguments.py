"""The command line: its commands and options, and what they mean for a job. No command's own work is here."""

from __future__ import annotations

import argparse
import json
import math
import re
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from airflow_customjob import __version__
from airflow_customjob.cli import exits

if TYPE_CHECKING:
    from airflow_customjob.backends.base import Backend
    from airflow_customjob.plan.types import JobId, JobOptions

_JOB_ID = re.compile(r"(?:projects/[^/]+/locations/[^/]+/customJobs/)?([1-9][0-9]{0,18})")


def _seconds(text: str) -> float:
    seconds = float(text.removesuffix("s"))
    if not math.isfinite(seconds) or seconds < 0:
        raise ValueError(text)
    return seconds


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (key and equals and value):
        raise argparse.ArgumentTypeError(f"{text!r} has no = between two parts")
    return key, value


def _backend_option(text: str) -> tuple[str, Any]:
    key, value = _pair(text)
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def _job_id(text: str) -> JobId:
    """An id, or a whole resource name."""
    from airflow_customjob.plan.types import JobId

    found = _JOB_ID.fullmatch(text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no job id: it has up to 19 digits (`customjob list` shows them)")
    return JobId(found[1])


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no number of 0 or more")
    return int(text)


_seconds.__name__, _count.__name__ = "number of seconds", "number"  # argparse says: invalid <name> value


@dataclass(frozen=True)
class _Option:
    """One row: a command-line option for a field of JobOptions.

    :param repeated: may be given several times; the field is a tuple.
    :param constant: the value of an option that takes none.
    """

    flag: str
    field: str
    help: str
    read: Callable[[str], Any] = str
    metavar: str | None = None
    choices: tuple[str, ...] | None = None
    repeated: bool = False
    constant: bool | None = None


JOB_OPTIONS = (
    _Option("--image-map", "image_map", "use image TO where the spec names FROM; FROM* replaces by prefix",
            _pair, "FROM=TO", repeated=True),
    _Option("--ignore-field", "ignore_fields", "run without this field of the spec, which the backend cannot honour",
            metavar="NAME", repeated=True),
    _Option("--secret-env", "secret_env", "give replicas the variable NAME; its value is read from REF (env:NAME, "
            "file:/path) when they are created, and stands nowhere", _pair, "NAME=REF", repeated=True),
    _Option("--stop-grace", "stop_grace", "seconds between SIGTERM and SIGKILL when a replica is stopped (0.5)",
            _seconds, "SECONDS"),
    _Option("--timeout-state", "timeout_state", "end state when scheduling.timeout passes (CANCELLED)",
            choices=("CANCELLED", "EXPIRED", "FAILED")),
    _Option("--cluster-spec", "cluster_spec", "how CLUSTER_SPEC reaches replicas (env)", choices=("env", "file", "none")),
    _Option("--single-replica", "single_replica", "CLUSTER_SPEC of a job of one replica (workerpool0)",
            choices=("workerpool0", "chief", "unset")),
    _Option("--no-expand-args", "expand_args", "leave $(VAR) in command and args as it is", constant=False),
    _Option("--no-gang", "gang", "start replicas as they come, not all together", constant=False),
    _Option("--memory-limits", "memory_limits", "limit replicas to the memory of their machine type", constant=True),
    _Option("--trial-id", "trial_id", "id of a hyperparameter trial: CLOUD_ML_TRIAL_ID, and part of AIP_MODEL_DIR",
            metavar="ID"),
    _Option("--project", "project", "project of CLOUD_ML_PROJECT_ID and of the job's resource name (0)"),
    _Option("--region", "region", "region of CLOUD_ML_REGION and of the job's resource name (local)"),
    _Option("--gcp-conn-id", "gcp_conn_id", "Airflow connection to Google Cloud, to read packages from gs:// (`airflow customjob`)",
            metavar="ID"),
    _Option("--google-credentials", "google_credentials", "key file, or Airflow connection, that replicas find by "
            "GOOGLE_APPLICATION_CREDENTIALS", metavar="PATH|ID"),
    _Option("--record-ttl", "record_ttl", "seconds that the ended job's record is kept ([customjob] record_ttl)",
            _seconds, "SECONDS"),
)  # fmt: skip
"""Every option beside the spec, and the field of JobOptions that it sets."""


def job_options(args: argparse.Namespace) -> JobOptions:
    """What was chosen beside the spec.

    :raises UsageError: a setting is wrong.
    """
    from airflow_customjob.plan.types import ClusterSpec, JobOptions, SingleReplica
    from airflow_customjob.settings import setting

    given = {row.field: getattr(args, row.field) for row in JOB_OPTIONS if hasattr(args, row.field)}
    kinds: dict[str, Callable[[Any], Any]] = {"cluster_spec": ClusterSpec, "single_replica": SingleReplica}
    kinds |= {row.field: tuple for row in JOB_OPTIONS if row.repeated}
    if "record_ttl" not in given:
        try:
            given["record_ttl"] = _seconds(setting("record_ttl"))
        except ValueError:
            raise exits.UsageError(
                f"[customjob] record_ttl is {setting('record_ttl')!r}, no number of seconds"
            ) from None
    return JobOptions(**{name: kinds.get(name, lambda value: value)(value) for name, value in given.items()})


def backend(args: argparse.Namespace) -> Backend:
    """The backend that the command line names.

    :raises UsageError: there is none of this name, or not with these options.
    """
    from airflow_customjob.backends import backend_of
    from airflow_customjob.settings import setting

    name = args.backend or setting("default_backend")
    try:
        return backend_of({**dict(args.backend_option), "name": name})
    except ValueError as error:
        raise exits.UsageError(str(error)) from None


# -- commands -------------------------------------------------------------------------------------------------------


def _lazily(module: str, function: str) -> Callable[[argparse.Namespace], int]:
    def command(args: argparse.Namespace) -> int:
        return int(getattr(import_module(f"airflow_customjob.cli.{module}"), function)(args))

    return command


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(
        prog="customjob",
        description="Run the CustomJob you submit to Vertex AI, unchanged, on your own machines.",
        epilog=f"{exits.HELP}\n\n`customjob COMMAND --help` shows an example of each.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    root.add_argument("--version", action="version", version=f"customjob {__version__}")
    commands = root.add_subparsers(metavar="COMMAND", required=True)
    for add in (_validate, _render, _run, _supervise, _list, _describe, _logs, _cancel, _gc):
        add(commands)
    return root


Commands = Any  # argparse's own class is private


def _add(
    commands: Commands, name: str, takes: str, does: str, example: str, module: str, function: str
) -> argparse.ArgumentParser:
    shown = textwrap.indent(textwrap.dedent(example).strip(), "  ")
    added: argparse.ArgumentParser = commands.add_parser(
        name,
        help=does,
        usage=f"customjob {name} [options]{f' {takes}' if takes else ''}",
        description=f"{does[0].upper()}{does[1:]}.",
        epilog=f"example:\n{shown}\n\n{exits.HELP}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    added.set_defaults(command=_lazily(module, function))
    return added


def _validate(commands: Commands) -> None:
    added = _add(
        commands, "validate", "SPEC", "say everything that is wrong with a spec; exit 0 or 2",
        """
        customjob validate job.yaml
        customjob validate --backend docker --format json job.yaml | jq .
        """, "reading", "validate",
    )  # fmt: skip
    _spec(added)
    added.add_argument("--strict", action="store_true",
                       help="fail on warnings, and on what Vertex AI's own REST API does not take")  # fmt: skip
    _format(added, "text", "json")
    _backend(added, "also say what this backend cannot honour")
    _options(added)


def _render(commands: Commands) -> None:
    added = _add(
        commands, "render", "SPEC", "show what each replica would see, and create nothing",
        """
        customjob render --backend docker job.yaml
        customjob render --backend docker --format yaml --job-id 1 job.yaml > before.yaml
        """, "reading", "render",
    )  # fmt: skip
    _spec(added)
    _format(added, "text", "json", "yaml", help="text for people; json or yaml: the engine's own objects, exactly")
    added.add_argument(
        "--job-id", type=_job_id, metavar="ID", help="as if the job had this id: the same text every time"
    )
    _backend(added)
    _options(added)


def _run(commands: Commands) -> None:
    added = _add(
        commands, "run", "SPEC", "run a job; its replicas' output goes to stderr, Ctrl-C cancels it",
        """
        customjob run --backend docker job.yaml
        customjob run --output json job.yaml 2>job.log | jq -r .state
        id=$(customjob run --detach job.yaml); customjob logs -f $id
        """, "running", "run",
    )  # fmt: skip
    _spec(added)
    added.add_argument("--output", choices=("text", "json"), default="text",
                       help="what stdout gets at the end: a summary, or the final CustomJob")  # fmt: skip
    added.add_argument("--detach", action="store_true",
                       help="print the job's id and leave it to a process of its own, which outlives this terminal")  # fmt: skip
    added.add_argument("--job-id", type=_job_id, metavar="ID",
                       help="run as this job: again with the same spec it goes on, or tells its success; with another "
                       "spec, or after a failure, it starts anew")  # fmt: skip
    _progress(added)
    _backend(added)
    _options(added)


def _supervise(commands: Commands) -> None:
    added = _add(
        commands, "supervise", "ID", "pick a job up again whose process has died, and drive it to its end",
        "customjob supervise 483745983475983475", "running", "supervise",
    )  # fmt: skip
    _id(added)
    added.add_argument("--output", choices=("text", "json"), default="text",
                       help="what stdout gets at the end: a summary, or the final CustomJob")  # fmt: skip
    added.add_argument("--hold", type=_seconds, default=0.0, metavar="SECONDS",
                       help="keep ended replicas so long, for others to read their logs to the end (0)")  # fmt: skip
    _progress(added)
    _backend(added)


def _list(commands: Commands) -> None:
    added = _add(
        commands, "list", "", "list the jobs on a backend, latest first",
        "customjob list --backend docker --format json | jq -r '.[].id'", "looking", "list_jobs",
    )  # fmt: skip
    _format(added, "text", "json")
    _backend(added)


def _describe(commands: Commands) -> None:
    added = _add(
        commands, "describe", "ID", "show a job: state, times, error, replicas",
        "customjob describe 483745983475983475", "looking", "describe",
    )  # fmt: skip
    _id(added)
    _format(added, "text", "json")
    _backend(added)


def _logs(commands: Commands) -> None:
    added = _add(
        commands, "logs", "ID", "print what a job's replicas have written",
        """
        customjob logs -f 483745983475983475
        customjob logs --replica workerpool1-0 --tail 20 483745983475983475
        """, "looking", "logs",
    )  # fmt: skip
    _id(added)
    added.add_argument("-f", "--follow", action="store_true", help="until the job has ended")
    added.add_argument("--replica", metavar="NAME",
                       help="only this one's: workerpool1-0; or those that fit a pattern: 'workerpool1-*', '*'. By default all, "
                       "with -f the primary's and those of replicas that fail where there are more than 32")  # fmt: skip
    added.add_argument("--tail", type=_count, metavar="N", help="only the last N lines of each")
    _backend(added)


def _cancel(commands: Commands) -> None:
    added = _add(
        commands, "cancel", "ID", "cancel a job, and wait until nothing of it is left",
        "customjob cancel 483745983475983475", "looking", "cancel",
    )  # fmt: skip
    _id(added)
    added.add_argument(
        "--generation", type=_count, metavar="N", help="only if it is this generation; a later one stays"
    )
    _backend(added)


def _gc(commands: Commands) -> None:
    added = _add(
        commands, "gc", "", "remove what ended jobs have left, and records past their time",
        "customjob gc --dry-run", "looking", "gc",
    )  # fmt: skip
    added.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    _backend(added)


# -- what commands have in common -----------------------------------------------------------------------------------


def _spec(added: argparse.ArgumentParser) -> None:
    added.add_argument("spec", metavar="SPEC", help="YAML or JSON file of a CustomJob or CustomJobSpec; - for stdin")
    added.add_argument("--display-name", metavar="NAME", help="name of the job, whatever the spec calls it")
    added.add_argument("--local-package-path", metavar="PATH",
                       help="folder or script that becomes a package of each pool with a pythonPackageSpec")  # fmt: skip
    added.add_argument("--python-module", metavar="NAME", help="what is run of it, whatever the spec says")


def _id(added: argparse.ArgumentParser) -> None:
    added.add_argument("job_id", metavar="ID", type=_job_id, help="the job's id or resource name")


def _format(added: argparse.ArgumentParser, *choices: str, help: str | None = None) -> None:
    added.add_argument("--format", choices=choices, default=choices[0], help=help)


def _progress(added: argparse.ArgumentParser) -> None:
    added.add_argument("--progress", choices=("auto", "rich", "plain"), default="auto",
                       help="rich: a line for each replica below the log; auto: rich on a terminal")  # fmt: skip
    added.add_argument("--logs", metavar="WHICH",
                       help="whose output is shown: all, primary, a name, or a pattern as 'workerpool1-*'; of a job of more than "
                       "32 replicas the primary's by default. That of replicas that fail is shown too")  # fmt: skip
    added.add_argument("-v", "--verbose", action="store_true", help="tell also what the engine is asked to do")


def _backend(added: argparse.ArgumentParser, does: str = "where the job is") -> None:
    group = added.add_argument_group("backend")
    group.add_argument(
        "--backend", metavar="NAME", help=f"{does}: process, docker, kubernetes ([customjob] default_backend)"
    )
    group.add_argument("--backend-option", metavar="KEY=VALUE", type=_backend_option, action="append", default=[],
                       help="argument of the backend, as JSON or text: docker_url=tcp://host:2376, 'gpus=[\"0\", \"1\"]'")  # fmt: skip


def _options(added: argparse.ArgumentParser) -> None:
    group = added.add_argument_group("job options")
    for row in JOB_OPTIONS:
        how: dict[str, Any] = {"dest": row.field, "default": argparse.SUPPRESS, "help": row.help}
        if row.constant is not None:
            how |= {"action": "store_const", "const": row.constant}
        else:
            how |= {"type": row.read, "metavar": row.metavar, "choices": row.choices}
            how |= {"action": "append"} if row.repeated else {}
        group.add_argument(row.flag, **how)
