"""A network with one hidden layer, in numpy."""

from __future__ import annotations

import numpy as np


class Network:
    """Its parameters are one vector, so that gradients are too and a sum over replicas is one exchange."""

    def __init__(self, inputs: int, hidden: int, classes: int, seed: int) -> None:
        random = np.random.default_rng(seed)
        shapes = ((inputs, hidden), (hidden,), (hidden, classes), (classes,))
        self._shapes = shapes
        self.parameters = np.concatenate(
            [
                random.normal(0, np.sqrt(2 / shape[0]), shape).ravel() if len(shape) == 2 else np.zeros(shape)
                for shape in shapes
            ]
        )

    def gradient(self, images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, float]:
        """Of the mean cross-entropy loss; and that loss."""
        _, _, out, _ = self._layers()
        hidden, scores = self._forward(images)
        chances = np.exp(scores - scores.max(axis=1, keepdims=True))
        chances /= chances.sum(axis=1, keepdims=True)
        rows = np.arange(len(labels))
        loss = -np.log(chances[rows, labels] + 1e-12).mean()
        chances[rows, labels] -= 1
        chances /= len(labels)
        back = (chances @ out.T) * (hidden > 0)
        parts = (images.T @ back, back.sum(axis=0), hidden.T @ chances, chances.sum(axis=0))
        return np.concatenate([part.ravel() for part in parts]), float(loss)

    def classify(self, images: np.ndarray) -> np.ndarray:
        return self._forward(images)[1].argmax(axis=1)

    def save(self, file: object) -> None:
        """As ``.npz`` with one array a layer."""
        np.savez(file, **dict(zip(("weights1", "bias1", "weights2", "bias2"), self._layers(), strict=True)))

    def _layers(self) -> list[np.ndarray]:
        layers, start = [], 0
        for shape in self._shapes:
            size = int(np.prod(shape))
            layers.append(self.parameters[start : start + size].reshape(shape))
            start += size
        return layers

    def _forward(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        weights, bias, out, out_bias = self._layers()
        hidden = np.maximum(images @ weights + bias, 0)
        return hidden, hidden @ out + out_bias
