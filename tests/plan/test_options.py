"""What is chosen beside the spec is refused before anything is created, as the spec is."""

from __future__ import annotations

import math
from typing import Any

import pytest

from airflow_customjob.backends.secrets import KINDS
from airflow_customjob.plan.types import SECRET_KINDS, TIMEOUT_STATES, JobOptions
from airflow_customjob.spec.job_state import JobState
from tests.plan.requests import problems


@pytest.mark.parametrize(
    ("option", "path"),
    [
        ({"timeout_state": "cancelled"}, "timeout_state"),
        ({"stop_grace": -1.0}, "stop_grace"),
        ({"stop_grace": math.nan}, "stop_grace"),
        ({"record_ttl": math.inf}, "record_ttl"),
        ({"secret_env": (("1A", "env:A"),)}, "secret_env"),
        ({"secret_env": (("A=B", "env:A"),)}, "secret_env"),
        ({"secret_env": (("A", "env:"),)}, "secret_env"),
        ({"secret_env": (("A", "vault:x"),)}, "secret_env"),
        ({"secret_env": (("A", 5),)}, "options"),
        ({"project": 123}, "options"),
        ({"trial_id": 1}, "options"),
        ({"stop_grace": "1"}, "options"),
    ],
)
def test_refused(option: dict[str, Any], path: str) -> None:
    """Some were found out when the timeout had passed, some made a record that nobody could read any more."""
    (problem,) = problems(options=JobOptions(**option))
    assert problem.path == path


@pytest.mark.parametrize(
    "key", ['{"private_key": "hunter2", "token_uri": "https://x/y"}', '{"private_key": "hunter2"}', "keys/hunter2"]
)
def test_a_key_in_place_of_its_file_is_not_told(key: str) -> None:
    (problem,) = problems(options=JobOptions(google_credentials=key))
    assert problem.path == "google_credentials"
    assert "hunter2" not in f"{problem} {problem!r}"


def test_a_secret_in_place_of_its_reference_is_not_told() -> None:
    (problem,) = problems(options=JobOptions(secret_env=(("TOKEN", "hunter2"),)))
    assert "TOKEN" in problem.message
    assert "hunter2" not in f"{problem}{problem!r}"


def test_what_may_be_chosen_can_be_carried_out() -> None:
    assert all(JobState[f"JOB_STATE_{name}"].terminal for name in TIMEOUT_STATES)
    assert tuple(KINDS) == SECRET_KINDS
