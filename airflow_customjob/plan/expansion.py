"""``$(VAR)`` references, by the rule that custom_job.proto and Kubernetes share."""

from __future__ import annotations

import re
from collections.abc import Mapping

_REFERENCE = re.compile(r"\$(?:\$|\(([^)]*)\))")


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Replace each ``$(NAME)`` that is known; one that is not stays as it is, and ``$$`` is one dollar sign.

    ``$NAME`` and ``${NAME}`` are the shell's and are left to it.
    """

    def one(match: re.Match[str]) -> str:
        name = match.group(1)
        if name is None:
            return "$"
        return variables.get(name, match.group(0))

    return _REFERENCE.sub(one, text)
