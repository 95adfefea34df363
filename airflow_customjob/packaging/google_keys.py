"""Credentials of an Airflow connection to Google Cloud, read from the connection itself: no provider need be installed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from airflow_customjob.packaging.package import PackageError
from airflow_customjob.settings import ASKING

SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_PREFIX = "extra__google_cloud_platform__"
_NOT_HERE = ("key_secret_name", "credential_config_file", "impersonation_chain", "idp_issuer_url", "is_anonymous")
"""Fields of such a connection that the Google provider alone can follow."""


def credentials_of(conn_id: str) -> Any:
    """google-auth credentials; None where the connection leaves it to the application default.

    :raises PackageError: there is no such connection, or it holds no key that can be read.
    """
    from google.auth.exceptions import GoogleAuthError
    from google.oauth2.credentials import Credentials
    from google.oauth2.service_account import Credentials as ServiceAccount

    kinds: dict[str, Any] = {
        "service_account": ServiceAccount.from_service_account_info,
        "authorized_user": Credentials.from_authorized_user_info,
    }
    key = key_of(conn_id)
    if key is None:
        return None
    try:
        return kinds[key["type"]](key, scopes=[SCOPE])
    except (GoogleAuthError, KeyError, ValueError) as error:
        raise PackageError(
            f"the connection {conn_id} holds no key that Google knows ({type(error).__name__})"
        ) from None


def key_of(conn_id: str) -> dict[str, Any] | None:
    """The content of its key file; None where it names none.

    :raises PackageError: there is no such connection, or its key cannot be read; names no value.
    """
    try:
        with ASKING:
            from airflow.sdk import Connection

            extra: Mapping[str, Any] = Connection.get(conn_id).extra_dejson
    except Exception as error:  # noqa: BLE001 - whatever it is: its text may hold the key
        raise PackageError(f"the connection {conn_id} cannot be read here ({type(error).__name__})") from None
    given = {name.removeprefix(_PREFIX): value for name, value in extra.items() if value}
    if unknown := [name for name in _NOT_HERE if name in given]:
        raise PackageError(f"the connection {conn_id} has {', '.join(unknown)}: give it keyfile_dict or key_path")
    try:
        if keyfile := given.get("keyfile_dict"):
            return dict(keyfile if isinstance(keyfile, Mapping) else json.loads(keyfile))
        if path := given.get("key_path"):
            return dict(json.loads(Path(path).read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise PackageError(f"the key of the connection {conn_id} cannot be read ({type(error).__name__})") from None
    return None
