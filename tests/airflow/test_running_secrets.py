"""A password of a package index and a secret variable in a running Airflow: used, and kept nowhere but where Airflow encrypts them."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.airflow.running import RunningAirflow
from tests.backends.test_docker_packages import PASSWORD, named, private_index, wheel

pytestmark = [pytest.mark.airflow, pytest.mark.docker, pytest.mark.slow, pytest.mark.timeout(600)]

TOKEN = "staple-of-tokens"
CODE = """
import os, sys, time
time.sleep(8)
print(f"the token has {len(os.environ['TOKEN'])} characters and is {os.environ['TOKEN']}.", flush=True)
sys.exit(int(sys.argv[1]))
"""


@pytest.mark.parametrize(
    ("dag_id", "code"), [("packaged_sync", "3"), ("packaged_deferred", "0"), ("packaged_deferred", "3")]
)
def test_no_secret_is_kept_in_xcoms_logs_or_anything_else_of_airflow(
    airflow: RunningAirflow, dag_id: str, code: str, tmp_path: Path
) -> None:
    """The last words of a replica that fails are its job's error: in the record, in XComs, in the exception."""
    path = wheel(tmp_path, named(), CODE, requires="secretdep")
    with private_index(tmp_path) as (address, authority), secrets_of(airflow, address):
        module = f"{path.name.partition('-')[0]}.task"
        run = airflow.run(dag_id, package=str(path), module=module, code=code, authority=str(authority))
        ended = run.wait_until("success", "failed", seconds=240)
        log = "\n".join(run.log())
        kept = airflow.keeps()
    assert ended["state"] == ("failed" if int(code) else "success"), log
    assert f"the token has {len(TOKEN)} characters and is ***." in log
    for known in (address, path.name, "characters and is ***."):
        assert known in kept, "what is searched is all there is"
    assert any(line.startswith("xcom: ") and "secretdep==0.1" in line for line in kept.splitlines())
    for secret in (PASSWORD, base64.b64encode(f"trainer:{PASSWORD}".encode()).decode(), TOKEN):
        assert [line[:300] for line in kept.splitlines() if secret in line] == []


@contextmanager
def secrets_of(airflow: RunningAirflow, address: str) -> Iterator[None]:
    """As an admin makes them in the UI."""
    connection = {
        "connection_id": "company",
        "conn_type": "http",
        "host": f"https://{address}",
        "login": "trainer",
        "password": PASSWORD,
    }
    airflow.call("POST", "/connections", connection)
    airflow.call("POST", "/variables", {"key": "training_token", "value": TOKEN})
    try:
        yield
    finally:
        airflow.call("DELETE", "/connections/company")
        airflow.call("DELETE", "/variables/training_token")
