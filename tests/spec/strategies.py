"""Hypothesis strategies: any CustomJob that the proto allows, sensible or not; and any JSON at all."""

from __future__ import annotations

from functools import cache
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from hypothesis import strategies as st

from airflow_customjob.spec import CustomJob
from airflow_customjob.spec.schema import is_map

TEXT = st.text(max_size=8) | st.sampled_from(["gs://b/x", "$(A)", "${A}", "{{ a }}", "n1-standard-4", "604800s"])
_DURATIONS = st.builds(
    lambda seconds, nanos: f"{seconds}.{nanos:09d}s", st.integers(0, 10**9), st.integers(0, 10**9 - 1)
)
_TIMES = st.datetimes().map(lambda time: f"{time.isoformat()}Z")
_ANY = _DURATIONS.map(lambda value: {"@type": "type.googleapis.com/google.protobuf.Duration", "value": value})
_WELL_KNOWN = {"google.protobuf.Duration": _DURATIONS, "google.protobuf.Timestamp": _TIMES, "google.protobuf.Any": _ANY}
_SCALARS = {
    FieldDescriptor.CPPTYPE_STRING: TEXT,
    FieldDescriptor.CPPTYPE_BOOL: st.booleans(),
    FieldDescriptor.CPPTYPE_INT32: st.integers(-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: st.integers(-(2**63), 2**63 - 1).flatmap(lambda n: st.sampled_from([n, str(n)])),
}


def _value(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    if field.message_type is not None:
        name = field.message_type.full_name
        return _WELL_KNOWN[name] if name in _WELL_KNOWN else messages(field.message_type)
    if field.enum_type is not None:
        return st.sampled_from([name for value in field.enum_type.values for name in (value.name, value.number)])
    return _SCALARS[field.cpp_type]


@cache
def messages(descriptor: Descriptor) -> st.SearchStrategy[dict[str, Any]]:
    """Proto3 JSON of any message of this type, with names in either spelling and at most one member of a oneof."""

    def draw(field: FieldDescriptor) -> st.SearchStrategy[Any]:
        if is_map(field):
            return st.dictionaries(TEXT, TEXT, max_size=2)
        return st.lists(_value(field), max_size=3) if field.is_repeated else _value(field)

    @st.composite
    def message(drawn: st.DrawFn) -> dict[str, Any]:
        fields = [field for field in descriptor.fields if drawn(st.booleans())]
        taken: set[str] = set()
        result = {}
        for field in fields:
            if field.containing_oneof is not None:
                if field.containing_oneof.name in taken:
                    continue
                taken.add(field.containing_oneof.name)
            result[drawn(st.sampled_from([field.name, field.json_name]))] = drawn(draw(field))
        return result

    return message()


JOBS = messages(CustomJob.DESCRIPTOR).map(
    lambda job: job if {"job_spec", "jobSpec"} & job.keys() else {**job, "jobSpec": {}}
)
"""With a job_spec, by which a CustomJob is told from a bare CustomJobSpec."""

_LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["${X}", "{{ x }}", "7d", "1h", "n1-standard-4"])
)
_WORDS = """
    displayName display_name jobSpec workerPoolSpecs worker_pool_specs machineSpec machineType acceleratorType
    replicaCount containerSpec pythonPackageSpec imageUri args command env name value scheduling timeout labels
    error details state createTime baseOutputDirectory encryptionSpec diskSpec bootDiskSizeGb nfsMounts
    trialJobSpec customJob parent @type
"""
_NAMES = st.sampled_from(_WORDS.split())
JSON = st.recursive(
    _LEAVES,
    lambda below: st.lists(below, max_size=4) | st.dictionaries(_NAMES | st.text(max_size=4), below, max_size=5),
    max_leaves=25,
)
"""Any JSON value (and NaN), leaning towards the names that a spec has."""
