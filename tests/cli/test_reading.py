"""``validate`` and ``render``: whatever is given, an answer; the same answer every time; and no secret in it."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from airflow_customjob.spec import check, to_canonical
from tests.cli.conftest import Done, spec
from tests.spec.samples import GOOD
from tests.spec.test_garbage import _mutant

Command = Callable[..., Done]


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
    def give(data: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data)))

    return give


@pytest.mark.parametrize("name", sorted(GOOD))
def test_a_valid_spec_is_printed_canonically(customjob: Command, write: Callable[[Any], str], name: str) -> None:
    done = customjob("validate", "--format", "json", write(GOOD[name]))
    assert done.code == 0
    job, _ = check(GOOD[name])
    assert job is not None
    assert json.loads(done.out) == to_canonical(job)


def test_every_problem_is_listed(customjob: Command, write: Callable[[Any], str]) -> None:
    broken = spec("true") | {"displayName": "x" * 200, "colour": "red"}
    text = customjob("validate", write(broken))
    assert text.code == 2
    assert "error: colour: " in text.out
    assert "error: display_name: " in text.out
    listed = customjob("validate", "--format", "json", write(broken))
    assert listed.code == 2
    assert {problem["path"] for problem in json.loads(listed.out)} == {"colour", "display_name"}
    assert {frozenset(problem) for problem in json.loads(listed.out)} == {
        frozenset({"path", "message", "value", "rule", "severity"})
    }


def test_warnings_fail_only_strictly(customjob: Command, stdin: Callable[[bytes], None]) -> None:
    job = spec("true")
    job["jobSpec"]["workerPoolSpecs"][0]["machineSpec"]["machineType"] = "n9-colossal-1"
    problems = check(job)[1]
    assert [problem.severity for problem in problems] == ["warning"]
    for options, code in (((), 0), (("--strict",), 2)):
        stdin(json.dumps(job).encode())
        done = customjob("validate", *options, "-")
        assert done.code == code
        assert str(problems[0]) in done.out


def test_what_a_backend_cannot_honour(customjob: Command, write: Callable[[Any], str]) -> None:
    job = spec("true")
    job["jobSpec"]["network"] = "projects/1/global/networks/n"
    path = write(job)
    assert customjob("validate", path).code == 0
    refused = customjob("validate", "--backend", "process", path)
    assert refused.code == 2
    assert "job_spec.network: cannot be honoured on process" in refused.out
    assert customjob("validate", "--backend", "process", "--ignore-field", "network", path).code == 0


@pytest.mark.parametrize("first", [0, 100])
def test_200_mutated_specs(customjob: Command, stdin: Callable[[bytes], None], first: int) -> None:
    codes = []
    for seed in range(first, first + 100):
        stdin(_text(_mutant(seed)))
        done = customjob("validate", "--format", "json", "-")
        assert done.code in (0, 2), (seed, done.err)
        assert isinstance(json.loads(done.out), list if done.code else dict), seed
        codes.append(done.code)
    assert set(codes) == {0, 2}


def _text(value: Any) -> bytes:
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        return json.dumps(value, default=repr).encode()
    finally:
        sys.set_int_max_str_digits(limit)


BOMB = "a: &a [x, x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 9)}]\n" for n in range(20)
)


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\n", b"\0" * 1000, bytes(range(256)) * 10, b"\xff\xfe", b"[" * 100_000, b"{" * 100_000, b"job.yaml", b"/etc/passwd",
        b"!!python/object/apply:os.system ['false']", BOMB.encode(), b"x" * (100 * 2**20), "é".encode() * (50 * 2**20),
    ],
    ids=range(13),
)  # fmt: skip
def test_garbage_on_stdin(customjob: Command, stdin: Callable[[bytes], None], data: bytes) -> None:
    stdin(data)
    done = customjob("validate", "-")
    assert done.code == 2
    assert "stdin: 1 problem" in done.out


def test_stdin_is_never_taken_for_the_name_of_a_file(
    customjob: Command, stdin: Callable[[bytes], None], write: Callable[[Any], str]
) -> None:
    """Regression: text of one line that names a spec file was read as that file."""
    stdin(write(spec("true")).encode())
    assert customjob("validate", "-").code == 2


@pytest.mark.parametrize("make", [lambda path: path.mkdir(), lambda path: path.write_bytes(b"\x7fELF\xff\0" * 1000)])
def test_files_that_are_no_spec(customjob: Command, tmp_path: Path, make: Callable[[Path], Any]) -> None:
    path = tmp_path / "spec"
    make(path)
    done = customjob("validate", str(path))
    assert done.code == 2
    assert f"{path}: 1 problem" in done.out


@pytest.mark.parametrize("backend", ["process", "docker", "fake"])
@pytest.mark.parametrize("form", ["text", "json", "yaml"])
def test_render_is_deterministic(customjob: Command, write: Callable[[Any], str], backend: str, form: str) -> None:
    argv = ("render", "--backend", backend, "--format", form, "--job-id", "123", write(spec("echo one", "echo two")))
    first, second = customjob(*argv), customjob(*argv)
    assert first.code == 0, first.err
    assert first.out == second.out
    assert "echo two" in first.out


def test_render_in_json_and_yaml_is_what_the_backend_renders(customjob: Command, write: Callable[[Any], str]) -> None:
    from airflow_customjob.client import CustomJobClient
    from airflow_customjob.plan.types import JobId

    job = spec("echo one", "echo two")
    client = CustomJobClient("docker")
    bodies = json.loads(json.dumps(client.backend.render(client.plan(job, job_id=JobId("123")))))
    argv = ("render", "--backend", "docker", "--job-id", "123", write(job), "--format")
    as_json, as_yaml = customjob(*argv, "json"), customjob(*argv, "yaml")
    ttl_free = [bodies, json.loads(as_json.out), list(yaml.safe_load_all(as_yaml.out))]
    assert ttl_free[0] == ttl_free[1] == ttl_free[2]
    assert len(bodies) == 3


def test_render_shows_an_image_with_packages_as_a_dockerfile(customjob: Command, write: Callable[[Any], str]) -> None:
    job = spec("true")
    (pool,) = job["jobSpec"]["workerPoolSpecs"]
    del pool["containerSpec"]
    pool["pythonPackageSpec"] = {
        "executorImageUri": "python:3.11",
        "packageUris": ["gs://bucket/trainer-0.1.tar.gz"],
        "pythonModule": "trainer.task",
    }
    done = customjob("render", "--backend", "docker", "--format", "yaml", write(job))
    assert "dockerfile: |\n  FROM python:3.11\n" in done.out
    assert "    pip3 install --user trainer-0.1.tar.gz\n---\ncreate: container" in done.out


def test_render_tells_what_was_chosen(customjob: Command, write: Callable[[Any], str], tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hunter2")
    done = customjob(
        "render", "--backend", "docker", "--image-map", "local/*=mirror/*", "--display-name", "another",
        "--secret-env", f"TOKEN=file:{secret}", "--trial-id", "7", "--project", "p1", "--region", "r1", write(spec("true")),
    )  # fmt: skip
    assert done.code == 0, done.err
    for text in (
        "'another'",
        "mirror/py:1 (for local/py:1)",
        "CLOUD_ML_TRIAL_ID=7",
        "CLOUD_ML_PROJECT_ID=p1",
        "TOKEN=***",
    ):
        assert text in done.out
    assert "hunter2" not in done.out + done.err


def test_what_reads_a_spec_imports_no_airflow_and_no_engine(write: Callable[[Any], str]) -> None:
    modules = ["airflow", "google.cloud.storage", "docker", "aiodocker", "aiohttp", "kubernetes_asyncio", "rich"]
    for argv in (
        ["validate", write(spec("true"))],
        ["render", "--backend", "docker", write(spec("true"))],
        ["run", "--help"],
    ):
        script = (
            f"import sys; from airflow_customjob.cli import main; code = main({argv!r});"
            f"print([name for name in {modules} if name in sys.modules], code, file=sys.stderr)"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
        assert done.stderr.splitlines()[-1] == "[] 0"


@pytest.mark.airflow
def test_airflow_has_the_command_too(write: Callable[[Any], str]) -> None:
    job = spec("true")
    job["jobSpec"]["workerPoolSpecs"][0]["replicaCount"] = 7  # Vertex AI wants one in the first pool
    for content, code in ((spec("true"), 0), (job, 2)):
        command = [sys.executable, "-m", "airflow", "customjob", "validate", "--format", "json", write(content)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == code, done.stderr
        assert isinstance(json.loads(done.stdout), list if code else dict)
