"""The house itself: what is locked, shipped, imported and announced."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import airflow
import jsonschema
import pytest

import airflow_customjob
from airflow_customjob.provider_info import get_provider_info
from tests.engines import DEV_ENGINES, OwnDocker, dev_engines

HEAVY = (
    "airflow",
    "aiodocker",
    "aiohttp",
    "docker",
    "google.cloud",
    "google.protobuf",
    "kubernetes",
    "kubernetes_asyncio",
)


ASK_AIRFLOW = """
import json
from airflow.configuration import conf
from airflow.plugins_manager import get_plugin_info
from airflow.providers_manager import ProvidersManager

version = ProvidersManager().providers["airflow-customjob"].version
backend, ttl = conf.get("customjob", "default_backend"), conf.getfloat("customjob", "record_ttl")
print(json.dumps([version, backend, ttl, [plugin["name"] for plugin in get_plugin_info(["name"])]]))
"""


def _python(code: str, **env: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, **env}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_constraints_are_hashed_and_name_no_place(root: Path) -> None:
    text = (root / "constraints.txt").read_text()
    pins = re.findall(r"^([a-z0-9-]+)(?:\[[^]]*\])?==\S+.*\\\n    --hash=sha256:[0-9a-f]{64}", text, re.MULTILINE)
    assert len(pins) == len(re.findall(r"^\S", text, re.MULTILINE)) > 100
    assert "://" not in text
    assert not re.search(r"^\s*#|index|/", text, re.MULTILINE)


def test_constraints_lock_every_dependency(root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(name for extra in project["optional-dependencies"].values() for name in extra),
    ]
    locked = set(re.findall(r"^([a-z0-9-]+)", (root / "constraints.txt").read_text(), re.MULTILINE))
    names = {re.split(r"[^A-Za-z0-9_.-]", line, maxsplit=1)[0].lower() for line in wanted} - {"airflow-customjob"}
    assert names <= locked


def test_importing_the_package_imports_nothing_heavy() -> None:
    # Some distributions put a namespace into every interpreter by a .pth file: only what comes on top counts.
    code = (
        "import sys; bare = set(sys.modules); import airflow_customjob.provider_info; print(*set(sys.modules) - bare)"
    )
    loaded = _python(code).split()
    assert "airflow_customjob" in loaded
    assert not [name for name in loaded if name.startswith(HEAVY) and not name.startswith("airflow_customjob")]


@pytest.mark.parametrize("name", airflow_customjob.__all__)
def test_each_public_name_is_where_it_is_said_to_be(name: str) -> None:
    assert getattr(airflow_customjob, name).__name__ == name
    assert name in dir(airflow_customjob)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = airflow_customjob.Nothing


def test_provider_info_follows_airflows_schema() -> None:
    schema = json.loads((Path(airflow.__file__).parent / "provider_info.schema.json").read_text())
    jsonschema.validate(get_provider_info(), schema)


def test_provider_info_names_modules_that_exist() -> None:
    info = get_provider_info()
    for part in ("operators", "sensors", "triggers"):
        for module in info[part][0]["python-modules"]:
            importlib.import_module(module)
    classes = [*info["extra-links"], *(plugin["plugin-class"] for plugin in info["plugins"])]
    for module, _, name in (path.rpartition(".") for path in classes):
        assert getattr(importlib.import_module(module), name)


@pytest.mark.slow
def test_airflow_knows_the_provider_its_options_and_its_plugin() -> None:
    seen = json.loads(_python(ASK_AIRFLOW).splitlines()[-1])
    assert seen[:3] == [airflow_customjob.__version__, "process", 7 * 24 * 3600.0]
    assert "customjob" in seen[3]


@pytest.mark.slow
def test_airflows_own_command_line_has_the_provider_and_the_command(tmp_path: Path) -> None:
    environ = {**os.environ, "AIRFLOW__CUSTOMJOB__PROCESS_DIR": str(tmp_path)}

    def airflow_cli(*args: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "airflow", *args],
            env=environ,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    asked = [
        airflow_cli("providers", "get", "airflow-customjob", "--full", "--output", "json"),
        airflow_cli("customjob", "list", "--backend", "process", "--format", "json"),
        airflow_cli("customjob", "describe", "4711", "--backend", "process"),
    ]
    (provider, _), (jobs, _), (_, refused) = (process.communicate(timeout=120) for process in asked)
    (info,) = json.loads(provider)
    assert "airflow_customjob.links.OutputLink" in info["extra-links"]
    assert all(option["description"] for option in info["config"]["customjob"]["options"].values())
    assert json.loads(jobs) == []
    assert asked[2].returncode == 1
    assert "process has no job 4711" in refused


def test_options_can_be_set_by_environment() -> None:
    code = "from airflow.configuration import conf; print(conf.get('customjob', 'default_backend'))"
    assert _python(code, AIRFLOW__CUSTOMJOB__DEFAULT_BACKEND="docker").split()[-1] == "docker"


def test_the_console_script_is_the_command() -> None:
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="customjob")
    assert callable(script.load())


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_nothing_else(root: Path, tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    done = subprocess.run(build, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert wheel.name == f"airflow_customjob-{airflow_customjob.__version__}-py3-none-any.whl"
    assert {name.split("/")[0] for name in names} == {
        "airflow_customjob",
        f"airflow_customjob-{airflow_customjob.__version__}.dist-info",
    }
    tracked = subprocess.run(["git", "ls-files", "airflow_customjob"], cwd=root, capture_output=True, text=True)
    assert set(tracked.stdout.split()) <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_changelog_has_this_version(root: Path) -> None:
    assert re.search(
        rf"^## \[?{re.escape(airflow_customjob.__version__)}\b", (root / "CHANGELOG.md").read_text(), re.MULTILINE
    )


@pytest.mark.parametrize(
    ("args", "says"),
    [(["up", "podman"], "'podman' is no engine; there are: "), (["sideways"], "dev/engines up ENGINE")],
)
def test_dev_engines_refuses_what_it_does_not_know(args: list[str], says: str) -> None:
    done = dev_engines(*args)
    assert done.returncode
    assert says in done.stderr


def test_dev_engines_says_why_an_engine_is_missing() -> None:
    done = subprocess.run(
        [DEV_ENGINES, "why"], env={**os.environ, "DOCKER_HOST": "unix:///nowhere.sock"}, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stdout.startswith("docker: ")


def test_a_missing_engine_is_named_and_with_require_engines_a_failure(root: Path) -> None:
    def run(**env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                "-q",
                "-p",
                "no:cacheprovider",
                "tests/test_project.py",
                "-k",
                "base_image_is_here",
            ],
            cwd=root,
            env={**os.environ, "REQUIRE_ENGINES": "", "DOCKER_HOST": "unix:///nowhere.sock", **env},
            capture_output=True,
            text=True,
        )

    lenient, strict = run(), run(REQUIRE_ENGINES="docker")
    assert lenient.returncode == 0
    assert "NOT RUN: 1 test: docker: " in lenient.stdout
    assert strict.returncode != 0
    assert "REQUIRE_ENGINES names what is not here" in strict.stdout + strict.stderr


@pytest.mark.docker
def test_the_base_image_is_here_and_runs_python(base_image: str) -> None:
    done = subprocess.run(
        ["docker", "run", "--rm", base_image, "python", "-c", "import ssl, sys; print(sys.version_info >= (3, 11))"],
        capture_output=True,
        text=True,
    )
    assert done.stdout == "True\n", done.stderr


@pytest.mark.chaos
def test_an_own_docker_can_be_killed_and_comes_back(own_docker: OwnDocker, base_image: str) -> None:
    started = subprocess.run(
        ["docker", "run", "-d", base_image, "sleep", "600"], capture_output=True, text=True, check=True
    )
    own_docker.kill()
    assert subprocess.run(["docker", "info"], capture_output=True).returncode != 0
    own_docker.up()
    listed = subprocess.run(["docker", "ps", "-aq", "--no-trunc"], capture_output=True, text=True, check=True)
    assert listed.stdout == started.stdout
