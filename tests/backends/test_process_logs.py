"""The log that a shim writes and any process reads."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_customjob.backends.base import LogLine, ReplicaRef
from airflow_customjob.backends.process import shim
from airflow_customjob.backends.process.inotify import Inotify
from airflow_customjob.backends.process.logs import LogFile
from airflow_customjob.plan.types import JobId

REF = ReplicaRef(JobId("1"), 1, 0, "workerpool0-0", 0)


def written(path: Path, *chunks: bytes) -> Path:
    path.unlink(missing_ok=True)
    log = shim.Log(str(path))
    for chunk in chunks:
        log.write(chunk)
    os.close(log.file)
    return path


def read(path: Path, *, after: str | None = None, over: bool = True, tail: int | None = None) -> list[LogLine]:
    log = LogFile(path, REF, after)
    try:
        if tail is not None:
            log.seek_tail(tail)
        return [line for lines in log.read(over=over) for line in lines]
    finally:
        log.close()


def texts(path: Path, **how: object) -> list[str]:
    return [line.text for line in read(path, **how)]  # type: ignore[arg-type]


CHUNKS = st.lists(st.binary(min_size=1, max_size=40) | st.sampled_from([b"\n", b"\n\n", b"a\n", b"\r\n", b"\xe2\x82"]))


@given(chunks=CHUNKS)
def test_what_was_written_is_read_however_it_was_cut(
    chunks: list[bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "log"
    written(path, *chunks)
    whole = b"".join(chunks)
    expected = whole.split(b"\n")[:-1] if whole.endswith(b"\n") else whole.split(b"\n") if whole else []
    lines = read(path)
    assert [line.text for line in lines] == [line.decode("utf-8", "replace") for line in expected]
    for number, line in enumerate(lines):
        assert read(path, after=line.position) == lines[number + 1 :]
    for count in range(len(lines) + 2):
        assert texts(path, tail=count) == [line.text for line in lines[len(lines) - min(count, len(lines)) :]]


def test_a_line_that_is_not_complete_waits_for_the_rest(tmp_path: Path) -> None:
    path = written(tmp_path / "log", b"one\ntw")
    (one,) = read(path, over=False)
    assert one.text == "one"
    assert texts(path, after=one.position, over=False) == []
    assert texts(path, after=one.position, over=True) == ["tw"]


def test_lines_have_the_time_of_their_first_byte(tmp_path: Path) -> None:
    log = shim.Log(str(tmp_path / "log"))
    before = time.time()
    log.write(b"be")
    between = time.time()
    time.sleep(0.01)
    log.write(b"gun\nnext\n")
    os.close(log.file)
    first, second = read(tmp_path / "log")
    assert before - 0.001 <= first.at <= between + 0.001
    assert second.at > between + 0.005


def test_a_clock_that_is_set_back_does_not_turn_lines_around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = shim.Log(str(tmp_path / "log"))
    log.write(b"one\n")
    monkeypatch.setattr(shim.time, "time", lambda: 1_700_000_000.0)
    log.write(b"two\n")
    os.close(log.file)
    one, two = read(tmp_path / "log")
    assert one.at == two.at


@pytest.mark.parametrize("character", ["x", "€"])
def test_an_endless_line_is_cut_between_characters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, character: str
) -> None:
    monkeypatch.setattr(shim, "LONGEST_LINE", 100)
    data = (character * 400).encode()
    path = written(tmp_path / "log", *(data[i : i + 7] for i in range(0, len(data), 7)), b"\nend\n")
    *cut, end = texts(path)
    assert len(cut) > 3
    assert "".join(cut) == character * 400
    assert end == "end"


def test_a_full_disk_loses_output_and_says_so(tmp_path: Path) -> None:
    log = shim.Log(str(tmp_path / "log"))
    log.write(b"before\n")
    good, log.file = log.file, os.open("/dev/full", os.O_WRONLY)
    log.write(b"lost\n")
    log.write(b"lost too\n")
    os.close(log.file)
    log.file = good
    log.write(b"after\n")
    log.write(b"and on\n")
    os.close(good)
    lines = [line for line in read(tmp_path / "log") if line.text]
    assert [(line.text.partition(" bytes")[2] or line.text, line.notice) for line in lines] == [
        ("before", False),
        (" of output are missing: they could not be written", True),
        ("after", False),
        ("and on", False),
    ]


def test_a_log_that_ends_before_its_reader_is_a_gap(tmp_path: Path) -> None:
    path = written(tmp_path / "log", b"one\ntwo\n")
    last = read(path)[-1]
    written(path, b"one\n")
    (notice,) = read(path, after=last.position)
    assert notice.notice
    assert "missing" in notice.text
    assert read(path, after=notice.position) == []


def test_there_may_be_no_log_yet(tmp_path: Path) -> None:
    assert read(tmp_path / "log") == []
    assert read(tmp_path / "log", tail=5) == []


def test_listeners_hear_of_their_folder_only_and_as_long_as_they_listen(tmp_path: Path) -> None:
    async def main() -> None:
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
        inotify = Inotify()
        heard: list[str] = []
        try:
            with (
                inotify.listening(tmp_path / "one", lambda name: heard.append(f"first {name}")),
                inotify.listening(tmp_path / "one", lambda name: heard.append(f"second {name}")),
                inotify.listening(tmp_path / "nowhere", heard.append) as exists,
            ):
                assert not exists
                (tmp_path / "one" / "file").touch()
                (tmp_path / "two" / "file").touch()
                await asyncio.sleep(0.05)
                assert set(heard) == {"first file", "second file"}
            heard.clear()
            (tmp_path / "one" / "other").touch()
            await asyncio.sleep(0.05)
            assert heard == []
            with inotify.listening(tmp_path / "two", heard.append):
                (tmp_path / "two" / "file").unlink()
                (tmp_path / "two").rmdir()
                await asyncio.sleep(0.05)
            assert "file" in heard
        finally:
            inotify.close()

    asyncio.run(main())
