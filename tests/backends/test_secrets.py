"""Values of ``secret_env``: whatever is wrong with one, it is not told."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_customjob.backends.base import LaunchRefused
from airflow_customjob.backends.secrets import SHORTEST, hiding, redactor, resolve
from airflow_customjob.plan.types import JobOptions


def test_a_file_s_value_is_without_the_newline_at_its_end(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("two\nlines=1\n")
    assert resolve([("TOKEN", f"file:{tmp_path / 'token'}")]) == {"TOKEN": "two\nlines=1"}


@pytest.mark.parametrize("value", [b"abc\0hunter2", b"hunter2\xff\xfe"])
def test_a_value_that_no_variable_can_have_is_refused_and_not_told(tmp_path: Path, value: bytes) -> None:
    """Docker refused to start it, and its words quoted the secret: into the record, the log and the exception."""
    (tmp_path / "token").write_bytes(value)
    with pytest.raises(LaunchRefused, match=r"^secret_env: TOKEN refers to file:") as refused:
        resolve([("TOKEN", f"file:{tmp_path / 'token'}")])
    assert "hunter2" not in str(refused.value)
    assert refused.value.__suppress_context__ or refused.value.__context__ is None


def test_airflow_masks_what_can_be_read_of_a_jobs_secrets(tmp_path: Path) -> None:
    from airflow.sdk.log import _secrets_masker

    (tmp_path / "token").write_text("open sesame\n")
    (tmp_path / "key.json").write_text('{"type": "service_account", "private_key": "pr1vate"}')
    secret_env = (("A", "env:NOT_THERE"), ("B", f"file:{tmp_path / 'token'}"))
    redact = asyncio.run(redactor(JobOptions(secret_env=secret_env, google_credentials=str(tmp_path / "key.json"))))
    for hide in (_secrets_masker().redact, redact):
        assert hide("it is open sesame, or pr1vate") == "it is ***, or ***"


@given(st.lists(st.text(min_size=SHORTEST), min_size=1), st.data())
def test_no_value_is_left_in_a_line_however_it_is_spelled(values: list[str], data: st.DataObject) -> None:
    value = data.draw(st.sampled_from(values))
    hide = hiding(values)
    for spelled in (value, json.dumps(value), repr(value)):
        for line in spelled.splitlines():
            if len(line) >= SHORTEST:
                assert line not in hide(f"epoch 1: {line}, loss 0.5") or line in "epoch 1: ***, loss 0.5"


def test_lines_are_as_they_are_where_nothing_is_hidden() -> None:
    assert hiding([])("a line") == "a line"
    assert hiding(["1", "yes", "true"])("1 yes true") == "1 yes true"
    assert hiding(["first line\nsecond line"])("the second line of two") == "the *** of two"


def test_what_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOT_THERE", raising=False)
    with pytest.raises(
        LaunchRefused, match=r"TOKEN refers to env:NOT_THERE, which cannot be read here \(it is not set\)"
    ):
        resolve([("TOKEN", "env:NOT_THERE")])
