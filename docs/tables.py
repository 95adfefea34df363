"""Tables and pictures that follow from the code: the documentation includes them, and the README holds one.

``python docs/tables.py`` writes the README's anew; a test compares them.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

from airflow_customjob.plan.capabilities import capabilities_of, short_path
from airflow_customjob.plan.types import FieldSupport, Support
from airflow_customjob.provider_info import OPTIONS
from airflow_customjob.spec.airflow_states import TASK_STATES
from airflow_customjob.spec.job_state import JobState
from airflow_customjob.spec.message import CustomJob
from airflow_customjob.spec.schema import Behavior, descriptor_of, fields_with, is_map
from airflow_customjob.supervisor.rules import TRANSITIONS

BACKENDS = ("process", "docker", "kubernetes")
README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- begin: python docs/tables.py -->", "<!-- end -->"

POOL = "job_spec.worker_pool_specs"
HONOURED = {
    "display_name": "names the job for people; any number of jobs may have the same",
    "labels": "are kept in the job's record; on Docker its containers have them too, as `customjob.label.NAME`",
    f"{POOL}.replica_count": "so many replicas, `workerpool1-0` and on; all are created before any starts",
    f"{POOL}.container_spec.image_uri": "pulled where it is missing; `image_map` puts another name in its place",
    f"{POOL}.container_spec.command": "replaces the image's ENTRYPOINT, and drops its CMD",
    f"{POOL}.container_spec.args": "replace the image's CMD; `$(NAME)` is expanded",
    f"{POOL}.container_spec.env": "after the service's own variables, in order; `$(NAME)` is expanded",
    f"{POOL}.python_package_spec.executor_image_uri": "what the packages are installed into, once per content where it can be kept",
    f"{POOL}.python_package_spec.package_uris": "installed in order, as Vertex AI does; `gs://`, `http(s)://`, `file://`, an absolute path",
    f"{POOL}.python_package_spec.python_module": "run as `python3 -m MODULE`",
    f"{POOL}.python_package_spec.args": "given to the module; `$(NAME)` is expanded",
    f"{POOL}.python_package_spec.env": "as in `containerSpec`",
    f"{POOL}.machine_spec.accelerator_count": "so many GPUs are requested of the node",
    f"{POOL}.nfs_mounts": "mounted in each replica",
    "job_spec.scheduling.timeout": "measured from the first RUNNING, 7 days by default; then CANCELLED, or `timeout_state`",
    "job_spec.scheduling.restart_job_on_worker_restart": "a lost replica restarts the whole job",
    "job_spec.scheduling.disable_retries": "no restart of a replica or of the job",
}
"""What is done with each field that is honoured: a test holds its keys to the proto and to the backends' tables."""

OUTPUT = {
    "name": "`projects/PROJECT/locations/REGION/customJobs/ID`",
    "state": "the job's state",
    "create_time": "when the job was submitted",
    "start_time": "when it was RUNNING first",
    "end_time": "when it ended",
    "update_time": "when its record changed last",
    "error": "code and message of a job that failed or was cancelled",
}
"""What the fields that the service sets hold here; the others stay empty."""


def fields() -> Iterator[tuple[str, FieldDescriptor]]:
    """Every field with its path, down to where one answer holds for all below it."""
    yield from _fields(descriptor_of(CustomJob), "")


def _fields(descriptor: Any, above: str) -> Iterator[tuple[str, FieldDescriptor]]:
    for field in descriptor.fields:
        path = f"{above}.{field.name}" if above else field.name
        special = path in HONOURED or any(path in _support(backend) for backend in BACKENDS)
        message = field.message_type
        if special or message is None or is_map(field) or message.file.name != descriptor.file.name:
            yield path, field
        else:
            yield from _fields(message, path)


def is_output(field: FieldDescriptor) -> bool:
    return field in fields_with(field.containing_type, Behavior.OUTPUT_ONLY)


def shown(path: str) -> str:
    """As people write it: ``workerPoolSpecs[].replicaCount``, below ``jobSpec``."""
    path = short_path(path).replace("worker_pool_specs.", "worker_pool_specs[].")
    return re.sub(r"_([a-z])", lambda match: match.group(1).upper(), path)


