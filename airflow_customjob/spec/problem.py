"""What is wrong with a spec, as data: a list of problems, never only the first."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

Severity = Literal["error", "warning"]

HIDDEN = "***"

_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = 120


def shown(value: object) -> Any:
    """A value as it may be printed and put into JSON: short scalars as they are, all else as short text.

    Of lists and mappings only the outline: a secret may be somewhere in them.
    """
    if value is None or isinstance(value, bool) or (type(value) is str and len(value) <= 120 and _encodable(value)):
        return value
    if (type(value) is int and abs(value) < 2**63) or (type(value) is float and math.isfinite(value)):
        return value
    if isinstance(value, list):
        return f"[{len(value)} element{'' if len(value) == 1 else 's'}]"
    if isinstance(value, dict):
        keys = [str(shown(key)) for key in list(value)[:6]]
        return "{" + ", ".join(keys + ["..."] * (len(value) > 6)) + "}"
    try:
        return _repr.repr(value).encode("utf-8", "backslashreplace").decode()
    except Exception:  # noqa: BLE001 - a foreign object's __repr__ may do anything, and an int of 5,000 digits has none
        return f"<{type(value).__name__}>"


def _encodable(value: str) -> bool:
    return value.isascii() or not any("\ud800" <= char <= "\udfff" for char in value)


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a spec.

    :param path: field path in proto names (``job_spec.worker_pool_specs[1].container_spec.args[2]``); empty: the whole.
    :param message: what is wrong and what to write instead.
    :param value: the offending value, shortened; None where something is missing.
    :param rule: id of the rule, stable across versions.
    :param severity: ``error``: the job is refused; ``warning``: it runs, but perhaps not as meant.
    """

    path: str
    message: str
    value: Any
    rule: str
    severity: Severity = "error"

    def __str__(self) -> str:
        got = "" if self.value is None else f" (got {self.value!r})"
        return f"{self.severity}: {self.path or 'spec'}: {self.message}{got} [{self.rule}]"


class SpecError(ValueError):
    """A spec is refused.

    :param problems: all that is wrong with it, errors first.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems: tuple[Problem, ...] = tuple(sorted(problems, key=lambda problem: problem.severity != "error"))
        count = len(errors(self.problems))
        lines = "".join(f"\n  {problem}" for problem in self.problems)
        super().__init__(f"the spec has {count} error{'' if count == 1 else 's'}:{lines}")

    def __reduce__(self) -> tuple[type[SpecError], tuple[tuple[Problem, ...]]]:
        return type(self), (self.problems,)


def errors(problems: Iterable[Problem]) -> list[Problem]:
    """The problems for which a spec is refused."""
    return [problem for problem in problems if problem.severity == "error"]
