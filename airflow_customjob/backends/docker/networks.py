"""A network for each job of several replicas, in a small subnet of its own.

Docker's own address pools give out thirty networks at most, and two networks may have the same name. So the subnet is
chosen here, from the user's range, and the Linux bridge behind the network gets a name that follows from the network's:
Docker refuses a second bridge of one name under a lock, which makes the creation of the network create-once.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Iterator
from ipaddress import IPv4Network
from typing import Any

from airflow_customjob.backends.base import EngineBusy, LaunchRefused
from airflow_customjob.backends.docker.api import Api, DaemonError, Missing, of_job
from airflow_customjob.backends.docker.labels import JOB, KIND, KIND_NETWORK, bridge_name
from airflow_customjob.plan.types import JobId

log = logging.getLogger(__name__)

RESERVED = 3
"""Addresses of a subnet that no replica gets: the network's, the gateway's, the broadcast."""
SMALLEST = 28
"""Prefix length: Docker's own bookkeeping needs room too."""
APPEARS = 10.0
"""Seconds within which a network that somebody else creates at this moment is seen."""
LEAVES = 5.0
"""Seconds within which containers that were removed have left their network."""
_IN_USE = "has active endpoints"
_TAKEN = ("overlap", "address already in use")
_MADE_ALREADY = ("same bridge name", "already exists")


def network_body(job_id: JobId, name: str, subnet: str) -> dict[str, Any]:
    return {
        "Name": name,
        "CheckDuplicate": True,
        "Driver": "bridge",
        "IPAM": {"Config": [{"Subnet": subnet}]},
        "Options": {"com.docker.network.bridge.name": bridge_name(name)},
        "Labels": {JOB: job_id, KIND: KIND_NETWORK},
    }


async def ensure_network(api: Api, job_id: JobId, name: str, replicas: int, subnets: tuple[str, ...]) -> None:
    """See that the job's network exists.

    :param replicas: that will be in it.
    :raises EngineBusy: every subnet of the range is in use.
    :raises LaunchRefused: the range has no subnet that is large enough.
    """
    if await _exists(api, job_id, name):
        return
    candidates = list(subnets_for(name, replicas, subnets))
    if not candidates:
        raise LaunchRefused(
            f"no subnet of {', '.join(subnets)} has room for {replicas} replicas: give the Docker backend larger subnets"
        )
    for subnet in candidates:
        try:
            body = network_body(job_id, name, subnet)
            await api.call("POST", "networks/create", what=f"create the network {name} ({subnet})", body=body)
        except DaemonError as error:
            if any(word in error.words for word in _MADE_ALREADY):
                if await _appears(api, job_id, name):
                    return
            elif not any(word in error.words.lower() for word in _TAKEN):
                raise
        else:
            return
    raise EngineBusy(
        f"every subnet of {', '.join(subnets)} is in use on this Docker host: waiting for a job to end; "
        "give the Docker backend more subnets to run more jobs at once"
    )


def subnets_for(name: str, replicas: int, subnets: tuple[str, ...]) -> Iterator[str]:
    """Every subnet that holds so many replicas, from a place that follows from the name: jobs seldom ask for the same."""
    length = min(SMALLEST, 32 - (replicas + RESERVED - 1).bit_length())
    ranges = [network for network in map(IPv4Network, subnets) if network.prefixlen <= length]
    counts = [1 << (length - network.prefixlen) for network in ranges]
    first = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8])
    for number in range(sum(counts)):
        place = (first + number) % sum(counts)
        for network, count in zip(ranges, counts, strict=True):
            if place < count:
                yield f"{network.network_address + (place << (32 - length))}/{length}"
                break
            place -= count


async def release_networks(api: Api, job_id: JobId) -> None:
    """Remove all networks of the job. One that the daemon keeps is left for ``gc``: an ended job has no more use for it."""
    await asyncio.gather(*(_remove(api, network) for network in await api.networks(of_job(job_id))))


async def _remove(api: Api, network: dict[str, Any]) -> None:
    """Under load a daemon takes a container out of its network after it has said that it is gone; one that was seen kept
    counting an endpoint that was not there any more until its restart."""
    end = asyncio.get_running_loop().time() + LEAVES
    while True:
        try:
            await api.call("DELETE", f"networks/{network['Id']}", what=f"remove the network {network['Name']}")
        except Missing:
            return
        except DaemonError as error:
            if _IN_USE not in error.words:
                raise
            if asyncio.get_running_loop().time() > end:
                log.warning("%s; it is left for `customjob gc`", error)
                return
        else:
            return
        await asyncio.sleep(0.2)


async def _exists(api: Api, job_id: JobId, name: str) -> bool:
    return any(network["Name"] == name for network in await api.networks(of_job(job_id)))


async def _appears(api: Api, job_id: JobId, name: str) -> bool:
    end = asyncio.get_running_loop().time() + APPEARS
    while asyncio.get_running_loop().time() < end:
        if await _exists(api, job_id, name):
            return True
        await asyncio.sleep(0.05)
    return False
