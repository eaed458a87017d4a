"""Varying pictures: shape and type hold, all randomness comes from the generator, contents stay what they were."""

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from fromzero.data.augment import (
    AFTER_CROP,
    ON_ARRAYS,
    RAND_TABLE,
    affine,
    choose,
    colour,
    crop_flip,
    erase,
    resized,
    rotate,
    shift_flip,
    varied,
)
from fromzero.data.images import pixels
from fromzero.records import AUGMENTATIONS, Preprocessing

POLICIES = [each for each in AUGMENTATIONS if each != "auto"]


def how(size=16, channels=3, crop=1.0):
    return Preprocessing(size=size, channels=channels, crop=crop, mean=(0.0,) * channels, std=(1.0,) * channels)


def packed(picture, form="PNG", **options):
    target = io.BytesIO()
    picture.save(target, form, **options)
    return target.getvalue()


def noise(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def draw(policy, seed, content=None, channels=3):
    return varied(content or packed(noise(60, 50)), how(channels=channels), policy, np.random.default_rng(seed))


def test_every_policy_of_the_recipe_is_in_one_table():
    assert sorted(POLICIES) == sorted([*ON_ARRAYS, *AFTER_CROP])


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(40, 30), (8, 8), (1, 500), (500, 1), (1, 1), (16, 16)])
def test_shape_and_type(policy, channels, size):
    content = packed(noise(*size))
    for seed in range(5):
        array = draw(policy, seed, content, channels)
        assert array.shape == (16, 16, channels) and array.dtype == np.uint8


@pytest.mark.parametrize("policy", POLICIES)
def test_the_generator_decides(policy):
    content = packed(noise(60, 50))
    assert np.array_equal(draw(policy, 1, content), draw(policy, 1, content))
    different = len({draw(policy, seed, content).tobytes() for seed in range(30)})
    assert different == 1 if policy == "none" else different > 8


@pytest.mark.parametrize("policy", POLICIES)
def test_nothing_else_is_random(policy):
    """Global generators must not be drawn from: workers would disagree."""
    content = packed(noise(60, 50))
    first = draw(policy, 5, content)
    np.random.seed(99)
    assert np.array_equal(first, draw(policy, 5, content))
    state = np.random.get_state()[1].copy()
    draw(policy, 6, content)
    assert np.array_equal(state, np.random.get_state()[1])


@pytest.mark.parametrize("policy", [each for each in POLICIES if each != "none"])
def test_what_is_handed_in_stays_as_it_was(policy):
    """Kept pictures are mapped from disk, read-only."""
    array = np.asarray(noise(16, 16)).copy()
    array.flags.writeable = False
    change = {**ON_ARRAYS, **AFTER_CROP}[policy]
    for seed in range(40):
        made = change(array, np.random.default_rng(seed))
        assert made.shape == array.shape and made.dtype == np.uint8


def test_none_is_what_evaluation_sees():
    picture = noise(60, 50)
    assert np.array_equal(draw("none", 0, packed(picture)), pixels(picture, how()))


@pytest.mark.parametrize("policy", ON_ARRAYS)
def test_kept_arrays_and_decoded_pictures_agree(policy):
    picture = noise(60, 50)
    for seed in range(10):
        from_picture = draw(policy, seed, packed(picture))
        from_array = ON_ARRAYS[policy](pixels(picture, how()), np.random.default_rng(seed))
        assert np.array_equal(from_picture, from_array)


@pytest.mark.parametrize("channels", [1, 3])
def test_one_colour_stays_one_colour_when_it_is_turned(channels):
    array = np.full((20, 20, channels), 77, np.uint8)
    for seed in range(20):
        assert (rotate(array, np.random.default_rng(seed)) == 77).all()


def test_a_turn_is_small_and_never_mirrors():
    """The brightest quarter stays the brightest, left stays left."""
    array = np.zeros((28, 28, 1), np.uint8)
    array[4:12, 4:12] = 250
    seen = set()
    for seed in range(60):
        made = rotate(array, np.random.default_rng(seed)).astype(int)[..., 0]
        assert made[:14, :14].sum() > 10 * made[14:, 14:].sum()
        assert made[:14, :14].sum() > 5 * made[:14, 14:].sum()
        seen.add(made.tobytes())
    assert len(seen) > 50


def test_affine_turns_scales_and_mirrors_and_repeats_the_edge():
    """A dark square on white: white stays at every edge, its area changes with the scale, its place by the move."""
    array = np.full((56, 56, 3), 255, np.uint8)
    array[18:38, 18:38] = 0
    areas = []
    for seed in range(60):
        made = affine(array, np.random.default_rng(seed))
        assert (np.concatenate([made[0], made[-1], made[:, 0], made[:, -1]]) == 255).all()
        areas.append((255 - made[..., 0].astype(int)).sum() / 255 / 400)
    assert 0.75**2 * 0.9 < min(areas) < 0.7 and 1.15 < max(areas) < 1.15**2 * 1.1
    left = np.full((28, 28, 1), 255, np.uint8)
    left[:, :6] = 0
    sides = {bool(affine(left, np.random.default_rng(seed))[14, 2, 0] < 128) for seed in range(20)}
    assert sides == {True, False}


