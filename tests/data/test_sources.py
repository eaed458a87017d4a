"""Fetching a data set: from the nearest source, whole or not at all, and every failed attempt is said."""

import dataclasses
import gzip
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from fromzero.data.folder import scan
from fromzero.data.sources import get as sources
from fromzero.data.sources.get import IdxSet, get
from fromzero.errors import DiskError, SourceError, UnknownName
from fromzero.terminal import Console

TINY = IdxSet(
    name="tiny",
    classes=("a", "b", "c"),
    debian="no-such-package",
    installed=None,
    torchvision="FashionMNIST",
    counts=(12, 6),
)


class Heard(Console):
    def __init__(self):
        self.lines = []

    def line(self, text):
        self.lines.append(text)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder for the installed copy (not there yet), and the tiny set in the table."""
    installed = tmp_path / "installed"
    monkeypatch.setitem(sources.SETS, "tiny", dataclasses.replace(TINY, installed=installed))
    return tmp_path


def pictures(count, seed):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 8, 8), dtype=np.uint8), np.arange(count, dtype=np.uint8) % 3


def write_idx(folder, counts=(12, 6), zipped=False):
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (part, count) in enumerate(zip(("train", "t10k"), counts, strict=True)):
        images, labels = pictures(count, seed)
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = np.array([0x0800 + array.ndim, *array.shape], dtype=">u4").tobytes()
            content = header + array.tobytes()
            path = folder / f"{part}-{name}-ubyte{'.gz' if zipped else ''}"
            path.write_bytes(gzip.compress(content) if zipped else content)
    return folder


@pytest.mark.parametrize("zipped", [False, True])
def test_from_an_installed_copy(place, zipped):
    write_idx(place / "installed", zipped=zipped)
    heard = Heard()
    folder = get("tiny", place / "out" / "数据", offline=True, console=heard)
    assert folder == place / "out" / "数据"
    assert any(str(place / "installed") in line for line in heard.lines)
    manifest = scan(folder)
    assert manifest.classes == ("a", "b", "c")
    assert {part: int((manifest["given"] == part).sum()) for part in ("train", "test")} == {"train": 12, "test": 6}
    images, labels = pictures(6, 1)
    for number in range(6):
        seen = Image.open(folder / "test" / TINY.classes[labels[number]] / f"{number:05d}.png")
        assert np.array_equal(seen, images[number])
    assert sorted(each.name for each in (place / "out").iterdir() if each.name != ".fromzero") == ["数据"]


def test_from_files_in_the_folder_itself(place):
    target = write_idx(place / "out")
    get("tiny", target, offline=True)
    assert len(scan(target).good()) == 18
    assert (target / "train-images-idx3-ubyte").is_file()  # what lay there is kept


def test_a_second_call_does_nothing(place):
    write_idx(place / "installed")
    folder = get("tiny", place / "out", offline=True)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    shutil.rmtree(place / "installed")
    heard = Heard()
    assert get("tiny", place / "out", offline=True, console=heard) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert len(heard.lines) == 1


def test_offline_with_nothing_there(place):
    heard = Heard()
    with pytest.raises(SourceError) as caught:
        get("tiny", place / "out", offline=True, console=heard)
    assert len(caught.value.attempts) == len(heard.lines) == 2
    for where in (place / "out", place / "installed"):
        assert any(str(where) in attempt and "train-images-idx3-ubyte" in attempt for attempt in caught.value.attempts)
        assert str(where) in caught.value.cause
    assert not (place / "out").exists()


def test_every_source_is_named_when_all_fail(place, monkeypatch):
    """Without the tools of Debian and without a mirror to download from."""
    import torchvision.datasets

    monkeypatch.setenv("PATH", str(place))
    monkeypatch.setattr(torchvision.datasets.FashionMNIST, "mirrors", [])
    with pytest.raises(SourceError) as caught:
        get("tiny", place / "out")
    assert len(caught.value.attempts) == 4
    assert "apt-get" in caught.value.attempts[2] and "FashionMNIST" in caught.value.attempts[3]


@pytest.mark.parametrize("mark", [None, "", "{", "[]", '{"name": "other"}'])
def test_a_partial_folder_does_not_pass_for_complete(place, mark):
    (place / "out" / "train" / "a").mkdir(parents=True)
    (place / "out" / "train" / "a" / "99999.png").write_bytes(b"left by a copy that was cut off")
    if mark is not None:
        (place / "out" / ".fromzero-source").write_text(mark)
    with pytest.raises(SourceError):
        get("tiny", place / "out", offline=True)
    write_idx(place / "installed")
    get("tiny", place / "out", offline=True)
    manifest = scan(place / "out")
    assert len(manifest) == len(manifest.good()) == 18


def test_a_folder_whose_classes_were_removed_is_fetched_again(place):
    write_idx(place / "installed")
    get("tiny", place / "out", offline=True)
    shutil.rmtree(place / "out" / "train")
    get("tiny", place / "out", offline=True)
    assert len(scan(place / "out")) == 18


def test_an_empty_folder_is_used(place):
    (place / "out").mkdir()
    write_idx(place / "installed")
    get("tiny", place / "out", offline=True)
    assert json.loads((place / "out" / ".fromzero-source").read_text(encoding="utf-8"))["name"] == "tiny"


def test_a_damaged_source_is_said_and_the_next_is_tried(place):
    damaged = write_idx(place / "out", zipped=True)
    whole = (damaged / "t10k-images-idx3-ubyte.gz").read_bytes()
    (damaged / "t10k-images-idx3-ubyte.gz").write_bytes(whole[: len(whole) // 2])
    write_idx(place / "installed")
    heard = Heard()
    get("tiny", place / "out", offline=True, console=heard)
    assert len(scan(place / "out")) == 18
    assert str(place / "out") in heard.lines[0] and str(place / "installed") in heard.lines[1]


@pytest.mark.parametrize("counts", [(11, 6), (12, 7), (0, 0)])
def test_a_source_with_another_number_of_pictures_is_refused(place, counts):
    write_idx(place / "installed", counts)
    with pytest.raises(SourceError):
        get("tiny", place / "out", offline=True)
    assert not (place / "out").exists()


def test_files_of_another_kind_are_refused(place):
    write_idx(place / "installed")
    (place / "installed" / "train-labels-idx1-ubyte").write_bytes(b"<html>404</html>")
    with pytest.raises(SourceError) as caught:
        get("tiny", place / "out", offline=True)
    assert "train-labels-idx1-ubyte" in caught.value.attempts[1]


def test_a_place_that_cannot_be_written(place):
    write_idx(place / "installed")
    (place / "file").write_text("no folder")
    with pytest.raises(DiskError):
        get("tiny", place / "file" / "out", offline=True)


def test_an_unknown_name_gives_near_ones(place):
    with pytest.raises(UnknownName) as caught:
        get("fashion-mnst", place / "out", offline=True)
    assert "fashion-mnist" in caught.value.near
