"""Compare-and-set out of what a Docker daemon has: named volumes, which are created once.

Of two creators of a volume the second is given the first one's labels, so a volume with a number in its name decides who
writes that revision. Three things more are needed:

* A number can be free again: its volume was pruned after a later revision. So a writer lists after it has created, and
  any later revision that was not built upon its own means that it came too late.
* Somebody may have built upon a revision, and pruned it, before its writer lists. So every revision names the ones before
  it by their nonces (:data:`labels.CHAIN`), and a writer that finds its own nonce there has won.
* A deletion is a revision too, or a stalled writer could write after it; it takes everything with it, itself last.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from airflow_customjob.backends.base import RecordConflict
from airflow_customjob.backends.docker.api import Api
from airflow_customjob.backends.docker.labels import CHAIN, DELETED, JOB, NONCE, NUMBER

REMEMBERED = 32
"""Revisions that a revision names: writers that are slower than so many others read again, though they had won."""


@dataclass(frozen=True)
class Revision:
    """One volume of a sequence.

    :param number: from 1.
    :param labels: all of them.
    :param created_at: seconds since the epoch.
    """

    name: str
    number: int
    labels: Mapping[str, str]
    created_at: str = ""

    @property
    def nonce(self) -> str:
        return self.labels.get(NONCE, "")

    @property
    def chain(self) -> tuple[str, ...]:
        """Nonces of the revisions before, the latest first."""
        return tuple(self.labels.get(CHAIN, "").split())

    @property
    def deleted(self) -> bool:
        return DELETED in self.labels


def latest(volumes: Iterable[Mapping[str, Any]]) -> Revision | None:
    """The highest revision among these volumes of one sequence."""
    return max(revisions(volumes), key=lambda revision: revision.number, default=None)


def revisions(volumes: Iterable[Mapping[str, Any]]) -> list[Revision]:
    found = []
    for volume in volumes:
        labels = volume["Labels"] or {}
        if labels.get(NUMBER, "").isdigit():
            found.append(Revision(volume["Name"], int(labels[NUMBER]), labels, volume.get("CreatedAt", "")))
    return found


@dataclass(frozen=True)
class Revisions:
    """The revisions of one thing.

    :param name: of its volumes, before ``-<number>``.
    :param labels: that all of its volumes have, and no other volume.
    """

    api: Api
    name: str
    labels: Mapping[str, str]

    async def read(self) -> list[Revision]:
        return revisions(await self.api.volumes(dict(self.labels)))

    async def append(self, previous: Revision | None, labels: Mapping[str, str]) -> Revision:
        """Write the revision after ``previous``, and prune those before it.

        :raises RecordConflict: ``previous`` is not the latest.
        """
        mine = await self._claim(previous, labels)
        await self._prune(revision for revision in await self._settle(mine, previous) if revision.number < mine.number)
        return mine

    async def delete(self, previous: Revision) -> None:
        """Remove all revisions; none can be written upon ``previous`` any more.

        :raises RecordConflict: ``previous`` is not the latest.
        """
        mine = await self._claim(previous, {JOB: previous.labels.get(JOB, ""), DELETED: "1"})
        before = [revision for revision in await self._settle(mine, previous) if revision.number < mine.number]
        await self._prune(before)
        await self._prune([mine])

    async def bury(self, tombstone: Revision, found: Iterable[Revision]) -> None:
        """Finish a deletion whose author died on the way."""
        await self._prune(revision for revision in found if revision.number < tombstone.number)
        await self._prune([tombstone])

    async def _claim(self, previous: Revision | None, labels: Mapping[str, str]) -> Revision:
        number = previous.number + 1 if previous else 1
        chain = (previous.nonce, *previous.chain)[:REMEMBERED] if previous else ()
        own = {**labels, **self.labels, NUMBER: str(number), NONCE: secrets.token_hex(6), CHAIN: " ".join(chain)}
        mine = Revision(f"{self.name}-{number}", number, own)
        got = await self.api.create_volume(mine.name, own)
        if got.get(NONCE) != mine.nonce:
            raise RecordConflict(f"{mine.name} was written by somebody else: read it again")
        return mine

    async def _settle(self, mine: Revision, previous: Revision | None) -> list[Revision]:
        """All revisions, now that ours is one of them.

        :raises RecordConflict: ours came too late; it is removed again.
        """
        found = await self.read()
        top = max(found, key=lambda revision: revision.number, default=mine)
        before = [revision for revision in found if revision.number < mine.number]
        if top.number > mine.number:
            ours = mine.nonce in top.chain
        elif previous is None:
            ours = not before
        else:
            ours = any(revision.nonce == previous.nonce for revision in before)
        if ours:
            return found
        await self._prune([mine])
        raise RecordConflict(f"{self.name} has changed since it was read: read it again")

    async def _prune(self, gone: Iterable[Revision]) -> None:
        await asyncio.gather(*(self.api.remove_volume(revision.name) for revision in gone))
