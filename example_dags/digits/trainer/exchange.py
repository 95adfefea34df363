"""The sum of a vector over all replicas: each worker sends its own to the primary, which adds them up and sends the sum to all."""

from __future__ import annotations

import logging
import socket
import struct
import time
from contextlib import ExitStack

import numpy as np

from trainer.cluster import Cluster

log = logging.getLogger(__name__)

HELLO = struct.Struct("!6sI")
"""What a worker says first: a word that strangers do not know, and its rank."""
WORD = b"digits"
FIRST_WAIT, LAST_WAIT = 0.05, 2.0
"""Seconds between two attempts to reach the primary; doubled at each one."""


class Exchange:
    """Connects the replicas of a cluster, and keeps them in step.

    :param patience: seconds that replicas may start apart, and that one may keep the others waiting.
    :raises OSError: the others cannot be reached.
    """

    def __init__(self, cluster: Cluster, patience: float) -> None:
        self._peers: list[socket.socket] = []
        self._is_primary = cluster.rank == 0
        self._open = ExitStack()
        deadline = time.monotonic() + patience
        if self._is_primary:
            if cluster.size > 1:
                self._accept(cluster, deadline)
        else:
            self._peers.append(self._open.enter_context(_connect(cluster, deadline)))
        for peer in self._peers:
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            peer.settimeout(patience)

    def close(self) -> None:
        self._open.close()

    def sum(self, vector: np.ndarray) -> np.ndarray:
        """The sum over all replicas, the same to the last bit in each; every replica has to call it equally often.

        :raises ConnectionError: a replica has gone away.
        """
        if not self._is_primary:
            self._peers[0].sendall(vector.tobytes())
            return _receive(self._peers[0], vector)
        total = vector.copy()
        for peer in self._peers:
            total += _receive(peer, vector)
        for peer in self._peers:
            peer.sendall(total.tobytes())
        return total

    def _accept(self, cluster: Cluster, deadline: float) -> None:
        host, port = cluster.primary
        # The name of a replica may lead to it through an address that is not its own; loopback stays loopback.
        interface = host if host.startswith("127.") else ""
        workers: dict[int, socket.socket] = {}
        with socket.create_server((interface, port), backlog=cluster.size) as server:
            log.info("listening on port %d for %d workers", port, cluster.size - 1)
            while len(workers) < cluster.size - 1:
                server.settimeout(max(deadline - time.monotonic(), 0.001))
                try:
                    peer, address = server.accept()
                except TimeoutError:
                    missing = sorted(set(range(1, cluster.size)) - set(workers))
                    raise TimeoutError(f"the workers of rank {missing} did not come") from None
                rank = _greeting(peer)
                if rank not in range(1, cluster.size):
                    log.warning("closed a connection from %s that is none of ours", address)
                    peer.close()
                    continue
                if rank in workers:  # it was started again
                    workers[rank].close()
                workers[rank] = self._open.enter_context(peer)
                log.info("worker %d has joined", rank)
        self._peers = [workers[rank] for rank in sorted(workers)]


def _connect(cluster: Cluster, deadline: float) -> socket.socket:
    """Replicas start in any order: the primary may have no address yet, or not listen yet."""
    wait = FIRST_WAIT
    while True:
        try:
            peer = socket.create_connection(cluster.primary, timeout=5)
        except OSError as error:
            if time.monotonic() + wait > deadline:
                raise
            log.info("the primary does not answer yet (%s), next attempt in %.2f s", error, wait)
            time.sleep(wait)
            wait = min(wait * 2, LAST_WAIT)
        else:
            peer.sendall(HELLO.pack(WORD, cluster.rank))
            log.info("joined the primary at %s:%d as rank %d", *cluster.primary, cluster.rank)
            return peer


def _greeting(peer: socket.socket) -> int | None:
    """The rank of who has connected; None: a stranger."""
    peer.settimeout(5)
    try:
        word, rank = HELLO.unpack(_receive_bytes(peer, HELLO.size))
    except OSError:
        return None
    return rank if word == WORD else None


def _receive(peer: socket.socket, like: np.ndarray) -> np.ndarray:
    return np.frombuffer(_receive_bytes(peer, like.nbytes), dtype=like.dtype)


def _receive_bytes(peer: socket.socket, size: int) -> bytearray:
    data = bytearray(size)
    view = memoryview(data)
    while view:
        count = peer.recv_into(view)
        if not count:
            raise ConnectionError("a replica has closed its connection before the training was over")
        view = view[count:]
    return data
