"""Replicas as processes of this host, without isolation: for trying things out and for testing DAGs."""

from airflow_customjob.backends.process.backend import ProcessBackend

__all__ = ["ProcessBackend"]
