"""What is launched by everybody: so many containers that meet in one network and stay."""

from __future__ import annotations

import compileall
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
STAYS = 300
"""Seconds that a replica would run if it were not stopped."""


def base_image() -> str:
    return subprocess.run(
        [ROOT / "dev" / "engines", "image"], capture_output=True, text=True, check=True
    ).stdout.strip()


def job(replicas: int, image: str) -> dict[str, Any]:
    def pool(count: int) -> dict[str, Any]:
        return {
            "machineSpec": {"machineType": "n1-standard-4"},
            "replicaCount": count,
            "containerSpec": {"imageUri": image, "command": ["sleep", str(STAYS)]},
        }

    pools = [pool(1), pool(replicas - 1)] if replicas > 1 else [pool(1)]
    return {"displayName": "bench", "jobSpec": {"workerPoolSpecs": pools}}


def compile_package() -> None:
    """As pip does when it installs: where PYTHONDONTWRITEBYTECODE is set, this package alone would be compiled at each start."""
    compileall.compile_dir(ROOT / "airflow_customjob", quiet=1)
