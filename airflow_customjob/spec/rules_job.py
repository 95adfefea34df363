"""Rules about a job as a whole: names, labels, the order of pools, scheduling."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from datetime import timedelta

from google.protobuf.duration_pb2 import Duration

from airflow_customjob.spec import rules
from airflow_customjob.spec.machines import machine
from airflow_customjob.spec.message import CustomJob, CustomJobSpec, Scheduling, WorkerPoolSpec
from airflow_customjob.spec.rules import Finding, Rule
from airflow_customjob.spec.scalars import TEMPLATE
from airflow_customjob.spec.schema import Behavior, descriptor_of, fields_with

MAX_NAME = 128
MAX_LABEL = 64
MAX_LABELS = 64
MAX_POOLS = 4
WEEK = timedelta(days=7).total_seconds()


def seconds(duration: Duration) -> float:
    return duration.seconds + duration.nanos / 1e9


def is_empty(pool: WorkerPoolSpec) -> bool:
    """A pool that is skipped."""
    return not pool.ByteSize()


def is_tpu(pool: WorkerPoolSpec) -> bool:
    known = machine(pool.machine_spec.machine_type)
    return known is not None and known.tpu


def _display_name(job: CustomJob) -> Iterator[Finding]:
    if len(job.display_name) > MAX_NAME:
        yield "display_name", f"longer than {MAX_NAME} characters ({len(job.display_name)})", job.display_name


def _label_ok(text: str) -> bool:
    return all(char in "_-" or (unicodedata.category(char)[0] in "LMN" and char == char.lower()) for char in text)


def _labels(job: CustomJob) -> Iterator[Finding]:
    for key, value in sorted(job.labels.items()):
        path = f"labels[{key}]"
        if not key:
            yield path, "a label's key may not be empty", None
        for what, text in (("key", key), ("value", value)):
            if len(text) > MAX_LABEL:
                yield path, f"the label's {what} is longer than {MAX_LABEL} characters ({len(text)})", text
            if not _label_ok(text):
                yield path, f"the label's {what} may hold lower-case letters, digits, _ and - only", text


def _label_count(job: CustomJob) -> Iterator[Finding]:
    if len(job.labels) > MAX_LABELS:
        yield "labels", f"more than {MAX_LABELS} labels", len(job.labels)


def _output_only(job: CustomJob) -> Iterator[Finding]:
    for field in fields_with(descriptor_of(CustomJob), Behavior.OUTPUT_ONLY):
        if any(given.name == field.name for given, _ in job.ListFields()):
            yield field.name, "is set by the service; what the spec says is ignored", None


def _first_pool(spec: CustomJobSpec) -> Iterator[Finding]:
    if not spec.worker_pool_specs:
        return
    first = spec.worker_pool_specs[0]
    if is_empty(first):
        yield "worker_pool_specs[0]", "the first worker pool holds the primary replica and may not be empty", None
    elif first.replica_count != 1:
        sentence = "Replica count for master worker pool (worker_pool_specs[0].replica_count) should be 1."
        hint = "; put the other replicas into worker_pool_specs[1]" if first.replica_count > 1 else ""
        yield "worker_pool_specs[0].replica_count", f"{sentence}{hint}", first.replica_count


def _pool_count(spec: CustomJobSpec) -> Iterator[Finding]:
    if len(spec.worker_pool_specs) > MAX_POOLS:
        message = f"Vertex AI knows {MAX_POOLS} positions: primary, workers, parameter or reduction servers, evaluators"
        yield "worker_pool_specs", message, len(spec.worker_pool_specs)


def _tpu(spec: CustomJobSpec) -> Iterator[Finding]:
    given = [index for index, pool in enumerate(spec.worker_pool_specs) if not is_empty(pool)]
    if any(is_tpu(spec.worker_pool_specs[index]) for index in given):
        for index in given[1:]:
            yield f"worker_pool_specs[{index}]", "a job on TPUs has a single worker pool, of one replica", None


def _output_place(spec: CustomJobSpec) -> Iterator[Finding]:
    uri = spec.base_output_directory.output_uri_prefix
    if uri and not TEMPLATE.search(uri) and not _PLACE.fullmatch(uri):
        message = "is no folder for every replica: write gs://bucket/folder, an absolute path, or file:///absolute/path"
        yield "base_output_directory.output_uri_prefix", message, uri


_PLACE = re.compile(r"gs://[^/].*|file:/[^/].*|(file://(localhost)?)?/+[^/].*", re.DOTALL)


def _gcs_output(spec: CustomJobSpec) -> Iterator[Finding]:
    uri = spec.base_output_directory.output_uri_prefix
    if _PLACE.fullmatch(uri) and not uri.startswith("gs://"):
        yield "base_output_directory.output_uri_prefix", "Vertex AI takes gs:// only: this job cannot move there", uri


def _durations(scheduling: Scheduling) -> Iterator[Finding]:
    if scheduling.HasField("timeout") and seconds(scheduling.timeout) <= 0:
        yield "timeout", "must be longer than zero; leave it out for 7 days", scheduling.timeout.ToJsonString()
    if seconds(scheduling.max_wait_duration) < 0:
        yield (
            "max_wait_duration",
            "may not be negative; zero waits for ever",
            scheduling.max_wait_duration.ToJsonString(),
        )


def _flex_timeout(scheduling: Scheduling) -> Iterator[Finding]:
    if scheduling.strategy == Scheduling.FLEX_START and seconds(scheduling.timeout) > WEEK:
        yield "timeout", "FLEX_START runs for 7 days (604800s) at most", scheduling.timeout.ToJsonString()


def _wait_without_flex(scheduling: Scheduling) -> Iterator[Finding]:
    if scheduling.HasField("max_wait_duration") and scheduling.strategy != Scheduling.FLEX_START:
        yield (
            "max_wait_duration",
            "has a meaning with strategy FLEX_START only",
            scheduling.max_wait_duration.ToJsonString(),
        )


def _deprecated_strategy(scheduling: Scheduling) -> Iterator[Finding]:
    new = {Scheduling.ON_DEMAND: "STANDARD", Scheduling.LOW_COST: "SPOT"}.get(scheduling.strategy)
    if new:
        yield "strategy", f"is deprecated: write {new}", Scheduling.Strategy.Name(scheduling.strategy)


def _retries(scheduling: Scheduling) -> Iterator[Finding]:
    if scheduling.disable_retries and scheduling.restart_job_on_worker_restart:
        yield "restart_job_on_worker_restart", "is overridden by disable_retries", True


JOB: tuple[Rule[CustomJob], ...] = (
    Rule("display-name", rules.PROTO, _display_name),
    Rule("labels", rules.PROTO, _labels),
    Rule("label-count", "Google Cloud documentation, Labels", _label_count, "warning"),
    Rule("output-only", rules.PROTO, _output_only, "warning"),
)

SPEC: tuple[Rule[CustomJobSpec], ...] = (
    Rule("first-pool", rules.SERVER, _first_pool),
    Rule("pool-count", rules.TRAINING, _pool_count, "warning"),
    Rule("tpu-single-replica", rules.COMPUTE, _tpu, "warning"),
    Rule("output-place", rules.PROTO, _output_place),
    Rule("output-uri", rules.PROTO, _gcs_output, "warning"),
)

SCHEDULING: tuple[Rule[Scheduling], ...] = (
    Rule("duration-range", rules.PROTO, _durations),
    Rule("flex-start-timeout", rules.DWS, _flex_timeout),
    Rule("max-wait-duration", rules.PROTO, _wait_without_flex, "warning"),
    Rule("strategy", rules.PROTO, _deprecated_strategy, "warning"),
    Rule("disable-retries", rules.PROTO, _retries, "warning"),
)
