"""Many calls for one job, some of them at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from airflow_customjob.backends.base import EngineBusy, EngineError, LaunchRefused

AT_ONCE = 32
"""Calls that are under way at once for one job."""

T = TypeVar("T")


async def each(items: Sequence[T], do: Callable[[T], Awaitable[None]]) -> None:
    """For all of them, some at once. The rest is not begun after an error; of several, a refusal counts most."""
    errors: list[BaseException] = []
    queue = iter(items)

    async def worker() -> None:
        for item in queue:
            if errors:
                return
            try:
                await do(item)
            except EngineError as error:
                errors.append(error)

    await asyncio.gather(*(worker() for _ in range(min(AT_ONCE, len(items)))))
    for error in sorted(errors, key=_weight):
        raise error


def _weight(error: BaseException) -> int:
    return next((weight for weight, kind in enumerate((LaunchRefused, EngineBusy)) if isinstance(error, kind)), 2)
