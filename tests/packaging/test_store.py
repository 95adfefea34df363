"""What of the cache is removed, and when."""

from __future__ import annotations

import os
import time
from pathlib import Path

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


def test_a_folder_that_is_not_there_holds_nothing_to_remove(tmp_path: Path) -> None:
    assert Store(tmp_path / "none").prune(0.0, time.time()) == []
