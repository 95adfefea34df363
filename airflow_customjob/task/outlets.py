"""What the assets among a task's ``outlets`` are told of the job that made them: the ``extra`` of their events.

================  ============================================================================================
key               value
================  ============================================================================================
``custom_job``    the job's resource name, ``projects/PROJECT/locations/REGION/customJobs/ID``
``display_name``  its display name
``state``         ``JOB_STATE_SUCCEEDED``; ``JOB_STATE_RUNNING`` where the task did not wait for the job
``backend``       where it ran: ``docker``
``model_dir``     its AIP_MODEL_DIR; not there without ``baseOutputDirectory``
``model_files``   what is in it now: the names of the first 20 files, where this machine can list them
``model_count``   how many there are, up to 10,000
``model_bytes``   and their bytes
``metrics_file``  :data:`METRICS` in that directory, where this job has written it and this machine can read it
``metrics``       what it holds: a JSON object of at most 16 KB
================  ============================================================================================

The same is the XCom :data:`~airflow_customjob.task.xcoms.OUTPUT` of the task.
"""

from __future__ import annotations

import json
import logging
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_customjob.plan.environment import directory_variables
from airflow_customjob.supervisor.result import resource_name
from airflow_customjob.written import Written, directory_here, model_of

if TYPE_CHECKING:
    from airflow_customjob.job import Job

log = logging.getLogger(__name__)

METRICS = "metrics.json"
"""Name of the file, in AIP_MODEL_DIR, by which a program tells how good its model is."""
MAX_METRICS = 16 * 1024
"""Bytes: Airflow keeps an event's extra in its database."""


def output_of(job: Job) -> dict[str, Any]:
    """The table above, of one job."""
    spec = job.record.request.job
    base = spec["jobSpec"].get("baseOutputDirectory", {}).get("outputUriPrefix", "")
    model_dir = directory_variables(base, job.record.request.options.trial_id).get("AIP_MODEL_DIR", "")
    told = {
        "custom_job": resource_name(job.record),
        "display_name": spec["displayName"],
        "state": job.state.name,
        "backend": job.backend["name"],
    }
    if model_dir:
        told["model_dir"] = model_dir
        if job.state.succeeded:
            told |= _listed(model_of(job.record, job.backend))
            here = directory_here(model_dir, job.backend)
            if here is not None and not here.is_symlink():
                told |= _metrics(here / METRICS, job.record.create_time)
    return told


def tell_assets(context: Mapping[str, Any], outlets: Sequence[Any], told: Mapping[str, Any]) -> None:
    """Give it to the event of each asset; what the task's own hooks have said stays beside it."""
    from airflow.sdk import Asset

    for outlet in outlets:
        if isinstance(outlet, Asset):  # an alias has events only for the assets that a task names itself
            context["outlet_events"][outlet].extra.update(told)


def _listed(model: Written | None) -> dict[str, Any]:
    if model is None:
        return {}
    return {"model_files": list(model.names), "model_count": model.count, "model_bytes": model.size}


def _metrics(file: Path, since: float) -> dict[str, Any]:
    """A file that is older than the job is another job's. Whatever else lies there, a replica has made: a link leads to what is
    not its own, and a pipe would be waited for."""
    try:
        with open(os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as opened:
            seen = os.fstat(opened.fileno())
            if not stat.S_ISREG(seen.st_mode):
                raise ValueError("it is no file")
            if seen.st_mtime < since:
                return {}
            metrics = json.loads(opened.read(MAX_METRICS)) if seen.st_size <= MAX_METRICS else None
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        log.warning("%s is passed over: %s", file, error)
        return {}
    if not isinstance(metrics, dict):
        log.warning("%s is passed over: it is no JSON object of at most %s bytes", file, MAX_METRICS)
        return {}
    return {"metrics_file": str(file), "metrics": metrics}
