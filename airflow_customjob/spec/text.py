"""YAML and JSON text to plain Python, with every duplicate key and syntax error as a problem that names its line.

YAML is read as JSON would be: unquoted ``true``, ``null`` and JSON's numbers mean what they mean in JSON; all else is
text. So ``yes``, ``on``, ``010``, ``12:30:45`` and ``2024-01-01`` reach a program as they were written, where YAML 1.1
would turn them into booleans, an octal, a sexagesimal and a date.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_customjob.spec.problem import Problem, SpecError, shown

if TYPE_CHECKING:
    import yaml

MAX_TEXT = 16 * 2**20
"""Characters. A job of thousands of replicas has a spec of some kilobytes: replicas are counted, not listed."""

MAX_NESTING = 200
"""Levels of a YAML document. libyaml's composer has no limit of its own: 100,000 brackets overflow the C stack."""


def read_text(text: str) -> tuple[Any, list[Problem]]:
    """Parse a document.

    :param text: YAML or JSON.
    :returns: what it holds, and its duplicate keys.
    :raises SpecError: it is neither.
    """
    if len(text) > MAX_TEXT:
        raise SpecError([Problem("", f"the text has {len(text):,} characters, more than {MAX_TEXT:,}", None, "syntax")])
    text = text.removeprefix("\ufeff")
    try:
        return _json(text) if text.lstrip().startswith("{") else _yaml(text)
    except json.JSONDecodeError as json_error:
        try:
            return _yaml(text)  # a YAML flow mapping begins like JSON
        except SpecError:
            where = f"line {json_error.lineno}, column {json_error.colno}"
            raise SpecError(
                [_syntax(f"not JSON, and not YAML: {json_error.msg}, {where}{_jinja_hint(text)}")]
            ) from None


def _json(text: str) -> tuple[Any, list[Problem]]:
    problems: list[Problem] = []

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        known: dict[str, Any] = {}
        for key, value in items:
            if key in known:
                problems.append(
                    Problem(key, "this key is given twice in one object: keep one", shown(value), "duplicate-key")
                )
            known[key] = value
        return known

    try:
        return json.loads(text, object_pairs_hook=pairs), problems
    except json.JSONDecodeError:
        raise
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits; 5,000 levels
        raise SpecError([_syntax(f"JSON that cannot be read: {error}")]) from None


def _yaml(text: str) -> tuple[Any, list[Problem]]:
    import yaml

    loader = _loader()(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None, []
        problems = list(_duplicates(node))  # first, since constructing copies merged keys into the nodes
        return loader.construct_document(node), problems
    except yaml.MarkedYAMLError as error:
        what = ", ".join(filter(None, (error.context, error.problem)))
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise SpecError([_syntax(f"not YAML: {what}{where}{_jinja_hint(text)}")]) from None
    except SpecError:
        raise
    except Exception as error:  # noqa: BLE001 - explicit tags (!!int x) let any error through, nesting a RecursionError
        raise SpecError([_syntax(f"YAML that cannot be read: {type(error).__name__}: {shown(str(error))}")]) from None
    finally:
        loader.dispose()


def _syntax(message: str) -> Problem:
    return Problem("", message, None, "syntax")


def _jinja_hint(text: str) -> str:
    return '; put quotes around Jinja expressions: "{{ ... }}"' if "{{" in text else ""


def _duplicates(root: yaml.Node) -> Iterator[Problem]:
    import yaml

    todo: list[tuple[str, yaml.Node]] = [("", root)]
    visited: set[int] = set()
    while todo:
        path, node = todo.pop()
        if id(node) in visited:  # aliases make graphs, and cycles
            continue
        visited.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            todo += [(f"{path}[{index}]", item) for index, item in enumerate(node.value)]
        elif isinstance(node, yaml.MappingNode):
            lines: dict[str, int] = {}
            for key, value in node.value:
                name = key.value if isinstance(key, yaml.ScalarNode) else ""
                below = f"{path}.{name}".lstrip(".")
                line = key.start_mark.line + 1
                if name and name != "<<" and name in lines:
                    message = f"this key is given twice, in lines {lines[name]} and {line}: keep one"
                    yield Problem(below, message, name, "duplicate-key")
                lines.setdefault(name, line)
                todo.append((below, value))


@cache
def _loader() -> Any:
    import yaml

    base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

    class Loader(base):  # type: ignore[misc]
        yaml_implicit_resolvers: ClassVar[dict[str, list[tuple[str, re.Pattern[str]]]]] = {}
        levels = 0

        def descend_resolver(self, parent: Any, index: Any) -> None:
            self.levels += 1
            if self.levels > MAX_NESTING:
                raise SpecError([_syntax(f"not YAML: nested deeper than {MAX_NESTING} levels")])

        def ascend_resolver(self) -> None:
            self.levels -= 1

    for tag, pattern, first in (
        ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
        ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
        ("int", r"^-?(?:0|[1-9][0-9]{0,999})$", "-0123456789"),
        ("float", r"^-?(?:0|[1-9][0-9]*)(?:\.[0-9]+(?:[eE][-+]?[0-9]+)?|[eE][-+]?[0-9]+)$", "-0123456789"),
        ("merge", r"^<<$", "<"),
    ):
        Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(pattern), list(first))
    # PyYAML's own float wants a point; JSON's 1e3 has none, and its conversion copes.
    return Loader
