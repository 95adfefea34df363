"""Seconds that commands and imports take from nothing, beside the interpreter alone."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.job import compile_package

STARTS = {
    "python alone": ["-c", "pass"],
    "import airflow_customjob": ["-c", "import airflow_customjob"],
    "import CustomJobClient": ["-c", "from airflow_customjob import CustomJobClient"],
    "import airflow.sdk": ["-c", "import airflow.sdk"],
    "import CustomJobOperator": ["-c", "from airflow_customjob import CustomJobOperator"],
}


def measure(job: dict[str, Any], runs: int) -> dict[str, list[float]]:
    with tempfile.TemporaryDirectory(prefix="customjob-bench-") as folder:
        spec = Path(folder) / "job.json"
        spec.write_text(json.dumps(job))
        compile_package()
        starts = STARTS | {"customjob validate": ["-m", "airflow_customjob.cli", "validate", str(spec)]}
        for arguments in starts.values():  # byte code and file caches
            _seconds(arguments)
        return {name: [_seconds(arguments) for _ in range(runs)] for name, arguments in starts.items()}


def _seconds(arguments: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
    return time.perf_counter() - started
