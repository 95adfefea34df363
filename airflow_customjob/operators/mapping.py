"""``.partial().expand()``: Airflow stores what is mapped over in the serialized DAG, so it must be plain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from airflow.sdk.definitions.mappedoperator import MappedOperator, OperatorPartial

from airflow_customjob.operators.rendering import is_plain, is_reference

_PLAIN = ("custom_job", "backend")


class CustomJobPartial(OperatorPartial):
    """As Airflow's own; refuses to map over what a serialized DAG cannot hold."""

    def expand(self, **mapped_kwargs: Any) -> MappedOperator:
        for name in _PLAIN:
            _check(name, mapped_kwargs.get(name))
        return super().expand(**mapped_kwargs)

    def expand_kwargs(self, kwargs: Any, *, strict: bool = True) -> MappedOperator:
        for item in kwargs if isinstance(kwargs, Sequence) else ():
            for name in _PLAIN if isinstance(item, Mapping) else ():
                _check(name, [item.get(name)])
        return super().expand_kwargs(kwargs, strict=strict)


def _check(name: str, values: Any) -> None:
    """:raises TypeError: one of them is no dict, text or None."""
    if values is None or is_reference(values):
        return
    for index, value in enumerate(values):
        if not is_plain(value):
            raise TypeError(
                f"expand({name}=...): element {index} is a {type(value).__module__}.{type(value).__qualname__}, which a "
                f"serialized DAG cannot hold: map over dicts or text (of a message: `MessageToDict`, of a proto-plus "
                f"message: `type(job).to_dict(job)`, of a backend: `backend.serialize()`)"
            )


def partial_of(partial: OperatorPartial) -> CustomJobPartial:
    """The same, with the checks above."""
    partial._expand_called = True  # this one is never expanded: Airflow would warn of that
    return CustomJobPartial(operator_class=partial.operator_class, kwargs=partial.kwargs, params=partial.params)
