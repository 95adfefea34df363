"""scikit-learn's handwritten digits: 1,797 images of 8 x 8 pixels that come with the library."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split


@dataclass(frozen=True)
class Digits:
    """What one replica works on; pixels are from 0 to 1.

    :param train_images: this replica's share.
    :param test_images: all of them, the same in each replica.
    """

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def share_of(rank: int, size: int, seed: int) -> Digits:
    """Every share has the same number of images, so that all replicas take the same number of steps."""
    images, labels = load_digits(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(
        images / 16, labels, test_size=0.2, random_state=seed, stratify=labels
    )
    mine = slice(rank, len(train_x) // size * size, size)
    return Digits(train_x[mine], train_y[mine], test_x, test_y)
