"""Questions to Airflow from an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_one_at_a_time = threading.Lock()
"""``dag.test()`` answers from the same process, and loses its way when two threads ask at once."""


async def ask_airflow(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call what blocks until Airflow has answered."""

    def ask() -> T:
        with _one_at_a_time:
            return call(*args, **kwargs)

    return await asyncio.to_thread(ask)
