"""Replicas as Pods of a Kubernetes cluster."""

from airflow_customjob.backends.kubernetes.backend import KubernetesBackend

__all__ = ["KubernetesBackend"]
