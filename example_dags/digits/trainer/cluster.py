"""Who takes part, from CLUSTER_SPEC, which is the same on Vertex AI and everywhere else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Cluster:
    """The replicas of a job, in rank order; rank 0 is the primary replica.

    :param rank: this replica's.
    :param addresses: host and port of each.
    """

    rank: int
    addresses: tuple[tuple[str, int], ...]

    @property
    def size(self) -> int:
        return len(self.addresses)

    @property
    def primary(self) -> tuple[str, int]:
        return self.addresses[0]


def cluster_of(environ: Mapping[str, str]) -> Cluster:
    """The cluster that CLUSTER_SPEC describes; a cluster of one where there is none."""
    text = environ.get("CLUSTER_SPEC")
    if not text:
        return Cluster(0, (("127.0.0.1", 0),))
    spec = json.loads(text)
    members = [(pool, index) for pool, addresses in spec["cluster"].items() for index in range(len(addresses))]
    addresses = [_split(address) for addresses in spec["cluster"].values() for address in addresses]
    return Cluster(members.index((spec["task"]["type"], spec["task"]["index"])), tuple(addresses))


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)
