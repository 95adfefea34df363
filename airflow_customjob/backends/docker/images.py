"""Images: the one that is here, or pulled; always by its id, so that every replica runs the same bytes."""

from __future__ import annotations

import asyncio
import json
import re
import time
from typing import Any

from airflow_customjob.backends.base import LaunchRefused, Say
from airflow_customjob.backends.docker.access import Login, registry_auth, registry_of
from airflow_customjob.backends.docker.api import UNREACHABLE, Api, DaemonError, Missing

BAD_REQUEST = 400
ATTEMPTS = 3
"""Of a pull that failed by what may pass."""
TELL_EVERY = 5.0
"""Seconds between two lines of progress."""
_PASSING = re.compile(
    r"timeout|timed out|reset by peer|unexpected EOF|50[0234]|temporary failure|toomanyrequests", re.IGNORECASE
)
_NAME = re.compile(r"[\w\[][\w.:\[\]-]*(?:/\w[\w.-]*)*(?::\w[\w.-]*)?(?:@[\w:+.-]+)?", re.ASCII)
"""What may be a part of the daemon's URLs; whether it is a name, the daemon says."""
_DENIED = re.compile(r"denied|unauthorized|authentication required|no basic auth", re.IGNORECASE)


async def find(api: Api, image: str) -> dict[str, Any] | None:
    """What the daemon knows of an image that it has.

    :raises LaunchRefused: it is no name of an image.
    """
    if not _NAME.fullmatch(image):
        raise LaunchRefused(_no_name(image, "invalid reference format"))
    try:
        found: dict[str, Any] = await api.call("GET", f"images/{image}/json", what=f"inspect the image {image}")
    except Missing:
        return None
    except DaemonError as error:
        if error.status == BAD_REQUEST:
            raise LaunchRefused(_no_name(image, error.words)) from error
        raise
    return found


async def have(api: Api, image: str, login: Login | None, say: Say) -> dict[str, Any]:
    """The image, pulled if it is not here.

    :raises LaunchRefused: it cannot be had.
    """
    found = await find(api, image)
    if found is not None:
        return found
    for attempt in range(1, ATTEMPTS + 1):
        try:
            await _pull(api, image, login, say)
            break
        except DaemonError as error:
            if error.status == UNREACHABLE:
                raise
            if attempt == ATTEMPTS or not _PASSING.search(error.words):
                raise LaunchRefused(_refusal(image, error.words)) from error
            say(f"pulling {image} failed ({error.words}); trying again")
            await asyncio.sleep(2.0**attempt)
    found = await find(api, image)
    if found is None:
        raise LaunchRefused(_refusal(image, "it was pulled, and is not there"))
    return found


async def _pull(api: Api, image: str, login: Login | None, say: Say) -> None:
    say(f"pulling the image {image}")
    began = told_at = time.monotonic()
    what = f"pull the image {image}"
    layers: dict[str, tuple[int, int]] = {}
    tagged = "@" in image or ":" in image.rpartition("/")[2]
    params = {"fromImage": image if tagged else f"{image}:latest"}
    headers = await registry_auth(image, login)
    async with api.stream("POST", "images/create", what=what, params=params, headers=headers) as content:
        async for line in content:
            event = json.loads(line)
            if "error" in event:
                raise DaemonError(what, 500, event["error"])
            progress = event.get("progressDetail") or {}
            if event.get("status") == "Downloading" and progress.get("total"):
                layers[event["id"]] = (progress["current"], progress["total"])
            if layers and time.monotonic() - told_at > TELL_EVERY:
                told_at = time.monotonic()
                done, total = (sum(sizes) / 1e6 for sizes in zip(*layers.values(), strict=True))
                say(f"pulling the image {image}: {done:.0f} of {total:.0f} MB in {len(layers)} layers")
    say(f"pulled the image {image} in {time.monotonic() - began:.1f} s")


def _no_name(image: str, words: str) -> str:
    return (
        f"{image!r} is no name of an image ({words}): write [REGISTRY/]REPOSITORY[:TAG], all but the tag in lower case"
    )


def _refusal(image: str, words: str) -> str:
    advice = (
        f"log in to {registry_of(image)}: docker login on this machine, or the backend's conn_id"
        if _DENIED.search(words)
        else "check its name and tag, that the Docker host reaches its registry, or replace it by image_map"
    )
    return f"the image {image} is not on this Docker host and cannot be pulled: {words}; {advice}"
