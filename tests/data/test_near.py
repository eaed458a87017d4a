"""Near copies of every kind are found and kept together; pictures that are merely alike are not."""

import dataclasses
import shutil

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from fromzero.data import near
from fromzero.data.folder import scan
from fromzero.data.split import split


def scene(seed, size=(120, 90)):
    """A picture with large shapes and some detail, as photographs have."""
    draw = np.random.default_rng(seed)
    coarse = Image.fromarray(draw.integers(0, 256, (5, 6, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    fine = Image.fromarray(draw.integers(0, 256, (24, 32, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    return Image.blend(coarse, fine, 0.3)


def fill(root, count=60):
    for number in range(count):
        path = root / "ab"[number % 2] / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        scene(number).save(path)
    return root


def pairs(root):
    manifest = scan(root)
    found = near.pairs(manifest)
    return {
        frozenset((manifest.name(one), manifest.name(other)))
        for one, other in zip(found.first, found.second, strict=True)
    }


CHANGES = {
    "jpeg": lambda picture, path: picture.save(path.with_suffix(".jpg"), quality=50),
    "smaller": lambda picture, path: picture.resize((60, 45)).save(path),
    "larger": lambda picture, path: picture.resize((180, 135)).save(path),
    "brighter": lambda picture, path: ImageEnhance.Brightness(picture).enhance(1.15).save(path),
    "warmer": lambda picture, path: ImageEnhance.Color(picture).enhance(0.85).save(path),
    "cropped": lambda picture, path: picture.crop((10, 2, 115, 84)).save(path),
    "cropped back": lambda picture, path: picture.crop((6, 7, 112, 90)).resize(picture.size).save(path),
}


@pytest.mark.parametrize("change", CHANGES)
def test_near_copies(tmp_path, change):
    fill(tmp_path)
    planted = set()
    for number in (3, 8, 21, 40, 59):
        path = tmp_path / "a" / f"copy of {number}.png"
        CHANGES[change](scene(number), path)
        name = next(each.name for each in path.parent.glob(f"copy of {number}.*"))
        planted.add(frozenset((f"{'ab'[number % 2]}/{number:03d}.png", f"a/{name}")))
    assert pairs(tmp_path) == planted


def test_nothing_among_different_pictures(tmp_path):
    assert pairs(fill(tmp_path)) == set()


def test_a_few_pictures(tmp_path):
    fill(tmp_path, 1)
    assert pairs(tmp_path) == set()
    CHANGES["jpeg"](scene(0), tmp_path / "a" / "copy.png")
    assert pairs(tmp_path) == {frozenset(("a/000.png", "a/copy.jpg"))}


def test_same_shape_in_another_colour_is_another_picture(tmp_path):
    fill(tmp_path, 20)
    shape = np.asarray(scene(99).convert("L"), dtype=np.float32)[..., None] / 255
    for name, colour in (("red", (250, 90, 90)), ("green", (95, 172, 95))):  # of one brightness
        Image.fromarray((shape * colour).astype(np.uint8)).save(tmp_path / "a" / f"{name}.png")
    assert pairs(tmp_path) == set()


def test_copies_to_the_byte_are_no_near_copies_but_share_their_cluster(tmp_path):
    fill(tmp_path, 20)
    shutil.copy(tmp_path / "a" / "002.png", tmp_path / "a" / "same.png")
    manifest = near.mark(scan(tmp_path))
    assert len(near.pairs(manifest)) == 0 and (manifest["cluster"] == -1).all()
    CHANGES["jpeg"](scene(2), tmp_path / "b" / "near.png")
    manifest = near.mark(scan(tmp_path))
    assert manifest["cluster"].dtype == np.int32
    found = {manifest.name(row) for row in np.flatnonzero(manifest["cluster"] >= 0)}
    assert found == {"a/002.png", "a/same.png", "b/near.jpg"}
    assert len(near.pairs(manifest)) == 1


def test_unreadable_and_flat_pictures_are_nobodys_copies(tmp_path):
    fill(tmp_path, 10)
    for number in range(4):
        (tmp_path / "a" / f"bad {number}.png").write_bytes(b"")
        Image.new("RGB", (40, 40 + number), (90, 90, 90)).save(tmp_path / "a" / f"flat {number}.png")
    assert pairs(tmp_path) == set()


def test_a_long_chain_is_cut(tmp_path):
    manifest = scan(fill(tmp_path, 200))
    first = np.arange(199)
    alike = np.where(first % 20 == 19, 0.8, 0.95)
    chain = near.Pairs(first, first + 1, alike, np.ones(199))
    sizes = np.bincount(near.clusters(manifest, chain) + 1)[1:]
    assert sizes.max() <= near.LARGEST and sizes.sum() >= 100


def test_near_copies_stay_on_one_side_of_the_split(tmp_path):
    fill(tmp_path, 40)
    for number in range(0, 40, 4):
        CHANGES["jpeg"](scene(number), tmp_path / "a" / f"copy of {number}.png")
    manifest = split(near.mark(scan(tmp_path)), seed=1)
    for cluster in range(manifest["cluster"].max() + 1):
        assert len(set(manifest["split"][np.flatnonzero(manifest["cluster"] == cluster)])) == 1


def test_the_same_twice(tmp_path):
    fill(tmp_path, 30)
    CHANGES["cropped"](scene(4), tmp_path / "a" / "copy.png")
    one, other = (near.pairs(scan(tmp_path)) for _ in range(2))
    for field in dataclasses.fields(near.Pairs):
        assert np.array_equal(getattr(one, field.name), getattr(other, field.name))
