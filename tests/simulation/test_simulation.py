"""Some hundred random histories, and the way from a broken one to its trace."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Self

import pytest

from tests.simulation.__main__ import play_all, simulate
from tests.simulation.oracle import Oracle
from tests.simulation.run import Hung, Simulation, play
from tests.simulation.scenario import scenario_of
from tests.simulation.witness import Broken

SEEDS = range(1, 301)


def test_no_invariant_is_broken() -> None:
    broken, ends = play_all(SEEDS)
    assert broken == []
    assert {"SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED"} <= {end for end, count in ends.items() if count}
    assert ends["restarted"] > 20


def test_a_seed_is_one_history(root: Path) -> None:
    replays = [
        subprocess.run(
            [sys.executable, "-m", "tests.simulation", "--replay", "7"],
            capture_output=True,
            text=True,
            cwd=root,
            check=True,
        ).stdout
        for _ in range(2)
    ]
    assert replays[0] == replays[1]
    assert "nothing is broken" in replays[0]
    assert "claims: create" in replays[0]


def test_a_broken_seed_is_told_with_the_command_that_replays_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tests.simulation.__main__.ProcessPoolExecutor", _Here)
    monkeypatch.setattr(Oracle, "check", _is_never_content)
    assert simulate(1, 5, 1, keep_going=False) == 1
    said = capsys.readouterr().out
    assert "seed 5: Broken: not at all" in said
    assert "replay it: python -m tests.simulation --replay 5" in said


def _is_never_content(oracle: Oracle) -> None:
    raise Broken("not at all")


class _Here:
    """A pool of no processes."""

    def __init__(self, jobs: int) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    map = staticmethod(map)

    def shutdown(self, *, cancel_futures: bool) -> None: ...


def test_a_history_that_spins_is_ended_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async def spin(self: Simulation) -> None:
        while True:
            pass

    monkeypatch.setattr(Simulation, "_main", spin)
    _, error = play(1, cpu_seconds=0.2)
    assert isinstance(error, Hung)


def test_a_seed_s_scenario_never_changes_by_itself() -> None:
    assert scenario_of(1) == scenario_of(1)
    assert len({scenario_of(seed) for seed in range(200)}) == 200
