#!/usr/bin/env python
"""Compile spec/custom_job.proto into the descriptor set that the package loads, and into the stub that mypy reads.

Run it after a change to the proto: ``.venv/bin/python dev/compile_proto.py``. A test checks that what is committed is
what this makes.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import google.api.field_behavior_pb2  # type: ignore[import-untyped]
import grpc_tools  # type: ignore[import-untyped]
from grpc_tools import protoc

SPEC = Path(__file__).parent.parent / "airflow_customjob" / "spec"
WELL_KNOWN = Path(grpc_tools.__path__[0]) / "_proto"
HEADER = (
    "# Made from custom_job.proto by dev/compile_proto.py.",
    "# ruff: noqa: E501, I001, RUF023, UP007, UP045",
    "# mypy: ignore-errors",
    "# fmt: off",
)
COMMON = Path(google.api.field_behavior_pb2.__file__).parents[2]


def compile_proto() -> dict[str, bytes]:
    """File name in ``spec/`` to content.

    :raises RuntimeError: protoc refuses the proto; it has printed why.
    """
    with tempfile.TemporaryDirectory() as out:
        includes = [f"-I{path}" for path in (SPEC, COMMON, WELL_KNOWN)]
        outputs = [f"--descriptor_set_out={out}/set", "--include_imports", f"--pyi_out={out}"]
        if protoc.main(["protoc", *includes, *outputs, "custom_job.proto"]):
            raise RuntimeError("protoc failed")
        # The annotations of google.api have no stubs, and the messages' stub does not use them.
        stub = [
            line for line in Path(out, "custom_job_pb2.pyi").read_text().splitlines() if "from google.api " not in line
        ]
        pool = [
            "from google.protobuf.descriptor_pool import DescriptorPool as _DescriptorPool",
            "",
            "POOL: _DescriptorPool",
        ]
        at = stub.index("DESCRIPTOR: _descriptor.FileDescriptor")
        stub[at - 1 : at] = pool
        return {
            "custom_job.binpb": Path(out, "set").read_bytes(),
            "message.pyi": "\n".join([*HEADER, *stub, ""]).encode(),
        }


if __name__ == "__main__":
    for name, content in compile_proto().items():
        (SPEC / name).write_bytes(content)
        print(f"{name}: {len(content)} bytes", file=sys.stderr)
