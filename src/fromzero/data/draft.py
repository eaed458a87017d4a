"""The size, channels and crop that suit a data set's own pictures: what a fresh network is trained with, and what a
preview shows."""

from __future__ import annotations

import math

import numpy as np

from fromzero.data.manifest import Manifest
from fromzero.records import Preprocessing

LARGEST_SIDE, LEAST_SIDE = 224, 8


def shorter_side(manifest: Manifest) -> float:
    """The median, in pixels."""
    good = manifest.good()
    return float(np.median(np.minimum(manifest["width"][good], manifest["height"][good])))


def draft(manifest: Manifest, size: int | None = None, resize: str = "crop") -> Preprocessing:
    """The pictures' own preprocessing at `size` (None: the pictures' own up to LARGEST_SIDE, in fours), not normalised
    yet; `resize` is one of `RESIZES`."""
    side = shorter_side(manifest)
    size = size or max(LEAST_SIDE, min(LARGEST_SIDE, math.ceil(side / 4) * 4))
    channels = 1 if bool(manifest["grey"][manifest.good()].all()) else 3
    crop = 1.0 if resize == "pad" or side < 1.5 * size else 0.875
    return Preprocessing(
        size=size, channels=channels, crop=crop, mean=(0.0,) * channels, std=(1.0,) * channels, resize=resize
    )
