"""A spec's templates, rendered leaf by leaf.

Airflow's own rendering of nested fields would look up every string that ends like a file as a template, and drop the newline
at the end of a script. Here whatever was given becomes a plain dict first; then each of its strings is rendered as it stands.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import jinja2
    from airflow.sdk import DAG, Context

Render = Callable[[Any], Any]
"""Renders one template, or resolves one reference to another task's output."""


class TemplateRefused(ValueError):
    """Jinja cannot render a field of the spec."""


@contextmanager
def bad_input_fails(*kinds: type[ValueError]) -> Iterator[None]:
    """Bad input fails the task, and is not tried again.

    :param kinds: of error that tell of it.
    """
    from airflow.sdk.exceptions import AirflowFailException

    try:
        yield
    except kinds as error:
        raise AirflowFailException(str(error)) from None


def is_native(env: jinja2.Environment) -> bool:
    """Whether what it renders becomes numbers, lists, whatever its text looks like (``render_template_as_native_obj``)."""
    from jinja2.nativetypes import NativeEnvironment

    return isinstance(env, NativeEnvironment)


def text_renderer(dag: DAG, context: Context, render: Render) -> Render:
    """For fields of a spec in a DAG that renders natively: ``"10"`` is an argument like any other, and stays text. Only an expression
    that gives a list or a mapping is what it gives.
    """
    env = dag.get_template_env(force_sandboxed=True).overlay(keep_trailing_newline=True)

    def text(value: Any) -> Any:
        if not isinstance(value, str):
            return render(value)
        if value.strip().startswith("{{") and isinstance(found := render(value), (list, dict)):
            return found
        return env.from_string(value).render(context)

    return text


def render_spec(
    source: object,
    render: Render,
    text: Render | None = None,
    *,
    enabled: bool = True,
    literal: bool = True,
    exclude: Sequence[str] = (),
    base: Path | None = None,
) -> Any:
    """The spec with every string leaf rendered; what is given stays as it is.

    Text that is an expression as a whole, or a single line, is rendered first: what it gives is a path or a spec. A spec that came
    out of an expression or of another task is not rendered again; a file's is.

    :param source: a mapping, text, a path, a message, or a reference to another task's output.
    :param text: renders the fields of a spec. None: as everything else.
    :param enabled: False: only references are resolved and paths read.
    :param literal: False: it came out of another task.
    :param exclude: field paths that stay as they are; see :func:`excluded`.
    :param base: directory that a relative path starts from.
    :raises TemplateRefused: names the field and what to do.
    :raises SpecError: no mapping can be read from it.
    """
    from airflow_customjob.spec import to_dict

    if is_reference(source):
        source, literal = render(source), False
    elif enabled and literal and isinstance(source, str) and _is_expression(source):
        source, literal = _rendered(source, "", render), False
    from_file = isinstance(source, Path) or (isinstance(source, str) and not _is_text(source))
    spec = to_dict(source, base=base)
    return _leaves(spec, "", text or render, enabled and (literal or from_file), exclude)


def render_backend(backend: Any, render: Render) -> Any:
    """A copy of a configured backend with its strings rendered; a name or a mapping as Airflow renders it."""
    if not is_dataclass(backend) or isinstance(backend, type):
        return render(backend)
    changes = {field.name: render(getattr(backend, field.name)) for field in fields(backend) if field.init}
    return replace(backend, **changes)


def is_reference(value: object) -> bool:
    """It stands for what another task gives, and is known at run time only."""
    from airflow.sdk.definitions._internal.mixins import ResolveMixin

    return isinstance(value, ResolveMixin)


def is_plain(value: object) -> bool:
    """Airflow stores it in a serialized DAG as it is: no messages, enums, durations. Asked at each parse, of each spec."""
    if type(value) in _SCALARS:
        return True
    if isinstance(value, (list, tuple)):
        return all(map(is_plain, value))
    if isinstance(value, Mapping):
        return all(isinstance(key, str) for key in value) and all(map(is_plain, value.values()))
    return is_reference(value)


_SCALARS = frozenset({str, int, float, bool, type(None)})


def _is_text(text: str) -> bool:
    """YAML or JSON, not a path."""
    return "\n" in text.strip() or text.lstrip().startswith("{")


def _is_expression(text: str) -> bool:
    return text.lstrip().startswith(("{{", "{%")) or not _is_text(text)


def _leaves(value: Any, path: str, render: Render, enabled: bool, exclude: Sequence[str]) -> Any:
    if isinstance(value, dict):
        return {
            key: _leaves(item, f"{path}.{key}".lstrip("."), render, enabled, exclude) for key, item in value.items()
        }
    if isinstance(value, list):
        return [_leaves(item, f"{path}[{index}]", render, enabled, exclude) for index, item in enumerate(value)]
    if is_reference(value) or (enabled and isinstance(value, str) and not excluded(path, exclude)):
        return _rendered(value, path, render)
    return value


def _rendered(value: Any, path: str, render: Render) -> Any:
    from jinja2 import TemplateError

    try:
        return render(value)
    except TemplateError as error:
        raise TemplateRefused(
            f"custom_job: {path or 'the text'} is no template that Jinja can render: {error}. If its braces are meant for the "
            f"program and not for Jinja, give the operator render=False, or render_exclude=[{without_indexes(path)!r}]"
        ) from error


def excluded(path: str, patterns: Sequence[str]) -> bool:
    """Whether a field, or one around it, is named.

    :param path: ``jobSpec.workerPoolSpecs[0].containerSpec.args[1]``.
    :param patterns: such paths in either spelling (``worker_pool_specs``), with or without indexes, from the job or from
        its ``job_spec`` on.
    """
    steps = list(_steps(path))
    below = steps[1:] if steps and steps[0] == "jobspec" else steps
    return any(_begins(wanted, steps) or _begins(wanted, below) for wanted in (list(_steps(p)) for p in patterns))


def without_indexes(path: str) -> str:
    return re.sub(r"\[\d+]", "", path)


def _steps(path: str) -> Iterator[str]:
    return (step.replace("_", "").lower() for step in path.split("."))


def _begins(wanted: list[str], steps: list[str]) -> bool:
    return len(wanted) <= len(steps) and all(
        want in (step, without_indexes(step)) for want, step in zip(wanted, steps, strict=False)
    )
