"""Questions to Airflow from an event loop."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from airflow_customjob.settings import ASKING

P = ParamSpec("P")
T = TypeVar("T")

_thread = ThreadPoolExecutor(1, thread_name_prefix="customjob asks")
"""One, since Airflow answers one question at a time; and not the event loop's own threads, which Airflow logs with: where they all
waited for answers, its call of ``on_kill`` was cancelled before it had begun (3.3.2)."""


async def ask_airflow(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call what blocks until Airflow has answered; who came first is answered first."""

    def ask() -> T:
        with ASKING:
            return call(*args, **kwargs)

    context = contextvars.copy_context()
    return await asyncio.get_running_loop().run_in_executor(_thread, partial(context.run, ask))
