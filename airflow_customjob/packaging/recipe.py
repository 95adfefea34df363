"""What is installed into what, the key of the result, and the same as a Dockerfile for people. Pure."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from collections.abc import Iterable, Sequence
from typing import Protocol
from urllib.parse import unquote, urlsplit

from airflow_customjob.packaging.install import USER_BASE, install_commands

RECIPE = "2"
"""Changes whenever the same packages would be installed differently."""


class Named(Protocol):
    """What of a package decides what is installed."""

    @property
    def filename(self) -> str: ...

    @property
    def sha256(self) -> str: ...


def content_key(
    base: str, packages: Iterable[Named], *, platform: str = "", options: Sequence[str] = (), recipe: str = RECIPE
) -> str:
    """sha256 of all that decides what an installation holds; the packages' order is part of it.

    :param base: what they are installed into: the digest of the executor image, or an interpreter's identity.
    :param platform: ``linux/amd64``, where the base's name is that of several.
    :param options: what else the installer is told: indexes, in the form that the user wrote, and requirements.
    """
    named = [[package.filename, package.sha256] for package in packages]
    parts = [recipe, base, platform, named, list(options)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def filename_of(uri: str) -> str:
    """What a package is called that has not been fetched yet."""
    return os.path.basename(unquote(urlsplit(uri).path) if "://" in uri else uri)


def dockerfile(image: str, uris: Sequence[str], indexes: Sequence[str] = ()) -> str:
    """What a build does, in a form that people review and may build by hand beside the packages."""
    names = [filename_of(uri) for uri in uris]
    lines = [f"FROM {image}", f"ENV PYTHONUSERBASE={USER_BASE}"]
    if indexes:
        lines.append(
            f"# Packages are looked for in {', '.join(indexes)}; where uv is there, it takes the place of pip3."
        )
    for number, name in enumerate(names):
        folder = f"/tmp/customjob/{number}"  # noqa: S108 - in the image
        commands = [shlex.join(command) for command in install_commands(name)]
        lines.append(f"COPY {json.dumps([name, f'{folder}/'])}")
        lines.append(" && \\\n    ".join([f"RUN cd {folder}", *commands]))
    return "\n".join(lines) + "\n"
