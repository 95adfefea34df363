"""What installations leave on a Docker host, and what of it goes: images that nobody has used for long, and what somebody who
died while one was made has left."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from typing import Any

from airflow_customjob.backends.base import Retention
from airflow_customjob.backends.docker.api import Api, Conflicting, Missing
from airflow_customjob.backends.docker.builders import REPOSITORY
from airflow_customjob.backends.docker.images import find
from airflow_customjob.backends.docker.labels import KIND, KIND_BUILD, UNTIL, seconds


async def prune(api: Api, retention: Retention, in_use: Collection[str], now: float, *, dry_run: bool) -> list[str]:
    """See :meth:`airflow_customjob.backends.base.KeepsInstallations.prune`."""
    removed = []
    for container in await api.containers({KIND: KIND_BUILD}):
        if _is_over(container, now):
            removed.append(f"builder {container['Names'][0].lstrip('/')}")
            if not dry_run:
                await api.remove_container(container["Id"])
    for volume in await api.volumes({KIND: KIND_BUILD}):
        if _is_over(volume, now):
            removed.append(f"mark {volume['Name']}")
            if not dry_run:
                await api.remove_volume(volume["Name"])
    tags = retention.beyond(await _used(api, in_use), now)
    return removed + [f"image {tag}" for tag in tags if dry_run or await _remove_image(api, tag)]


def _is_over(thing: dict[str, Any], now: float) -> bool:
    return now > float(thing["Labels"].get(UNTIL, "inf"))


async def _used(api: Api, in_use: Collection[str]) -> dict[str, float]:
    """Built images that no job has in use, by name, and when they were last named: each job that finds one names it again."""
    params = {"filters": f'{{"reference": ["{REPOSITORY}"]}}'}
    used = {}
    for image in await api.call("GET", "images/json", what="list images", params=params):
        for tag in image["RepoTags"] or ():
            found = await find(api, tag) if image["Id"] not in in_use else None
            if found is not None and found["Config"]["Labels"].get(KIND) == KIND_BUILD:
                named = seconds((found.get("Metadata") or {}).get("LastTagTime") or "")
                used[tag] = named or seconds(found["Created"]) or 0.0
    return used


async def _remove_image(api: Api, tag: str) -> bool:
    """False: a container is made of it."""
    with suppress(Missing, Conflicting):
        await api.call("DELETE", f"images/{tag}", what=f"remove the image {tag}", params={"noprune": "1"})
        return True
    return False
