"""Fit a line to data that no replica has all of: in each epoch all move by the mean of their gradients, over TCP.

RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT are what PyTorch's `init_process_group` reads as well.
"""

import json
import os
import random
import socket
import time

rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
primary = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])


def connect():
    """Of the primary, a connection to each other replica; of the others, one to the primary, which may not listen yet."""
    if rank == 0:
        server = socket.create_server(("", primary[1]))
        return [server.accept()[0].makefile("rw") for _ in range(size - 1)]
    while True:
        try:
            return [socket.create_connection(primary).makefile("rw")]
        except OSError:
            time.sleep(0.1)


def send(values):
    for peer in peers:
        print(json.dumps(values), file=peer, flush=True)


def mean(values):
    """Of what all replicas give; the same on each."""
    if rank == 0:
        given = [values, *(json.loads(peer.readline()) for peer in peers)]
        values = [sum(column) / size for column in zip(*given, strict=True)]
        send(values)
        return values
    send(values)
    return json.loads(peers[0].readline())


shard = random.Random(rank)  # noqa: S311 - the same data each time
data = [(x, 3 * x + 2 + shard.gauss(0, 0.1)) for x in (shard.uniform(-1, 1) for _ in range(200))]
print(f"rank {rank} of {size} has {len(data)} points", flush=True)
peers = connect()
slope = height = 0.0
epochs = int(os.environ["EPOCHS"])
for _ in range(epochs):
    errors = [(slope * x + height - y, x) for x, y in data]
    step = mean([sum(error * x for error, x in errors) / len(data), sum(error for error, _ in errors) / len(data)])
    slope, height = slope - step[0], height - step[1]
print(f"after epoch {epochs}: y = {slope:.4f} x + {height:.4f}", flush=True)
if rank == 0:  # the job ends with its primary, which lets the others finish
    for peer in peers:
        peer.readline()