def what_happens(path: str, field: FieldDescriptor, backend: str) -> str:
    if is_output(field):
        return f"set: {OUTPUT[path]}" if path in OUTPUT else "stays empty"
    row = _support(backend).get(path)
    if row is None:
        return HONOURED[path]
    return f"*{row.support}*: {row.note}"


def field_table() -> str:
    """Every field of the proto, and what each backend does with it."""
    lines = [_row("Field", *BACKENDS), _row(*["---"] * (1 + len(BACKENDS)))]
    for path, field in fields():
        answers = [what_happens(path, field, backend) for backend in BACKENDS]
        if len(set(answers)) == 1:
            answers = [answers[0], *["as there"] * (len(BACKENDS) - 1)]
        lines.append(_row(f"`{shown(path)}`", *answers))
    return "\n".join(lines)


def readme_table() -> str:
    """The same for a first look: what runs, then in one row what does not."""
    lines = [_row("Vertex AI field", "what happens here"), _row("---", "---")]
    refused = []
    for path, field in fields():
        rows = [_support(backend).get(path) for backend in BACKENDS]
        if is_output(field):
            continue
        if all(row is not None and row.support is Support.REFUSED for row in rows):
            refused.append(f"`{shown(path)}`")
            continue
        names: dict[str, list[str]] = {}
        for backend in BACKENDS:
            names.setdefault(what_happens(path, field, backend), []).append(backend)
        text = (
            next(iter(names))
            if len(names) == 1
            else "<br>".join(f"{', '.join(who)}: {answer}" for answer, who in names.items())
        )
        lines.append(_row(f"`{shown(path)}`", text))
    lines.append(_row(", ".join(refused), "*refused*, unless the field is in `ignore_fields`"))
    return "\n".join(lines)


def option_table() -> str:
    """The options of Airflow's section ``[customjob]``."""
    lines = [_row("Option", "default", "what it is"), _row("---", "---", "---")]
    for name, option in OPTIONS.items():
        lines.append(_row(f"`{name}`", f"`{option['default']}`" if option["default"] else "", option["description"]))
    return "\n".join(lines)


def transition_table() -> str:
    lines = [_row("State", "can become"), _row("---", "---")]
    for state in PLACES:
        to = ", ".join(f"`{next_.short}`" for next_ in PLACES if next_ in TRANSITIONS.get(state, ()))
        lines.append(_row(f"`{state.name}`", to or "nothing else: it has ended"))
    return "\n".join(lines)


def task_state_table() -> str:
    """What each state of an Airflow task says of its replica."""
    lines = [_row("Airflow task", "replica", "because"), _row("---", "---", "---")]
    for name, meaning in TASK_STATES.items():
        lines.append(_row(f"`{name}`", f"`{meaning.state.name}`", meaning.why))
    return "\n".join(lines)


def commands() -> str:
    """The help of every ``customjob`` command, and the exit codes once."""
    from airflow_customjob.cli import arguments, exits

    os.environ["COLUMNS"] = "110"
    parts = [f"```text\n{exits.HELP}\n```"]
    for name, parser in arguments.parser()._subparsers._group_actions[0].choices.items():
        text = parser.format_help().replace(exits.HELP, "").rstrip()
        parts.append(f"## customjob {name}\n\n```text\n{text}\n```")
    return "\n\n".join(parts)


# -- the state diagram ----------------------------------------------------------------------------------------------

PLACES = {
    JobState.JOB_STATE_QUEUED: (90, 60),
    JobState.JOB_STATE_PENDING: (90, 190),
    JobState.JOB_STATE_RUNNING: (90, 320),
    JobState.JOB_STATE_SUCCEEDED: (560, 320),
    JobState.JOB_STATE_FAILED: (560, 190),
    JobState.JOB_STATE_CANCELLING: (330, 60),
    JobState.JOB_STATE_CANCELLED: (560, 60),
    JobState.JOB_STATE_EXPIRED: (330, 430),
}
"""Where each state stands; the arrows between them are drawn from the rules."""
HALF_WIDTH, HALF_HEIGHT = 64, 20
ROW = 34
"""From one state of a task to the next one below."""


