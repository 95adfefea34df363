"""YAML and JSON text: read as it was written, and refused with the line."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_customjob.spec import check, to_dict
from airflow_customjob.spec.problem import SpecError
from airflow_customjob.spec.text import MAX_TEXT, read_text

# Plain scalars and what they are: JSON's meaning, or the text as it stands.
SCALARS: dict[str, Any] = {
    "true": True, "False": False, "null": None, "~": None, "": None, "5": 5, "-7": -7, "1.5": 1.5, "1e3": 1000.0, "2.5E-1": 0.25,
    "yes": "yes", "no": "no", "on": "on", "off": "off", "y": "y", "010": "010", "0x1F": "0x1F", "0o17": "0o17", "1_000": "1_000",
    "12:30:45": "12:30:45", "2024-01-01": "2024-01-01", "2024-01-01T00:00:00Z": "2024-01-01T00:00:00Z", ".inf": ".inf", ".nan": ".nan",
    "+1": "+1", ".5": ".5", "1.": "1.", "3600s": "3600s", "=": "=", "'5'": "5", '"true"': "true", "!!str 5": "5", "9" * 5000: "9" * 5000,
}  # fmt: skip


@pytest.mark.parametrize("text", SCALARS)
def test_plain_scalars(text: str) -> None:
    value = to_dict(f"a: {text}")["a"]
    assert value == SCALARS[text]
    assert type(value) is type(SCALARS[text])


def test_on_as_a_key_is_reported_as_it_was_written() -> None:
    _, problems = check("displayName: x\njobSpec: {}\non: true\n")
    assert "on" in [problem.path for problem in problems if problem.rule == "unknown-field"]


def test_anchors_and_merges() -> None:
    text = "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: {<<: [*a, *a], <<: *a}"
    assert to_dict(text) == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}, "c": {"x": 1, "y": 2}}


def test_duplicate_keys_of_yaml_have_path_and_lines() -> None:
    _, problems = check(
        "displayName: x\njobSpec:\n  workerPoolSpecs:\n  - replicaCount: 1\n    replicaCount: 2\ndisplayName: y\n"
    )
    twice = {problem.path: problem.message for problem in problems if problem.rule == "duplicate-key"}
    assert "lines 4 and 5" in twice["jobSpec.workerPoolSpecs[0].replicaCount"]
    assert "lines 1 and 6" in twice["displayName"]
    with pytest.raises(SpecError, match="given twice"):
        to_dict("a: 1\na: 2")


def test_duplicate_keys_of_json() -> None:
    _, problems = check('{"displayName": "x", "displayName": "y", "jobSpec": {}}')
    assert [problem.path for problem in problems if problem.rule == "duplicate-key"] == ["displayName"]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("a: [1, 2", "line 2"),
        ("a: b\n c: d", "line 2, column 3"),
        ("a: 1\n---\nb: 2", "single document"),
        ("a: {{ params.n }}", "put quotes around Jinja expressions"),
        ("{a: b}}", "not JSON, and not YAML"),
        ('{"a": 1,, }', "not JSON, and not YAML"),
        ("a: !!int x", "YAML that cannot be read"),
        ("a: !!python/object:os.system x", "could not determine a constructor"),
        ("a: *b", "undefined alias"),
        ("? [a]\n: b", "unhashable key"),
        ("a: \x00", "cannot be read"),
        ("[" * 5000, "not YAML"),
        ('{"a":' * 5000, "cannot be read"),
        ('{"a": ' + "9" * 5000 + "}", "cannot be read"),
        ("a" * (MAX_TEXT + 1), "characters"),
    ],
)
def test_syntax_errors_say_where(text: str, part: str) -> None:
    with pytest.raises(SpecError) as caught:
        read_text(text)
    assert part in str(caught.value)
    assert caught.value.problems[0].rule == "syntax"


def test_endless_yaml_is_refused() -> None:
    cycle = "displayName: x\njobSpec: &a\n  workerPoolSpecs: *a\n"
    laughs = "\n".join(
        ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
        + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    )
    for text in (cycle, laughs):
        with pytest.raises(SpecError) as caught:
            to_dict(text)
        assert caught.value.problems[0].rule == "size"


@pytest.mark.parametrize("text", ["[" * 100_000, "[{a: " * 100_000, "- " * 100_000, "? " * 100_000], ids=range(4))
def test_deep_yaml_is_a_problem_and_no_crash(text: str) -> None:
    """Regression: libyaml's composer recursed until the interpreter died of it."""
    with pytest.raises(SpecError, match="YAML"):
        read_text(text)
