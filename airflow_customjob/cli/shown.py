"""Jobs and plans as text for people, and as plain data for scripts. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow_customjob.backends.base import Phase, ReplicaStatus, Usage

if TYPE_CHECKING:
    from airflow_customjob.job import Job
    from airflow_customjob.plan.types import JobPlan, PoolPlan, ReplicaPlan
    from airflow_customjob.written import Written

MIB, GIB = 2**20, 2**30


def table(rows: Sequence[Sequence[str]]) -> str:
    """Left-aligned columns, two spaces apart."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def duration(seconds: float) -> str:
    """``4.2s``, ``3m05s``, ``2h03m``, ``7d0h``: two units at most."""
    if seconds < 10:
        return f"{max(seconds, 0.0):.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    for upper, unit, lower, small in ((3600, 60, 1, "ms"), (86400, 3600, 60, "hm"), (float("inf"), 86400, 3600, "dh")):
        if whole < upper:
            large, rest = divmod(whole, unit)
            return f"{large}{small[0]}{rest // lower:0{1 if small == 'dh' else 2}}{small[1]}"
    raise AssertionError(seconds)


def time_text(seconds: float | None) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ") if seconds is not None else "-"


# -- jobs -----------------------------------------------------------------------------------------------------------


def job_row(job: Job) -> dict[str, Any]:
    """A job of ``list --format json``."""
    message = job.to_json()
    times = ("createTime", "startTime", "endTime", "updateTime")
    return {
        "id": job.job_id,
        "displayName": job.record.request.job.get("displayName", ""),
        "state": job.state.name,
        **{name: message[name] for name in times if name in message},
        "backend": job.backend["name"],
        "generation": job.record.generation,
    }


def jobs_table(jobs: Sequence[Job], now: float) -> str:
    rows = [("ID", "NAME", "STATE", "AGE", "BACKEND")]
    rows += [
        (
            job.job_id,
            _one_line(str(job.record.request.job.get("displayName", ""))),
            job.state.short,
            duration(now - job.record.create_time),
            str(job.backend["name"]),
        )
        for job in jobs
    ]
    return table(rows)


def job_data(job: Job, usage: Sequence[Usage], notes: Sequence[str]) -> dict[str, Any]:
    """A job of ``describe --format json``."""
    used = {sample.ref: sample for sample in usage}
    record = job.record
    return {
        "customJob": job.to_json(),
        "backend": job.backend,
        "engine": record.engine,
        "generation": record.generation,
        "attempt": record.attempt,
        "message": record.message,
        "owner": record.owner.where,
        "notes": list(notes),
        "replicas": [_replica_data(status, used.get(status.ref)) for status in job.replicas or record.failed],
    }


def _replica_data(status: ReplicaStatus, usage: Usage | None) -> dict[str, Any]:
    data = {
        "name": status.ref.replica,
        "object": status.ref.name,
        "phase": status.phase.value,
        "exitCode": status.exit_code,
        "reason": status.reason.value if status.reason else None,
        "message": status.message,
        "restarts": status.ref.restart,
        "node": status.node,
        "startedAt": status.started_at,
        "finishedAt": status.finished_at,
    }
    return data | ({"cpus": usage.cpus, "memoryBytes": usage.memory_bytes} if usage else {})


def job_text(job: Job, usage: Sequence[Usage], notes: Sequence[str], now: float) -> str:
    """A job of ``describe``."""
    record = job.record
    facts = [
        ("name", job.name),
        ("display name", _one_line(str(record.request.job.get("displayName", "")))),
        ("state", f"{job.state.short}{f': {record.message}' if record.message and not job.state.terminal else ''}"),
        ("backend", f"{job.backend['name']} ({record.engine})"),
        ("created", time_text(record.create_time)),
        ("started", time_text(record.start_time)),
        ("ended", time_text(record.end_time)),
        ("took", duration((record.end_time or now) - record.start_time) if record.start_time is not None else "-"),
        ("generation", f"{record.generation}, attempt {record.attempt}"),
        *([("owner", ", ".join(f"{key}={value}" for key, value in record.owner.where.items()))] if record.owner.where else []),
    ]  # fmt: skip
    parts = [table([(f"{name}:", value) for name, value in facts])]
    if job.error:
        parts.append("error:\n" + "\n".join(f"  {line}" for line in job.error.splitlines()))
    if shown := job.replicas or record.failed:
        parts.append(replicas_table(shown, usage, now))
    if notes:
        parts.append("notes:\n" + "\n".join(f"  {note}" for note in notes))
    return "\n\n".join(parts)


