"""Engines, isolation, and a summary of what could not be run.

``REQUIRE_ENGINES=docker`` in the environment makes a missing engine a failure.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.engines import OwnDocker, dev_engines, exports, own_docker_of_this_session, why_not

# Before any test module imports Airflow: it reads its folder once, and must not find the user's.
_HOME = tempfile.TemporaryDirectory(prefix="customjob-tests-")
os.environ["AIRFLOW_HOME"] = _HOME.name
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"

settings.register_profile("local", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", parent=settings.get_profile("local"), derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")

ENGINE_MARKERS = ("docker", "kubernetes", "browser", "chaos")


def _required() -> list[str]:
    return [name for name in os.environ.get("REQUIRE_ENGINES", "").replace(",", " ").split() if name]


def pytest_sessionstart(session: pytest.Session) -> None:
    missing = [why for name in _required() if (why := why_not(name))]
    if missing:
        raise pytest.UsageError("REQUIRE_ENGINES names what is not here:\n" + "\n".join(missing))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        needed = [name for name in ENGINE_MARKERS if item.get_closest_marker(name)]
        for why in filter(None, map(why_not, needed)):
            item.add_marker(pytest.mark.skip(reason=why))
        if "docker" in needed and not why_not("docker"):
            os.environ.setdefault("DOCKER_HOST", exports()["DOCKER_HOST"])
        if "kubernetes" in needed and not why_not("kubernetes"):
            os.environ.setdefault("KUBECONFIG", exports()["KUBECONFIG"])
            os.environ["PATH"] = exports().get("PATH", os.environ["PATH"])  # with a kubectl, where there was none


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Of two processes (``-n 2 --dist loadfile``) one has all tests that share an Airflow, the other one all else, file by file."""
    from xdist.scheduler import LoadFileScheduling

    class Lanes(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "airflow" if nodeid.startswith("tests/airflow/") else str(super()._split_scope(nodeid))

    return Lanes(config, log)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = terminalreporter.stats.get("skipped", [])
    reasons = Counter(_reason(report) for report in skipped)
    if reasons:
        terminalreporter.section("NOT RUN", sep="!", red=True, bold=True)
        for reason, count in sorted(reasons.items()):
            terminalreporter.line(f"NOT RUN: {count} test{'s' * (count > 1)}: {reason}", yellow=True)


def _reason(report: pytest.TestReport) -> str:
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return reason.removeprefix("Skipped: ")


@pytest.fixture(scope="session")
def base_image() -> str:
    """The image with Python that every engine here has."""
    return dev_engines("image").stdout.strip()


@pytest.fixture(scope="session")
def _own_docker() -> Iterator[OwnDocker]:
    with own_docker_of_this_session() as docker:
        yield docker


@pytest.fixture
def own_docker(_own_docker: OwnDocker, monkeypatch: pytest.MonkeyPatch) -> OwnDocker:
    """A Docker of the tests' own, up and with the base image, at ``DOCKER_HOST``; for tests marked ``chaos``."""
    _own_docker.up()
    monkeypatch.setenv("DOCKER_HOST", _own_docker.host)
    return _own_docker


@pytest.fixture
def root() -> Path:
    """The checkout."""
    return Path(__file__).parent.parent
