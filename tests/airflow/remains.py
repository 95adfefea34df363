"""What of a job is on this host, seen without the package."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path


def replicas(backend: str, job_id: str) -> list[str]:
    """Containers, Pods or processes of a job that are there now: their ids, the same for as long as they live."""
    return {"docker": _containers, "kubernetes": _pods, "process": _processes}[backend](job_id)


def remains(backend: str, job_id: str) -> list[str]:
    """All that is left of a job but its record."""
    others = {"docker": _networks, "kubernetes": _companions}.get(backend)
    return replicas(backend, job_id) + (others(job_id) if others else [])


def remove_containers(job_id: str) -> None:
    """What a test that failed has left of a job on Docker."""
    if containers := _containers(job_id):
        _docker("rm", "--force", *containers)
    if networks := _networks(job_id):
        _docker("network", "rm", *networks)


def _networks(job_id: str) -> list[str]:
    return _docker("network", "ls", "--quiet", "--filter", f"name={job_id}")


def _containers(job_id: str) -> list[str]:
    return _docker("ps", "--all", "--quiet", "--no-trunc", "--filter", f"name=customjob-{job_id}")


def why_unscheduled(job_id: str) -> list[str]:
    """The scheduler's words about Pods that it has found no node for."""
    return _kubectl(job_id, "pods", 'jsonpath={.items[*].status.conditions[?(@.reason=="Unschedulable")].message}')


def _pods(job_id: str) -> list[str]:
    return _kubectl(job_id, "pods", "jsonpath={.items[*].metadata.uid}")


def _companions(job_id: str) -> list[str]:
    found = _kubectl(job_id, "services,secrets,configmaps", "name")
    return [name for name in found if name != f"configmap/customjob-{job_id}"]


def _kubectl(job_id: str, kinds: str, form: str) -> list[str]:
    command = ["kubectl", "get", kinds, "--selector", f"airflow-customjob/job-id={job_id}", "--output", form]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return sorted(done.stdout.split())


def _docker(*args: str) -> list[str]:
    done = subprocess.run(["docker", *args], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return sorted(done.stdout.split())


def _processes(job_id: str) -> list[str]:
    """Processes of the job that stay for more than a moment: one that is just being forked or reaped is no replica."""
    before = _scan(job_id)
    time.sleep(0.05)
    return sorted(set(before) & set(_scan(job_id))) if before else []


def _scan(job_id: str) -> list[str]:
    """Processes that were given the job's id in their environment, and their start times."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            variables = (folder / "environ").read_bytes().split(b"\0")
            if f"CLOUD_ML_JOB_ID={job_id}".encode() in variables:
                started = (folder / "stat").read_text().rpartition(")")[2].split()[19]
                found.append(f"{folder.name}@{started}")
        except OSError:  # it has ended, or is not ours
            continue
    return sorted(found)