def replicas_table(statuses: Sequence[ReplicaStatus], usage: Sequence[Usage], now: float) -> str:
    used = {sample.ref: sample for sample in usage}
    rows = [("REPLICA", "PHASE", "EXIT", "REASON", "RESTARTS", "NODE", "TIME", "CPUS", "MEMORY", "MESSAGE")]
    for status in statuses:
        sample = used.get(status.ref)
        rows.append(
            (
                status.ref.replica,
                status.phase.value,
                "-" if status.exit_code is None else str(status.exit_code),
                status.reason.value if status.reason else "-",
                str(status.ref.restart),
                status.node or "-",
                replica_time(status, now),
                f"{sample.cpus:.2f}" if sample else "-",
                size(sample.memory_bytes) if sample else "-",
                _one_line(status.message),
            )
        )
    return table(rows)


def replica_time(status: ReplicaStatus, now: float) -> str:
    """How long it has run, or did."""
    if status.started_at is None:
        return "-"
    until = now if status.phase is Phase.RUNNING else status.finished_at
    return duration(until - status.started_at) if until is not None else "-"


def summary(job: Job, *, told: bool = False) -> str:
    """What ``run`` says at the end.

    :param told: the reader has just been told why it failed.
    """
    record = job.record
    took = (
        f" in {duration(record.end_time - record.start_time)}"
        if record.end_time is not None and record.start_time is not None and record.end_time > record.start_time
        else ""  # it ended before all of it was seen running
    )
    first = f"job {job.job_id}: {job.state.short}{took}"
    return f"{first}\n{job.error}" if job.error and not told else first


def model(written: Written) -> str:
    """What the job has written: ``model: 3 files, 12,582,912 bytes in gs://bucket/run/model/: a.bin, b.bin, c.bin``."""
    count = f"{written.count} file{'' if written.count == 1 else 's'}"
    more = ", ..." if written.count > len(written.names) else ""
    return f"model: {count}, {written.size:,} bytes in {written.directory}: {', '.join(written.names)}{more}"


def size(count: int) -> str:
    return f"{count / GIB:.1f}GiB" if count >= GIB else f"{count / MIB:.0f}MiB"


def _one_line(text: str) -> str:
    return " ".join(text.split())


# -- plans ----------------------------------------------------------------------------------------------------------


def plan_text(plan: JobPlan, backend: str) -> str:
    """A plan of ``render``."""
    return "\n".join(_plan_lines(plan, backend))


def _plan_lines(plan: JobPlan, backend: str) -> Iterator[str]:
    restarts = "none (disableRetries)" if plan.disable_retries else "as on Vertex AI"
    if plan.restart_job_on_worker_restart:
        restarts = "as on Vertex AI; a lost replica restarts the whole job"
    yield f"job {plan.job_id}: {plan.display_name!r} on {backend}, {len(plan.replicas)} replica(s)"
    yield f"  timeout   {duration(plan.timeout)}, then {plan.options.timeout_state}"
    yield f"  restarts  {restarts}"
    for name, value in plan.labels:
        yield f"  label     {name}={value}"
    for pool in plan.pools:
        yield ""
        yield from _pool_lines(pool)
        for replica in plan.replicas:
            if replica.pool == pool.index:
                yield from _replica_lines(replica, plan)
    if plan.notes:
        yield ""
        yield "notes:"
        yield from (f"  {note}" for note in plan.notes)


def _pool_lines(pool: PoolPlan) -> Iterator[str]:
    yield f"{pool.name}: {pool.replica_count} x {pool.machine_type or 'any machine'}{_wishes(pool)}"
    mapped = f" (for {pool.image_requested})" if pool.image != pool.image_requested else ""
    yield f"  image     {pool.image}{mapped}"
    for uri in pool.package.uris if pool.package else ():
        yield f"  package   {uri}"


def _wishes(pool: PoolPlan) -> str:
    wanted = pool.resources
    wishes = [
        *([f"{wanted.cpus:g} CPUs"] if wanted.cpus else []),
        *([size(wanted.memory_bytes)] if wanted.memory_bytes else []),
        *([f"{wanted.gpus} x {wanted.gpu_type or 'GPU'}"] if wanted.gpus else []),
    ]
    return f" ({', '.join(wishes)})" if wishes else ""


def _replica_lines(replica: ReplicaPlan, plan: JobPlan) -> Iterator[str]:
    yield f"  {replica.name}: rank {replica.rank}, host {replica.host}"
    yield f"    command {shlex.join(replica.command) if replica.command else '(of the image)'}"
    if replica.args:
        yield f"    args    {shlex.join(replica.args)}"
    yield from (f"    env     {name}={shlex.quote(value)}" for name, value in replica.env)
    yield from (f"    env     {name}=*** (from {reference})" for name, reference in plan.options.secret_env)
    yield from (f"    file    {path}" for path, _ in replica.files)
