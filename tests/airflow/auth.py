"""Who may see what, in the tests' second API server."""

from __future__ import annotations

from typing import Any

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager


class XComsForAdmins(SimpleAuthManager):
    """As Airflow's simple one, but that a viewer may see DAGs and not their XComs, as roles of larger installations have it."""

    def is_authorized_dag(self, *, user: Any, access_entity: Any = None, **what: Any) -> bool:
        if access_entity is DagAccessEntity.XCOM and not self._is_admin(user):
            return False
        return super().is_authorized_dag(user=user, access_entity=access_entity, **what)
