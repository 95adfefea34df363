"""kill -9 of the process that supervises a job, wherever it stands: the same command again goes on where it was."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.jobs.conftest import Done, Place, ended, eventually, job_of, shell, until_it_says

Figure = Callable[[str], None]

AT_ONCE = 3
"""Jobs that are killed and taken up side by side."""
LINES = 20


def counting(folder: Path, job_id: str) -> dict[str, Any]:
    """A primary that says some lines and succeeds, a worker that runs for ever; each leaves a mark when it starts.

    The primary waits until the worker has said everything: its success ends the worker.
    """
    mark = f"echo start >>{folder}/{job_id}.$RANK; "
    says = f"i=0; while [ $i -lt {LINES} ]; do echo line $i; i=$((i+1)); sleep 0.02; done"
    waits = f"until [ -e {folder}/{job_id}.said ]; do sleep 0.05; done"
    return job_of(
        shell(f"{mark}{says}; {waits}"), shell(f"{mark}{says}; touch {folder}/{job_id}.said; exec sleep 1000000")
    )


def starts(folder: Path, job_id: str) -> list[int]:
    marks = [folder / f"{job_id}.{rank}" for rank in (0, 1)]
    return [mark.read_text().count("start") if mark.exists() else 0 for mark in marks]


def whole(*outputs: Done, replica: str) -> None:
    """Each process has given the lines in order and once, and all together have given all of them."""
    expected = [f"line {number}" for number in range(LINES)]
    given: set[str] = set()
    for done in outputs:
        lines = done.lines_of(replica)
        assert lines == sorted(set(lines), key=expected.index), f"out of order or twice: {lines}"
        given |= set(lines)
    assert given == set(expected), f"missing of {replica}: {sorted(set(expected) - given)}\n" + "\n--\n".join(
        done.err for done in outputs
    )


def test_killed_at_every_change_of_the_engine(place: Place, figure: Figure) -> None:
    began = time.monotonic()
    _, whole_run = _killed_and_run_again(place, "never:0")
    changes = re.findall(r"^change (\d+): (\w+) (\d+)$", whole_run.err, re.MULTILINE)
    moments = ["before:1", *(f"after:{number}" for number, *_ in changes)]
    moments += [f"amid:{number}" for number, _, refs in changes if int(refs) > 1]
    with ThreadPoolExecutor(AT_ONCE) as side_by_side:
        ends = list(side_by_side.map(lambda moment: _killed_and_run_again(place, moment), moments))
    killed = sum(first.code == -signal.SIGKILL for first, _ in ends)
    figure(
        f"killed at {killed} of {len(moments)} moments ({', '.join(name for _, name, _ in changes)}); "
        f"one gang each, no line missing; {time.monotonic() - began:.0f} s"
    )
    assert killed >= len(moments) - 2, "changes that come one call later in some runs are passed over, not more"


def _killed_and_run_again(place: Place, moment: str) -> tuple[Done, Done]:
    """The outputs of the killed process and of the next one, which has brought the job to its end."""
    job_id = place.new_job()
    argv = ("run", "--job-id", job_id, "--output", "json", place.write(counting(place.folder, job_id)))
    first = ended(place.customjob(*argv, module="tests.jobs.mortal", DIE_AT=moment))
    assert first.code in (0, -signal.SIGKILL), first.err
    before = place.objects(job_id)
    second = ended(place.customjob(*argv, module="tests.jobs.mortal")) if first.code else first
    assert second.code == 0, f"{moment}: {first.err}\n--\n{second.err}"
    assert second.job["state"] == "JOB_STATE_SUCCEEDED"
    assert starts(place.folder, job_id) == [1, 1], f"{moment}: {first.err}\n--\n{second.err}"
    assert {name.split("-", 4)[2:4] == ["1", "0"] for name in before} <= {True}, "one generation, one attempt"
    for replica in ("workerpool0-0", "workerpool1-0"):
        whole(first, second, replica=replica)
    assert place.remains(job_id) == [], moment

    third = ended(place.customjob(*argv))
    assert third.code == 0, f"{moment}: {third.err}"
    assert starts(place.folder, job_id) == [1, 1], f"an ended job ran twice ({moment})"
    return first, second


def test_the_next_process_has_the_same_replicas(place: Place) -> None:
    job_id = place.new_job()
    go = place.folder / "go"
    script = f"echo up; until [ -e {go} ]; do sleep 0.1; done; echo gone on"
    argv = ("run", "--job-id", job_id, "--output", "json", place.write(job_of(shell(script), shell(script, count=2))))
    first = place.customjob(*argv)
    until_it_says(first, "JOB_STATE_RUNNING")
    first.kill()
    before = place.objects(job_id)
    assert len(before) == 3

    second = place.customjob(*argv)
    eventually(lambda: place.objects(job_id) == before, "the same replicas")
    until_it_says(second, "workerpool0-0: up")
    assert place.objects(job_id) == before
    go.touch()
    done = ended(second)
    assert done.code == 0, done.err
    assert "workerpool0-0: gone on" in done.err
    assert place.remains(job_id) == []


def test_killed_over_and_over(place: Place, figure: Figure) -> None:
    """Every process lives for about a second and a half: the job gets to its end all the same, and its log is whole."""
    job_id = place.new_job()
    says = f"i=0; while [ $i -lt {LINES} ]; do echo line $i; i=$((i+1)); sleep 0.5; done"
    spec = job_of(shell(f"echo start >>{place.folder}/{job_id}.0; {says}"), shell(f"{says}; exec sleep 1000000"))
    argv = ("run", "--job-id", job_id, "--output", "json", place.write(spec))
    outputs: list[Done] = []
    while not outputs or outputs[-1].code:
        process = place.customjob(*argv)
        if len(outputs) < 8:
            time.sleep(1.5 if place.name == "process" else 2.5)
            process.kill()
        outputs.append(ended(process))
        assert outputs[-1].code in (0, -signal.SIGKILL), outputs[-1].err
    figure(f"{len(outputs) - 1} processes killed")
    assert len(outputs) > 2
    assert (place.folder / f"{job_id}.0").read_text() == "start\n"
    whole(*outputs, replica="workerpool0-0")
    assert place.remains(job_id) == []
