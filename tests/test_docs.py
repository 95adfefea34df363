"""What the documentation says of the code follows from the code."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

import airflow_customjob
from airflow_customjob import CustomJobOperator, CustomJobTaskGroup
from airflow_customjob.plan.capabilities import capabilities_of
from airflow_customjob.spec.airflow_states import TASK_STATES
from airflow_customjob.spec.job_state import JobState
from airflow_customjob.supervisor.rules import TRANSITIONS


@pytest.fixture
def tables(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(root / "docs")
    import tables

    yield tables
    del sys.modules["tables"]


def test_the_readmes_table_is_what_the_code_says(tables: Any, root: Path) -> None:
    readme = (root / "README.md").read_text()
    assert readme == tables.readme_with(tables.readme_table(), readme), "run: .venv/bin/python docs/tables.py"


def test_a_readme_without_a_place_for_the_table_is_an_error(tables: Any) -> None:
    with pytest.raises(ValueError, match="has no lines <!-- begin"):
        tables.readme_with("", "# nothing\n")


def test_each_field_that_is_honoured_somewhere_is_explained_and_no_other(tables: Any) -> None:
    special = [{row.path for row in capabilities_of(backend).fields} for backend in tables.BACKENDS]
    honoured = {
        path
        for path, field in tables.fields()
        if not tables.is_output(field) and any(path not in paths for paths in special)
    }
    assert set(tables.HONOURED) == honoured


def test_only_fields_that_the_service_sets_are_called_output(tables: Any) -> None:
    assert set(tables.OUTPUT) <= {path for path, field in tables.fields() if tables.is_output(field)}


def test_every_row_of_the_backends_tables_is_shown(tables: Any) -> None:
    shown = tables.field_table()
    for backend in tables.BACKENDS:
        for row in capabilities_of(backend).fields:
            assert f"| `{tables.shown(row.path)}` |" in shown
            assert row.note in shown


def test_the_diagram_shows_every_transition_and_every_state_of_the_rules(tables: Any) -> None:
    svg = ElementTree.fromstring(tables.state_diagram())
    arrows = [path for path in svg.iter("{http://www.w3.org/2000/svg}path") if path.get("marker-end")]
    names = {text.text for text in svg.iter("{http://www.w3.org/2000/svg}text")}
    assert len({path.get("d") for path in arrows}) == sum(map(len, TRANSITIONS.values()))
    states = {*TRANSITIONS, *(to for follows in TRANSITIONS.values() for to in follows)}
    assert names == {state.short for state in states}


def test_the_second_diagram_shows_what_each_task_state_says(tables: Any) -> None:
    svg = ElementTree.fromstring(tables.task_state_diagram())
    texts = [text.text for text in svg.iter("{http://www.w3.org/2000/svg}text")]
    said = {meaning.state.short for meaning in TASK_STATES.values()}
    assert sorted(texts) == sorted([*map(str, TASK_STATES), *said])


def test_the_transition_table_ends_in_the_terminal_states(tables: Any) -> None:
    ended = re.findall(r"`(\w+)` \| nothing else", tables.transition_table())
    assert ended
    assert all(JobState[name].terminal for name in ended)


def test_every_task_state_of_airflow_is_in_the_table(tables: Any) -> None:
    table = tables.task_state_table()
    for name, meaning in TASK_STATES.items():
        assert f"| `{name}` | `{meaning.state.name}` | " in table


def test_every_command_has_its_help_in_the_reference(tables: Any) -> None:
    text = tables.commands()
    for command in ("validate", "render", "run", "list", "describe", "logs", "cancel", "gc"):
        assert f"## customjob {command}\n" in text


@pytest.mark.parametrize("page", ["README.md", "docs/guide/command-line.md"])
def test_the_spec_that_the_pages_run_is_one_and_valid(root: Path, page: str) -> None:
    from airflow_customjob.spec import check

    (text,) = HELLO.findall((root / page).read_text())
    job, problems = check(text)
    assert job is not None
    assert not problems
    assert text in (root / "README.md").read_text()


HELLO = re.compile(r"```yaml\n(displayName: hello\n.*?)```", re.DOTALL)


@pytest.fixture
def hello(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The README's spec, in the folder where the test now is; jobs are kept there too."""
    (text,) = HELLO.findall((root / "README.md").read_text())
    spec = tmp_path / "hello.yaml"
    spec.write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AIRFLOW__CUSTOMJOB__PROCESS_DIR", str(tmp_path / "processes"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return spec


