"""Anything a user may call a CustomJob to a plain Python dict, its leaves untouched: what Jinja then renders.

Plain means: dicts, lists, and leaves. Enums become their names, durations and times JSON's text for them, protobuf and
proto-plus messages the JSON of what they hold, wherever they stand. A leaf that is no JSON is left for the parser to
refuse.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import Any, cast

from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from airflow_customjob.spec.problem import Problem, SpecError, shown
from airflow_customjob.spec.scalars import kind
from airflow_customjob.spec.text import MAX_TEXT, read_text

MAX_DEPTH = 64
MAX_NODES = 1_000_000

_KINDS = {"CustomJob", "CustomJobSpec", "CreateCustomJobRequest"}
_PATH_LIKE = re.compile(r"[^\n{}]*\.(?:ya?ml|json)", re.IGNORECASE)


def to_dict(source: object, *, base: Path | None = None) -> dict[str, Any]:
    """A plain dict of whatever is given, before templates are rendered.

    :param source: a mapping; YAML or JSON text; the path of a YAML or JSON file (``Path`` or text); this package's
        CustomJob; a CustomJob or CustomJobSpec of google-cloud-aiplatform (protobuf, proto-plus, the SDK's own).
    :param base: directory that a relative path starts from, by default the current one.
    :raises SpecError: no mapping can be read from it.
    """
    data, problems = read(source, base=base)
    if problems:
        raise SpecError(problems)
    return data


def read(source: object, *, base: Path | None = None) -> tuple[dict[str, Any], list[Problem]]:
    """As :func:`to_dict`, but what does not hinder reading on (duplicate keys) comes beside the dict."""
    problems: list[Problem] = []
    given = source
    if isinstance(source, bytes):
        source = _decode(source, "the text")
    if isinstance(source, Path) or (isinstance(source, str) and _is_path(source)):
        source = _read_file(Path(source), base)
    if isinstance(source, str):
        source, problems = read_text(source)
    message = as_message(source)
    if message is not None and message.DESCRIPTOR.name not in _KINDS:
        name = message.DESCRIPTOR.full_name
        raise SpecError([Problem("", f"this is a {name}, not a CustomJob or CustomJobSpec", None, "kind")])
    return plain(source, "the text names no file, and" if isinstance(given, str) else "this"), problems


def plain(value: object, what: str = "this") -> dict[str, Any]:
    """A mapping with all that it holds as dicts, lists and leaves.

    :raises SpecError: not a mapping, or one without a sensible end.
    """
    data = _Plain().convert(value, 0)
    if not isinstance(data, dict):
        it = "nothing is given" if data is None else f"{what} is {kind(data)}"
        raise SpecError([Problem("", f"a CustomJob is a mapping; {it}", shown(data), "kind")])
    return data


def as_message(source: object) -> Message | None:
    """The protobuf message in a protobuf message, a proto-plus message or an SDK job; None: it is none of these."""
    if isinstance(source, Message):
        return source
    inner = getattr(source, "_gca_resource", source)  # aiplatform.CustomJob, before and after it is submitted
    pb = getattr(type(inner), "pb", None)
    if isinstance(source, type) or pb is None or not hasattr(type(inner), "meta"):
        return None
    found: object = pb(inner)
    return found if isinstance(found, Message) else None


class _Plain:
    """One conversion; counts what it has seen, since YAML aliases can make a small text endless."""

    def __init__(self) -> None:
        self.nodes = 0

    def convert(self, value: Any, depth: int) -> Any:
        self.nodes += 1
        if depth > MAX_DEPTH or self.nodes > MAX_NODES:
            message = f"the spec is nested deeper than {MAX_DEPTH} levels or holds more than {MAX_NODES:,} values"
            raise SpecError([Problem("", message, None, "size")])
        if isinstance(value, Enum):
            return value.name if isinstance(value, int) else value.value
        if value is None or isinstance(value, (str, int, float, bytes)):
            return value
        if isinstance(value, timedelta):
            return seconds_text(value)
        if isinstance(value, datetime):
            utc = value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
            return utc.isoformat().replace("+00:00", "Z")
        if isinstance(value, date):
            return value.isoformat()
        if (found := as_message(value)) is not None:
            return self.convert(_message_to_dict(found), depth + 1)
        if isinstance(value, Mapping):
            return {key: self.convert(item, depth + 1) for key, item in value.items()}
        if isinstance(value, Sequence):
            return [self.convert(item, depth + 1) for item in value]
        return value


def _message_to_dict(message: Message) -> Any:
    try:
        return MessageToDict(message, descriptor_pool=cast("DescriptorPool", message.DESCRIPTOR.file.pool))
    except (TypeError, ValueError) as error:  # error.details of a type that this process does not know
        raise SpecError([Problem("", f"this message has no JSON form: {error}", None, "kind")]) from None


def seconds_text(duration: timedelta) -> str:
    """JSON's text for a Duration: ``3.5s``."""
    micros = duration // timedelta(microseconds=1)
    whole, fraction = divmod(abs(micros), 1_000_000)
    text = f"{whole}.{fraction:06d}".rstrip("0").rstrip(".")
    return f"{'-' if micros < 0 else ''}{text}s"


def _is_path(text: str) -> bool:
    """Text of one line that ends like a spec's file name, or names a file that is there."""
    if not text.strip() or "\n" in text or text.lstrip().startswith("{"):
        return False
    if _PATH_LIKE.fullmatch(text.strip()) and ": " not in text:
        return True
    try:
        return Path(text).is_file()
    except (OSError, ValueError):
        return False


def _read_file(path: Path, base: Path | None) -> str:
    full = (base or Path()) / path
    try:
        with full.open("rb") as file:
            return _decode(file.read(4 * MAX_TEXT + 1), str(path))
    except (OSError, ValueError) as error:
        if isinstance(error, SpecError):
            raise
        reason = getattr(error, "strerror", None) or str(error)
        raise SpecError([Problem("", f"the spec's file cannot be read: {reason}", shown(str(full)), "file")]) from None


def _decode(data: bytes, what: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SpecError(
            [Problem("", f"{what} is not UTF-8: {error.reason} at byte {error.start}", None, "syntax")]
        ) from None