def state_diagram() -> str:
    """An SVG in the colour of its surroundings."""
    arrows = [_arrow(state, to) for state, follows in TRANSITIONS.items() for to in sorted(follows)]
    boxes = [_box(state, *place) for state, place in PLACES.items()]
    return _svg(650, 470, "States of a job", [*arrows, *boxes])


def task_state_diagram() -> str:
    """An SVG: from each state of a task to what it says of the task's replica."""
    names: dict[JobState, list[str]] = {}
    for name, meaning in TASK_STATES.items():
        names.setdefault(meaning.state, []).append(str(name))
    parts, y = [], 0.0
    for state in sorted(names, key=list(PLACES).index):
        middle = y + ROW * (len(names[state]) + 1) / 2
        parts.append(_box(state, 460, middle))
        for name in names[state]:
            y += ROW
            parts += [
                _rectangle(name, 110, y, 90, 13, 1),
                f'<path d="M200 {y:.0f} L{460 - HALF_WIDTH} {middle:.0f}" marker-end="url(#end)"/>',
            ]
        y += ROW / 2
    return _svg(540, y + ROW / 2, "What a task's state says of its replica", parts)


def _svg(width: float, height: float, label: str, parts: list[str]) -> str:
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{label}" '
            f'style="max-width: {width:.0f}px" font-family="sans-serif" font-size="14" stroke="currentColor" fill="none">',
            '<defs><marker id="end" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
            '<path d="M0 0 L8 4 L0 8 z" fill="currentColor" stroke="none"/></marker></defs>',
            *parts,
            "</svg>",
        ]
    )


def _box(state: JobState, x: float, y: float) -> str:
    return _rectangle(state.short, x, y, HALF_WIDTH, HALF_HEIGHT, 3 if state.terminal else 1)


def _rectangle(text: str, x: float, y: float, half_width: float, half_height: float, stroke: int) -> str:
    return (
        f'<rect x="{x - half_width:g}" y="{y - half_height:g}" width="{2 * half_width:g}" height="{2 * half_height:g}" rx="8" '
        f'stroke-width="{stroke}"/><text x="{x:g}" y="{y + 5:g}" text-anchor="middle" fill="currentColor" stroke="none">{text}</text>'
    )


def _arrow(state: JobState, to: JobState) -> str:
    """From edge to edge; a little aside where there is a way back, so that the two are seen."""
    (x1, y1), (x2, y2) = PLACES[state], PLACES[to]
    dx, dy = x2 - x1, y2 - y1
    aside = 8 / math.hypot(dx, dy) if state in TRANSITIONS.get(to, ()) else 0.0
    off_x, off_y = -dy * aside, dx * aside
    start = _edge(off_x, off_y, dx, dy)
    end = 1 - _edge(-off_x, -off_y, dx, dy)
    points = (x1 + off_x + dx * start, y1 + off_y + dy * start, x1 + off_x + dx * end, y1 + off_y + dy * end)
    return '<path d="M{:.0f} {:.0f} L{:.0f} {:.0f}" marker-end="url(#end)"/>'.format(*points)


def _edge(off_x: float, off_y: float, dx: float, dy: float) -> float:
    """The part of a way that lies inside its first box, when it begins so far off the box's center."""
    across = (HALF_WIDTH - math.copysign(off_x, dx * off_x)) / abs(dx) if dx else math.inf
    along = (HALF_HEIGHT - math.copysign(off_y, dy * off_y)) / abs(dy) if dy else math.inf
    return min(across, along)


# -- files ----------------------------------------------------------------------------------------------------------


def write(folder: Path) -> None:
    """What the documentation includes."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (
        ("fields.md", field_table()),
        ("options.md", option_table()),
        ("transitions.md", transition_table()),
        ("task_states.md", task_state_table()),
        ("cli.md", commands()),
        ("states.svg", state_diagram()),
        ("task_states.svg", task_state_diagram()),
    ):
        path = folder / name
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def readme_with(table: str, readme: str) -> str:
    """:raises ValueError: the README has no place for it."""
    before, _, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f"README.md has no lines {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{table}\n{END}{after}"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _support(backend: str) -> dict[str, FieldSupport]:
    return {row.path: row for row in capabilities_of(backend).fields}


if __name__ == "__main__":
    README.write_text(readme_with(readme_table(), README.read_text()))
