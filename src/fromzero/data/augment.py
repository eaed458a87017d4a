"""How training pictures are varied: one function a policy. Each gives the network's uint8 array (size,
size, channels); all randomness comes from the generator it is handed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from fromzero.data.images import array_of, prepared, size_of
from fromzero.records import Preprocessing

GREY = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # what red, green and blue give to brightness (ITU-R BT.601)
JITTER = 0.4  # brightness, contrast and saturation change by up to this share
WIDE_TURN, SCALES = 15.0, (0.75, 1.15)  # degrees, and shares of the size, for things that stand alone
TURN = 10.0  # degrees: more makes a 6 of a 9's neighbour, and a shirt fall over
ERASED, ERASED_SHAPE, ERASE_CHANCE = (0.02, 0.33), (0.3, 1 / 0.3), 0.5  # share, height to width (Zhong et al. 2020)
RAND_OPERATIONS, RAND_MAGNITUDE = 2, 9 / 30  # of the scale's end (Cubuk et al. 2020; the usual setting for ResNets)
FILL = 128  # what a turned or sheared photo shows beyond its edge
LARGER = 1.5  # a padded picture's side, in the model's, before a part of it is taken


def shift_flip(array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Move by up to a fourteenth of the side, edges repeated, and mirror half of the pictures. For small pictures."""
    size = array.shape[0]
    reach = max(1, round(size / 14))
    down, right, mirror = rng.integers(-reach, reach + 1), rng.integers(-reach, reach + 1), rng.random() < 0.5
    rows = np.clip(np.arange(size) + down, 0, size - 1)
    columns = np.clip(np.arange(size) + right, 0, size - 1)
    return array[rows[:, None], columns[::-1] if mirror else columns]


