"""How packages are installed, and the key of the result. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Protocol

RECIPE = "1"
"""Changes whenever the same packages would be installed differently."""


class Named(Protocol):
    """What of a package decides what is installed."""

    @property
    def filename(self) -> str: ...

    @property
    def sha256(self) -> str: ...


def content_key(base: str, packages: Iterable[Named], *, recipe: str = RECIPE) -> str:
    """sha256 of all that decides what an installation holds; the packages' order is part of it.

    :param base: what they are installed into: the digest of the executor image, or an interpreter's identity.
    """
    parts = [recipe, base, [[package.filename, package.sha256] for package in packages]]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def install_commands(
    filename: str, pip: tuple[str, ...] = ("pip3", "install", "--user")
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Vertex AI's two passes: this very build, whatever is there already; then what it depends on.

    Each package is installed whole before the next one (the executor's run_module.py, seen in its own log).
    """
    return (*pip, "--upgrade", "--force-reinstall", "--no-deps", filename), (*pip, filename)
