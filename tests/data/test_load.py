"""Order and variation are functions of (seed, epoch, row); where a run stops and how many workers load changes
nothing."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from fromzero.data import load
from fromzero.data.batches import ordered_batches, steps_per_epoch, times_before, training_batches
from fromzero.data.folder import scan
from fromzero.data.load import Pictures, keep_decoded, statistics
from fromzero.data.manifest import state_folder
from fromzero.data.split import split
from fromzero.records import Preprocessing


def how(size=16, channels=3):
    return Preprocessing(size=size, channels=channels, crop=1.0, mean=(0.0,) * channels, std=(1.0,) * channels)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    root = tmp_path_factory.mktemp("load")
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (root / name).mkdir()
        for number in range(20):
            Image.fromarray(rng.integers(0, 256, (24, 30, 3), dtype=np.uint8)).save(root / name / f"{number:02d}.png")
    (root / "a" / "07 broken.png").write_bytes(b"")
    return split(scan(root))


def batches_of(pictures, rows, epoch=0, first=0, workers=0):
    found = training_batches(pictures, rows, 4, epoch, first, workers, pin=False)
    return [(images.numpy(), labels.numpy()) for images, labels in found]


def equal(one, other):
    return len(one) == len(other) and all(
        np.array_equal(a, c) and np.array_equal(b, d) for (a, b), (c, d) in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("policy", ["none", "shift-flip", "crop-flip"])
def test_a_picture_is_a_function_of_seed_epoch_and_row(manifest, policy):
    row = int(manifest.rows("train")[3])

    def look(seed, epoch):
        return Pictures(manifest, how(), policy, seed)[(row, epoch)][0].tobytes()

    assert look(1, 2) == look(1, 2)
    drawn = {look(seed, epoch) for seed in range(4) for epoch in range(4)}
    assert len(drawn) == 1 if policy == "none" else len(drawn) > 6


def test_order_is_a_function_of_seed_and_epoch(manifest):
    rows = manifest.rows("train")

    def order(seed, epoch):
        return Pictures(manifest, how(), seed=seed).order(rows, epoch)

    assert np.array_equal(order(1, 2), order(1, 2))
    assert len({order(seed, epoch).tobytes() for seed in range(3) for epoch in range(3)}) == 9
    assert sorted(order(1, 2)) == sorted(rows)


def test_an_epoch_shows_every_picture_at_most_once(manifest):
    rows = manifest.rows("train")
    found = batches_of(Pictures(manifest, how()), rows)
    assert len(found) == len(rows) // 4 == steps_per_epoch(len(rows), 4)
    assert all(images.shape == (4, 16, 16, 3) and images.dtype == np.uint8 for images, _ in found)
    assert len({image.tobytes() for images, _ in found for image in images}) == 4 * len(found)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("policy", ["shift-flip", "crop-flip"])
def test_continuing_gives_the_batches_of_the_uninterrupted_epoch(manifest, workers, policy):
    rows = manifest.rows("train")
    whole = batches_of(Pictures(manifest, how(), policy, 3), rows, epoch=2)
    for first in (0, 3, len(whole) - 1, len(whole)):
        assert equal(batches_of(Pictures(manifest, how(), policy, 3), rows, 2, first, workers), whole[first:])


def test_the_global_generators_are_not_asked(manifest):
    rows = manifest.rows("train")
    np.random.seed(0)
    torch.manual_seed(0)
    one = batches_of(Pictures(manifest, how(), "crop-flip"), rows)
    np.random.seed(1)
    torch.manual_seed(1)
    assert equal(one, batches_of(Pictures(manifest, how(), "crop-flip"), rows))


@pytest.mark.parametrize("policy", ["none", "shift-flip"])
@pytest.mark.parametrize("channels", [1, 3])
def test_kept_and_decoded_pictures_agree(manifest, policy, channels):
    kept = keep_decoded(manifest, how(16, channels))
    assert kept is not None and kept.is_file()
    rows = manifest.rows("train")
    decoded = batches_of(Pictures(manifest, how(16, channels), policy), rows)
    assert equal(batches_of(Pictures(manifest, how(16, channels), policy, kept=kept), rows), decoded)
    assert equal(batches_of(Pictures(manifest, how(16, channels), policy, kept=kept), rows, workers=2), decoded)


def test_kept_pictures_are_made_once_and_only_for_their_size(manifest):
    kept = keep_decoded(manifest, how())
    before = kept.stat().st_mtime_ns
    assert keep_decoded(manifest, how()) == kept and kept.stat().st_mtime_ns == before
    other = keep_decoded(manifest, how(20))
    assert other != kept
    assert [each.name for each in state_folder(manifest.root).glob("pixels-*")] == [other.name]


def test_a_run_goes_on_when_another_size_took_the_room(manifest):
    kept = keep_decoded(manifest, how())
    pictures = Pictures(manifest, how(), "shift-flip", kept=kept)
    keep_decoded(manifest, how(20))
    assert not kept.exists()
    rows = manifest.rows("train")
    assert equal(batches_of(pictures, rows), batches_of(Pictures(manifest, how(), "shift-flip"), rows))


def test_a_picture_that_changed_since_the_scan_does_not_end_a_run(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(5):
            array = np.random.default_rng(number).integers(0, 256, (16, 16), dtype=np.uint8)
            Image.fromarray(array).save(tmp_path / name / f"{number}.png")
    manifest = scan(tmp_path)
    (tmp_path / "a" / "2.png").write_bytes(b"gone bad")
    (tmp_path / "b" / "3.png").unlink()
    assert keep_decoded(manifest, how(16, 1)) is None
    assert not list(state_folder(tmp_path).glob("pixels-*"))
    batches = list(ordered_batches(Pictures(manifest, how(16, 1)), np.arange(10), 4))
    assert sum(len(labels) for _, labels in batches) == 10


def test_half_written_files_of_a_crash_are_removed(manifest):
    left = state_folder(manifest.root) / "pixels-0123456789abcdef.npy.1.tmp"
    left.write_bytes(b"x")
    running = left.with_name("pixels-fedcba9876543210.npy.2.tmp")
    running.write_bytes(b"x")
    os.utime(left, (1, 1))
    keep_decoded(manifest, how(12))
    assert not left.exists() and running.exists()
    running.unlink()


def test_too_many_to_keep(manifest, monkeypatch):
    monkeypatch.setattr(load, "KEPT_BYTES", len(manifest) * 16 * 16 * 3 - 1)
    assert keep_decoded(manifest, how()) is None


def test_in_their_order_all_of_them(manifest):
    rows = manifest.good()[::-1]
    for workers in (0, 2):
        found = list(ordered_batches(Pictures(manifest, how()), rows, 16, workers))
        assert [len(labels) for _, labels in found] == [16, 16, 8]
        assert np.array_equal(np.concatenate([labels.numpy() for _, labels in found]), manifest["label"][rows])


def test_nothing_to_load(manifest):
    assert list(ordered_batches(Pictures(manifest, how()), np.array([], dtype=int), 4)) == []


def test_a_set_smaller_than_a_batch_is_one_step(manifest):
    rows = manifest.rows("train")[:3]
    (images, labels), *more = training_batches(Pictures(manifest, how()), rows, 8, 0, 0, 0, pin=False)
    assert len(images) == len(labels) == 3 and not more


@pytest.mark.parametrize("channels", [1, 3])
def test_statistics_are_those_of_the_training_pictures(manifest, channels):
    kept = keep_decoded(manifest, how(16, channels))
    pictures = Pictures(manifest, how(16, channels))
    all_of_them = np.stack([pictures[(int(row), 0)][0] for row in manifest.rows("train")]).reshape(-1, channels) / 255
    for each in (None, kept):
        mean, std = statistics(manifest, how(16, channels), each)
        assert np.allclose(mean, all_of_them.mean(axis=0), atol=1e-4)
        assert np.allclose(std, all_of_them.std(axis=0), atol=1e-4)


def test_statistics_of_one_colour_can_be_divided_by(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(10):
            Image.new("L", (16, 16), 128).save(tmp_path / name / f"{number}.bmp")
    manifest = scan(tmp_path)
    manifest = manifest.with_column("split", np.array(["train"] * 20))
    mean, std = statistics(manifest, how(16, 1), None)
    assert mean == pytest.approx((128 / 255,), abs=1e-4) and std[0] > 0


def test_kept_pictures_need_no_worker(manifest):
    assert Pictures(manifest, how(), kept=keep_decoded(manifest, how())).workers == 0
    assert 1 <= Pictures(manifest, how()).workers <= 8


@pytest.mark.skipif(os.name == "nt", reason="POSIX limits")
def test_a_full_disk_keeps_nothing_and_ends_nothing(manifest):
    """A limit on the size of files stands for the full disk."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        kept = keep_decoded(manifest, how(24))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert kept is None
    assert not list(state_folder(manifest.root).glob("pixels-*.tmp"))
    assert keep_decoded(manifest, how(24)).is_file()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("mix", ["mixup", "cutmix"])
