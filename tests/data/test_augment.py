"""Varying pictures: shape and type hold, all randomness comes from the generator, contents stay what they were."""

import numpy as np
import pytest
from PIL import Image

from fromzero.data.augment import ON_ARRAYS, choose, crop_flip, shift_flip, varied
from fromzero.data.images import pixels
from fromzero.records import AUGMENTATIONS, Preprocessing

POLICIES = [each for each in AUGMENTATIONS if each != "auto"]


def how(size=16, channels=3, crop=1.0):
    return Preprocessing(size=size, channels=channels, crop=crop, mean=(0.0,) * channels, std=(1.0,) * channels)


def noise(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(40, 30), (8, 8), (1, 500), (500, 1), (1, 1), (16, 16)])
def test_shape_and_type(policy, channels, size):
    for seed in range(5):
        array = varied(noise(*size), how(16, channels), policy, np.random.default_rng(seed))
        assert array.shape == (16, 16, channels) and array.dtype == np.uint8


@pytest.mark.parametrize("policy", POLICIES)
def test_the_generator_decides(policy):
    def draw(seed):
        return varied(noise(60, 50), how(), policy, np.random.default_rng(seed))

    assert np.array_equal(draw(1), draw(1))
    different = len({draw(seed).tobytes() for seed in range(30)})
    assert different == 1 if policy == "none" else different > 8


def test_none_is_what_evaluation_sees():
    picture = noise(60, 50)
    assert np.array_equal(varied(picture, how(), "none", np.random.default_rng(0)), pixels(picture, how()))


@pytest.mark.parametrize("policy", ON_ARRAYS)
def test_kept_arrays_and_decoded_pictures_agree(policy):
    picture = noise(60, 50)
    for seed in range(10):
        from_picture = varied(picture, how(), policy, np.random.default_rng(seed))
        from_array = ON_ARRAYS[policy](pixels(picture, how()), np.random.default_rng(seed))
        assert np.array_equal(from_picture, from_array)


def test_a_shift_moves_by_little_and_invents_nothing():
    size = 28
    array = np.arange(size * size, dtype=np.int64).reshape(size, size, 1)  # every pixel tells where it is from
    mirrored = set()
    for seed in range(200):
        seen = shift_flip(array, np.random.default_rng(seed))[..., 0]
        rows, columns = seen // size, seen % size
        turned = columns[0, 0] > columns[0, -1]
        mirrored.add(bool(turned))
        columns = columns[:, ::-1] if turned else columns
        grid = np.arange(size)
        assert np.abs(rows - grid[:, None]).max() <= 2 and np.abs(columns - grid[None, :]).max() <= 2
    assert mirrored == {False, True}


def test_a_crop_lies_in_the_picture():
    """A picture of two halves: no crop can show a third colour."""
    picture = Image.new("RGB", (100, 80), (255, 0, 0))
    picture.paste((0, 0, 255), (0, 0, 50, 80))
    for seed in range(50):
        seen = crop_flip(picture, how(), np.random.default_rng(seed)).astype(int)
        assert (seen[..., 1] == 0).all()
        assert np.abs(seen[..., 0] + seen[..., 2] - 255).max() <= 1


@pytest.mark.parametrize(
    "side, size, policy", [(28, 28, "shift-flip"), (500, 224, "crop-flip"), (336, 224, "crop-flip")]
)
def test_large_pictures_are_cropped_small_ones_moved(side, size, policy):
    assert choose(side, size) == policy
