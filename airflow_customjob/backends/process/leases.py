"""What jobs on one host must not share: ports and GPUs."""

from __future__ import annotations

import json
import random
import socket
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from airflow_customjob.backends.base import EngineBusy, LaunchRefused, ReplicaRef
from airflow_customjob.backends.process.folders import Folders, locked, names_in, read_text
from airflow_customjob.backends.process.replicas import refs_of, status
from airflow_customjob.plan.types import JobId, JobPlan

FORGOTTEN = 900.0
"""Seconds after which ports of a job that never came to be are anybody's."""
FIRST_PORT = 10_000


# -- ports ----------------------------------------------------------------------------------------------------------


def choose_ports(folders: Folders, job_id: JobId, count: int) -> tuple[int, ...]:
    """Ports that nothing on this host listens on and no other job here was given; kept until :func:`release_ports`.

    They are below the range that the kernel takes for outgoing connections. Another program may still take one before
    the replica does; then the replica's own bind fails, as it would on any shared host.

    :raises EngineBusy: there are not so many.
    """
    with locked(folders.ports / ".lock"):
        given = set(_given(folders))
        candidates = list(range(FIRST_PORT, _first_outgoing()))
        random.shuffle(candidates)
        free = (port for port in candidates if port not in given and _is_free(port))
        ports = tuple(port for port, _ in zip(free, range(count), strict=False))
        if len(ports) < count:
            raise EngineBusy(f"this host has no {count} free ports between {FIRST_PORT} and {_first_outgoing()}")
        for port in ports:
            (folders.ports / f"{port}.{job_id}").touch(0o600)
        return ports


def release_ports(folders: Folders, job_id: JobId) -> None:
    for name in names_in(folders.ports):
        if name.endswith(f".{job_id}"):
            (folders.ports / name).unlink(missing_ok=True)


def _given(folders: Folders) -> Iterable[int]:
    for name in names_in(folders.ports):
        port, _, job_id = name.partition(".")
        if not port:
            continue
        claim = folders.ports / name
        if folders.job(JobId(job_id)).exists() or time.time() - claim.stat().st_mtime < FORGOTTEN:
            yield int(port)
        else:
            claim.unlink(missing_ok=True)


def _first_outgoing() -> int:
    text = read_text(Path("/proc/sys/net/ipv4/ip_local_port_range"))
    first = int(text.split()[0]) if text else 0
    return first if first > FIRST_PORT + 10_000 else 60_000


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
        return True


# -- GPUs -----------------------------------------------------------------------------------------------------------


def lease_gpus(
    folders: Folders, plan: JobPlan, refs: Sequence[ReplicaRef], inventory: Sequence[str]
) -> dict[ReplicaRef, tuple[str, ...]]:
    """Devices for each replica, that no live replica has. To be called, and acted upon, under the lock for leases.

    A lease is a line of its replica's request, and ends with the replica: nothing has to be given back.

    :raises LaunchRefused: the host would never have so many.
    :raises EngineBusy: not now.
    """
    wanted = {ref: plan.pool_of(plan.replica(ref.replica)).resources.gpus for ref in refs}
    whole = sum(plan.pool_of(replica).resources.gpus for replica in plan.replicas)
    if whole > len(inventory):
        raise LaunchRefused(
            f"the job asks for {whole} GPUs, and this backend has {len(inventory) or 'none'}: name the host's devices in "
            "ProcessBackend(gpus=...), ask for fewer, or run without them by accelerator_count in ignore_fields",
            code=8,
        )
    leased = _leased(folders, refs) if any(wanted.values()) else {}
    taken = {device for devices in leased.values() for device in devices}
    free = [device for device in inventory if device not in taken]
    missing = sum(count for ref, count in wanted.items() if ref not in leased) - len(free)
    if missing > 0:
        raise EngineBusy(
            f"{len(taken)} of this host's {len(inventory)} GPUs are leased to running jobs; {missing} more are needed"
        )
    return {
        ref: leased[ref] if ref in leased else tuple(free.pop(0) for _ in range(count)) for ref, count in wanted.items()
    }


def _leased(folders: Folders, mine: Sequence[ReplicaRef]) -> dict[ReplicaRef, tuple[str, ...]]:
    """The devices of each replica that may still use them, and of those that exist already."""
    found = {}
    for job_id in names_in(folders.jobs):
        for ref in refs_of(folders, JobId(job_id)):
            request = json.loads(read_text(folders.replica(ref) / "request.json") or "{}")
            devices = tuple(request.get("gpus", ()))
            seen = status(folders, ref) if devices else None
            if seen is not None and (not seen.ended or ref in mine):
                found[ref] = devices
    return found
