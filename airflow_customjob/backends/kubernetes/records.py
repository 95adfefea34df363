"""A job's record: one ConfigMap, which owns everything else that the job has on the cluster."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from airflow_customjob.backends.base import EngineError, RecordConflict, StoredRecord
from airflow_customjob.backends.kubernetes import names
from airflow_customjob.backends.kubernetes.api import Api, ApiError, Conflict, Missing
from airflow_customjob.plan.types import JobId

DATA, VERSION = "record", "version"
"""Keys of the ConfigMap's data."""
MAX_BYTES = 1_000_000
"""Of a record; a ConfigMap takes 1 MiB."""


def stored(config_map: dict[str, Any]) -> StoredRecord | None:
    """None: it is no record."""
    labels, data = config_map["metadata"].get("labels") or {}, config_map.get("data") or {}
    try:
        return StoredRecord(JobId(labels[names.JOB]), int(data[VERSION]), data[DATA])
    except (KeyError, ValueError):
        return None


class Records:
    """The versions of a record count up from when it was created, in microseconds: one that was deleted and created anew
    never has a version that somebody remembers. The ConfigMap's own resourceVersion is what is compared on the cluster;
    it is opaque, and no number.
    """

    def __init__(self, api: Api) -> None:
        self._api = api

    async def read(self, job_id: JobId) -> StoredRecord | None:
        found = await self.config_map(job_id)
        return None if found is None else stored(found)

    async def config_map(self, job_id: JobId) -> dict[str, Any] | None:
        try:
            return await self._api.get("configmaps", names.object_name(job_id))
        except Missing:
            return None

    async def write(self, job_id: JobId, data: str, if_version: int, labels: Mapping[str, str]) -> int:
        """:raises RecordConflict: the record is not at ``if_version``."""
        if len(data.encode()) > MAX_BYTES:
            raise EngineError(
                f"the record of job {job_id} has more than {MAX_BYTES:,} bytes: a ConfigMap takes no more"
            )
        version = if_version + 1 if if_version else time.time_ns() // 1000
        body = _body(job_id, data, version, labels)
        try:
            if not if_version:
                await self._api.create("configmaps", body)
                return version
            found = await self._at(job_id, if_version)
            body["metadata"]["resourceVersion"] = found["metadata"]["resourceVersion"]
            body["metadata"]["uid"] = found["metadata"]["uid"]
            if not labels:
                for key in ("labels", "annotations"):
                    body["metadata"][key] = found["metadata"].get(key, {}) | body["metadata"][key]
            await self._api.replace("configmaps", names.object_name(job_id), body)
        except (Conflict, Missing) as error:
            raise _conflict(job_id, if_version, error) from error
        return version

    async def delete(self, job_id: JobId, if_version: int) -> None:
        """:raises RecordConflict: the record is not at ``if_version``."""
        found = await self._at(job_id, if_version)
        preconditions = {key: found["metadata"][key] for key in ("uid", "resourceVersion")}
        body = {"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": preconditions}
        try:
            await self._api.call("DELETE", self._api.path("configmaps", names.object_name(job_id)), body=body)
        except (Conflict, Missing) as error:
            raise _conflict(job_id, if_version, error) from error

    async def _at(self, job_id: JobId, version: int) -> dict[str, Any]:
        found = await self.config_map(job_id)
        record = found and stored(found)
        if not found or not record or record.version != version:
            raise _conflict(job_id, version)
        return found


def _body(job_id: JobId, data: str, version: int, labels: Mapping[str, str]) -> dict[str, Any]:
    known = names.job_labels(job_id, names.RECORD)
    annotations = {}
    if "state" in labels:
        known[names.STATE] = labels["state"]
    if "display-name" in labels:
        annotations[names.DISPLAY_NAME] = labels["display-name"]
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": names.object_name(job_id), "labels": known, "annotations": annotations},
        "data": {DATA: data, VERSION: str(version)},
    }


def _conflict(job_id: JobId, version: int, error: ApiError | None = None) -> RecordConflict:
    why = f": {error.said}" if error is not None else ""
    return RecordConflict(f"the record of job {job_id} is not at version {version} any more{why}")
