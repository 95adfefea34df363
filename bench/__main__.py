"""``python -m bench``: prints a table of medians and ratios, and writes all figures as JSON."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from bench import airflow_launch, airflow_overhead, dag_parse, docker_launch, packaging, start_up, testing_kit
from bench.job import ROOT, base_image, job

TARGET = 1.15
CHOICES = ("docker", "packaging", "torchx", "airflow", "overhead", "parse", "test-kit", "start-up")
NO_LAUNCH = {
    *start_up.STARTS,
    "customjob validate",
    airflow_overhead.THEIRS,
    airflow_overhead.OURS,
    *dag_parse.FILES,
    testing_kit.EMPTY,
    testing_kit.OURS,
    packaging.ADDED,
    packaging.ADDED + packaging.ON_KUBERNETES,
}
Samples = dict[str, list[float]]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure launches and start-up.")
    parser.add_argument("--replicas", type=int, default=8, help="containers of a launch (default %(default)s)")
    parser.add_argument("--pairs", type=int, default=15, help="interleaved pairs of ours and raw (default %(default)s)")
    parser.add_argument("--peer-runs", type=int, default=5, help="launches of each peer (default %(default)s)")
    parser.add_argument("--only", choices=CHOICES, action="append")
    parser.add_argument("--json", type=Path, default=ROOT / "build" / "bench.json", help="default %(default)s")
    options = parser.parse_args()
    chosen = options.only or CHOICES
    image = base_image()
    samples: Samples = {}
    if "docker" in chosen:
        samples |= asyncio.run(_pairs(job(options.replicas, image), options.pairs))
        _show_launches(samples, options.replicas)
    if "packaging" in chosen:
        for replicas in (1, options.replicas):
            samples |= packaging.measure(image, replicas, options.peer_runs)
        _peer(
            samples,
            "packaging on Kubernetes",
            lambda: packaging.measure_kubernetes((1, options.replicas), options.peer_runs),
        )
        packaging.show(samples)
    if "torchx" in chosen:
        _peer(samples, "TorchX local_docker", lambda: _torchx(options.replicas, image, options.peer_runs))
    if "airflow" in chosen:
        _peer(
            samples,
            "Airflow",
            lambda: _airflow(
                airflow_launch.measure(job(options.replicas, image), image, options.replicas, options.peer_runs)
            ),
        )
    if "overhead" in chosen:
        measured = airflow_overhead.measure(image, options.peer_runs)
        airflow_overhead.show(measured)
        samples |= measured
    if "parse" in chosen:
        measured = dag_parse.measure(job(options.replicas, image), 25)
        dag_parse.show(measured)
        samples |= measured
    if "test-kit" in chosen:
        measured = testing_kit.measure(job(1, image), 15)
        testing_kit.show(measured)
        samples |= measured
    if "start-up" in chosen:
        samples |= start_up.measure(job(options.replicas, image), 7)
    _show(samples)
    about = {"at": datetime.now(UTC).isoformat(), "cpus": os.cpu_count(), "python": platform.python_version()}
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps({"about": about, "seconds": samples}, indent=1) + "\n")
    print(f"all figures: {os.path.relpath(options.json)}")


RAW, OURS = "raw aiodocker, concurrent", "ours"


async def _pairs(spec: dict[str, Any], pairs: int) -> Samples:
    """Interleaved, since the machine's speed drifts; one pair before them warms up."""
    samples: Samples = {RAW: [], OURS: []}
    for pair in range(pairs + 1):
        for name, launch in ((RAW, docker_launch.raw), (OURS, docker_launch.ours)):
            seconds = await launch(spec)
            if pair:
                samples[name].append(seconds)
        if pair:
            _say(f"pair {pair} of {pairs}: raw {samples[RAW][-1]:.2f} s, ours {samples[OURS][-1]:.2f} s")
    return samples


def _torchx(replicas: int, image: str, runs: int) -> Samples:
    """In an environment of its own: its requirements are not ours."""
    with tempfile.TemporaryDirectory(prefix="customjob-bench-") as folder:
        _run([sys.executable, "-m", "venv", folder])
        _run([f"{folder}/bin/pip", "install", "--quiet", "torchx", "docker"])
        image_id = _run(["docker", "image", "inspect", "--format", "{{.Id}}", image]).strip()  # a name it would pull
        script = str(Path(__file__).parent / "torchx_launch.py")
        out = _run([f"{folder}/bin/python", script, str(replicas), image_id, str(runs)])
    return {"TorchX local_docker": json.loads(out.splitlines()[-1])}


def _airflow(seconds: Samples) -> Samples:
    names = {"mapped": "mapped DockerOperators, in Airflow", "ours": "CustomJobOperator, in Airflow"}
    return {names[dag_id]: values for dag_id, values in seconds.items()}


def _peer(samples: Samples, name: str, measure: Any) -> None:
    """A peer that does not run here is said, and stops nothing."""
    _say(f"{name} ...")
    try:
        samples |= measure()
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        _say(f"{name} NOT RUN: {error}")


def _show_launches(samples: Samples, replicas: int) -> None:
    ratios = [ours / raw for ours, raw in zip(samples[OURS], samples[RAW], strict=True)]
    verdict = "met" if median(ratios) <= TARGET else "MISSED"
    print(
        f"launch of {replicas} replicas on Docker: median ratio of {len(ratios)} pairs {median(ratios):.3f}, ", end=""
    )
    print(f"from {min(ratios):.3f} to {max(ratios):.3f}; target {TARGET}: {verdict}")


def _show(samples: Samples) -> None:
    floor = median(samples[RAW]) if RAW in samples else None
    print(f"\n{'':48}{'median':>9}{'min':>9}{'max':>9}{'n':>4}{'to raw':>9}")
    launches = [name for name in samples if name not in NO_LAUNCH and not name.startswith(packaging.KINDS)]
    for name, values in samples.items():
        ratio = f"{median(values) / floor:8.2f}x" if floor and name in launches else ""
        print(f"{name:48}{median(values):7.3f} s{min(values):7.3f} s{max(values):7.3f} s{len(values):4}{ratio}")
    print()


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    if done.returncode:
        raise RuntimeError(
            f"{command[0]}: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else done.returncode}"
        )
    return done.stdout


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
