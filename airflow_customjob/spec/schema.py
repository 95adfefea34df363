"""What custom_job.proto says of its own fields, and which known name an unknown one was meant to be."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from enum import IntEnum
from functools import cache
from typing import Any, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from airflow_customjob.spec.message import POOL, CustomJob


class Behavior(IntEnum):
    """``google.api.FieldBehavior``, as far as the proto uses it."""

    OPTIONAL = 1
    REQUIRED = 2
    OUTPUT_ONLY = 3
    IMMUTABLE = 5


def descriptor_of(message: Message | type[Message]) -> Descriptor:
    """Its descriptor; stubs give a union of two implementations of one and the same thing."""
    return cast("Descriptor", message.DESCRIPTOR)


@cache
def fields_with(descriptor: Descriptor, behavior: Behavior) -> tuple[FieldDescriptor, ...]:
    """The fields of a message that the proto annotates so."""
    extension = POOL.FindExtensionByName("google.api.field_behavior")
    options: Any = GetMessageClass(POOL.FindMessageTypeByName("google.protobuf.FieldOptions"))

    def behaviors(field: FieldDescriptor) -> Any:
        return options.FromString(field.GetOptions().SerializeToString()).Extensions[extension]

    return tuple(field for field in descriptor.fields if behavior in behaviors(field))


def is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def squash(name: str) -> str:
    """Equal for every spelling of one name: ``workerPoolSpecs``, ``worker_pool_specs``, ``worker-pool-specs``."""
    return name.lower().replace("_", "").replace("-", "").replace(" ", "")


@cache
def _by_squashed(descriptor: Descriptor) -> dict[str, FieldDescriptor]:
    return {squash(field.name): field for field in descriptor.fields}


def nearest_field(descriptor: Descriptor, name: str, *, cutoff: float = 0.6) -> FieldDescriptor | None:
    """The field that an unknown name most likely means; ``cutoff`` says how like it must be, up to 1."""
    known = _by_squashed(descriptor)
    close = get_close_matches(squash(name[:100]), known, n=1, cutoff=cutoff)
    return known[close[0]] if close else None


def nearest_name(name: str, known: list[str]) -> str | None:
    """The nearest of some upper-case names (``nvidia-tesla-t4`` is near ``NVIDIA_TESLA_T4``)."""
    squashed = {squash(candidate): candidate for candidate in known}
    close = get_close_matches(squash(name[:100]), squashed, n=1, cutoff=0.5)
    return squashed[close[0]] if close else None


@cache
def places() -> dict[str, tuple[str, ...]]:
    """Squashed field name to the paths where a CustomJob has such a field."""
    found: dict[str, list[str]] = {}
    for path, field in _walk(descriptor_of(CustomJob), ""):
        found.setdefault(squash(field.name), []).append(path)
    return {name: tuple(paths) for name, paths in found.items()}


def _walk(descriptor: Descriptor, path: str) -> Iterator[tuple[str, FieldDescriptor]]:
    for field in descriptor.fields:
        below = f"{path}.{field.name}".lstrip(".")
        yield below, field
        if field.message_type is not None and field.message_type.file.name == "custom_job.proto" and not is_map(field):
            yield from _walk(field.message_type, f"{below}[]" if field.is_repeated else below)
