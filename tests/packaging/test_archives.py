"""What looks like a package and what does not. Hostile files get nothing: nothing is unpacked, and nothing runs."""

from __future__ import annotations

import gzip
import io
import os
import struct
import tarfile
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from airflow_customjob.packaging.archives import MAX_METADATA, requires_nothing, why_no_package
from tests.packaging.serving import fetched, refusal, sdist


def wheel(*names: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in names:
            archive.writestr(name, b"text")
    return stream.getvalue()


def tar(*members: tarfile.TarInfo, data: bytes = b"") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(data) if member.size else None)
    return stream.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, mode
    return info


WHEEL = wheel("trainer/task.py", "trainer-0.1.dist-info/METADATA", "trainer-0.1.dist-info/RECORD")
GOOD = [
    ("t-0.1-py3-none-any.whl", WHEEL),
    ("t-0.1.tar.gz", sdist()),
    ("t-0.1.tgz", tar(member("./t/setup.py"))),
    ("main.zip", wheel("t-main/pyproject.toml")),
    ("deep-0.1.tar.gz", tar(member("d-0.1/PKG-INFO"), member("d-0.1/" + "very-long-name/" * 20 + "x.py"))),
]
BAD = [
    ("t.whl", b"not at all", "no whole zip file"),
    ("t.whl", b"", "no whole zip file"),
    ("t.whl", WHEEL[:-100], "no whole zip file"),
    ("t.whl", wheel("trainer/task.py"), "no wheel: there is no NAME.dist-info/METADATA"),
    ("t.whl", WHEEL.replace(b"METADATAtext", b"METADATAtex!"), "no whole zip file (Bad CRC-32"),
    ("t.tar.gz", b"<html>sign in</html>", "no whole gzipped tar file"),
    ("t.tar.gz", b"", "no source distribution"),
    ("t.tar.gz", sdist(pad=9000)[:-20], "it ends too early|ended before"),
    ("t.tar.gz", gzip.compress(b"text" * 1000), "a header's checksum is wrong|invalid literal"),
    ("t.tar.gz", tar(member("data/rows.csv"), member("setup.py")), "no source distribution"),
    ("t.zip", wheel("rows.csv"), "no source distribution"),
]


@pytest.mark.parametrize(("name", "data"), GOOD, ids=[name for name, _ in GOOD])
def test_packages_look_like_packages(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / "file").write_bytes(data)
    assert why_no_package(tmp_path / "file", name) == ""


@pytest.mark.parametrize(
    ("name", "data", "words"), BAD, ids=[f"{number}-{name}" for number, (name, _, _) in enumerate(BAD)]
)
def test_what_is_no_package_is_told(tmp_path: Path, name: str, data: bytes, words: str) -> None:
    (tmp_path / "file").write_bytes(data)
    why = why_no_package(tmp_path / "file", name)
    assert any(word in why for word in words.split("|")), why


def of_metadata(*texts: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, text in enumerate(texts):
            archive.writestr(f"t{number}-1.dist-info/METADATA", f"Metadata-Version: 2.1\nName: t\n{text}")
    return stream.getvalue()


REQUIRES: list[tuple[str, bytes, bool]] = [
    ("t-1-py3-none-any.whl", of_metadata("Version: 1\n"), True),
    ("t-1-py3-none-any.whl", of_metadata("requires-dist : numpy\n"), False),
    ("t-1-py3-none-any.whl", of_metadata("Requires-Dist: numpy; extra == 'fast'\n"), False),
    ("t-1-py3-none-any.whl", of_metadata("Version: 1\n", "Requires-Dist: numpy\n"), False),
    ("t-1-py3-none-any.whl", of_metadata(" " * (MAX_METADATA + 1)), False),
    ("t-1.zip", of_metadata("Version: 1\n"), False),
    ("t-1.tar.gz", sdist(), False),
]


@pytest.mark.parametrize(("name", "data", "nothing"), REQUIRES, ids=map(str, range(len(REQUIRES))))
def test_only_a_wheel_that_says_so_requires_nothing(tmp_path: Path, name: str, data: bytes, nothing: bool) -> None:
    (tmp_path / "file").write_bytes(data)
    assert requires_nothing(tmp_path / "file", name) is nothing


def claims(size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    """A member that claims to be so large."""
    info = member("t-0.1/PKG-INFO", kind)
    info.size = size
    return gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + bytes(10_000))


def zip_of_names(count: int) -> bytes:
    """A table of contents that is all there is."""
    entry = b"PK\x01\x02" + bytes(24) + struct.pack("<H", 60_000) + bytes(16) + b"n" * 60_000
    contents = entry * count
    return contents + b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, count, count, len(contents), 0, 0)


BOMBS: list[tuple[str, Callable[[], bytes], str]] = [
    ("a claim.tar.gz", lambda: claims(2**40), "more than"),
    ("an extended header.tar.gz", lambda: claims(2**40, tarfile.XHDTYPE), "more than"),
    ("zeros.tar.gz", lambda: gzip.compress(bytes(10_240) + bytes(50_000_000), 1), "no source|more follows"),
    ("a table of contents.whl", lambda: zip_of_names(1000), "table of contents"),
]


@pytest.mark.parametrize(("name", "bomb", "words"), BOMBS, ids=[name for name, *_ in BOMBS])
def test_bombs_cost_neither_memory_nor_time(tmp_path: Path, name: str, bomb: Callable[[], bytes], words: str) -> None:
    (tmp_path / "bomb").write_bytes(bomb())
    tracemalloc.start()
    began = time.monotonic()
    why = why_no_package(tmp_path / "bomb", name)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert any(word in why for word in words.split("|")), why
    assert peak < 100_000_000
    assert time.monotonic() - began < 60


def test_a_hostile_archive_is_kept_as_it_is_and_nothing_of_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paths that lead out, absolute ones, links, devices and set-user-id bits are the installer's, in its container."""
    monkeypatch.chdir(tmp_path)
    hostile = tar(
        member("t-0.1/PKG-INFO"),
        member("../outside"),
        member(f"{tmp_path}/absolute"),
        member("t-0.1/link", tarfile.SYMTYPE, "/etc/shadow"),
        member("t-0.1/hard", tarfile.LNKTYPE, "../../etc/shadow"),
        member("t-0.1/device", tarfile.CHRTYPE),
        member("t-0.1/pipe", tarfile.FIFOTYPE),
        member("t-0.1/root", mode=0o4755),
    )
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist" / "t-0.1.tar.gz").write_bytes(hostile)
    (got,) = fetched(str(tmp_path / "dist" / "t-0.1.tar.gz"), folder=tmp_path / "cache")
    assert got.path.read_bytes() == hostile
    files = {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if not path.is_dir()}
    assert files == {Path("dist/t-0.1.tar.gz"), got.path.relative_to(tmp_path)}


def test_a_file_that_is_no_regular_one_is_no_package(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "t-0.1.tar.gz")
    assert "does not exist" in refusal(str(tmp_path / "t-0.1.tar.gz"), folder=tmp_path / "cache")
