"""The messages: the same as Vertex AI's, beside Vertex AI's, and the same as their source."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest
from google.cloud.aiplatform_v1 import types as vertex
from google.protobuf.descriptor import Descriptor, EnumDescriptor

from airflow_customjob.spec import CustomJob, JobState, load
from airflow_customjob.spec import message as messages
from airflow_customjob.spec.schema import Behavior, fields_with
from tests.spec.samples import CONTAINER

OURS = list(messages.DESCRIPTOR.message_types_by_name.values())
ROOT = Path(__file__).parents[2]


def _google(name: str) -> Descriptor:
    return getattr(vertex, name).pb(getattr(vertex, name)()).DESCRIPTOR


def _enum(descriptor: EnumDescriptor | None) -> list[tuple[str, int]] | None:
    return descriptor and [(value.name, value.number) for value in descriptor.values]


def _shape(descriptor: Descriptor) -> dict[str, tuple[object, ...]]:
    return {
        field.name: (
            field.number,
            field.type,
            field.is_repeated,
            field.has_presence,
            field.json_name,
            field.message_type and field.message_type.full_name,
            _enum(field.enum_type),
            field.containing_oneof and field.containing_oneof.name,
        )
        for field in descriptor.fields
    }


@pytest.mark.parametrize("ours", OURS, ids=lambda descriptor: descriptor.name)
def test_every_field_is_that_of_google_cloud_aiplatform(ours: Descriptor) -> None:
    theirs = _google(ours.name)
    assert ours.full_name == theirs.full_name
    assert _shape(ours) == _shape(theirs)


def test_every_message_that_a_custom_job_can_hold_is_defined() -> None:
    assert {descriptor.name for descriptor in OURS} >= {
        "CustomJob", "CustomJobSpec", "WorkerPoolSpec", "ContainerSpec", "PythonPackageSpec", "Scheduling", "EnvVar",
        "MachineSpec", "ReservationAffinity", "DiskSpec", "NfsMount", "LustreMount", "GcsDestination", "EncryptionSpec",
        "PscInterfaceConfig", "DnsPeeringConfig",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["JobState", "AcceleratorType"])
def test_every_enum_is_that_of_google_cloud_aiplatform(name: str) -> None:
    assert dict(getattr(messages, name).items()) == {item.name: item.value for item in getattr(vertex, name)}


def test_the_python_enum_is_the_proto_enum() -> None:
    assert {state.name: state.value for state in JobState} == dict(messages.JobState.items())


def test_annotations_are_read_from_the_proto() -> None:
    assert [field.name for field in fields_with(CustomJob.DESCRIPTOR, Behavior.REQUIRED)] == [
        "display_name",
        "job_spec",
    ]
    assert "state" in [field.name for field in fields_with(CustomJob.DESCRIPTOR, Behavior.OUTPUT_ONLY)]


def test_committed_files_are_what_the_proto_compiles_to() -> None:
    pytest.importorskip("grpc_tools", reason="grpcio-tools compiles the proto, and is of the dev extra")
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import compile_proto, pickle, sys; sys.stdout.buffer.write(pickle.dumps(compile_proto.compile_proto()))",
        ],
        cwd=ROOT / "dev",
        capture_output=True,
        check=True,
    )
    for name, content in pickle.loads(done.stdout).items():
        assert files("airflow_customjob.spec").joinpath(name).read_bytes() == content, (
            f"run dev/compile_proto.py: {name}"
        )


def test_both_packages_fit_into_one_process() -> None:
    theirs = vertex.CustomJob.pb(vertex.CustomJob(display_name="x"))
    ours = CustomJob(display_name="x")
    assert type(ours) is not type(theirs)
    assert ours.DESCRIPTOR.file.pool is not theirs.DESCRIPTOR.file.pool
    assert ours.SerializeToString() == theirs.SerializeToString()


def test_a_message_survives_pickle_and_copy() -> None:
    job = load(CONTAINER)
    for again in (pickle.loads(pickle.dumps(job)), copy.deepcopy(job)):
        assert again == job
        assert type(again) is CustomJob


@pytest.mark.parametrize("first", ["google.cloud.aiplatform_v1", "airflow_customjob.spec.message"])
def test_the_order_of_import_does_not_matter(first: str) -> None:
    script = f"import {first}, airflow_customjob.spec.message, google.cloud.aiplatform_v1"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_pure_python_protobuf_reads_the_same() -> None:
    script = (
        "from google.protobuf.internal import api_implementation; assert api_implementation.Type() == 'python';"
        "from airflow_customjob.spec import check; from tests.spec.samples import CONTAINER;"
        "job, problems = check(CONTAINER); assert job is not None, problems"
    )
    environment = {"PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment)