def test_colours_are_those_of_pillow_one_after_the_other():
    """On a picture that nothing is cut from, the one matrix is brightness, contrast and saturation in a row."""
    array = np.random.default_rng(1).integers(90, 130, (24, 24, 3), dtype=np.uint8)
    for seed in range(20):
        bright, contrast, saturation = np.random.default_rng(seed).uniform(0.6, 1.4, 3)
        expected = Image.fromarray(array)
        for kind, factor in (
            (ImageEnhance.Brightness, bright),
            (ImageEnhance.Contrast, contrast),
            (ImageEnhance.Color, saturation),
        ):
            expected = kind(expected).enhance(factor)
        made = colour(array, np.random.default_rng(seed))
        assert np.abs(made.astype(int) - np.asarray(expected).astype(int)).max() <= 3


def test_a_grey_picture_keeps_no_colour():
    array = np.repeat(np.random.default_rng(1).integers(0, 256, (24, 24, 1), dtype=np.uint8), 3, axis=2)
    for seed in range(20):
        made = colour(array, np.random.default_rng(seed)).astype(int)
        assert np.abs(made - made[..., :1]).max() <= 1


def test_half_of_the_pictures_lose_a_rectangle_of_a_third_at_most():
    array = np.full((32, 32, 3), 7, np.uint8)
    changed = []
    for seed in range(400):
        touched = (erase(array, np.random.default_rng(seed)) != 7).any(axis=2)
        if touched.any():
            rows, columns = np.flatnonzero(touched.any(axis=1)), np.flatnonzero(touched.any(axis=0))
            box = (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
            assert touched.sum() >= 0.9 * box
            changed.append(box / 32**2)
    assert 150 < len(changed) < 250
    assert min(changed) > 0.01 and max(changed) < 0.4


@pytest.mark.parametrize("name", RAND_TABLE)
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_operations_keep_size_and_mode(name, mode):
    picture = noise(20, 20).convert(mode)
    for magnitude in (-1.0, -0.3, 0.3, 1.0):
        made = RAND_TABLE[name](picture, magnitude)
        assert made.size == (20, 20) and made.mode == mode
    still = {"identity"} | ({"saturation"} if mode == "L" else set())
    dull = picture.point(lambda level: level // 3)  # noise of all levels leaves nothing to equalise
    assert (RAND_TABLE[name](dull, 1.0).tobytes() == dull.tobytes()) == (name in still)


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
        seen = crop_flip(packed(picture), how(), np.random.default_rng(seed)).astype(int)
        assert (seen[..., 1] == 0).all()
        assert np.abs(seen[..., 0] + seen[..., 2] - 255).max() <= 1


@pytest.mark.parametrize(
    "side, size, policy", [(28, 28, "shift-flip"), (500, 224, "crop-flip"), (336, 224, "crop-flip")]
)
def test_large_pictures_are_cropped_small_ones_moved(side, size, policy):
    assert choose(side, size) == policy


def smooth(width, height, seed=0):
    """A picture with large shapes and some grain, as photographs have."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((width, height), Image.BICUBIC)
    grain = rng.normal(0, 6, (height, width, 3))
    return Image.fromarray(np.clip(np.asarray(small) + grain, 0, 255).astype(np.uint8))


@pytest.mark.parametrize("size", [(500, 375), (300, 700), (224, 224), (60, 90)])
def test_resizing_gives_what_pillow_gives(size):
    picture = smooth(*size)
    reference = np.asarray(picture.resize((224, 224), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(resized(np.asarray(picture), 224) - reference).max() <= 1


def test_a_large_jpeg_is_decoded_smaller_and_looks_the_same():
    """The same draws on the same picture, once as JPEG (decoded to a quarter) and once as PNG (decoded whole)."""
    content = packed(smooth(2400, 1800), "JPEG", quality=95)
    whole = packed(Image.open(io.BytesIO(content)))
    for seed in range(6):
        one, other = (varied(each, how(128), "crop-flip", np.random.default_rng(seed)) for each in (content, whole))
        assert np.abs(one.astype(int) - other).mean() < 2.5  # of 255; most of it is grain


def test_a_part_of_a_padded_picture_may_hold_its_border():
    file = io.BytesIO()
    Image.new("RGB", (60, 6), (0, 0, 90)).save(file, "PNG")
    how = Preprocessing(size=32, channels=3, crop=1.0, mean=(0.0,) * 3, std=(1.0,) * 3, resize="pad")
    made = [crop_flip(file.getvalue(), how, np.random.default_rng(seed)) for seed in range(6)]
    assert all(each.shape == (32, 32, 3) and (each == 255).all(axis=2).any() for each in made)
    assert len({each.tobytes() for each in made}) > 3
