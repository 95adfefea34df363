"""An engine that does not do as it is asked: how long to wait before it is asked again, and how often that is told."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from airflow_customjob.backends.base import EngineError

FIRST_BACK_OFF, LAST_BACK_OFF = 0.1, 5.0
"""Seconds to wait after an engine's error; doubled at each further one."""
SAY_AGAIN = 60.0
"""Seconds after which an error that goes on is told again."""


class Trouble:
    """Waits longer after each error in a row, and tells it once a minute."""

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float]) -> None:
        self._say = say
        self._clock = clock
        self._delay = FIRST_BACK_OFF
        self._told_at = -math.inf
        self._since: float | None = None

    def lasts(self, seconds: float) -> bool:
        return self._since is not None and self._clock() - self._since >= seconds

    async def back_off(self, error: EngineError) -> None:
        self._since = self._clock() if self._since is None else self._since
        if self._clock() - self._told_at >= SAY_AGAIN:
            self._told_at = self._clock()
            self._say(f"the engine did not do as asked: {error}; trying again")
        await asyncio.sleep(self._delay)
        self._delay = min(self._delay * 2, LAST_BACK_OFF)

    def over(self) -> None:
        self._since = None
        self._delay = FIRST_BACK_OFF
        self._told_at = -math.inf
