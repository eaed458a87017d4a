"""Scanning a folder: what counts as a picture and a class, and what an earlier scan is worth."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fromzero.data.columns import Words
from fromzero.data.folder import scan
from fromzero.data.manifest import SPLIT_WORDS, save, state_folder
from fromzero.errors import DataError, DiskError, UsageError


def picture(path, seed=0, size=(12, 10)):
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(array).save(path)
    return path


@pytest.fixture
def flat(tmp_path):
    for number in range(3):
        picture(tmp_path / "set" / "cat" / f"{number}.png", number)
        picture(tmp_path / "set" / "dog" / f"{number}.jpg", 10 + number)
    return tmp_path / "set"


def column(manifest, name):
    return dict(zip(manifest["path"].tolist(), manifest[name].tolist(), strict=True))


def test_flat(flat):
    manifest = scan(flat)
    assert manifest.classes == ("cat", "dog")
    assert manifest["path"].tolist() == ["cat/0.png", "cat/1.png", "cat/2.png", "dog/0.jpg", "dog/1.jpg", "dog/2.jpg"]
    assert manifest["label"].tolist() == [0, 0, 0, 1, 1, 1]
    assert set(manifest["given"].tolist()) == {""}
    assert set(zip(manifest["width"].tolist(), manifest["height"].tolist(), strict=True)) == {(12, 10)}
    assert not manifest["grey"].any()
    assert len(manifest.good()) == 6


def test_given_splits_under_their_usual_names(tmp_path):
    for top in ("train", "Valid", "test"):
        picture(tmp_path / top / "a" / "0.png", 1)
        picture(tmp_path / top / "b" / "0.png", 2)
    manifest = scan(tmp_path)
    assert manifest.classes == ("a", "b")
    assert sorted(set(manifest["given"].tolist())) == ["test", "train", "val"]


def test_other_folders_beside_the_splits_do_not_turn_them_into_classes(tmp_path):
    for top in ("train", "test", "annotations", "__MACOSX"):
        picture(tmp_path / top / "a" / "0.png", 1)
        picture(tmp_path / top / "b" / "0.png", 2)
    manifest = scan(tmp_path)
    assert manifest.classes == ("a", "b")
    assert sorted(manifest["given"].tolist()) == ["test", "test", "train", "train"]


def test_a_class_may_be_called_train(tmp_path):
    for name in ("train", "car", "bus"):
        picture(tmp_path / name / "0.png")
    assert scan(tmp_path).classes == ("bus", "car", "train")


def test_names_of_all_kinds(tmp_path):
    for name in ("猫", "小 狗", "T-shirt & top", "50%", "a'b"):
        picture(tmp_path / name / "子 目录" / "图 片 (1).JPG")
    manifest = scan(tmp_path)
    assert set(manifest.classes) == {"猫", "小 狗", "T-shirt & top", "50%", "a'b"}
    assert len(manifest.good()) == 5
    assert "猫/子 目录/图 片 (1).JPG" in manifest["path"].tolist()
    again = scan(tmp_path)
    assert column(again, "hash") == column(manifest, "hash")


def test_a_name_that_is_not_text_is_said(flat):
    folder = os.path.join(os.fsencode(flat), "小狗".encode("gbk"))
    try:
        os.mkdir(folder)
    except OSError:
        pytest.skip("this file system takes only Unicode names")
    shutil.copy(flat / "cat" / "0.png", os.path.join(folder, b"0.png"))
    with pytest.raises(DataError) as caught:
        scan(flat)
    assert caught.value.code == "name_not_utf8"
    str(caught.value).encode()  # can be printed


def test_hidden_and_foreign_files_are_left_out(flat):
    picture(flat / "cat" / ".hidden.png")
    picture(flat / "cat" / ".thumbnails" / "0.png")
    picture(flat / ".git" / "x.png")
    picture(flat / "loose.png")
    (flat / "cat" / "notes.txt").write_text("x")
    (flat / "cat" / "Thumbs.db").write_bytes(b"x")
    (flat / "cat" / "folder.png").mkdir()
    (flat / "empty class").mkdir()
    manifest = scan(flat)
    assert len(manifest) == 6
    assert manifest.classes == ("cat", "dog")


def test_nested_folders_belong_to_their_class(flat):
    picture(flat / "cat" / "2023" / "may" / "x.png")
    manifest = scan(flat)
    assert manifest.classes == ("cat", "dog")
    assert column(manifest, "label")["cat/2023/may/x.png"] == 0


def test_unreadable_files_are_named_and_survived(flat):
    whole = (flat / "cat" / "0.png").read_bytes()
    (flat / "cat" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (flat / "cat" / "empty.png").write_bytes(b"")
    (flat / "dog" / "text.jpg").write_text("not a picture")
    (flat / "dog" / "gone.jpg").symlink_to(flat / "nowhere.jpg")
    for _ in range(2):  # as it is found, and as it is remembered
        problems = {path: each for path, each in column(scan(flat), "problem").items() if each}
        assert problems == {
            "cat/cut.png": "image_damaged",
            "cat/empty.png": "image_empty",
            "dog/text.jpg": "image_unknown",
        }
    assert len(scan(flat).good()) == 6


def test_edits_additions_and_deletions_are_seen(flat):
    before = scan(flat)
    picture(flat / "cat" / "0.png", 99, (20, 20))
    picture(flat / "bird" / "0.png", 5)
    (flat / "dog" / "1.jpg").unlink()
    after = scan(flat)
    assert after.classes == ("bird", "cat", "dog")
    assert "dog/1.jpg" not in after["path"].tolist()
    assert column(after, "width")["cat/0.png"] == 20
    assert column(after, "hash")["cat/0.png"] != column(before, "hash")["cat/0.png"]
    assert column(after, "hash")["cat/1.png"] == column(before, "hash")["cat/1.png"]


def test_a_repaired_file_is_read_again(flat):
    whole = (flat / "cat" / "0.png").read_bytes()
    (flat / "cat" / "0.png").write_bytes(b"")
    assert len(scan(flat).good()) == 5
    (flat / "cat" / "0.png").write_bytes(whole)
    assert len(scan(flat).good()) == 6


def test_the_split_is_remembered(flat):
    manifest = scan(flat)
    save(manifest.with_column("split", Words.of(["train", "val", "test", "train", "val", "test"], SPLIT_WORDS)))
    picture(flat / "cat" / "new.png", 77)
    again = column(scan(flat), "split")
    assert again["cat/2.png"] == "test" and again["dog/1.jpg"] == "val" and again["cat/new.png"] == ""


def test_a_damaged_cache_is_only_a_cache(flat):
    whole = scan(flat)
    folder = state_folder(flat)
    (kept,) = folder.glob("manifest-*.arrow")
    good, head = kept.read_bytes(), (folder / "manifest.json").read_bytes()
    rng = np.random.default_rng(0)
    damaged = [b"", b"nonsense", good[: len(good) // 2], good[:-1], good + good]
    for _ in range(150):
        changed = bytearray(good)
        for place in rng.integers(0, len(good), 3):
            changed[place] = rng.integers(256)
        damaged.append(bytes(changed))
    for content in damaged:
        kept.unlink()  # `whole` still has the good one mapped
        kept.write_bytes(content)
        (folder / "manifest.json").write_bytes(head)
        again = scan(flat)
        assert again.classes == whole.classes
        for name in whole.columns:
            assert list(again[name]) == list(whole[name])
    for content in (b"", b"[]", b'{"rows": 3}', b'{"rows": "../x"}', head[:-3]):
        (folder / "manifest.json").write_bytes(content)
        assert list(scan(flat)["path"]) == list(whole["path"])


def test_the_cache_is_no_picture_and_no_class(flat):
    scan(flat)
    assert sorted(each.name for each in flat.iterdir()) == ["cat", "dog"]  # other tools see what they saw
    assert len(scan(flat)) == 6
    kinds = sorted(each.stem.split("-")[0] + each.suffix for each in state_folder(flat).glob("[!.]*"))
    assert kinds == ["looks.npy", "manifest.arrow", "manifest.json"]


def test_where_the_folder_takes_no_cache_the_users_cache_does(flat, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (flat.parent / ".fromzero").write_text("in the way")
    scan(flat)
    kept = list((tmp_path / "cache").rglob("manifest.json"))
    assert len(kept) == 1
    kept[0].stat()
    before = kept[0].parent
    assert state_folder(flat) == before
    assert state_folder(flat / ".." / flat.name) == before  # the same folder by another name


@pytest.mark.skipif(not hasattr(os, "setresuid"), reason="needs POSIX permissions")
def test_read_only_folder(monkeypatch):
    """Root may write everywhere: it becomes nobody for the length of the scan."""
    place = Path(tempfile.mkdtemp())
    try:
        for number in range(3):
            picture(place / "set" / "a" / f"{number}.png", number)
            picture(place / "set" / "b" / f"{number}.png", 10 + number)
        monkeypatch.setenv("XDG_CACHE_HOME", str(place / "cache"))
        (place / "cache").mkdir(mode=0o777)
        for each in (place, place / "cache"):
            each.chmod(0o777)
        (place / "set").chmod(0o555)
        (place / ".fromzero").write_text("in the way")
        scan_as_nobody = os.getuid() == 0
        import pyarrow.ipc  # noqa: F401  # while its files can surely be read

        if scan_as_nobody:
            os.setresuid(65534, 65534, 0)
        try:
            first, second = scan(place / "set"), scan(place / "set")
        finally:
            if scan_as_nobody:
                os.setresuid(0, 0, 0)
        assert len(first.good()) == len(second.good()) == 6
        assert list((place / "cache").rglob("manifest.json"))
    finally:
        (place / "set").chmod(0o755)
        shutil.rmtree(place)


def test_neither_place_can_be_written(flat, tmp_path, monkeypatch):
    (flat.parent / ".fromzero").write_text("in the way")
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(DiskError):
        scan(flat)


def test_nothing_to_scan(tmp_path):
    with pytest.raises(UsageError) as missing:
        scan(tmp_path / "nowhere")
    assert missing.value.code == "no_such_folder"
    picture(tmp_path / "loose.png")
    for make in (lambda: None, lambda: (tmp_path / "empty").mkdir()):
        make()
        with pytest.raises(DataError) as empty:
            scan(tmp_path)
        assert empty.value.code == "no_pictures"


def test_another_content_under_an_old_name_starts_without_a_split(flat):
    manifest = scan(flat)
    save(manifest.with_column("split", Words.of(["train", "val", "test", "train", "val", "test"], SPLIT_WORDS)))
    shutil.copy(flat / "dog" / "2.jpg", flat / "dog" / "0.jpg")
    again = column(scan(flat), "split")
    assert again["dog/0.jpg"] == "" and again["dog/2.jpg"] == "test"


def test_splits_under_other_names(tmp_path):
    for top in ("training", "dev", "测试"):
        picture(tmp_path / top / "a" / "0.png", 1)
        picture(tmp_path / top / "b" / "0.png", 2)
    manifest = scan(tmp_path)
    assert manifest.classes == ("a", "b")
    assert sorted(set(manifest["given"].tolist())) == ["test", "train", "val"]


def test_two_processes_at_one_data_set(flat):
    """Each opens, changes and keeps the manifest again and again; none ever finds it missing or broken."""
    work = (
        "import sys; from pathlib import Path; from fromzero.data.folder import scan; "
        "from fromzero.data.manifest import load, save; from fromzero.data.split import split\n"
        "for n in range(15):\n"
        "    save(split(scan(Path(sys.argv[1])), seed=n + 100 * int(sys.argv[2])))\n"
        "    assert load(Path(sys.argv[1])) is not None\n"
    )
    for number in range(3, 12):
        picture(flat / "cat" / f"{number}.png", number)
        picture(flat / "dog" / f"{number}.png", 20 + number)
    both = [subprocess.Popen([sys.executable, "-c", work, str(flat), str(which)]) for which in range(2)]
    assert [each.wait(120) for each in both] == [0, 0]


def test_looking_again_at_an_unchanged_set_writes_nothing(flat):
    scan(flat)
    before = {each.name: each.stat().st_mtime_ns for each in state_folder(flat).glob("[!.]*")}
    scan(flat)
    assert {each.name: each.stat().st_mtime_ns for each in state_folder(flat).glob("[!.]*")} == before
    (flat / "dog").rename(flat / "wolf")
    assert scan(flat).classes == ("cat", "wolf")