def test_mixed_batches_are_a_function_of_seed_and_epoch(manifest, mix, workers):
    rows = manifest.rows("train")

    def drawn(seed, first=0):
        pictures = Pictures(manifest, how(), "shift-flip", seed, mix=mix)
        return batches_of(pictures, rows, epoch=1, first=first, workers=workers)

    one = drawn(1)
    assert equal(one, drawn(1)) and not equal(one, drawn(2))
    assert equal(drawn(1, first=2), one[2:])
    for _, targets in one:
        assert targets.shape == (4, 2) and np.allclose(targets.sum(axis=1), 1)
    assert any(((targets > 0) & (targets < 1)).any() for _, targets in one)


def test_what_changed_since_the_scan_is_told_and_never_kept(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(4):
            array = np.random.default_rng((number, ord(name))).integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(array).save(tmp_path / name / f"{number}.png")
    manifest = scan(tmp_path)
    other = (tmp_path / "b" / "0.png").read_bytes()
    (tmp_path / "a" / "0.png").write_bytes(other)
    pictures = Pictures(manifest, how())
    assert len(list(ordered_batches(pictures, manifest.good(), 4))) == 2
    assert pictures.changed == {0}
    assert keep_decoded(manifest, how()) is None
    seen = []

    def features(batch):
        seen.append(len(batch))
        return batch[:, 0, 0].astype(np.float32)

    assert load.keep_features(pictures, "x", features) is None
    assert seen and not list(state_folder(tmp_path).glob("features-*"))


def test_a_row_that_is_drawn_again_is_varied_in_another_way(manifest):
    row = int(manifest.rows("train")[3])
    again = np.full(8, row)
    (images, labels), *_ = batches_of(Pictures(manifest, how(), "shift-flip", 1), again, epoch=2)
    first = Pictures(manifest, how(), "shift-flip", 1)[(row, 2)][0]
    assert len({each.tobytes() for each in images}) == 4 and len(set(labels)) == 1
    assert images[0].tobytes() == first.tobytes()  # the first time it is what it always was
    one, other = (batches_of(Pictures(manifest, how(), "shift-flip", 1), again, epoch=2, first=n) for n in (0, 1))
    assert equal(one[1:], other)  # a resumed epoch counts on


def test_how_often_a_row_came_before():
    assert times_before(np.array([7, 7, 5, 7, 5, 9])).tolist() == [0, 1, 0, 2, 1, 0]
    assert times_before(np.array([], dtype=np.int64)).tolist() == []
