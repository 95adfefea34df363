"""Where the values of ``secret_env``, and indexes with a password, come from. A reference may be written anywhere; the value is
asked for when a replica is created, or a package installed, on the machine that does so, and goes nowhere else.

========================  ==========================================================
reference                 value
========================  ==========================================================
``env:NAME``              variable of the process that launches
``file:/path``            content of a file there, without the newline at its end
``variable:KEY``          Airflow Variable
``connection:ID``         password of an Airflow Connection
``connection:ID/FIELD``   its host, login, schema or port, or a field of its extra
========================  ==========================================================
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

from airflow_customjob.backends.base import LaunchRefused
from airflow_customjob.plan.types import JobOptions
from airflow_customjob.settings import ASKING

Redact = Callable[[str], str]
SHORTEST = 5
"""Characters of a value that is hidden, as Airflow's own masking has it: hiding a shorter one would spoil the log, and hide little."""


def resolve(secret_env: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The values, by the variable's name. May block: it reads files and asks Airflow.

    :param secret_env: pairs of name and reference.
    :raises LaunchRefused: a reference leads nowhere; names the reference and never a value.
    """
    return {name: look_up(f"secret_env: {name}", reference) for name, reference in secret_env}


def google_key(reference: str | None) -> str | None:
    """The key file's content that ``google_credentials`` means; None: replicas get none. May block, as :func:`resolve`.

    :param reference: path of a key file, or id of an Airflow connection.
    :raises LaunchRefused: it leads to no key; names the reference and never what is there.
    """
    if reference is None:
        return None
    from airflow_customjob.packaging import PackageError
    from airflow_customjob.packaging.google_keys import key_of

    try:
        key = json.loads(Path(reference).read_text()) if os.path.isabs(reference) else key_of(reference)
        if not isinstance(key, dict) or "type" not in key:
            raise ValueError("no key")
    except PackageError as error:
        raise LaunchRefused(f"google_credentials: {error.message}") from None
    except Exception as error:  # noqa: BLE001 - whatever it is: its text may hold the key
        why = _NOT_THERE.get(type(error), "it is no key file of Google Cloud")
        raise LaunchRefused(f"google_credentials: {reference} cannot be given to replicas ({why})") from None
    with ASKING:
        for value in _private(key):
            _mask(value)
    return json.dumps(key)


def _private(key: dict[str, object]) -> list[str]:
    """What is secret of a key file."""
    return [str(key[name]) for name in ("private_key", "client_secret", "refresh_token") if name in key]


async def redactor(options: JobOptions) -> Redact:
    """Shows ``***`` in the place of what replicas were given in secret and print all the same, in their logs or as the last words
    of one that fails, which are in its job's record. What cannot be looked up here cannot be told from other text.
    """

    def values() -> Iterator[str]:
        for name, reference in options.secret_env:
            with suppress(LaunchRefused):
                yield look_up(name, reference)
        with suppress(LaunchRefused):
            yield from _private(json.loads(google_key(options.google_credentials) or "{}"))

    if not (options.secret_env or options.google_credentials):
        return str
    return hiding(await asyncio.to_thread(lambda: list(values())))


def hiding(values: Iterable[str]) -> Redact:
    """Of each value, also as JSON or Python spell it, and of each line of it: replicas' output comes line by line."""
    spelled = {form for value in values for form in (value, json.dumps(value)[1:-1], repr(value)[1:-1])}
    parts = {part for form in spelled for part in (form, *form.splitlines()) if len(part) >= SHORTEST}
    if not parts:
        return str
    longest_first = sorted(parts, key=len, reverse=True)
    return partial(re.compile("|".join(map(re.escape, longest_first))).sub, "***")


def _mask(value: str) -> None:
    """Where Airflow keeps the log, it shows ``***`` in its place, should a replica print it."""
    if "airflow.sdk" in sys.modules:
        from airflow.sdk.log import mask_secret

        mask_secret(value)


_NOT_THERE = {
    KeyError: "it is not set",
    FileNotFoundError: "there is no such file",
    PermissionError: "the file may not be read",
}
"""Kinds of errors in words that a user knows; of any other its name is told."""


def look_up(where: str, reference: str) -> str:
    """One value. May block.

    :param where: what refers to it, for people.
    :raises LaunchRefused: as :func:`resolve`.
    """
    kind, _, rest = reference.partition(":")
    try:
        with ASKING:
            value = KINDS[kind](rest)
            _mask(value)
    except Exception as error:  # noqa: BLE001 - whatever it is: its text may hold the value
        why = _NOT_THERE.get(type(error), type(error).__name__)
        raise LaunchRefused(f"{where} refers to {reference}, which cannot be read here ({why})") from None
    if "\0" in value:  # an engine would refuse it, and quote it
        raise LaunchRefused(f"{where} refers to {reference}, which holds a NUL character: no variable can")
    return value


def _variable(key: str) -> str:
    from airflow.sdk import Variable

    return str(Variable.get(key))


def _connection(rest: str) -> str:
    from airflow.sdk import Connection

    conn_id, _, field = rest.partition("/")
    connection = Connection.get(conn_id)
    if not field:
        value = connection.password
    elif field in ("host", "login", "schema", "port", "password"):
        value = getattr(connection, field)
    else:
        value = connection.extra_dejson[field]
    if value is None:
        raise KeyError(field or "password")
    return str(value)


KINDS: dict[str, Callable[[str], str]] = {
    "env": lambda name: os.environ[name],
    "file": lambda path: Path(path).read_text().removesuffix("\n"),
    "variable": _variable,
    "connection": _connection,
}
