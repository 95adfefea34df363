"""Whatever is given: a job, or problems. Never a traceback, and never both an error and a job."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_customjob.spec import CustomJob, check, to_canonical, validate
from tests.spec.samples import GOOD, google_canonical, snake
from tests.spec.strategies import JSON

MUTATIONS = 600

VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2**31, 2**63, 1.5, float("nan"), float("inf"), "", " ", "x", "${X}", "{{ x }}", "7d", "3600", "3600s",
    "-0s", "\0", "\ud800", "é" * 200, [], {}, [None], [[]], [{}], {"": ""}, {"a": None}, {1: 2}, (1,), {1}, b"x", object(), int, 10**5000,
]  # fmt: skip


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key or index) in a spec."""
    items = (
        list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    )
    return [(value, key) for key, _ in items] + [place for _, below in items for place in _places(below)]


def _replace(rng: random.Random, spec: Any) -> None:
    at, key = rng.choice(_places(spec))
    at[key] = copy.deepcopy(rng.choice(VALUES))


def _delete(rng: random.Random, spec: Any) -> None:
    at, key = rng.choice(_places(spec))
    del at[key]


def _rename(rng: random.Random, spec: Any) -> None:
    at, key = rng.choice([place for place in _places(spec) if isinstance(place[0], dict)])
    name = (
        rng.choice([key[:-1], key + "s", key.upper(), key.replace("_", ""), "", 5, None])
        if isinstance(key, str)
        else "x"
    )
    at[name] = at.pop(key)


def _wrap(rng: random.Random, spec: Any) -> None:
    at, key = rng.choice(_places(spec))
    at[key] = rng.choice([[at[key]], {"value": at[key]}, f"{type(at[key])}", [at[key], at[key]]])


def _move(rng: random.Random, spec: Any) -> None:
    (at, key), (to, other) = rng.choice(_places(spec)), rng.choice(_places(spec))
    to[other] = copy.deepcopy(at[key])


def _insert(rng: random.Random, spec: Any) -> None:
    at, key = rng.choice([place for place in _places(spec) if isinstance(place[0], list)] or [([0], 0)])
    at.insert(key, copy.deepcopy(rng.choice(VALUES)))


OPERATORS: list[Callable[[random.Random, Any], None]] = [_replace, _delete, _rename, _wrap, _move, _insert]


def _mutant(seed: int) -> dict[str, Any]:
    rng = random.Random(seed)
    spec = copy.deepcopy(rng.choice(list(GOOD.values())))
    spec = rng.choice([lambda s: s, snake, lambda s: snake(s, every=2), lambda s: s["jobSpec"]])(spec)
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        if _places(spec):
            rng.choice(OPERATORS)(rng, spec)
    return spec


def _holds(source: object) -> tuple[CustomJob | None, int]:
    job, problems = check(source)
    found = [problem for problem in problems if problem.severity == "error"]
    assert (job is None) == bool(found)
    for problem in problems:
        assert problem.message
        assert problem.rule
        assert str(problem)
        json.dumps(problem.value, allow_nan=False).encode()
        str(problem).encode()
    if job is not None:
        assert not [problem for problem in validate(job) if problem.severity == "error"]
        # What loads clean means to Google the same as to us.
        assert google_canonical(to_canonical(job)) == to_canonical(job)
    return job, len(found)


@pytest.mark.parametrize("first", range(0, MUTATIONS, 100))
def test_mutated_specs(first: int) -> None:
    for seed in range(first, first + 100):
        try:
            _holds(_mutant(seed))
        except Exception as error:
            raise AssertionError(f"seed {seed}: {_mutant(seed)!r}"[:2000]) from error


def test_mutations_do_break_specs_and_leave_others_whole() -> None:
    outcomes = [_holds(_mutant(seed))[0] is None for seed in range(200)]
    assert 40 < sum(outcomes) < 200


@pytest.mark.parametrize("first", range(0, 200, 100))
def test_mutated_texts(first: int) -> None:
    """Characters of YAML and JSON text dropped, doubled, swapped."""
    for seed in range(first, first + 100):
        rng = random.Random(seed)
        spec = rng.choice(list(GOOD.values()))
        text = rng.choice([json.dumps, yaml.safe_dump, lambda s: json.dumps(s, indent=1)])(spec)
        for _ in range(rng.choice([1, 2, 5, 50])):
            at = rng.randrange(len(text))
            text = (
                text[:at]
                + rng.choice(["", text[at] * 2, "\t", "{", "]", ":", "\n", "&a", "*a", "!!int ", "'", '"', "#", "\0"])
                + text[at + 1 :]
            )
        try:
            _holds(text)
        except Exception as error:
            raise AssertionError(f"seed {seed}: {text!r}"[:2000]) from error


@settings(max_examples=400, deadline=None)
@given(JSON)
def test_any_json(value: object) -> None:
    _holds(value)


@settings(max_examples=200, deadline=None)
@given(JSON)
def test_any_json_as_a_job_spec(value: object) -> None:
    _holds({"displayName": "d", "jobSpec": value})
    _holds({"displayName": "d", "jobSpec": {"workerPoolSpecs": [value]}})
    _holds({"displayName": "d", "jobSpec": {"scheduling": value}, "error": value})


@settings(max_examples=300, deadline=None)
@given(st.text() | st.binary() | JSON.map(json.dumps))
def test_any_text(text: str | bytes) -> None:
    _holds(text)
