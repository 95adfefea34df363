"""Single values of a spec: each type's strict reading, and what to write instead where it is not met."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from numbers import Integral
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.timestamp_pb2 import Timestamp

from airflow_customjob.spec.schema import nearest_name

TEMPLATE = re.compile(r"\{\{|\{%|\$\{")
_DURATION = re.compile(r"-?\d+(\.\d{1,9})?s")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_HUMAN = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?|d|days?|w|weeks?)(?![a-z])")
_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_MAX_DURATION = 315_576_000_000
"""Seconds; google.protobuf.Duration ends there."""


class Unreadable(ValueError):
    """A value is not of its field's type.

    :param rule: id of the rule that it breaks.
    """

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(message)
        self.rule = rule


def kind(value: object) -> str:
    """What a value is, in the words of JSON."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "text"
        case dict():
            return "a mapping"
        case list():
            return "a list"
        case _:
            return f"a Python {type(value).__name__}"


def _refuse_template(value: object, wanted: str) -> None:
    if isinstance(value, str) and TEMPLATE.search(value):
        raise Unreadable("unexpanded", f"a template that was not expanded stands where {wanted} belongs")


def text(field: FieldDescriptor, value: object) -> str:
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise Unreadable("text", "this text has half a surrogate pair and cannot be UTF-8") from None
        return str(value)
    if isinstance(value, bool):
        raise Unreadable("text", f'{kind(value)}, where text belongs: write "{str(value).lower()}" in quotes')
    if isinstance(value, (int, float)):
        raise Unreadable("text", f"{kind(value)}, where text belongs: put it in quotes")
    raise Unreadable("text", f"{kind(value)}, where text belongs")


def integer(field: FieldDescriptor, value: object) -> int:
    bits = 64 if field.cpp_type == FieldDescriptor.CPPTYPE_INT64 else 32
    _refuse_template(value, "an integer")
    if isinstance(value, bool) or not isinstance(value, (Integral, float, str)):
        raise Unreadable("integer", f"{kind(value)}, where an integer belongs")
    if isinstance(value, str) and not re.fullmatch(r"-?[0-9]{1,20}", value):
        raise Unreadable("integer", "this text is not an integer")
    if isinstance(value, float) and not (math.isfinite(value) and value.is_integer()):
        raise Unreadable("integer", "an integer belongs here, without a fraction")
    number = int(value)
    if not -(2 ** (bits - 1)) <= number < 2 ** (bits - 1):
        raise Unreadable("integer", f"out of range: the field has {bits} bits")
    return number


def boolean(field: FieldDescriptor, value: object) -> bool:
    _refuse_template(value, "true or false")
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in (
        "true",
        "false",
        "yes",
        "no",
        "on",
        "off",
        "1",
        "0",
        "y",
        "n",
    ):
        meant = "true" if value.strip().lower() in ("true", "yes", "on", "1", "y") else "false"
        raise Unreadable("boolean", f"text, where a boolean belongs: write {meant} without quotes")
    raise Unreadable("boolean", f"{kind(value)}, where true or false belongs")


def enum(field: FieldDescriptor, value: object) -> int:
    _refuse_template(value, "a name of an enumeration")
    known: Any = field.enum_type
    numbers: dict[str, int] = {item.name: item.number for item in known.values}
    if isinstance(value, str):
        if value in numbers:
            return numbers[value]
        near = nearest_name(value, list(numbers))
        hint = f"did you mean {near}?" if near else f"known are {', '.join(numbers)}"
        raise Unreadable("enum", f"unknown name of {known.name}: {hint}")
    if isinstance(value, bool) or not isinstance(value, (Integral, float)):
        raise Unreadable("enum", f"{kind(value)}, where a name of {known.name} belongs")
    if value not in numbers.values():
        raise Unreadable("enum", f"unknown number of {known.name}: write the name")
    return int(value)


def duration(field: FieldDescriptor, value: object) -> str:
    _refuse_template(value, "a duration")
    if (
        isinstance(value, dict) and value and value.keys() <= {"seconds", "nanos"}
    ):  # how proto-plus constructors take it
        seconds, nanos = value.get("seconds") or 0, value.get("nanos") or 0
        if (
            all(isinstance(part, int) and not isinstance(part, bool) for part in (seconds, nanos))
            and 0 <= nanos < 10**9
        ):
            value = f"{seconds}.{nanos:09d}s" if seconds >= 0 else str(value)
    if isinstance(value, str) and _DURATION.fullmatch(value):
        if abs(float(value[:-1])) > _MAX_DURATION:
            raise Unreadable("duration", "longer than 10,000 years")
        return value
    meant = _meant_seconds(value)
    hint = (
        f'write "{meant:.9f}'.rstrip("0").rstrip(".") + 's"' if meant is not None else 'seconds with an s, as "3600s"'
    )
    raise Unreadable("duration", f"not a duration: {hint}")


def _meant_seconds(value: object) -> float | None:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= _MAX_DURATION:
        return value
    if not isinstance(value, str) or len(value) > 100:
        return None
    plain = value.strip().lower()
    if _NUMBER.fullmatch(plain):
        return min(float(plain), _MAX_DURATION)
    parts = _HUMAN.findall(plain)
    if not parts or _HUMAN.sub("", plain).strip(" ,"):
        return None
    total = sum(float(number) * _UNITS["ms" if unit == "ms" else unit[0]] for number, unit in parts)
    return min(total, _MAX_DURATION)


def timestamp(field: FieldDescriptor, value: object) -> str:
    _refuse_template(value, "a time")
    if isinstance(value, str):
        try:
            Timestamp().FromJsonString(value)
        except (ValueError, OverflowError):
            pass
        else:
            return value
    raise Unreadable("timestamp", 'not a time: write "2026-01-31T12:00:00Z"')


def packed(field: FieldDescriptor, value: object) -> object:
    """A google.protobuf.Any: what it holds only protobuf's own parser knows."""
    if isinstance(value, dict):
        return value
    raise Unreadable("mapping", f"{kind(value)}, where a mapping with @type belongs")


Reader = Callable[[FieldDescriptor, object], Any]

SCALARS: dict[int, Reader] = {
    FieldDescriptor.CPPTYPE_STRING: text,
    FieldDescriptor.CPPTYPE_INT32: integer,
    FieldDescriptor.CPPTYPE_INT64: integer,
    FieldDescriptor.CPPTYPE_BOOL: boolean,
    FieldDescriptor.CPPTYPE_ENUM: enum,
}

WELL_KNOWN: dict[str, Reader] = {
    "google.protobuf.Any": packed,
    "google.protobuf.Duration": duration,
    "google.protobuf.Timestamp": timestamp,
}
