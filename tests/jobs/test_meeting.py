"""One primary and three workers in two pools with different commands: they meet, and the primary's success ends them all."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from airflow_customjob.client import CustomJobClient
from airflow_customjob.spec.job_state import JobState
from tests.engines import STALL
from tests.jobs.conftest import Place, job_of, pool

LINES = 300

_SELF = f"""
import json, os, socket, sys, time
spec = json.loads(os.environ["CLUSTER_SPEC"])
task = spec["task"]
mine = spec["cluster"][task["type"]][task["index"]]
report = {{name: os.environ[name] for name in ("RANK", "WORLD_SIZE", "CLUSTER_SPEC", "TF_CONFIG")}}
for number in range({LINES}):
    print("line", number)
"""
PRIMARY = f"""{_SELF}
def address_of(name):  # a cluster's DNS may learn a name some seconds later than the Pod has its address
    for _ in range(200):
        try:
            return socket.gethostbyname(name)
        except OSError:
            time.sleep(0.1)
host, port = mine.rsplit(":", 1)
server = socket.create_server((host, int(port)), backlog=16)
print("report", json.dumps(report), flush=True)
for _ in range(int(os.environ["WORLD_SIZE"]) - 1):
    peer, (address, _) = server.accept()
    told = json.loads(peer.makefile().readline())
    named = spec["cluster"]["workerpool1"][told["index"]].rsplit(":", 1)[0]
    assert address_of(named) == address, (named, address)
    print("met", told["index"], flush=True)
"""
WORKER = f"""{_SELF}
print("report", json.dumps(report), flush=True)
host, port = spec["cluster"]["workerpool0"][0].rsplit(":", 1)
while True:
    try:
        peer = socket.create_connection((host, int(port)), 5)
        break
    except OSError:
        time.sleep(0.1)
peer.sendall(json.dumps({{"index": task["index"]}}).encode() + b"\\n")
time.sleep(1000000)
"""

WORKERS = ("workerpool1-0", "workerpool1-1", "workerpool1-2")


def test_they_meet_by_cluster_spec_and_are_gone_with_the_primary(place: Place, figure: Callable[[str], None]) -> None:
    job, told = place.run(job_of(pool("python3", "-c", PRIMARY), pool("python3", "-c", WORKER, count=3)))
    assert job.state is JobState.JOB_STATE_SUCCEEDED, job.error
    assert place.remains(job.job_id) == []
    assert CustomJobClient(place.backend()).get(job.job_id).record == job.record, "the record is kept"

    for rank, name in enumerate(("workerpool0-0", *WORKERS)):
        lines = told.of(name)
        assert lines[:LINES] == [f"line {number}" for number in range(LINES)]
        check_environment(place, json.loads(lines[LINES].removeprefix("report ")), rank, lines[LINES])
        assert len(lines) == LINES + (1 if rank else 4)
    assert sorted(told.of("workerpool0-0")[-3:]) == ["met 0", "met 1", "met 2"]
    assert {line.prefixed for line in told.lines} >= {f"{name}: line 0" for name in WORKERS}

    took = max(map(told.finished_at, WORKERS)) - told.finished_at("workerpool0-0")
    figure(f"the last of 3 endless workers was gone {took:.2f} s after the primary's exit 0")
    assert took < STALL


def check_environment(place: Place, env: dict[str, str], rank: int, line: str) -> None:
    assert (env["RANK"], env["WORLD_SIZE"]) == (str(rank), "4")
    cluster_spec, tf_config = json.loads(env["CLUSTER_SPEC"]), json.loads(env["TF_CONFIG"])
    kind, index = ("workerpool1", rank - 1) if rank else ("workerpool0", 0)
    assert cluster_spec["task"] == {"type": kind, "index": index}
    cluster = cluster_spec["cluster"]
    assert {name: len(addresses) for name, addresses in cluster.items()} == {"workerpool0": 1, "workerpool1": 3}
    addresses = [address for name in sorted(cluster) for address in cluster[name]]
    assert len(set(addresses)) == 4
    for address, place_in in zip(addresses, ((0, 0), (1, 0), (1, 1), (1, 2)), strict=True):
        assert re.fullmatch(_address(place, *place_in), address), line
    assert (tf_config["task"]["type"], tf_config["task"]["index"]) == ("worker" if rank else "chief", index)
    assert tf_config["cluster"] == {"chief": cluster["workerpool0"], "worker": cluster["workerpool1"]}


def _address(place: Place, pool_index: int, index: int) -> str:
    if place.name == "process":
        return r"127\.0\.0\.1:\d+"
    return rf"cmle-training-workerpool{pool_index}-[0-9a-f]{{10}}-{index}:2222"


@pytest.mark.parametrize("count", [1, 2])
def test_a_job_without_workers_or_with_one(place: Place, count: int) -> None:
    """The smallest jobs: a primary alone has neither RANK nor TF_CONFIG, and in CLUSTER_SPEC is workerpool0."""
    script = 'echo "rank ${RANK-none} of ${WORLD_SIZE-none}"; echo "$CLUSTER_SPEC"; [ -z "$TF_CONFIG" ] || echo has'
    pools: list[dict[str, Any]] = [pool("sh", "-c", script) for _ in range(count)]
    job, told = place.run(job_of(*pools))
    assert job.state is JobState.JOB_STATE_SUCCEEDED, job.error
    lines = told.of("workerpool0-0")
    assert lines[0] == ("rank none of none" if count == 1 else "rank 0 of 2")
    assert list(json.loads(lines[1])["cluster"]) == ["workerpool0", "workerpool1"][:count]
    assert lines[2:] == ([] if count == 1 else ["has"])
    assert place.remains(job.job_id) == []
