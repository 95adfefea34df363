"""What a package is here: bytes of one hash under one name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


class PackageError(Exception):
    """A package cannot be had.

    :param message: which one, why, and what to do; without the credentials that its URI may hold.
    :param passing: it may be there another time: a server did not answer.
    :param each: of several, by its place in the list.
    """

    def __init__(self, message: str, *, passing: bool = False, each: Sequence[tuple[int, PackageError]] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.passing = passing
        self.each = tuple(each)


class Unchanged(Exception):
    """What is asked for has the version that is known: its bytes need not come again."""


@dataclass(frozen=True)
class Fetched:
    """A package on this machine.

    :param uri: as the spec names it, without user, password and query.
    :param filename: its own name, which pip reads the project and version from.
    :param path: where its bytes are; never changed once there.
    :param sha256: of its bytes, in hexadecimal.
    :param size: in bytes.
    """

    uri: str
    filename: str
    path: Path
    sha256: str
    size: int


def os_words(error: OSError) -> str:
    """Why, without the names that the error's own text may quote."""
    if error.errno and error.errno > 0:
        return os.strerror(error.errno)
    return error.strerror or type(error).__name__
