"""How much its replicas use over the whole life of a job, in one XCom of at most 64 KB. Pure.

Two samples of the same moment would tell nothing new, so what grows is the time between them: when there is no more room, every
second sample goes. A value is a level between nothing and the job's peak; only the latest ones are exact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from airflow_customjob.backends.base import Usage

EVERY = 10.0
"""Seconds between two samples, at least."""
LEVELS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_"
ABSENT = "."
MAX_SAMPLES = 120
ROOM = 12_000
"""Samples of all replicas together; what remains of 64 KB is for their names."""
MIB = 2**20

Sample = dict[str, tuple[float, float]]
"""CPUs and MiB by replica."""


class UsageHistory:
    """Samples of one generation of a job."""

    def __init__(self, generation: int) -> None:
        self.generation = generation
        self._samples: list[tuple[float, Sample]] = []
        self._spacing = 0.0

    def add(self, usages: Sequence[Usage]) -> None:
        """A sample of all running replicas: the latest takes the place of the one before while there is enough of those."""
        mine = [usage for usage in usages if usage.ref.generation == self.generation]
        if not mine:
            return
        at = max(usage.at for usage in mine)
        if len(self._samples) > 1 and at - self._samples[-2][0] < self._spacing:
            self._samples.pop()
        self._samples.append((at, {u.ref.replica: (u.cpus, u.memory_bytes / MIB) for u in mine}))
        self._thin_out()

    def _thin_out(self) -> None:
        room = max(3, min(MAX_SAMPLES, ROOM // max(len(sample) for _, sample in self._samples)))
        while len(self._samples) > room:
            self._samples = [*self._samples[:-1:2], self._samples[-1]]
            self._spacing = (self._samples[-1][0] - self._samples[0][0]) / (len(self._samples) - 1)

    @property
    def latest_at(self) -> float:
        """Seconds since the epoch."""
        return self._samples[-1][0] if self._samples else 0.0

    def document(self, now: float) -> dict[str, Any]:
        names = list(dict.fromkeys(name for _, sample in reversed(self._samples) for name in sample))
        since = int(self._samples[0][0]) if self._samples else int(now)
        document: dict[str, Any] = {
            "generation": self.generation,
            "revision": int(now * 1000),
            "since": since,
            "after": [int(at) - since for at, _ in self._samples],
            "replica": names,
        }
        for index, key in enumerate(("cpus", "memory_mib")):
            columns = [
                [sample[name][index] if name in sample else None for _, sample in self._samples] for name in names
            ]
            peak = max((value for column in columns for value in column if value is not None), default=0.0)
            document[f"{key}_peak"] = round(peak, 2)
            document[key] = ["".join(_level(value, peak) for value in column) for column in columns]
            document[f"{key}_latest"] = [_brief(column[-1]) for column in columns]
        return document

    @classmethod
    def of_document(cls, document: Mapping[str, Any]) -> UsageHistory:
        """What another process has told, as exactly as it did."""
        history = cls(document["generation"])
        history._samples = [
            (
                float(document["since"] + after),
                {
                    name: (_value(cpus[at], document["cpus_peak"]), _value(memory[at], document["memory_mib_peak"]))
                    for name, cpus, memory in zip(
                        document["replica"], document["cpus"], document["memory_mib"], strict=True
                    )
                    if cpus[at] != ABSENT
                },
            )
            for at, after in enumerate(document["after"])
        ]
        if (count := len(history._samples)) > 1:
            history._spacing = (history._samples[-1][0] - history._samples[0][0]) / (count - 1)
        return history


def _level(value: float | None, peak: float) -> str:
    return ABSENT if value is None else LEVELS[round(value / peak * (len(LEVELS) - 1)) if peak else 0]


def _value(level: str, peak: float) -> float:
    return LEVELS.index(level) / (len(LEVELS) - 1) * peak


def _brief(value: float | None) -> float | None:
    """Three significant digits: ``0.52``, ``1230``."""
    if value is None:
        return None
    brief = float(f"{value:.3g}")
    return int(brief) if brief.is_integer() else brief
