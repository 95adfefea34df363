"""Watching of a job in the triggerer, while a sensor is deferred."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent


class CustomJobSensorTrigger(BaseTrigger):
    """
    Watches a job in the triggerer, and drives one that nobody waits for. It never cancels anything: it has no ``on_kill``.

    :param watched: :meth:`~airflow_customjob.task.watching.Watched.to_json`.
    :param me: where the sensor is, for the positions of the log lines that it was told.
    :param poll_interval: seconds between two looks.
    """

    def __init__(self, watched: Mapping[str, Any], me: Mapping[str, str], poll_interval: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.watched = dict(watched)
        self.me = dict(me)
        self.poll_interval = poll_interval

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return (
            f"{__name__}.{type(self).__name__}",
            {"watched": self.watched, "me": self.me, "poll_interval": self.poll_interval},
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Until there is a verdict."""
        from airflow_customjob.task.watching import JobWatch, Watched
        from airflow_customjob.task.xcoms import positions_kept

        async with positions_kept(self.me) as positions:
            watch = JobWatch(
                Watched.from_json(self.watched),
                say=lambda text: self.log.info("%s", text),
                sink=lambda line: self.log.info("%s", line.prefixed),
                positions=positions,
            )
            outcome = await watch.until_decided(self.poll_interval)
        yield TriggerEvent(outcome.to_json())  # type: ignore[no-untyped-call]