def rotate(array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Turn by up to TURN degrees and move by up to a fourteenth of the side, edges repeated, never mirrored. For small
    pictures whose mirror image is another thing: digits, letters, signs."""
    size = array.shape[0]
    angle = math.radians(rng.uniform(-TURN, TURN))
    reach = max(1.0, size / 14)
    down, right = rng.uniform(-reach, reach), rng.uniform(-reach, reach)
    return _turned(array, angle, 1.0, down, right)


def affine(array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Turn by up to WIDE_TURN degrees, scale by SCALES, move by up to a fourteenth, edges repeated, mirror half. For
    things that stand alone: drawings, goods."""
    size = array.shape[0]
    angle, scale = math.radians(rng.uniform(-WIDE_TURN, WIDE_TURN)), rng.uniform(*SCALES)
    reach = size / 14
    down, right, mirror = rng.uniform(-reach, reach), rng.uniform(-reach, reach), rng.random() < 0.5
    return _turned(array[:, ::-1] if mirror else array, angle, scale, down, right)


def _turned(array: np.ndarray, angle: float, scale: float, down: float, right: float) -> np.ndarray:
    """Turned by an `angle` in radians about its middle, at `scale` of its size, moved by pixels; edges repeated."""
    size = array.shape[0]
    middle = (size - 1) / 2
    y = (np.arange(size, dtype=np.float32) - middle)[:, None]
    x = (np.arange(size, dtype=np.float32) - middle)[None, :]
    cos, sin = math.cos(angle) / scale, math.sin(angle) / scale
    return _sampled(array, cos * y - sin * x + (middle + down), sin * y + cos * x + (middle + right))


def _sampled(array: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The picture at fractional places, bilinear; beyond an edge is what the edge shows."""
    last = array.shape[0] - 1
    y, x = np.clip(y, 0, last), np.clip(x, 0, last)
    top, left = np.floor(y).astype(np.intp), np.floor(x).astype(np.intp)
    bottom, right = np.minimum(top + 1, last), np.minimum(left + 1, last)
    y, x = (y - top).astype(np.float32)[..., None], (x - left).astype(np.float32)[..., None]
    above = array[top, left] * (1 - x) + array[top, right] * x
    below = array[bottom, left] * (1 - x) + array[bottom, right] * x
    return (above * (1 - y) + below * y + 0.5).astype(np.uint8)


def colour(array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Brightness, then contrast, then saturation, each by a factor of 1 +- JITTER. They are linear in the pixel, so
    they are one matrix, and only the result is cut to 0 ... 255."""
    bright, contrast, saturation = rng.uniform(1 - JITTER, 1 + JITTER, 3)
    channels = array.shape[2]
    mix = np.eye(1, dtype=np.float32)
    weights = np.ones(1, dtype=np.float32)
    if channels == 3:
        weights = GREY
        mix = saturation * np.eye(3, dtype=np.float32) + (1 - saturation) * np.tile(GREY, (3, 1))
    middle = bright * float(array.mean(axis=(0, 1)) @ weights)
    made = array.reshape(-1, channels).astype(np.float32) @ (bright * contrast * mix).T.astype(np.float32)
    made += np.float32(middle * (1 - contrast) + 0.5)
    return np.clip(made, 0, 255, out=made).astype(np.uint8).reshape(array.shape)


def erase(array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Half of the pictures lose a rectangle to noise (random erasing, Zhong et al. 2020)."""
    if rng.random() >= ERASE_CHANCE:
        return array
    height, width = array.shape[:2]
    for _ in range(10):
        area = height * width * rng.uniform(*ERASED)
        shape = math.exp(rng.uniform(math.log(ERASED_SHAPE[0]), math.log(ERASED_SHAPE[1])))
        h, w = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < h < height and 0 < w < width:
            top, left = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
            array = array.copy()  # it may be a view of the kept pictures
            array[top : top + h, left : left + w] = rng.integers(0, 256, (h, w, array.shape[2]), dtype=np.uint8)
            return array
    return array


def randaugment(array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """RAND_OPERATIONS operations drawn from a table, one after the other, at one magnitude (Cubuk et al. 2020)."""
    picture = Image.fromarray(array[..., 0] if array.shape[2] == 1 else np.ascontiguousarray(array))
    operations = tuple(RAND_TABLE.values())
    for _ in range(RAND_OPERATIONS):
        operation = operations[rng.integers(len(operations))]
        sign = 1 if rng.random() < 0.5 else -1
        picture = operation(picture, sign * RAND_MAGNITUDE)
    return np.asarray(picture).reshape(array.shape)


def _affine(picture: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
    """The picture's middle stays; `matrix` (a, b, c, d, e, f) tells for a place of the result where it is from."""
    a, b, c, d, e, f = matrix
    x, y = (picture.width - 1) / 2, (picture.height - 1) / 2
    around = (a, b, c + x - a * x - b * y, d, e, f + y - d * x - e * y)
    fill = FILL if picture.mode == "L" else (FILL,) * 3
    return picture.transform(
        picture.size, Image.Transform.AFFINE, around, resample=Image.Resampling.BILINEAR, fillcolor=fill
    )


# What each does at magnitude m of -1 ... 1; the ends of the scales are those of the paper's ImageNet space.
RAND_TABLE: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "identity": lambda picture, m: picture,
    "shear-x": lambda picture, m: _affine(picture, (1, 0.3 * m, 0, 0, 1, 0)),
    "shear-y": lambda picture, m: _affine(picture, (1, 0, 0, 0.3 * m, 1, 0)),
    "translate-x": lambda picture, m: _affine(picture, (1, 0, 0.45 * m * picture.width, 0, 1, 0)),
    "translate-y": lambda picture, m: _affine(picture, (1, 0, 0, 0, 1, 0.45 * m * picture.height)),
    "rotate": lambda picture, m: picture.rotate(
        30 * m, Image.Resampling.BILINEAR, fillcolor=FILL if picture.mode == "L" else (FILL,) * 3
    ),
    "brightness": lambda picture, m: ImageEnhance.Brightness(picture).enhance(1 + 0.9 * m),
    "saturation": lambda picture, m: ImageEnhance.Color(picture).enhance(1 + 0.9 * m),
    "contrast": lambda picture, m: ImageEnhance.Contrast(picture).enhance(1 + 0.9 * m),
    "sharpness": lambda picture, m: ImageEnhance.Sharpness(picture).enhance(1 + 0.9 * m),
    "posterize": lambda picture, m: ImageOps.posterize(picture, 8 - round(4 * abs(m))),
    "solarize": lambda picture, m: ImageOps.solarize(picture, round(256 - 256 * abs(m))),
    "autocontrast": lambda picture, m: ImageOps.autocontrast(picture),
    "equalize": lambda picture, m: ImageOps.equalize(picture),
}


def crop_flip(content: bytes, how: Preprocessing, rng: np.random.Generator, name: str = "") -> np.ndarray:
    """A random part of the picture (35 to 100 % of its area, 3:4 to 4:3), resized, half mirrored. For photos.

    The part is drawn before the picture is decoded, so that a large JPEG is decoded no larger than the part needs. Of a
    picture that is padded it is a part of the square."""
    size = size_of(content)
    if how.resize == "pad":
        array = prepared(content, replace(how, size=round(LARGER * how.size)), name)
        box = random_box((len(array), len(array)), rng)
    elif size is None:
        array = array_of(content, name, how.channels)
        box = random_box((array.shape[1], array.shape[0]), rng)
    else:
        box = random_box(size, rng)
        array = array_of(content, name, how.channels, least=math.ceil(min(size) * how.size / min(box[2:])))
        box = _scaled(box, size, (array.shape[1], array.shape[0]))
    left, top, width, height = box
    array = resized(array[top : top + height, left : left + width], how.size)
    return array[:, ::-1] if rng.random() < 0.5 else array


def resized(array: np.ndarray, size: int) -> np.ndarray:
    """(height, width, channels) uint8 to (size, size, channels), antialiased bilinear: Pillow's result, give or take
    one level, in a fourth of its time."""
    import torch

    # Permuted after the batch's axis was added: only then does PyTorch see colours that lie side by side.
    tensor = torch.from_numpy(np.array(array)[None]).permute(0, 3, 1, 2)
    made = torch.nn.functional.interpolate(tensor, (size, size), mode="bilinear", antialias=True)
    return made.permute(0, 2, 3, 1)[0].numpy()


def _scaled(
    box: tuple[int, int, int, int], size: tuple[int, int], decoded: tuple[int, int]
) -> tuple[int, int, int, int]:
    """A box (left, top, width, height) of a picture of `size`, in the picture as it was decoded."""
    x, y = decoded[0] / size[0], decoded[1] / size[1]
    left, top, width, height = box
    return round(left * x), round(top * y), max(1, round(width * x)), max(1, round(height * y))


def random_box(size: tuple[int, int], rng: np.random.Generator) -> tuple[int, int, int, int]:
    width, height = size
    for _ in range(10):
        area = width * height * rng.uniform(0.35, 1.0)
        ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1)), w, h
    side = min(width, height)  # a very long picture: its middle
    return (width - side) // 2, (height - side) // 2, side, side


Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]
# On the array that `images.pixels` made, so that it can be kept.
ON_ARRAYS: dict[str, Change] = {
    "none": lambda array, rng: array,
    "shift-flip": shift_flip,
    "rotate": rotate,
    "affine": affine,
}
# On what `crop_flip` made, which needs the whole picture each time.
AFTER_CROP: dict[str, Change] = {
    "crop-flip": lambda array, rng: array,
    "colour": colour,
    "randaugment": randaugment,
    "erase": erase,
}


def varied(content: bytes, how: Preprocessing, policy: str, rng: np.random.Generator, name: str = "") -> np.ndarray:
    """A training picture under `policy`, from the bytes of its file."""
    if policy in AFTER_CROP:
        return AFTER_CROP[policy](crop_flip(content, how, rng, name), rng)
    return ON_ARRAYS[policy](prepared(content, how, name), rng)


def choose(shorter_side: float, size: int) -> str:
    """The policy for pictures of a median shorter side, trained at `size`: near their own size there is nothing to
    crop from."""
    return "crop-flip" if shorter_side >= 1.5 * size else "shift-flip"
