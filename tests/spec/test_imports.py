"""What an import of spec costs: no Airflow, no engine, little time."""

from __future__ import annotations

import subprocess
import sys

import pytest

from airflow_customjob import spec

MODULES = [
    "airflow",
    "google.cloud.storage",
    "google.cloud.aiplatform",
    "docker",
    "aiodocker",
    "kubernetes",
    "kubernetes_asyncio",
    "yaml",
]


def _python(script: str) -> str:
    return subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout


def test_spec_imports_neither_airflow_nor_an_engine() -> None:
    loaded = _python(
        "import sys; from airflow_customjob.spec import check, validate, to_canonical, to_sdk_dict, to_dict;"
        f"print([name for name in {MODULES} if name in sys.modules])"
    )
    assert loaded.strip() == "[]"


def test_states_need_no_protobuf() -> None:
    loaded = _python(
        "import sys; from airflow_customjob.spec.job_state import JobState; print('google.protobuf' in sys.modules)"
    )
    assert loaded.strip() == "False"


def test_import_beyond_protobuf_costs_little_more_than_protobuf_itself() -> None:
    """35 ms of processor time, to protobuf's 25."""
    script = (
        "import time; began = time.process_time();"
        "from google.protobuf import json_format, timestamp_pb2, descriptor_pb2, message_factory;"
        "between = time.process_time(); from airflow_customjob.spec import check, to_canonical;"
        "print((time.process_time() - between) / (between - began))"
    )
    assert min(float(_python(script)) for _ in range(5)) < 4


@pytest.mark.parametrize("name", spec.__all__)
def test_public_names_are_what_they_say(name: str) -> None:
    """Regression: a module named like a function replaces it in the package when it is imported."""
    value = getattr(spec, name)
    assert type(value).__name__ != "module"
    assert value.__name__ == name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = spec.nothing
