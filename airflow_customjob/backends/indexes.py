"""Package indexes that may need a password: how they are written, and what is behind it. A backend's configuration holds the
first only."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from airflow_customjob.backends.base import LaunchRefused
from airflow_customjob.backends.secrets import KINDS, look_up

_WHOLE_CONNECTION = re.compile(r"connection:[^/]+")


@dataclass(frozen=True)
class Index:
    """:param url: without user and password.
    :param login: ``user:password``; empty: none.
    """

    url: str
    login: str = field(default="", repr=False)


def check_indexes(texts: Iterable[str]) -> None:
    """
    :raises ValueError: one is neither a URL without a password nor a reference to a secret.
    """
    for number, text in enumerate(texts):
        if is_reference(text):
            continue
        if "@" in text:
            raise ValueError(
                f"index_urls[{number}] holds a password, which would stand in every serialized DAG: put the URL into an "
                "Airflow Connection or another secret, and write connection:ID, variable:KEY, file:/path or env:NAME"
            )
        if _parts(text) is None:
            raise ValueError(
                f"index_urls[{number}] is {text!r}: expected https://..., or where a URL with a password is "
                f"found: {', '.join(f'{kind}:...' for kind in KINDS)}"
            )


def is_reference(text: str) -> bool:
    """Whether it says where a URL is found that may have a password."""
    kind, _, rest = text.partition(":")
    return kind in KINDS and bool(rest) and not rest.startswith("//")


def resolve_indexes(texts: Iterable[str]) -> list[Index]:
    """The indexes with their passwords. May block: it reads files and asks Airflow.

    :raises LaunchRefused: a reference leads nowhere, or to no URL; names the reference and never a value.
    """
    return [_index(f"index_urls[{number}]", text) for number, text in enumerate(texts)]


def read_authorities(ca_bundle: str | None) -> bytes | None:
    """:raises LaunchRefused: the file cannot be read here."""
    if ca_bundle is None:
        return None
    try:
        return Path(ca_bundle).read_bytes()
    except OSError as error:
        raise LaunchRefused(f"ca_bundle: {ca_bundle} cannot be read here: {error.strerror}") from None


def load_authorities(context: ssl.SSLContext, ca_bundle: str) -> None:
    """:raises LaunchRefused: the file holds none, or cannot be read here."""
    try:
        context.load_verify_locations(ca_bundle)
    except OSError as error:
        raise LaunchRefused(f"ca_bundle: {ca_bundle} cannot be read here: {error.strerror or error}") from None


def _index(where: str, text: str) -> Index:
    if not is_reference(text):
        return Index(text)
    if _WHOLE_CONNECTION.fullmatch(text):
        url = look_up(where, f"{text}/host")
        login = f"{look_up(where, f'{text}/login')}:{look_up(where, text)}"
        return Index(_url(where, text, url), login)
    url = look_up(where, text)
    return Index(_url(where, text, url), unquote(urlsplit(url).netloc.rpartition("@")[0]))


def _url(where: str, reference: str, url: str) -> str:
    """Without its login."""
    parts = _parts(url)
    if parts is None:
        raise LaunchRefused(
            f"{where} refers to {reference}, which holds no URL: expected https://... "
            "(of a connection, the whole URL as its host; in a login, %23 for #, %2F for / and %3F for ?)"
        )
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _parts(url: str) -> SplitResult | None:
    """None: it is no URL of a web server, or its login was cut at a letter that means something else in a URL."""
    try:
        parts = urlsplit(url)
        rest = f"{parts.path}{parts.query}{parts.fragment}"
        whole = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and "@" not in rest
    except ValueError:
        return None
    return parts if whole else None
