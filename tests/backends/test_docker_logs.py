"""Entries of a Docker log as lines, and where a log is taken up: pure, and then on a real Docker."""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_customjob.backends.base import LogLine, ReplicaRef
from airflow_customjob.backends.docker.logs import LONGEST, Entry, Position, Reader, entries, nanoseconds
from tests.backends.contract import Act, Bench, DockerAdapter, bench_on, sleeps

REF = ReplicaRef("1", 1, 0, "workerpool0-0", 0)  # type: ignore[arg-type]
SECOND = 10**9


def read(log: Iterable[Entry], after: str | None = None) -> list[LogLine]:
    """As the daemon gives a log from a time on."""
    reader = Reader(REF, None if after is None else Position.parse(after))
    since = 0 if reader.since is None else nanoseconds_of(reader.since)
    lines = [line for entry in log if entry.at >= since for line in reader.feed(entry)]
    return lines + list(reader.finish())


def nanoseconds_of(since: str) -> int:
    whole, fraction = since.split(".")
    return int(whole) * SECOND + int(fraction)


def out(at: int, text: str, stream: int = 1) -> Entry:
    return Entry(at, stream, text.encode())


# Two streams; times that stand still, and that go back a little; parts of lines.
log_entries = st.lists(
    st.builds(
        lambda step, stream, text: (step, stream, text),
        st.sampled_from([0, 0, 1, 7, -3, SECOND, 3 * SECOND]),
        st.sampled_from([1, 2]),
        st.sampled_from(["a\n", "a\n", "b\n", "\n", "part", "caf\u00e9\r\n"]),
    ),
    max_size=40,
)


def a_log(steps: list[tuple[int, int, str]]) -> list[Entry]:
    at, made = 1_000 * SECOND, []
    for step, stream, text in steps:
        at += step
        made.append(out(at, text, stream))
    return made


@given(log_entries)
def test_a_log_can_be_taken_up_after_any_line(steps: list[tuple[int, int, str]]) -> None:
    log = a_log(steps)
    lines = read(log)
    for number, line in enumerate(lines):
        later = read(log, after=line.position)
        assert [x.text for x in later] == [x.text for x in lines[number + 1 :]]
        assert not any(x.notice for x in later)


@given(log_entries)
def test_nothing_of_a_log_is_lost(steps: list[tuple[int, int, str]]) -> None:
    log = a_log(steps)
    for stream in (1, 2):
        alone = [entry for entry in log if entry.stream == stream]
        written = b"".join(entry.data for entry in alone).decode()
        assert "\n".join(line.text for line in read(alone)) == written.removesuffix("\n") or not alone


def test_a_fast_writer_is_read_as_fast_as_a_slow_one() -> None:
    """From the 100,001st line within seconds on, each took milliseconds: the whole event loop stood still."""
    reader, began = Reader(REF), time.monotonic()
    for at in range(150_000):
        assert [line.text for line in reader.feed(out(10 * SECOND + at, "x\n"))] == ["x"]
        assert time.monotonic() - began < 120
    for at in range(250_000):
        list(reader.feed(out(60 * SECOND + at, "x\n")))
    assert len(reader._counts) < 300_000, "what is out of reach is forgotten"


def test_a_line_that_the_log_no_longer_has_is_told_as_a_gap() -> None:
    log = [out((1_000 + n) * SECOND, f"{n}\n") for n in range(10)]
    position = read(log)[3].position
    later = read(log[5:], after=position)
    assert [line.text for line in later if not line.notice] == ["5", "6", "7", "8", "9"]
    assert [line.notice for line in later] == [True] + [False] * 5


def test_another_log_at_the_same_time_is_told_as_a_gap() -> None:
    position = read([out(SECOND, "mine\n"), out(SECOND + 1, "later\n")])[0].position
    later = read([out(SECOND, "other\n"), out(SECOND + 1, "later\n")], after=position)
    assert [(line.text, line.notice) for line in later][1:] == [("later", False)]
    assert later[0].notice


def test_a_line_that_began_before_the_position_is_whole() -> None:
    log = [out(SECOND, "long "), out(9 * SECOND, "err\n", 2), out(20 * SECOND, "line\n")]
    lines = read(log)
    assert [line.text for line in lines] == ["err", "long line"]
    assert [line.text for line in read(log, after=lines[0].position)] == ["long line"]


def test_a_line_without_end_is_given_in_parts() -> None:
    part = "x" * (LONGEST // 4)
    lines = read([out(SECOND + n, part) for n in range(9)])
    assert [len(line.text) for line in lines] == [LONGEST, LONGEST, LONGEST // 4]


@pytest.mark.parametrize(
    ("stamp", "wanted"),
    [
        ("1970-01-01T00:00:01.000000002Z", SECOND + 2),
        ("1970-01-01T00:00:01Z", SECOND),
        ("1970-01-01T00:00:01.5Z", 3 * SECOND // 2),
        ("no time", 0),
    ],
)
def test_time_stamps_are_read_to_the_nanosecond(stamp: str, wanted: int) -> None:
    assert nanoseconds(stamp) == wanted


@given(st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=50)), max_size=20), st.integers(1, 40))
def test_frames_are_put_together_however_they_are_cut(payloads: list[tuple[int, bytes]], size: int) -> None:
    stamp = b"1970-01-01T00:00:01.000000000Z "
    raw = b"".join(struct.pack(">BxxxL", stream, len(stamp + data)) + stamp + data for stream, data in payloads)

    class Content:
        async def iter_any(self):  # type: ignore[no-untyped-def]
            for start in range(0, len(raw), size):
                yield raw[start : start + size]

    async def main() -> list[Entry]:
        return [entry async for bunch in entries(Content()) for entry in bunch]  # type: ignore[arg-type]

    assert [(entry.stream, entry.data) for entry in asyncio.run(main())] == payloads


@pytest.mark.docker
def test_both_streams_carriage_returns_and_long_lines_on_a_real_docker() -> None:
    code = (
        "import sys, time\n"
        "for n in range(50):\n"
        " print(f'out {n}', flush=True); print(f'err {n}', file=sys.stderr, flush=True)\n"
        "time.sleep(.3); sys.stdout.write('10%\\r20%\\r\\n'); sys.stdout.write('y' * 40_000); sys.stdout.flush(); time.sleep(.3)\n"
        "print('in between', file=sys.stderr, flush=True); time.sleep(.3); sys.stdout.write('z\\nno end')"
    )

    async def main() -> None:
        async with asyncio.timeout(100), bench_on(DockerAdapter(None)) as bench:  # type: ignore[arg-type]
            await check(bench)

    async def check(bench: Bench) -> None:
        _, (ref, *_) = await bench.launched(Act(("python3", "-c", code), sleeps().script))
        lines = await bench.lines(ref)
        texts = [line.text for line in lines]
        assert [text for text in texts if text.startswith("out ")] == [f"out {n}" for n in range(50)]
        assert [text for text in texts if text.startswith("err ")] == [f"err {n}" for n in range(50)]
        assert texts[-4:] == ["10%\r20%\r", "in between", "y" * 40_000 + "z", "no end"]
        for number in (0, 30, 77, 99, 100, 101, 102, 103):
            assert await bench.texts(ref, after=lines[number].position) == texts[number + 1 :]
        assert not any(line.notice for line in lines)

    asyncio.run(main())
