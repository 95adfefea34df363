"""Databases for Airflow on the PostgreSQL of ``dev/engines``, each a copy of one that was migrated once."""

from __future__ import annotations

import os
import subprocess
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from itertools import count
from typing import Any
from urllib.parse import urlsplit

from tests.engines import exports

_numbers = count(1)


@contextmanager
def airflow_database() -> Iterator[str]:
    """SQLAlchemy's URL of an empty database of Airflow's; it is gone afterwards."""
    import psycopg

    server = exports()["CUSTOMJOB_POSTGRES"]
    template, name = _template_name(), f"airflow_{os.getpid()}_{next(_numbers)}"
    with psycopg.connect(server, autocommit=True) as session:
        session.execute("select pg_advisory_lock(1)")  # of other test sessions
        if not session.execute("select 1 from pg_database where datname = %s", [template]).fetchone():
            _migrate(session, server, template)
        session.execute(f"create database {name} template {template}")
    try:
        yield _url(server, name)
    finally:
        with psycopg.connect(server, autocommit=True) as session:
            session.execute(f"drop database {name} with (force)")


def _migrate(session: Any, server: str, template: str) -> None:
    """Under another name until it is complete."""
    session.execute(f"drop database if exists {template}_new with (force)")
    session.execute(f"create database {template}_new")
    environ = os.environ | {"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": _url(server, f"{template}_new")}
    command = [sys.executable, "-m", "airflow", "db", "migrate"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stdout + done.stderr
    session.execute(f"alter database {template}_new rename to {template}")


def _template_name() -> str:
    """Of the migrations that are installed."""
    return f"airflow_{zlib.crc32(version('apache-airflow-core').encode()):08x}"


def _url(server: str, name: str) -> str:
    given = urlsplit(server)
    return given._replace(scheme="postgresql+psycopg", path=f"/{name}").geturl()
