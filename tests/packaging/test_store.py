"""What of the cache is removed, and when."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from airflow_customjob.backends.process import ProcessBackend
from airflow_customjob.client import CustomJobClient
from airflow_customjob.packaging import packages_folder
from airflow_customjob.packaging.store import LEFT, Store
from tests.packaging.serving import fetched, sdist

DAY = 24 * 3600.0


def test_packages_go_when_nobody_has_used_them_for_long(tmp_path: Path) -> None:
    folder, now = tmp_path / "cache", time.time()
    for version in ("1", "2"):
        (tmp_path / f"t-{version}.tar.gz").write_bytes(sdist(version=version))
    old, used = fetched(str(tmp_path / "t-1.tar.gz"), str(tmp_path / "t-2.tar.gz"), folder=folder)
    for path in (old.path, old.path.parent, used.path, used.path.parent):
        os.utime(path, (now - 31 * DAY, now - 31 * DAY))
    fetched(str(tmp_path / "t-2.tar.gz"), folder=folder)
    (folder / ".incoming-dead").touch()
    os.utime(folder / ".incoming-dead", (now - LEFT - 1, now - LEFT - 1))
    assert Store(folder).prune(30 * DAY, now, dry_run=True) == [old.path.parent]
    assert old.path.exists()
    assert Store(folder).prune(30 * DAY, now) == [old.path.parent]
    assert not old.path.parent.exists()
    assert used.path.exists()
    assert not (folder / ".incoming-dead").exists()


def test_gc_removes_what_was_not_used_for_packages_ttl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("AIRFLOW__CUSTOMJOB__PACKAGES_TTL", "60")
    (tmp_path / "t-1.tar.gz").write_bytes(sdist())
    (package,) = fetched(str(tmp_path / "t-1.tar.gz"), folder=packages_folder())
    for path in (package.path, package.path.parent):
        os.utime(path, (time.time() - 61, time.time() - 61))
    said: list[str] = []
    CustomJobClient(ProcessBackend(state_folder=str(tmp_path / "state"))).gc(say=said.append)
    assert said == [f"package {package.path.parent}: remove: it was not used for 60 s (packages_ttl)"]
    assert not package.path.exists()


def test_a_folder_that_is_not_there_holds_nothing_to_remove(tmp_path: Path) -> None:
    assert Store(tmp_path / "none").prune(0.0, time.time()) == []
