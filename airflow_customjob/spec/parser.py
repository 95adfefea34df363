"""A plain dict to a CustomJob: lenient about the dialects people write, strict about everything else.

The walk follows the proto's descriptors and never stops at a problem: what cannot be read is left out and reported with
its path, and the rest is read on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.json_format import ParseDict, ParseError

from airflow_customjob.spec.message import POOL, CustomJob, CustomJobSpec
from airflow_customjob.spec.problem import HIDDEN, Problem, Severity, SpecError, errors, shown
from airflow_customjob.spec.scalars import SCALARS, TEMPLATE, WELL_KNOWN, Unreadable, duration, kind
from airflow_customjob.spec.schema import descriptor_of, is_map, nearest_field, places, squash
from airflow_customjob.spec.source import plain

DISPLAY_NAME = "custom-job"
"""Given to a bare CustomJobSpec, which has none."""

OTHER_KINDS: dict[str, tuple[frozenset[str], str]] = {
    "HyperparameterTuningJob": (
        frozenset({"studyspec", "trialjobspec"}),
        "its trialJobSpec is a CustomJobSpec: submit that, once for each trial",
    ),
    "TrainingPipeline": (
        frozenset({"trainingtaskdefinition", "trainingtaskinputs"}),
        "its trainingTaskInputs hold the fields of a CustomJobSpec: submit those",
    ),
    "PipelineJob": (frozenset({"pipelinespec", "runtimeconfig"}), "submit its custom jobs one by one"),
    "Kubernetes object": (frozenset({"apiversion"}), "a CustomJob has displayName and jobSpec"),
}
"""What is mistaken for a CustomJob: squashed field names that tell it, and what to do."""

_SENSITIVE = ("PASS", "SECRET", "TOKEN", "KEY", "CREDENTIAL", "PRIVATE", "AUTH")


def parse(data: Mapping[str, Any], *, display_name: str = DISPLAY_NAME, strict: bool = False) -> CustomJob:
    """Read a CustomJob or a bare CustomJobSpec.

    :param data: what :func:`~airflow_customjob.spec.source.to_dict` gave, templates rendered.
    :param display_name: name of a bare spec's job.
    :param strict: take nothing that Vertex AI's REST API would not take.
    :raises SpecError: with every problem that was found.
    """
    reading = parse_all(plain(data), display_name=display_name, strict=strict)
    if errors(reading.problems):
        raise SpecError(reading.problems)
    return reading.job


@dataclass(frozen=True)
class Reading:
    """What could be read, and what could not.

    :param job: without everything that has an error.
    :param problems: errors and warnings, in the order of the text.
    :param lost: paths where nothing stands only because of an error.
    """

    job: CustomJob
    problems: list[Problem]
    lost: frozenset[str] = frozenset()


def parse_all(data: Mapping[Any, Any], *, display_name: str = DISPLAY_NAME, strict: bool = False) -> Reading:
    """As :func:`parse` of a plain dict, but whatever the errors."""
    walk = _Walk(strict)
    data = _unwrapped(data)
    names = {squash(key) for key in data if isinstance(key, str)}
    if other := _other_kind(names):
        message = f"this is a {other}, not a CustomJob: {OTHER_KINDS[other][1]}"
        return Reading(CustomJob(), [Problem("", message, None, "kind")])
    if _is_bare(names):
        read = {"display_name": display_name, "job_spec": walk.message(descriptor_of(CustomJobSpec), data, "job_spec")}
    else:
        read = walk.message(descriptor_of(CustomJob), data, "")
    job = CustomJob()
    try:
        ParseDict(read, job, descriptor_pool=POOL)
    except ParseError as error:  # error.details of a type that nobody here knows
        walk.problem("", str(error), None, "json")
    return Reading(job, walk.problems, frozenset(walk.lost) | {problem.path for problem in errors(walk.problems)})


def _unwrapped(data: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """The job in a CreateCustomJobRequest."""
    inner = data.get("custom_job") or data.get("customJob")
    return inner if isinstance(inner, dict) and data.keys() <= {"parent", "custom_job", "customJob"} else data


def _other_kind(names: set[str]) -> str | None:
    if names & {"jobspec", "workerpoolspecs"}:
        return None
    return next((other for other, (marks, _) in OTHER_KINDS.items() if names & marks), None)


def _is_bare(names: set[str]) -> bool:
    def likeness(message: type[CustomJob | CustomJobSpec]) -> tuple[int, int]:
        descriptor = descriptor_of(message)
        exact = names & {squash(field.name) for field in descriptor.fields}
        return len(exact), sum(nearest_field(descriptor, name) is not None for name in names)

    return likeness(CustomJobSpec) > likeness(CustomJob)


class _Walk:
    """One reading of one spec."""

    def __init__(self, strict: bool) -> None:
        self.strict = strict
        self.problems: list[Problem] = []
        self.lost: list[str] = []
        self._hidden = False

    def problem(self, path: str, message: str, value: object, rule: str, severity: Severity = "error") -> None:
        value = HIDDEN if self._hidden and value is not None else shown(value)
        self.problems.append(Problem(path, message, value, rule, severity))

    def message(self, descriptor: Descriptor, value: object, path: str) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            self._not_a_mapping(descriptor, value, path)
            return {}
        hidden, self._hidden = self._hidden, self._hidden or _is_secret(descriptor, value)
        read: dict[str, Any] = {}
        for key, item in value.items():
            field = _field(descriptor, key)
            if field is None:
                self._unknown(descriptor, key, item, path)
                continue
            below = f"{path}.{field.name}".lstrip(".")
            if field.name in read:
                self.problem(
                    below, f"given twice, as {field.name} and as {field.json_name}: keep one", item, "duplicate-key"
                )
            elif item is not None:
                read[field.name] = self._any(field, item, below)
        self._check_oneofs(descriptor, read, path)
        self._hidden = hidden
        return {name: item for name, item in read.items() if item is not None}

    def _any(self, field: FieldDescriptor, value: object, path: str) -> Any:
        if is_map(field):
            return self._map(field, value, path)
        if field.is_repeated:
            return self._list(field, value, path)
        return self._one(field, value, path)

    def _one(self, field: FieldDescriptor, value: object, path: str) -> Any:
        """A single value; None where it cannot be read."""
        if field.message_type is not None and field.message_type.full_name not in WELL_KNOWN:
            return self.message(field.message_type, value, path)
        reader = WELL_KNOWN[field.message_type.full_name] if field.message_type else SCALARS[field.cpp_type]
        if self.strict and reader is duration and isinstance(value, Mapping):
            return self.problem(path, "a mapping, where text belongs", value, "duration")
        try:
            return reader(field, value)
        except Unreadable as error:
            return self.problem(path, str(error), value, error.rule)

    def _list(self, field: FieldDescriptor, value: object, path: str) -> list[Any]:
        if not isinstance(value, list):
            wrappable = isinstance(value, Mapping) if field.message_type else not isinstance(value, Mapping)
            if self.strict or not wrappable:
                self.problem(path, f"{kind(value)}, where a list belongs", value, "list")
                return []
            if field.name == "env" and isinstance(value, Mapping) and not value.keys() <= {"name", "value"}:
                hint = 'write [{"name": "A", "value": "b"}, ...]'
                self.problem(path, f"a mapping of variables, where a list belongs: {hint}", None, "list")
                return []
            self.problem(path, f"{kind(value)}, where a list belongs; read as a list of one", value, "list", "warning")
            value = [value]
        # What cannot be read keeps its place, so that the paths of the others stay right.
        blank: Any = {} if field.message_type else ""
        read = [self._element(field, item, f"{path}[{index}]") for index, item in enumerate(value)]
        return [blank if item is None else item for item in read]

    def _element(self, field: FieldDescriptor, value: object, path: str) -> Any:
        if value is None:
            return self.problem(path, "null in a list: leave it out", None, "null-element")
        return self._one(field, value, path)

    def _map(self, field: FieldDescriptor, value: object, path: str) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            self.problem(path, f"{kind(value)}, where a mapping belongs", value, "mapping")
            return {}
        read: dict[str, Any] = {}
        entry: FieldDescriptor = cast("Descriptor", field.message_type).fields_by_name["value"]
        for key, item in value.items():
            below = f"{path}[{shown(key)}]"
            if not isinstance(key, str):
                self.problem(below, f"{kind(key)} as a key: put it in quotes", key, "key")
            elif item is None:
                self.problem(below, "null in a mapping: leave it out", None, "null-element")
            elif (text := self._one(entry, item, below)) is not None and self._one(entry, key, below) is not None:
                read[key] = text
        return read

    def _not_a_mapping(self, descriptor: Descriptor, value: object, path: str) -> None:
        hint, rule = "", "mapping"
        if isinstance(value, str):
            if TEMPLATE.search(value):
                hint, rule = "; it is a template that was not expanded", "unexpanded"
            elif main := _MAIN_FIELD.get(descriptor.name):
                hint = f': write {{"{main}": "{shown(value)}"}}'
        self.problem(path, f"{kind(value)}, where a {descriptor.name} (a mapping) belongs{hint}", value, rule)

    def _unknown(self, descriptor: Descriptor, key: object, value: object, path: str) -> None:
        below = f"{path}.{shown(key)}".lstrip(".")
        if not isinstance(key, str):
            self.problem(below, f"field names are text, this one is {kind(key)}", key, "key")
            return
        if surely := nearest_field(descriptor, key, cutoff=0.8):
            self.lost.append(f"{path}.{surely.name}".lstrip("."))
        self.problem(below, f"unknown field{_suggestion(descriptor, key)}", value, "unknown-field")

    def _check_oneofs(self, descriptor: Descriptor, read: dict[str, Any], path: str) -> None:
        for oneof in descriptor.oneofs:
            given = [field.name for field in oneof.fields if read.get(field.name) is not None]
            for extra in given[1:]:
                both = " and ".join(given)
                self.problem(f"{path}.{extra}", f"{both} are both given, and a pool runs one of them", None, "oneof")
                del read[extra]


_MAIN_FIELD = {
    "GcsDestination": "outputUriPrefix",
    "EncryptionSpec": "kmsKeyName",
    "MachineSpec": "machineType",
    "ContainerSpec": "imageUri",
    "DiskSpec": "bootDiskType",
    "ReservationAffinity": "reservationAffinityType",
}
"""What is meant where text stands in place of the whole message."""


def _field(descriptor: Descriptor, key: object) -> FieldDescriptor | None:
    if not isinstance(key, str):
        return None
    return descriptor.fields_by_name.get(key) or descriptor.fields_by_camelcase_name.get(key)


def _suggestion(descriptor: Descriptor, key: str) -> str:
    def spelled(path: str) -> str:
        return path if "_" in key else _camel(path)

    squashed = squash(key)
    near = nearest_field(descriptor, key)
    if near is not None and squash(near.name) == squashed:
        return f": did you mean {spelled(near.name)}?"
    if elsewhere := places().get(squashed):
        return f": it belongs into {' or '.join(spelled(path) for path in elsewhere)}"
    return f": did you mean {spelled(near.name)}?" if near is not None else ""


def _camel(path: str) -> str:
    head, *rest = path.split("_")
    return head + "".join(word[:1].upper() + word[1:] for word in rest)


def _is_secret(descriptor: Descriptor, value: Mapping[Any, Any]) -> bool:
    name = value.get("name")
    return descriptor.name == "EnvVar" and isinstance(name, str) and any(word in name.upper() for word in _SENSITIVE)
