"""``python -m tests.simulation --schedules N --seed S``: play N random histories; ``--replay SEED``: one, with its trace."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

from tests.simulation.run import Simulation, play

CHUNK = 50


def trace_of(simulation: Simulation, error: BaseException | None) -> str:
    lines = [str(simulation.scenario), ""]
    lines += [f"{at:10.4f}  {who:12} {text}" for at, who, text in simulation.trace]
    lines += ["", f"{type(error).__name__}: {error}" if error else "nothing is broken"]
    return "\n".join(lines)


def play_all(seeds: range) -> tuple[list[tuple[int, str]], Counter[str]]:
    """The seeds that broke with what broke, and how often jobs ended how."""
    broken: list[tuple[int, str]] = []
    ends: Counter[str] = Counter()
    for seed in seeds:
        simulation, error = play(seed)
        if error is not None:
            broken.append((seed, f"{type(error).__name__}: {error}"))
        ends["excused"] += simulation.witness.excused
        for _, record in simulation.witness.reports[-1:]:
            ends[record.state.short] += 1
            ends["restarted"] += record.job_restarts > 0
    return broken, ends


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--schedules", type=int, default=2000, help="how many histories (default: %(default)s)")
    parser.add_argument(
        "--seed", type=int, default=1, help="the first one's seed; the others follow (default: %(default)s)"
    )
    parser.add_argument("--replay", type=int, metavar="SEED", help="play this one and print what happens")
    parser.add_argument("--keep-going", action="store_true", help="play all even if some are broken")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes (default: one for each CPU)")
    args = parser.parse_args()
    if args.replay is not None:
        simulation, error = play(args.replay)
        print(trace_of(simulation, error))
        return int(error is not None)
    return simulate(args.schedules, args.seed, args.jobs, args.keep_going)


def simulate(schedules: int, seed: int, jobs: int, keep_going: bool) -> int:
    began = time.monotonic()
    chunks = [range(first, min(first + CHUNK, seed + schedules)) for first in range(seed, seed + schedules, CHUNK)]
    broken: list[tuple[int, str]] = []
    ends: Counter[str] = Counter()
    played = 0
    with ProcessPoolExecutor(jobs) as pool:
        for chunk, (failed, ended) in zip(chunks, pool.map(play_all, chunks), strict=True):
            broken += failed
            ends += ended
            played += len(chunk)
            if broken and not keep_going:
                pool.shutdown(cancel_futures=True)
                break
    seconds = time.monotonic() - began
    print(
        f"{played} histories in {seconds:.1f} s ({played / seconds:.0f}/s), {len(broken)} broken; {dict(sorted(ends.items()))}"
    )
    for number, why in broken[:20]:
        print(f"\nseed {number}: {why}\n  replay it: python -m tests.simulation --replay {number}")
    return int(bool(broken))


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":
        # Sets of text are walked in another order in each process unless this is fixed; a seed is to mean one history.
        os.execve(
            sys.executable,
            [sys.executable, "-m", "tests.simulation", *sys.argv[1:]],
            {**os.environ, "PYTHONHASHSEED": "0"},
        )
    sys.exit(main())
