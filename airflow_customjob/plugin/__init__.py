"""The Airflow plugin: Airflow alone imports this module, in every component, by its entry point."""

from __future__ import annotations

from airflow.plugins_manager import AirflowPlugin

__all__ = ["CustomJobPlugin"]


class CustomJobPlugin(AirflowPlugin):
    """What this package adds to Airflow beside operators and triggers."""

    name = "customjob"
