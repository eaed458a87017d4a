"""Packed sets: every picture is read back to the byte, splits and labels hold, orders go shard by shard, and a remote
one fills a local folder."""

import json
import shutil
import tarfile

import numpy as np
import pytest
from PIL import Image

from fromzero.data import load
from fromzero.data.batches import training_batches
from fromzero.data.folder import looks_of, scan
from fromzero.data.load import Pictures
from fromzero.data.pack import open_remote, pack, read, shards_of
from fromzero.data.split import split
from fromzero.errors import DataError, UnreadableImage, UsageError
from fromzero.preparing import prepare
from fromzero.records import Preprocessing

HOW = Preprocessing(size=16, channels=3, crop=1.0, mean=(0.0,) * 3, std=(1.0,) * 3)


@pytest.fixture
def manifest(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("猫", "dog"):
        (tmp_path / "set" / name).mkdir(parents=True)
        for number in range(20):
            array = rng.integers(0, 256, (24, 30, 3), dtype=np.uint8)
            Image.fromarray(array).save(tmp_path / "set" / name / f"{number:02d}.{'png' if number % 2 else 'jpg'}")
    (tmp_path / "set" / "dog" / "broken.png").write_bytes(b"")
    return split(scan(tmp_path / "set"))


@pytest.fixture
def packed(manifest, tmp_path):
    return pack(manifest, tmp_path / "shards", shard_bytes=6000)


def test_every_picture_is_read_back(manifest, packed):
    assert len(packed) == 40 and len(packed.good()) == 40
    row_of = {path: row for row, path in enumerate(manifest["path"])}
    looks, packed_looks = looks_of(manifest), looks_of(packed)
    for row in range(40):
        before = row_of[packed.name(row)]
        assert read(packed, row) == read(manifest, before)
        assert packed["label"][row] == manifest["label"][before]
        assert packed["split"][row] == manifest["split"][before]
        assert np.array_equal(packed_looks[row], looks[before])


def test_opening_again_needs_no_looking(packed):
    again = scan(packed.root)
    assert list(again["path"]) == list(packed["path"]) and again.about["packed"]
    assert again.classes == ("dog", "猫")


def test_other_loaders_read_the_shards(packed):
    seen = {}
    for shard in sorted(packed.root.glob("shard-*.tar")):
        with tarfile.open(shard) as file:
            for member in file:
                seen[member.name] = file.extractfile(member).read()
    assert len(list(packed.root.glob("shard-*.tar"))) > 3
    assert len(seen) == 80
    assert {int(content) for name, content in seen.items() if name.endswith(".cls")} == {0, 1}


def test_an_epoch_reads_a_few_shards_at_a_time(packed, monkeypatch):
    monkeypatch.setattr(load, "WINDOW", 2)
    rows = packed.rows("train")
    pictures = Pictures(packed, HOW)
    order = pictures.order(rows, 0)
    assert sorted(order) == sorted(rows)
    shards = shards_of(packed)[order]
    for shard in set(shards.tolist()):  # while one shard is read, at most one other is
        first, last = np.flatnonzero(shards == shard)[[0, -1]]
        assert len(set(shards[first : last + 1].tolist())) <= 2
    assert not np.array_equal(order, pictures.order(rows, 1))


@pytest.mark.parametrize("workers", [0, 2])
def test_training_continues_in_the_middle_of_an_epoch(packed, workers):
    pictures, rows = Pictures(packed, HOW, "crop-flip", 3), packed.rows("train")
    whole = [images.numpy() for images, _ in training_batches(pictures, rows, 4, 1, 0, 0, pin=False)]
    rest = [images.numpy() for images, _ in training_batches(pictures, rows, 4, 1, 3, workers, pin=False)]
    assert len(rest) == len(whole) - 3
    assert all(np.array_equal(one, other) for one, other in zip(rest, whole[3:], strict=True))


def test_a_remote_set_fetches_each_shard_once(packed, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    remote = open_remote(packed.root.as_uri())
    assert not list(remote.root.glob("*.tar"))
    assert read(remote, 7) == read(packed, 7)
    assert len(list(remote.root.glob("*.tar"))) == 1
    assert [read(remote, row) for row in range(40)] == [read(packed, row) for row in range(40)]
    there = packed.root
    shutil.rmtree(there)
    assert read(remote, 7)  # what was fetched stays


def test_refusals(manifest, packed, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(UsageError) as caught:
        pack(manifest, packed.root)
    assert caught.value.code == "pack_not_empty"
    with pytest.raises(DataError) as caught:
        open_remote((tmp_path / "nowhere").as_uri())
    assert caught.value.code == "remote_not_read"
    with pytest.raises(DataError) as caught:
        open_remote((tmp_path / "set").as_uri())
    assert caught.value.code == "remote_not_read"
    mapped = next((packed.root / ".fromzero").glob("manifest-*.arrow"))
    mapped.unlink()  # `packed` keeps what it has mapped
    mapped.write_bytes(b"damaged")
    with pytest.raises(DataError) as caught:
        open_remote(packed.root.as_uri())
    assert caught.value.code == "not_packed"
    next(packed.root.glob("shard-*.tar")).unlink()
    with pytest.raises(UnreadableImage):
        [read(packed, row) for row in range(40)]


def test_an_unreadable_picture_leaves_nothing_half(manifest, tmp_path):
    (manifest.root / manifest["path"][manifest.good()[5]]).unlink()
    with pytest.raises(UnreadableImage):
        pack(manifest, tmp_path / "shards")
    assert not (tmp_path / "shards").exists() and not list(tmp_path.glob("*.partial"))


def test_a_hostile_remote_writes_nowhere_else(packed, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for rows in ("../../../../stolen", "/tmp/stolen", "a\\..\\stolen", "", ".."):
        (packed.root / ".fromzero" / "manifest.json").write_text(json.dumps({"rows": rows}))
        with pytest.raises(DataError) as caught:
            open_remote(packed.root.as_uri())
        assert caught.value.code in ("not_packed", "remote_not_read")
    written = {each.name for each in tmp_path.rglob("*") if each.is_file() and "shards" not in each.parts}
    assert not any("stolen" in name for name in written)
    for address in ("nothing://x", "file:///nowhere at all"):
        with pytest.raises(DataError):
            open_remote(address)


def test_another_packing_at_the_same_address_is_another_set(manifest, packed, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    address = packed.root.as_uri()
    before = open_remote(address)
    assert read(before, 3) == read(packed, 3)
    shutil.rmtree(packed.root)
    (tmp_path / "set" / "dog" / "00.jpg").unlink()
    again = pack(split(scan(tmp_path / "set")), packed.root, shard_bytes=6000)
    there = open_remote(address)
    assert [read(there, row) for row in range(len(there))] == [read(again, row) for row in range(len(again))]


def test_packing_a_packed_set_keeps_names_and_bytes(packed, tmp_path):
    twice = pack(packed, tmp_path / "twice")
    kept = {packed.name(row): read(packed, row) for row in range(len(packed))}
    assert {twice.name(row): read(twice, row) for row in range(len(twice))} == kept


def test_what_lies_beside_is_nobodys_to_delete(manifest, tmp_path):
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "thesis.txt").write_text("years of work")
    pack(manifest, tmp_path / "out")
    assert (tmp_path / "out.partial" / "thesis.txt").read_text() == "years of work"


def test_a_packed_set_that_may_not_be_written(packed, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("fromzero.data.manifest.os.access", lambda *_: False)
    before = sorted((packed.root / ".fromzero").glob("[!.]*"))
    again = prepare(packed.root)
    assert len(again.rows("train")) == len(packed.rows("train"))
    assert sorted((packed.root / ".fromzero").glob("[!.]*")) == before
