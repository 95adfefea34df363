"""What Airflow's providers manager asks of every provider: its parts and its configuration options."""

from __future__ import annotations

from typing import Any

from airflow_customjob import __version__

_INTEGRATION = "Custom Job"

OPTIONS: dict[str, dict[str, Any]] = {
    "default_backend": {
        "description": "Where a job runs when its operator or command names no backend: process, docker or kubernetes.",
        "version_added": "0.1.0",
        "type": "string",
        "example": "docker",
        "default": "process",
    },
    "installation_id": {
        "description": "Part of every job's identity, so that several Airflows may share one engine. Empty means one that is "
        "made once and kept in Airflow's Variable `customjob_installation_id`.",
        "version_added": "0.1.0",
        "type": "string",
        "example": "team-a",
        "default": "",
    },
    "record_ttl": {
        "description": "Seconds that the record of an ended job is kept on its engine, so that a late retry finds the "
        "ending instead of running the job again.",
        "version_added": "0.1.0",
        "type": "float",
        "example": "86400",
        "default": "604800",
    },
    "packages_ttl": {
        "description": "Seconds that a fetched Python package is kept on a machine after its last use, until `customjob gc` "
        "removes it.",
        "version_added": "0.1.0",
        "type": "float",
        "example": "86400",
        "default": "2592000",
    },
    "installations_ttl": {
        "description": "Seconds that installed Python packages (an image on Docker, a virtual environment for processes) are "
        "kept after the last job that used them, until `customjob gc` removes them.",
        "version_added": "0.1.0",
        "type": "float",
        "example": "604800",
        "default": "2592000",
    },
    "installations_count": {
        "description": "How many of them `customjob gc` keeps at most, the last used ones.",
        "version_added": "0.1.0",
        "type": "integer",
        "example": "10",
        "default": "50",
    },
    "process_dir": {
        "description": "Folder where the process backend keeps the state, logs and environments of its jobs. Empty "
        "means airflow-customjob/processes in the user's state directory.",
        "version_added": "0.1.0",
        "type": "string",
        "example": "/var/lib/airflow/customjob",
        "default": "",
    },
    "tab": {
        "description": "Pages on which Airflow's UI has the tab Custom Job: task_instance, dag_run, both, or empty for none. "
        "Airflow offers a tab on the pages of all DAGs or of none.",
        "version_added": "0.1.0",
        "type": "string",
        "example": "task_instance",
        "default": "task_instance,dag_run",
    },
}


def get_provider_info() -> dict[str, Any]:
    """Describe this provider in the form of Airflow's ``provider_info.schema.json``."""
    return {
        "package-name": "airflow-customjob",
        "name": _INTEGRATION,
        "description": "Vertex AI's CustomJob on one's own machines.",
        "versions": [__version__],
        "integrations": [
            {
                "integration-name": _INTEGRATION,
                "external-doc-url": "https://cloud.google.com/vertex-ai/docs/training/create-custom-job",
                "tags": ["software"],
            }
        ],
        "operators": [
            {
                "integration-name": _INTEGRATION,
                "python-modules": [f"airflow_customjob.operators.{module}" for module in ("custom_job", "group")],
            }
        ],
        "sensors": [{"integration-name": _INTEGRATION, "python-modules": ["airflow_customjob.sensors.custom_job"]}],
        "triggers": [
            {
                "integration-name": _INTEGRATION,
                "python-modules": [
                    f"airflow_customjob.triggers.{module}" for module in ("custom_job", "row", "sensor")
                ],
            }
        ],
        "extra-links": [
            f"airflow_customjob.links.{link}" for link in ("CustomJobLink", "PrimaryLogLink", "OutputLink")
        ],
        "plugins": [{"name": "customjob", "plugin-class": "airflow_customjob.plugin.CustomJobPlugin"}],
        "cli": ["airflow_customjob.cli.in_airflow.get_commands"],
        "config": {"customjob": {"description": "Where and how custom jobs run.", "options": OPTIONS}},
    }
