"""The messages of custom_job.proto: ``CustomJob``, ``CustomJobSpec``, ``WorkerPoolSpec`` and all that they hold.

They live in a pool of their own, not in protobuf's default one: google-cloud-aiplatform registers the same names
there, and both must fit into one process. What protoc would generate is made here at import, from custom_job.binpb;
message.pyi says it to type checkers.
"""

from __future__ import annotations

import copyreg
from importlib.resources import files

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass


def _load() -> DescriptorPool:
    pool = DescriptorPool()
    for file in FileDescriptorSet.FromString(files(__package__).joinpath("custom_job.binpb").read_bytes()).file:
        pool.AddSerializedFile(file.SerializeToString())  # type: ignore[no-untyped-call]
    return pool


def _unpickle(name: str, data: bytes) -> Message:
    return GetMessageClass(POOL.FindMessageTypeByName(name)).FromString(data)


def _reduce(message: Message) -> tuple[object, tuple[str, bytes]]:
    return _unpickle, (message.DESCRIPTOR.full_name, message.SerializeToString(deterministic=True))


POOL = _load()
DESCRIPTOR = POOL.FindFileByName("custom_job.proto")

for _name, _descriptor in DESCRIPTOR.message_types_by_name.items():
    globals()[_name] = GetMessageClass(_descriptor)
    # protobuf's own way of pickling looks a message up in the default pool.
    copyreg.pickle(globals()[_name], _reduce)  # type: ignore[arg-type]

for _name, _descriptor in DESCRIPTOR.enum_types_by_name.items():
    globals()[_name] = EnumTypeWrapper(_descriptor)
    globals().update({value.name: value.number for value in _descriptor.values})
