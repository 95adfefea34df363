"""``$(VAR)``: Kubernetes' rule, which custom_job.proto quotes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_customjob.plan.expansion import expand
from airflow_customjob.plan.types import JobOptions
from tests.plan.requests import container, env, plan

VARIABLES = {"A": "1", "B": "$(A)", "EMPTY": "", "A.B": "dot"}
ROWS = [
    ("$(A)", "1"),
    ("x$(A)y$(A)", "x1y1"),
    ("$(B)", "$(A)"),
    ("$(EMPTY)", ""),
    ("$(A.B)", "dot"),
    ("$(UNKNOWN)", "$(UNKNOWN)"),
    ("$()", "$()"),
    ("$(A", "$(A"),
    ("$(A$(A))", "$(A$(A))"),
    ("$$(A)", "$(A)"),
    ("$$$(A)", "$1"),
    ("$$$$(A)", "$$(A)"),
    ("$", "$"),
    ("A$", "A$"),
    ("$A ${A} ${A:-x} `A` $[A]", "$A ${A} ${A:-x} `A` $[A]"),
    ("$(date +%s)", "$(date +%s)"),
    ("${#a[@]}", "${#a[@]}"),
    ("", ""),
]


@pytest.mark.parametrize(("text", "expanded"), ROWS)
def test_rule(text: str, expanded: str) -> None:
    assert expand(text, VARIABLES) == expanded


@given(st.text())
def test_text_without_a_dollar_sign_stays(text: str) -> None:
    assert expand(text.replace("$", ""), VARIABLES) == text.replace("$", "")


@given(st.text(alphabet="$()AB x", max_size=30))
def test_what_is_escaped_comes_back(text: str) -> None:
    assert expand(text.replace("$", "$$"), VARIABLES) == text


@given(st.text(), st.text())
def test_a_value_is_taken_as_it_is(before: str, value: str) -> None:
    before = before.replace("$", "")
    assert expand(f"{before}$(V){before}", {"V": value}) == f"{before}{value}{before}"


def test_a_variable_sees_those_before_it() -> None:
    replica = plan(container(env=env(ONE="1", TWO="$(ONE)$(THREE)", THREE="3", ONE_AGAIN="$$(ONE)"))).primary
    assert (replica.environ["TWO"], replica.environ["ONE_AGAIN"]) == ("1$(THREE)", "$(ONE)")


def test_a_variable_sees_those_that_are_set_by_itself() -> None:
    replica = plan(container(env=env(ME="$(RANK)/$(WORLD_SIZE)")), container(1, env=env(ME="$(RANK)"))).replicas
    assert [r.environ["ME"] for r in replica] == ["0/2", "1"]


def test_a_variable_given_twice_refers_to_its_first_value() -> None:
    twice = [{"name": "P", "value": "a"}, {"name": "P", "value": "$(P):b"}]
    replica = plan(container(env=twice)).primary
    assert [pair for pair in replica.env if pair[0] == "P"] == [("P", "a:b")]


@pytest.mark.parametrize(("expands", "arg"), [(True, "--rank=0"), (False, "--rank=$(RANK)")])
def test_command_and_args(expands: bool, arg: str) -> None:
    pool = container(command=["run", "--rank=$(RANK)"], args=["--rank=$(RANK)"])
    replica = plan(pool, container(1), options=JobOptions(expand_args=expands)).primary
    assert (replica.command, replica.args) == (("run", arg), (arg,))
