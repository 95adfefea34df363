"""Which image a tag means now. A tag that has moved is another executor image, into which packages are installed anew."""

from __future__ import annotations

import asyncio
import re
import ssl
from typing import TYPE_CHECKING

from airflow_customjob.backends.base import Say
from airflow_customjob.backends.indexes import load_authorities
from airflow_customjob.backends.secrets import look_up
from airflow_customjob.packaging.append_layer import INDEXES, MANIFESTS, Image, Refusal, Registry

if TYPE_CHECKING:
    from airflow_customjob.backends.kubernetes.backend import KubernetesBackend

PATIENCE = 3.0
"""Seconds that a registry has for its answer: it may be one that only the cluster reaches."""


async def pinned(image: str, backend: KubernetesBackend, say: Say) -> str:
    """The image with the digest that its tag has now; its name alone where the registry does not tell us.

    :raises LaunchRefused: ``registry_conn_id`` names no connection, or ``ca_bundle`` no file.
    """
    if "@" in image:
        return image
    try:
        return f"{image}@{await asyncio.to_thread(_digest, Image(image), backend)}"
    except Refusal as why:
        say(f"whether the tag of {image} has moved is not known here, so it is taken not to have: {why}")
        return image


def _digest(image: Image, backend: KubernetesBackend) -> str:
    """:raises Refusal: the registry does not tell."""
    context = ssl.create_default_context()
    if backend.ca_bundle:
        load_authorities(context, backend.ca_bundle)
    registry = Registry(
        image.host,
        _login(image.host, backend.registry_conn_id),
        bool(backend.registry_plain_http and (backend.registry or "").partition("/")[0] == image.host),
        context,
        tries=1,
        patience=PATIENCE,
        login_from="registry_conn_id",
    )
    path, scope = f"/v2/{image.repository}/manifests/{image.reference}", f"repository:{image.repository}:pull"
    answer = registry.call("HEAD", path, scope, Accept=", ".join((*INDEXES, *MANIFESTS)))
    answer.body.close()
    digest: str = answer.headers.get("Docker-Content-Digest") or ""
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        raise Refusal(f"the registry {image.host} names no digest")
    return digest


def _login(host: str, conn_id: str | None) -> str:
    """``user:password``; empty: none, or one of another registry."""
    if not conn_id:
        return ""
    where, reference = "registry_conn_id", f"connection:{conn_id}"
    if re.sub(r"^https?://", "", look_up(where, f"{reference}/host")).partition("/")[0] != host:
        return ""
    return f"{look_up(where, f'{reference}/login')}:{look_up(where, reference)}"
