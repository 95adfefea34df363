"""The Airflow plugin: Airflow alone imports this module, in every component, by its entry point.

It adds a tab to Airflow's pages, and nothing to its server but the tab's own files: what they show they read from Airflow's REST
API, with the rights of whoever looks at them.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from airflow.plugins_manager import AirflowPlugin

from airflow_customjob import __version__
from airflow_customjob.links import ROUTE
from airflow_customjob.settings import setting

__all__ = ["CustomJobPlugin"]

STATIC = Path(__file__).with_name("static")
PREFIX = f"/{ROUTE}/{__version__}"
"""A version has addresses of its own: no browser mixes the files of two."""
ROUTES = {"task_instance": ROUTE, "dag_run": f"{ROUTE}-run"}


async def static_files(scope: Any, receive: Any, send: Any) -> None:
    """An ASGI application; only the API server pays for its import."""
    await _files()(scope, receive, send)


@cache
def _files() -> Any:
    from starlette.staticfiles import StaticFiles

    return StaticFiles(directory=STATIC)


def react_apps(pages: str) -> list[dict[str, str]]:
    """What Airflow is told of the tab.

    :param pages: the option ``[customjob] tab``.
    :raises ValueError: it names a page that has no such tab.
    """
    chosen = [page.strip() for page in pages.split(",") if page.strip()]
    if unknown := [page for page in chosen if page not in ROUTES]:
        raise ValueError(f"[customjob] tab = {pages}: {unknown[0]!r} is none of {', '.join(ROUTES)}")
    return [
        {
            "name": "Custom Job",
            "bundle_url": f"{PREFIX.removeprefix('/')}/tab.js",
            "destination": page,
            "url_route": ROUTES[page],
        }
        for page in chosen
    ]


class CustomJobPlugin(AirflowPlugin):
    """What this package adds to Airflow beside operators and triggers."""

    name = "customjob"
    fastapi_apps = [{"app": static_files, "url_prefix": PREFIX, "name": "Custom Job"}]  # noqa: RUF012 - Airflow's own form
    react_apps = react_apps(setting("tab"))
