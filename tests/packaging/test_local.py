"""A folder or a script as a package: the same code gives the same file, and nothing of it runs here."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from email.parser import Parser
from pathlib import Path
from typing import Any

import pytest

from airflow_customjob.backends.process import ProcessBackend
from airflow_customjob.client import CustomJobClient
from airflow_customjob.packaging import PackageError, packages_folder
from airflow_customjob.packaging.archives import why_no_package
from airflow_customjob.packaging.local import packed
from airflow_customjob.plan.types import JobPlan
from airflow_customjob.spec import SpecError
from airflow_customjob.spec.job_state import JobState
from tests.backends.test_docker_packages import BACKEND, wheel_bytes


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A folder as gcloud's users have it, with what must not be packed."""
    folder = tmp_path / "My Code"
    (folder / "trainer").mkdir(parents=True)
    (folder / "trainer" / "task.py").write_text(
        "import sys\nfrom pathlib import Path\nprint(Path(__file__).with_name('conf.yaml').read_text(), *sys.argv[1:])\n"
    )
    (folder / "trainer" / "conf.yaml").write_text("rate: 1")
    (folder / "trainer" / "__pycache__").mkdir()
    (folder / "trainer" / "__pycache__" / "task.pyc").touch()
    (folder / ".git").mkdir()
    (folder / ".git" / "config").touch()
    (folder / "venv").mkdir()
    (folder / "venv" / "pyvenv.cfg").touch()
    return folder


def metadata(wheel: Path) -> Any:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


def test_the_same_code_is_the_same_file_wherever_and_whenever_it_is_packed(code: Path, tmp_path: Path) -> None:
    first = packed(code, ["trainer.task"])
    bytes_then = first.read_bytes()
    copy = tmp_path / "elsewhere" / code.name
    shutil.copytree(code, copy)
    for path in copy.rglob("*.py"):
        os.utime(path, (time.time() + 1000, time.time() + 1000))
        path.chmod(0o600)
    (copy / "trainer" / "__pycache__" / "new.pyc").touch()
    shutil.rmtree(first.parent)
    assert packed(copy) == first
    assert first.read_bytes() == bytes_then
    (copy / "trainer" / "task.py").write_text("print()\n")
    assert packed(copy) != first


def test_a_folder_is_a_wheel_of_its_code_with_its_requirements(code: Path) -> None:
    (code / "requirements.txt").write_text(
        "# what it needs\nnumpy >= 1.26, < 3  # for arrays\n\ntorch==2.3; python_version > '3'\n"
    )
    wheel = packed(code)
    assert wheel.name.startswith("local_code_my_code-0.0.0+")
    assert why_no_package(wheel, wheel.name) == ""
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
    assert names == ["trainer/conf.yaml", "trainer/task.py"]
    assert metadata(wheel).get_all("Requires-Dist") == ["numpy<3,>=1.26", 'torch==2.3; python_version > "3"']


def test_code_may_be_called_as_what_it_depends_on(code: Path) -> None:
    """The wheel was taken for what it required, which then was not installed."""
    (code / "requirements.txt").write_text("my-code\n")
    wheel = packed(code)
    assert metadata(wheel)["Name"] == "local_code_my_code"
    assert metadata(wheel).get_all("Requires-Dist") == ["my-code"]


def test_a_wheels_record_is_as_installers_read_it(code: Path) -> None:
    for name in ("a,b.txt", 'q"x.txt'):
        (code / name).touch()
    (code / "other-1.0.dist-info").mkdir()
    (code / "other-1.0.dist-info" / "METADATA").touch()
    with zipfile.ZipFile(packed(code)) as archive:
        (record,) = (name for name in archive.namelist() if name.endswith("/RECORD"))
        rows = list(csv.reader(archive.read(record).decode().splitlines()))
        assert [row[0] for row in rows] == archive.namelist()
    assert {len(row) for row in rows} == {3}
    assert not any("other-1.0" in row[0] for row in rows)


def test_a_file_that_was_damaged_in_the_cache_is_made_anew(code: Path) -> None:
    wheel = packed(code)
    whole = wheel.read_bytes()
    wheel.write_bytes(b"")
    assert packed(code).read_bytes() == whole


def test_a_name_that_is_no_text_is_told(code: Path) -> None:
    Path(os.fsdecode(os.fsencode(code / "trainer") + b"/b\xff.txt")).touch()
    with pytest.raises(PackageError, match=r"b\\xff\.txt': its name is not in UTF-8"):
        packed(code)


@pytest.mark.parametrize(
    "line", ["--extra-index-url https://bob:s3/cret@host/simple", "lib @ https://bob:s3cret@host/lib-1.whl"]
)
def test_a_login_among_requirements_is_refused_and_not_told(code: Path, line: str) -> None:
    (code / "requirements.txt").write_text(f"{line}\n")
    with pytest.raises(PackageError, match=r"requirements.txt, line 1: ") as refused:
        packed(code)
    assert "s3" not in refused.value.message


@pytest.mark.parametrize(
    "line", ["-r other.txt", "--index-url https://user:pw@host/", "numpy==1 --hash=sha256:00", "./lib"]
)
def test_a_line_that_only_pip_understands_is_named(code: Path, line: str) -> None:
    (code / "requirements.txt").write_text(f"numpy\n{line}\n")
    with pytest.raises(PackageError, match=r"requirements.txt, line 2: .* cannot be what a package requires"):
        packed(code)


