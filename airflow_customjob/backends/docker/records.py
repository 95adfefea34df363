"""A job's record: a revision is a create-once volume whose labels hold the data. The volume itself stays empty."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from airflow_customjob.backends.base import RecordConflict, StoredRecord
from airflow_customjob.backends.docker.api import Api, of_job
from airflow_customjob.backends.docker.labels import KIND_RECORD, PREFIX, RECORD, record_name
from airflow_customjob.backends.docker.revisions import Revision, Revisions, latest
from airflow_customjob.plan.types import JobId


class Records:
    """The records on a daemon."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._known: dict[JobId, Revision] = {}
        """The last revision that was read or written here: a write upon it need not look for it first."""

    async def read(self, job_id: JobId) -> StoredRecord | None:
        revision = await self._latest(job_id)
        return None if revision is None else stored(job_id, revision)

    async def write(self, job_id: JobId, data: str, if_version: int, labels: Mapping[str, str]) -> int:
        previous = await self._previous(job_id, if_version)
        shown = {f"{PREFIX}{name}": value for name, value in labels.items()}
        try:
            written = await self._sequence(job_id).append(previous, {**shown, RECORD: data})
        except RecordConflict:
            self._known.pop(job_id, None)
            raise
        self._known[job_id] = written
        return written.number

    async def delete(self, job_id: JobId, if_version: int) -> None:
        previous = await self._previous(job_id, if_version)
        self._known.pop(job_id, None)
        if previous is None:
            raise _changed(job_id, if_version)
        await self._sequence(job_id).delete(previous)

    async def _previous(self, job_id: JobId, if_version: int) -> Revision | None:
        known = self._known.get(job_id)
        if known is not None and known.number == if_version:
            return known
        revision = await self._latest(job_id)
        if (revision.number if revision else 0) != if_version:
            raise _changed(job_id, if_version)
        return revision

    async def _latest(self, job_id: JobId) -> Revision | None:
        """None: there is no record, or its deletion was begun; a deletion that broke off is brought to its end."""
        sequence = self._sequence(job_id)
        found = await sequence.read()
        revision = max(found, key=lambda revision: revision.number, default=None)
        if revision is not None and revision.deleted:
            await sequence.bury(revision, found)
            revision = None
        if revision is None:
            self._known.pop(job_id, None)
        else:
            self._known[job_id] = revision
        return revision

    def _sequence(self, job_id: JobId) -> Revisions:
        labels = {key: value for key, value in of_job(job_id, KIND_RECORD).items() if value is not None}
        return Revisions(self._api, record_name(job_id), labels)


def stored(job_id: JobId, revision: Revision) -> StoredRecord:
    return StoredRecord(job_id, revision.number, revision.labels.get(RECORD, ""))


def record_among(job_id: JobId, volumes: Iterable[Mapping[str, Any]]) -> StoredRecord | None:
    """The record that these volumes of one job hold."""
    revision = latest(volumes)
    return None if revision is None or revision.deleted else stored(job_id, revision)


def _changed(job_id: JobId, if_version: int) -> RecordConflict:
    return RecordConflict(f"the record of job {job_id} is not at version {if_version}: read it again")
