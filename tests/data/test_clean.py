"""What a check found is moved away and can be brought back, whatever happens meanwhile."""

import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from fromzero import files
from fromzero.data.check import DataReport
from fromzero.data.checks import copies
from fromzero.data.findings import clean
from fromzero.data.findings.clean import Move, apply, propose, removed_folder, undo
from fromzero.data.folder import scan
from fromzero.errors import DataError, DiskError, UnknownName, UsageError


def picture(path, seed, side=12):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)).save(path)
    return path


def fill(root, names=("猫", "b"), count=4, start=0):
    for n, name in enumerate(names):
        for number in range(count):
            picture(root / name / f"{number}.png", start + 100 * n + number)
    return root


def proposed(root, **options):
    """The rules by the findings that need no more than the manifest: quick."""
    manifest = scan(root)
    found = copies.findings(manifest)
    good = manifest.good()
    found["outliers"] = [{"file": manifest.name(row)} for row in good[manifest["spread"][good] < 1]]
    return manifest, propose(manifest, DataReport(len(manifest), {}, found), **options)


def moved(moves):
    return {each.file: each.kind for each in moves}


def tree(root):
    """Every file outside the state folder with its content."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and ".fromzero" not in path.parts
    }


# --- what is proposed ---------------------------------------------------------------------------------------------


def test_nothing_wrong_nothing_to_move(tmp_path):
    assert proposed(fill(tmp_path))[1] == []


def test_corrupt(tmp_path):
    (fill(tmp_path) / "b" / "空.png").write_bytes(b"")
    assert proposed(tmp_path)[1] == [Move("b/空.png", "corrupt", {"code": "image_empty"})]


def test_all_but_one_of_the_same(tmp_path):
    fill(tmp_path)
    for name in ("again.png", "copy.png"):
        shutil.copy(tmp_path / "b" / "0.png", tmp_path / "b" / name)
    moves = proposed(tmp_path)[1]
    assert moved(moves) == {"b/again.png": "exact_duplicates", "b/copy.png": "exact_duplicates"}
    assert all(each.why["stays"] == "b/0.png" for each in moves)


def test_the_training_copy_of_a_leak(tmp_path):
    fill(tmp_path / "train")
    fill(tmp_path / "val", start=1000)
    fill(tmp_path / "test", start=2000)
    shutil.copy(tmp_path / "test" / "b" / "0.png", tmp_path / "train" / "b" / "x.png")
    shutil.copy(tmp_path / "test" / "b" / "0.png", tmp_path / "val" / "b" / "x.png")
    shutil.copy(tmp_path / "val" / "b" / "1.png", tmp_path / "train" / "b" / "y.png")
    moves = proposed(tmp_path)[1]
    assert moved(moves) == dict.fromkeys(("train/b/x.png", "val/b/x.png", "train/b/y.png"), "leakage")


def test_the_copy_that_stays_is_none_that_leaves(tmp_path):
    """Two copies in train and one in test: those in train go, each once."""
    fill(tmp_path / "train")
    fill(tmp_path / "test", start=2000)
    for name in ("x.png", "y.png"):
        shutil.copy(tmp_path / "test" / "b" / "0.png", tmp_path / "train" / "b" / name)
    assert moved(proposed(tmp_path)[1]) == dict.fromkeys(("train/b/x.png", "train/b/y.png"), "leakage")


def test_copies_inside_a_test_set_stay(tmp_path):
    fill(tmp_path / "train")
    fill(tmp_path / "test", start=2000)
    shutil.copy(tmp_path / "test" / "b" / "0.png", tmp_path / "test" / "b" / "x.png")
    assert proposed(tmp_path)[1] == []


def test_both_of_a_conflict_unless_one_label_is_kept(tmp_path):
    fill(tmp_path)
    shutil.copy(tmp_path / "b" / "0.png", tmp_path / "猫" / "x.png")
    shutil.copy(tmp_path / "b" / "0.png", tmp_path / "b" / "y.png")
    every = dict.fromkeys(("b/0.png", "b/y.png", "猫/x.png"), "conflicting_labels")
    assert moved(proposed(tmp_path)[1]) == every
    assert moved(proposed(tmp_path, keep=["b"])[1]) == {
        "猫/x.png": "conflicting_labels",
        "b/y.png": "exact_duplicates",
    }
    assert moved(proposed(tmp_path, keep=["b", "猫"])[1]) == every
    with pytest.raises(UnknownName):
        proposed(tmp_path, keep=["dog"])


def test_only_the_kinds_that_are_named(tmp_path):
    fill(tmp_path)
    (tmp_path / "b" / "bad.png").write_bytes(b"bad")
    Image.new("RGB", (12, 12), (7, 7, 7)).save(tmp_path / "b" / "flat.png")
    shutil.copy(tmp_path / "b" / "0.png", tmp_path / "b" / "copy.png")
    assert moved(proposed(tmp_path)[1]) == {"b/bad.png": "corrupt", "b/copy.png": "exact_duplicates"}
    assert moved(proposed(tmp_path, kinds=["outliers"])[1]) == {"b/flat.png": "outliers"}
    assert proposed(tmp_path, kinds=[])[1] == []
    with pytest.raises(UnknownName):
        proposed(tmp_path, kinds=["imbalance"])


def test_the_largest_of_near_copies_stays(tmp_path):
    fill(tmp_path)
    picture(tmp_path / "b" / "large.png", 1, side=30)
    manifest = scan(tmp_path)
    found = {"near_duplicates": [{"files": ["b/0.png", "b/1.png", "b/large.png"]}]}
    moves = propose(manifest, DataReport(len(manifest), {}, found), kinds=["near_duplicates"])
    assert moved(moves) == dict.fromkeys(("b/0.png", "b/1.png"), "near_duplicates")
    assert moves[0].why["stays"] == "b/large.png"


def test_a_name_that_is_no_samples_is_passed_over(tmp_path):
    manifest = scan(fill(tmp_path))
    found = {"corrupt": [{"file": "../../etc/passwd"}, {"file": "b/gone.png"}]}
    assert propose(manifest, DataReport(8, {}, found)) == []


# --- away and back ------------------------------------------------------------------------------------------------

HOSTILE = ("a\nb.png", "图 片 ①.png", "-rf.png", "emoji 🐶.png", '"quoted".png', "tab\t.png", "x" * 240 + ".png")


def faulty(root):
    fill(root)
    for name in HOSTILE:
        (root / "猫" / name).write_bytes(b"no picture " + name.encode())
    (root / "b" / "deep").mkdir()
    (root / "b" / "deep" / "bad.png").write_bytes(b"")
    return root


def test_there_and_back(tmp_path):
    before = tree(faulty(tmp_path))
    manifest, moves = proposed(tmp_path)
    assert len(moves) == len(HOSTILE) + 1
    away = apply(manifest, moves)
    assert set(tree(tmp_path)) == set(before) - {each.file for each in moves}
    assert {each.file: (away / "files" / each.file).read_bytes() for each in moves} == {
        each.file: before[each.file] for each in moves
    }
    assert away.is_relative_to(removed_folder(tmp_path))
    assert proposed(tmp_path)[1] == []
    restored = undo(tmp_path)
    assert sorted(restored.files) == sorted(each.file for each in moves) and not restored.lost
    assert tree(tmp_path) == before
    assert not (away / "files").exists()
    with pytest.raises(UsageError, match="nothing was taken out"):
        undo(tmp_path)


def test_the_last_one_is_undone_first(tmp_path):
    before = tree(faulty(tmp_path))
    manifest, moves = proposed(tmp_path)
    apply(manifest, moves[:3])
    between = tree(tmp_path)
    apply(manifest, moves[3:])
    undo(tmp_path)
    assert tree(tmp_path) == between
    undo(tmp_path)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("done", range(9))
def test_a_crash_at_any_moment(tmp_path, monkeypatch, done):
    """Killed after `done` of the moves, and then in the middle of bringing them back."""
    before = tree(faulty(tmp_path))
    manifest, moves = proposed(tmp_path)
    rename = os.rename

    class Killed(BaseException):
        pass

    def killed_after(count):
        left = [count]

        def step(source, target):
            if not left[0]:
                raise Killed
            left[0] -= 1
            rename(source, target)

        return step

    monkeypatch.setattr(os, "rename", killed_after(done))
    try:
        apply(manifest, moves)
    except Killed:
        assert done < len(moves)
    assert len(before) - len(tree(tmp_path)) == min(done, len(moves))
    monkeypatch.setattr(os, "rename", killed_after(done // 2))
    try:
        undo(tmp_path)
    except Killed:
        assert done
    monkeypatch.setattr(os, "rename", rename)
    try:
        undo(tmp_path)
    except UsageError:
        assert not done  # the first one had nothing to move and was complete
    assert tree(tmp_path) == before


def test_the_journal_is_there_before_the_first_move(tmp_path, monkeypatch):
    manifest, moves = proposed(faulty(tmp_path))

    def rename(source, target):
        found = list((removed_folder(tmp_path)).glob("*/journal.json"))
        assert len(found) == 1
        listed = json.loads(found[0].read_text(encoding="utf-8"))["moves"]
        assert [each["file"] for each in listed] == [each.file for each in moves]
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(KeyboardInterrupt):
        apply(manifest, moves)


def test_without_a_journal_nothing_is_moved(tmp_path, monkeypatch):
    before = tree(faulty(tmp_path))
    manifest, moves = proposed(tmp_path)

    def full(path, value):
        raise files.disk_error(path, OSError(28, "No space left on device"))

    monkeypatch.setattr(clean, "write_json", full)
    with pytest.raises(DiskError):
        apply(manifest, moves)
    assert tree(tmp_path) == before


def test_a_read_only_folder_is_said_and_left_whole(tmp_path, monkeypatch):
    before = tree(faulty(tmp_path))
    manifest, moves = proposed(tmp_path)

    def refused(source, target):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", refused)
        with pytest.raises(DataError, match="Permission denied"):
            apply(manifest, moves)
    assert tree(tmp_path) == before
    assert undo(tmp_path).files == []

    def no_folder(self, *args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(tmp_path), "mkdir", no_folder)
    with pytest.raises(DiskError, match="Permission denied"):
        apply(manifest, moves)


def test_a_file_that_vanished_stops_and_the_rest_comes_back(tmp_path):
    before = tree(faulty(tmp_path))
    manifest, moves = proposed(tmp_path)
    (tmp_path / moves[2].file).unlink()
    with pytest.raises(DataError, match="2 files are away"):
        apply(manifest, moves)
    restored = undo(tmp_path)
    assert len(restored.files) == 2 and restored.lost == [moves[2].file]
    del before[moves[2].file]
    assert tree(tmp_path) == before


def test_undo_overwrites_nothing(tmp_path):
    manifest, moves = proposed(faulty(tmp_path))
    apply(manifest, moves)
    (tmp_path / moves[-1].file).write_bytes(b"new")
    after = tree(tmp_path)
    with pytest.raises(DataError, match="overwrite"):
        undo(tmp_path)
    assert tree(tmp_path) == after
    (tmp_path / moves[-1].file).unlink()
    assert len(undo(tmp_path).files) == len(moves)


def test_the_class_folder_may_be_gone_by_then(tmp_path):
    manifest, moves = proposed(faulty(tmp_path))
    apply(manifest, moves)
    shutil.rmtree(tmp_path / "b")
    undo(tmp_path)
    assert (tmp_path / "b" / "deep" / "bad.png").is_file()


@pytest.mark.parametrize("name", ["../out.txt", "/etc/hostname", "b/../../out.txt", "link/out.txt", ""])
def test_a_journal_from_elsewhere_moves_nothing_outside(tmp_path, name):
    root, outside = fill(tmp_path / "data"), tmp_path / "outside"
    outside.mkdir()
    (root / "link").symlink_to(outside)
    away = removed_folder(root) / "20990101-000000"
    (away / "files" / "link").mkdir(parents=True)
    (away / "files" / "link" / "out.txt").write_text("payload")
    (away / "out.txt").write_text("payload")
    (away / "journal.json").write_text(json.dumps({"format": 1, "moves": [{"file": name, "kind": "corrupt"}]}))
    with pytest.raises(DataError, match="does not lie in"):
        undo(root)
    assert not list(outside.iterdir()) and not (tmp_path / "out.txt").exists()


def test_a_link_in_the_removed_folder_leads_nowhere(tmp_path):
    root, outside = fill(tmp_path / "data"), tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("mine")
    away = removed_folder(root) / "20990101-000000"
    (away / "files").mkdir(parents=True)
    (away / "files" / "b").symlink_to(outside)
    (away / "journal.json").write_text(json.dumps({"format": 1, "moves": [{"file": "b/secret"}]}))
    with pytest.raises(DataError, match="does not lie in"):
        undo(root)
    assert (outside / "secret").read_text() == "mine"


def test_what_a_linked_class_folder_holds_stays_there(tmp_path):
    root, shared = fill(tmp_path / "data"), tmp_path / "shared"
    shared.mkdir()
    (shared / "bad.png").write_bytes(b"")
    (root / "linked").symlink_to(shared)
    manifest, moves = proposed(root)
    assert moved(moves) == {"linked/bad.png": "corrupt"}
    with pytest.raises(DataError, match="does not lie in"):
        apply(manifest, moves)
    assert (shared / "bad.png").exists()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 9, "moves": []}', '{"format": 1, "moves": [{}]}'])
def test_a_damaged_journal(tmp_path, text):
    manifest, moves = proposed(faulty(tmp_path))
    (apply(manifest, moves) / "journal.json").write_text(text)
    with pytest.raises(DataError, match="not a journal"):
        undo(tmp_path)


def test_near_copies_that_leak_are_not_moved_unasked(tmp_path):
    fill(tmp_path / "train")
    fill(tmp_path / "test", start=2000)
    manifest = scan(tmp_path)
    found = {"leakage": [{"files": ["test/b/0.png", "train/b/0.png"], "splits": ["test", "train"], "near": True}]}
    report = DataReport(len(manifest), {}, found)
    assert propose(manifest, report) == []
    assert moved(propose(manifest, report, kinds=["leakage"])) == {"train/b/0.png": "leakage"}


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_a_link_and_what_it_leads_to_both_stay(tmp_path):
    root = tmp_path
    for name in ("a", "b"):
        (root / name).mkdir()
        for number in range(3):
            array = np.random.default_rng((number, ord(name))).integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(array).save(root / name / f"{number}.png")
    (root / "a" / "000 link.png").symlink_to("1.png")
    _, moves = proposed(root)
    assert [each for each in moves if each.kind == "exact_duplicates"] == []
