"""What a DAG file costs at each parse: fifty CustomJobOperators beside fifty EmptyOperators, once all is imported; and the imports."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from bench.job import compile_package

COUNT = 50
EMPTY, BARE, DOCKER, OURS = (f"parse {COUNT} {name}Operators" for name in ("Empty", "Bare", "Docker", "CustomJob"))
"""A bare one has nothing but one templated argument, the same job: what Airflow itself takes for such an argument."""

FILES = {
    EMPTY: """
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG

with DAG("empty", schedule=None):
    for index in range({count}):
        EmptyOperator(task_id=f"t{{index}}")
""",
    BARE: """
from airflow.sdk import DAG, BaseOperator

JOB = {job!r}

class BareOperator(BaseOperator):
    template_fields = ("custom_job",)

    def __init__(self, *, custom_job, **kwargs):
        super().__init__(**kwargs)
        self.custom_job = custom_job

with DAG("bare", schedule=None):
    for index in range({count}):
        BareOperator(task_id=f"t{{index}}", custom_job=JOB)
""",
    DOCKER: """
from airflow.providers.docker.operators.docker import DockerOperator
from airflow.sdk import DAG

with DAG("docker", schedule=None):
    for index in range({count}):
        DockerOperator(task_id=f"t{{index}}", image="python:3.11-slim", command=["sleep", "300"])
""",
    OURS: """
from airflow.sdk import DAG
from airflow_customjob import CustomJobOperator

JOB = {job!r}

with DAG("ours", schedule=None):
    for index in range({count}):
        CustomJobOperator(task_id=f"t{{index}}", custom_job=JOB, backend="docker")
""",
}

PARSE = """
import json, logging, sys, time
from pathlib import Path
import structlog
from airflow.dag_processing.processor import DagFileParseRequest, _parse_file

logging.disable()
structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
files, rounds = [Path(name) for name in sys.argv[2:]], int(sys.argv[1])
taken = [[] for _ in files]
for number in range(rounds + 3):
    for file, seconds in zip(files, taken):
        request = DagFileParseRequest(file=str(file), bundle_path=file.parent, bundle_name="bench", callback_requests=[])
        started = time.process_time()
        parsed = _parse_file(request, structlog.get_logger())
        if number >= 3:  # all is imported by then
            seconds.append(time.process_time() - started)
        assert not parsed.import_errors and len(parsed.serialized_dags) == 1, parsed
print(json.dumps(taken))
"""


def measure(job: dict[str, Any], rounds: int) -> dict[str, list[float]]:
    """Processor seconds of each parse as Airflow's DAG processor does it, serialization included, in turns."""
    with tempfile.TemporaryDirectory(prefix="customjob-bench-") as folder:
        files = [Path(folder) / f"dag_{index}.py" for index in range(len(FILES))]
        for file, source in zip(files, FILES.values(), strict=True):
            file.write_text(source.format(count=COUNT, job=job))
        taken = json.loads(_python(PARSE, str(rounds), *map(str, files)))
    return dict(zip(FILES, taken, strict=True))


def added_by_import(statement: str = "import airflow.sdk; from airflow_customjob import CustomJobOperator") -> float:
    """Milliseconds of that import that are this package's: Airflow itself imports it, when it looks for providers."""
    compile_package()
    command = [sys.executable, "-X", "importtime", "-c", statement]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stderr.splitlines()
    timed = [line.removeprefix("import time:").split("|") for line in lines if line.startswith("import time:")]
    return sum(int(own) for own, _, name in timed if name.strip().startswith("airflow_customjob")) / 1000


def show(samples: dict[str, list[float]]) -> None:
    for name, target in ((EMPTY, "target 1.1"), (BARE, "for comparison"), (DOCKER, "for comparison")):
        ratio = median(ours / other for other, ours in zip(samples[name], samples[OURS], strict=True))
        print(f"{OURS} to {name.removeprefix('parse ')}: {ratio:.2f}, {target}")


def _python(code: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1]
