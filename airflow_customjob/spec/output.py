"""A CustomJob as JSON: Vertex AI's REST form, and the form of the Python SDK."""

from __future__ import annotations

from typing import Any

from google.protobuf.json_format import MessageToDict

from airflow_customjob.spec.message import POOL, CustomJob


def to_canonical(job: CustomJob) -> dict[str, Any]:
    """Canonical proto3 JSON, the REST API's: camelCase, int64 as text, durations as ``3.500s``, no defaults."""
    return MessageToDict(job, descriptor_pool=POOL)


def to_sdk_dict(job: CustomJob) -> dict[str, Any]:
    """As google-cloud-aiplatform's ``CustomJob.to_dict``: snake_case, enums as integers, defaults written out.

    Not written out are the defaults of fields with presence: messages that are not set.
    """
    return MessageToDict(
        job,
        descriptor_pool=POOL,
        preserving_proto_field_name=True,
        use_integers_for_enums=True,
        always_print_fields_with_no_presence=True,
    )
