"""Questions to Airflow from an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from airflow_customjob.settings import ASKING

P = ParamSpec("P")
T = TypeVar("T")


async def ask_airflow(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call what blocks until Airflow has answered."""

    def ask() -> T:
        with ASKING:
            return call(*args, **kwargs)

    return await asyncio.to_thread(ask)
