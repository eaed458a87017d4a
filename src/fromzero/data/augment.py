"""How training pictures are varied: one function a policy. Each takes a decoded picture and gives the network's uint8
array (size, size, channels); all randomness comes from the generator it is handed.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from PIL import Image

from fromzero.data.images import pixels
from fromzero.records import Preprocessing


def shift_flip(array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Move by up to a fourteenth of the side, edges repeated, and mirror half of the pictures. For small pictures."""
    size = array.shape[0]
    reach = max(1, round(size / 14))
    down, right, mirror = rng.integers(-reach, reach + 1), rng.integers(-reach, reach + 1), rng.random() < 0.5
    rows = np.clip(np.arange(size) + down, 0, size - 1)
    columns = np.clip(np.arange(size) + right, 0, size - 1)
    return array[rows[:, None], columns[::-1] if mirror else columns]


def crop_flip(picture: Image.Image, how: Preprocessing, rng: np.random.Generator) -> np.ndarray:
    """A random part of the picture (35 to 100 % of its area, 3:4 to 4:3), resized, half mirrored. For photos."""
    picture = picture.convert("L" if how.channels == 1 else "RGB")
    box = _random_box(picture.size, rng)
    part = picture.resize((how.size, how.size), Image.Resampling.BILINEAR, box=box, reducing_gap=3.0)
    array = np.asarray(part, dtype=np.uint8).reshape(how.size, how.size, how.channels)
    return array[:, ::-1] if rng.random() < 0.5 else array


def _random_box(size: tuple[int, int], rng: np.random.Generator) -> tuple[float, float, float, float]:
    width, height = size
    for _ in range(10):
        area = width * height * rng.uniform(0.35, 1.0)
        ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = math.sqrt(area * ratio), math.sqrt(area / ratio)
        if w <= width and h <= height:
            left, top = rng.uniform(0, width - w), rng.uniform(0, height - h)
            return left, top, left + w, top + h
    side = min(width, height)  # a very long picture: its middle
    return (width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2


# On the array that `images.pixels` made, so that it can be kept; "crop-flip" needs the whole picture each time.
ON_ARRAYS: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "none": lambda array, rng: array,
    "shift-flip": shift_flip,
}


def varied(picture: Image.Image, how: Preprocessing, policy: str, rng: np.random.Generator) -> np.ndarray:
    """A training picture under `policy`."""
    if policy == "crop-flip":
        return crop_flip(picture, how, rng)
    return ON_ARRAYS[policy](pixels(picture, how), rng)


def choose(shorter_side: float, size: int) -> str:
    """The policy for pictures of a median shorter side, trained at `size`: near their own size there is nothing to
    crop from."""
    return "crop-flip" if shorter_side >= 1.5 * size else "shift-flip"