@pytest.mark.parametrize("page", ["notebook.md", "testing-dags.md"])
def test_the_python_of_the_pages_runs_and_gives_what_they_say(root: Path, hello: Path, page: str) -> None:
    """``expression  # text``: the expression's value begins with that text."""
    names: dict[str, Any] = {}
    told = 0
    for block in re.findall(r"```python\n(?!# \S+\.py\n)(.*?)```", (root / "docs/guide" / page).read_text(), re.DOTALL):
        lines = block.splitlines()
        for statement in ast.parse(block).body:
            source = ast.get_source_segment(block, statement) or ""
            _, _, comment = lines[statement.end_lineno - 1].partition("  # ")
            if isinstance(statement, ast.Expr) and comment:
                assert str(eval(source, names)).startswith(comment)
                told += 1
            else:
                exec(source, names)
    assert told == {"notebook.md": 2, "testing-dags.md": 3}[page]


def _python_of(root: Path) -> Iterator[tuple[str, ast.Module]]:
    pages = [root / "README.md", *(root / "docs").glob("*.md"), *(root / "docs/guide").glob("*.md")]
    for page in pages:
        for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
            yield page.name, ast.parse(block)


def test_the_python_of_all_pages_uses_names_and_arguments_that_are_there(root: Path) -> None:
    """Also where it cannot run, for want of an engine or of the reader's own files."""
    wrong, seen = [], 0
    for page, module in _python_of(root):
        for node in ast.walk(module):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
                ("airflow_customjob", "airflow.sdk")
            ):
                imported = importlib.import_module(node.module or "")
                wrong += [f"{page}: {alias.name}" for alias in node.names if not hasattr(imported, alias.name)]
            called = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
            if called in airflow_customjob.__all__:
                taken = _arguments(getattr(airflow_customjob, called))
                wrong += [f"{page}: {called}({word.arg}=)" for word in node.keywords if word.arg not in taken]
                seen += 1
    assert seen > 10
    assert wrong == []


def _arguments(what: type) -> set[str]:
    """Those of its base classes too: an operator passes on what it does not know, and a group what is its ``run``'s."""
    kinds = [*what.__mro__, *(CustomJobOperator.__mro__ if what is CustomJobTaskGroup else ())]
    return {name for kind in kinds for name in inspect.signature(kind.__init__).parameters}


def test_the_options_that_the_pages_name_are_the_commands_own(tables: Any, root: Path) -> None:
    known, wrong = set(re.findall(r"--[a-z-]+", tables.commands())), []
    for page in [root / "README.md", *(root / "docs").glob("*.md"), *(root / "docs/guide").glob("*.md")]:
        text = page.read_text()
        shown = re.findall(r"customjob [a-z]+ [^`\n]*|(?<=`)--[a-z][^`\n]*", text)
        wrong += [
            f"{page.name}: {option}"
            for code in shown
            for option in re.findall(r"--[a-z-]+", code)
            if option not in known
        ]
    assert wrong == []


def test_the_commands_of_the_guide_run(root: Path, hello: Path) -> None:
    blocks = re.findall(r"```console\n(.*?)```", (root / "docs/guide/command-line.md").read_text(), re.DOTALL)
    script = "\n".join(line.removeprefix("$ ") for block in blocks for line in block.splitlines())
    assert script.count("customjob ") >= 10
    done = subprocess.run(
        ["bash", "-eu", "-c", script],
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "workerpool1-1: rank 2 of 3" in done.stderr
    assert done.stdout.count("JOB_STATE_SUCCEEDED") == 1  # --output json


def _texts(root: Path) -> Iterator[str]:
    """Every text in the package's code; what is put into an f-string is left out."""
    for path in (root / "airflow_customjob").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                yield "".join(part.value if isinstance(part, ast.Constant) else "\0" for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_troubleshooting_quotes_what_the_code_says(root: Path) -> None:
    texts = list(_texts(root))
    page = (root / "docs" / "troubleshooting.md").read_text()
    quoted = re.findall(r"^`(.+)`\n: ", page, re.MULTILINE)
    assert len(quoted) > 15
    for message in quoted:
        for fragment in filter(None, re.split(r"[\s:;]*\.\.\.[\s.,:;()]*", message)):
            assert any(fragment in text for text in texts), f"{fragment!r} of {message!r}"
