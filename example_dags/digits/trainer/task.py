"""What each replica runs: ``python3 -m trainer.task``."""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np

from trainer.cluster import cluster_of
from trainer.data import Digits, share_of
from trainer.exchange import Exchange
from trainer.model import Network

log = logging.getLogger(__name__)

MOMENTUM = 0.9


def main() -> None:
    options = arguments()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    cluster = cluster_of(os.environ)
    digits = share_of(cluster.rank, cluster.size, options.seed)
    log.info("rank %d of %d trains on %d images", cluster.rank, cluster.size, len(digits.train_images))
    network = Network(digits.train_images.shape[1], options.hidden, 10, options.seed)
    started = time.monotonic()
    with closing(Exchange(cluster, options.patience)) as exchange:
        train(network, digits, exchange, cluster.size, options)
    fingerprint = hashlib.sha256(network.parameters.tobytes()).hexdigest()[:12]
    log.info("trained for %.1f s; parameters %s", time.monotonic() - started, fingerprint)
    if cluster.rank == 0:
        accuracy = float((network.classify(digits.test_images) == digits.test_labels).mean())
        log.info("test accuracy %.4f", accuracy)
        save(
            network,
            local(options.model_dir),
            {"accuracy": accuracy, "parameters": fingerprint, "replicas": cluster.size},
        )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="trainer.task", description="Train a classifier of handwritten digits.")
    parser.add_argument("--epochs", type=int, default=30, help="passes over the training images (default %(default)s)")
    parser.add_argument("--batch", type=int, default=16, help="images of one replica in one step (default %(default)s)")
    parser.add_argument("--rate", type=float, default=0.05, help="learning rate (default %(default)s)")
    parser.add_argument("--hidden", type=int, default=64, help="units of the hidden layer (default %(default)s)")
    parser.add_argument("--seed", type=int, default=7, help="of the split and of the first parameters")
    parser.add_argument("--patience", type=float, default=600, help="seconds to wait for other replicas")
    parser.add_argument(
        "--model-dir", default=os.environ.get("AIP_MODEL_DIR", "model"), help="default: $AIP_MODEL_DIR, else ./model"
    )
    return parser.parse_args()


def train(network: Network, digits: Digits, exchange: Exchange, replicas: int, options: argparse.Namespace) -> None:
    """Synchronous gradient descent: in each step every replica moves by the mean of all replicas' gradients."""
    count = len(digits.train_images)
    order = np.random.default_rng(options.seed)
    speed = np.zeros_like(network.parameters)
    for epoch in range(1, options.epochs + 1):
        losses = []
        shuffled = order.permutation(count)
        for start in range(0, count - options.batch + 1, options.batch):
            batch = shuffled[start : start + options.batch]
            gradient, loss = network.gradient(digits.train_images[batch], digits.train_labels[batch])
            speed = MOMENTUM * speed - options.rate * exchange.sum(gradient) / replicas
            network.parameters += speed
            losses.append(loss)
        if epoch == 1 or epoch % 10 == 0:
            log.info("epoch %d of %d: loss %.4f", epoch, options.epochs, np.mean(losses))


def save(network: Network, folder: Path, metrics: dict[str, object]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "model.npz").open("wb") as file:
        network.save(file)
    (folder / "metrics.json").write_text(json.dumps(metrics) + "\n")
    log.info("model written to %s", folder)


def local(uri: str) -> Path:
    """Vertex AI mounts every bucket below /gcs; a path stays as it is."""
    return Path(uri.replace("gs://", "/gcs/", 1))


if __name__ == "__main__":
    main()
