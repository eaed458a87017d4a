"""Mixing the pictures of a batch, and their labels in the same proportion: MixUp (Zhang et al. 2018) and CutMix (Yun et
al. 2019). After the loader and before normalisation, so the batch is still uint8.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from fromzero.errors import UnknownName
from fromzero.records import MIXES

ALPHA = {"mixup": 0.2, "cutmix": 1.0}  # of the beta distribution that the share is drawn from; the papers' for ImageNet


def mixed(
    images: np.ndarray,
    labels: np.ndarray,
    classes: int,
    rng: np.random.Generator,
    kind: str,
    alpha: float | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """A batch (N, height, width, channels) uint8 with each picture mixed with another of the batch, and its targets
    (N, classes) float32, whose rows sum to 1. `kind` is "none", "mixup" or "cutmix"; one share for the batch.

    Raises UnknownName for another kind."""
    if kind not in MIXES:
        raise UnknownName("choice", kind, MIXES)
    targets = np.zeros((len(labels), classes), dtype=np.float32)
    targets[np.arange(len(labels)), labels] = 1.0
    if kind == "none" or len(labels) < 2:
        return images, targets
    share = rng.beta(*(alpha or ALPHA[kind],) * 2)
    partner = rng.permutation(len(labels))
    images, share = KINDS[kind](images, partner, share, rng)
    return images, (np.float32(share) * targets + np.float32(1 - share) * targets[partner]).astype(np.float32)


def _mixup(images: np.ndarray, partner: np.ndarray, share: float, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """The weighted mean of two pictures, to the nearest level: in 16-bit integers, as floats would take four times the
    room. The share is rounded to a 256th, and is what the targets get."""
    own = round(share * 256)
    other = images[partner]
    made = images.astype(np.uint16) * np.uint16(own)
    made += other.astype(np.uint16) * np.uint16(256 - own)  # at most 255 * 256
    made += np.uint16(128)
    return (made >> 8).astype(np.uint8), own / 256


def _cutmix(
    images: np.ndarray, partner: np.ndarray, share: float, rng: np.random.Generator
) -> tuple[np.ndarray, float]:
    """A rectangle of the other picture; the share is what is left of the own one after it was cut at the edges."""
    height, width = images.shape[1:3]
    side = math.sqrt(1 - share)
    y, x = rng.integers(height), rng.integers(width)
    h, w = round(height * side), round(width * side)
    top, bottom = max(0, y - h // 2), min(height, y - h // 2 + h)
    left, right = max(0, x - w // 2), min(width, x - w // 2 + w)
    made = images.copy()
    made[:, top:bottom, left:right] = images[partner, top:bottom, left:right]
    return made, 1 - (bottom - top) * (right - left) / (height * width)


KINDS: dict[str, Callable[[np.ndarray, np.ndarray, float, np.random.Generator], tuple[np.ndarray, float]]] = {
    "mixup": _mixup,
    "cutmix": _cutmix,
}