def test_a_project_is_a_source_distribution_and_its_setup_does_not_run(code: Path, tmp_path: Path) -> None:
    (code / "setup.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    (code / "pyproject.toml").write_text('[project]\nname = "My.Trainer"\nversion = "2.1"\n')
    (code / "run.sh").touch(0o755)
    sdist = packed(code, ["not.checked.since.src.may.be.anywhere"])
    assert sdist.name == "my_trainer-2.1.tar.gz"
    assert why_no_package(sdist, sdist.name) == ""
    with tarfile.open(sdist) as tar:
        members = {member.name: member for member in tar}
    assert members.keys() == {
        f"my_trainer-2.1/{name}"
        for name in ("pyproject.toml", "run.sh", "setup.py", "trainer/conf.yaml", "trainer/task.py")
    }
    assert {(member.mtime, member.uid, member.uname) for member in members.values()} == {(0, 0, "")}
    assert (members["my_trainer-2.1/run.sh"].mode, members["my_trainer-2.1/setup.py"].mode) == (0o755, 0o644)
    assert not (tmp_path / "ran").exists()


BUILDS = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'


@pytest.mark.parametrize(
    ("project", "filename"),
    [
        ("", "my_code.tar.gz"),
        ('project = "x"\n', "my_code.tar.gz"),
        ('[project]\nname = "built"\ndynamic = ["version"]\n', "my_code.tar.gz"),
        ('[tool.poetry]\nname = "built"\nversion = "0.1"\n', "my_code.tar.gz"),
        ('[project]\nname = 5\nversion = "0.1"\n', "my_code.tar.gz"),
        ('[project]\nname = "built"\nversion = "1/../../../../evil"\n', "my_code.tar.gz"),
        ('[project]\nname = "Built"\nversion = "0.1.0-rc1"\n', "built-0.1.0rc1.tar.gz"),
        ('[project]\nname = "built"\nversion = "0.1"\n', "built-0.1.tar.gz"),
    ],
)
def test_a_projects_file_claims_no_name_and_version_that_its_build_may_not_have(
    code: Path, tmp_path: Path, project: str, filename: str
) -> None:
    """uv refuses ``my_code-0.0.0.tar.gz`` of which ``built 0.1`` is built."""
    (code / "pyproject.toml").write_text(f"{project}{BUILDS}")
    (code / "backend.py").write_text(BACKEND.replace("NAME", "built"))
    (code / "found.py").write_text("def found(): return {}")
    (code / "empty.whl").write_bytes(wheel_bytes("built", {}))
    sdist = packed(code)
    assert sdist.name == filename
    assert sdist.parent.parent == packages_folder()
    if "project" not in project or "dynamic" in project or filename == "built-0.1.tar.gz":
        uv = Path(sys.executable).with_name("uv")
        install = [uv, "pip", "install", "--no-deps", "--target", tmp_path / "target", sdist]
        subprocess.run(install, check=True)
        assert (tmp_path / "target" / "built" / "task.py").exists()


def test_what_cannot_be_packed_is_told(code: Path, tmp_path: Path) -> None:
    for path, words in (
        (tmp_path / "none", "there is no such file or folder"),
        (code / "trainer" / "conf.yaml", "neither a folder nor a Python script"),
    ):
        with pytest.raises(PackageError, match=words):
            packed(path)
    with pytest.raises(PackageError, match=r"trainer\.tsk is not in it; there are: trainer\.task"):
        packed(code, ["trainer.tsk"])
    (code / "outside").symlink_to(tmp_path)
    with pytest.raises(PackageError, match="is a link to a folder"):
        packed(code)


def spec(**task: Any) -> dict[str, Any]:
    package = {"executorImageUri": "local/py:1", "args": ["--epochs", "3"], **task}
    pool = {"machineSpec": {"machineType": "n1-standard-4"}, "replicaCount": 1, "pythonPackageSpec": package}
    return {"displayName": "local code", "jobSpec": {"workerPoolSpecs": [pool]}}


def plan(custom_job: dict[str, Any], **reading: Any) -> JobPlan:
    return CustomJobClient("docker").plan(custom_job, **reading)


def test_local_code_comes_after_the_packages_of_the_spec(code: Path) -> None:
    made = plan(spec(packageUris=["gs://b/lib-1.whl"], pythonModule="trainer.task"), local_package_path=code)
    package = made.pools[0].package
    assert package is not None
    assert package.uris == ("gs://b/lib-1.whl", str(packed(code)))
    assert plan(spec(), local_package_path=code, python_module="trainer.task").primary.command[-1] == "trainer.task"
    assert plan(spec(), local_package_path="trainer/task.py", base=code).primary.command[-1] == "task"


def test_a_job_that_runs_no_package_has_no_use_for_local_code(code: Path) -> None:
    container = {"machineSpec": {"machineType": "n1-standard-4"}, "replicaCount": 1, "containerSpec": {"imageUri": "i"}}
    with pytest.raises(SpecError, match="local_package_path: no pool has a python_package_spec"):
        plan({"workerPoolSpecs": [container]}, local_package_path=code)
    with pytest.raises(SpecError, match=r"python_module: is required"):
        plan(spec(), local_package_path=code)


def test_a_folder_runs_without_being_built(code: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    client = CustomJobClient(ProcessBackend(state_folder=str(tmp_path / "state")))
    job = client.run(
        spec(pythonModule="trainer.task"), local_package_path=code, sink=lambda line: lines.append(line.text)
    )
    assert job.state is JobState.JOB_STATE_SUCCEEDED, job.error
    assert lines == ["rate: 1 --epochs 3"]
