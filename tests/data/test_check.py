"""Every planted fault is found, and nothing else is."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image, ImageFilter

from fromzero.cli import main
from fromzero.data.check import check
from fromzero.data.folder import scan

KINDS = {
    "corrupt",
    "exact_duplicates",
    "near_duplicates",
    "conflicting_labels",
    "leakage",
    "outliers",
    "label_suspects",
    "imbalance",
    "wrong_type",
    "misplaced",
}


def picture(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)).save(path)
    return path


def fill(root, names=("a", "b"), count=6, start=0):
    for n, name in enumerate(names):
        for number in range(count):
            picture(root / name / f"{number}.png", start + 100 * n + number)
    return root


def findings(root):
    report = check(scan(root))
    return {kind: entries for kind, entries in report.findings.items() if entries}


def test_nothing_wrong(tmp_path):
    report = check(scan(fill(tmp_path)))
    assert report.images == 12 and report.classes == {"a": 6, "b": 6}
    assert set(report.findings) == KINDS
    assert not any(report.findings.values())
    assert not report.blocked


def test_corrupt(tmp_path):
    fill(tmp_path)
    (tmp_path / "a" / "空.png").write_bytes(b"")
    assert findings(tmp_path) == {"corrupt": [{"file": "a/空.png", "code": "image_empty"}]}
    assert not check(scan(tmp_path)).blocked


def test_exact_duplicates(tmp_path):
    fill(tmp_path)
    shutil.copy(tmp_path / "a" / "0.png", tmp_path / "a" / "copy.png")
    shutil.copy(tmp_path / "a" / "0.png", tmp_path / "a" / "again.png")
    assert findings(tmp_path) == {"exact_duplicates": [{"files": ["a/0.png", "a/again.png", "a/copy.png"]}]}


def test_conflicting_labels(tmp_path):
    fill(tmp_path)
    shutil.copy(tmp_path / "a" / "0.png", tmp_path / "b" / "copy.png")
    files = ["a/0.png", "b/copy.png"]
    assert findings(tmp_path) == {
        "exact_duplicates": [{"files": files}],
        "conflicting_labels": [{"files": files, "classes": ["a", "b"]}],
    }
    assert check(scan(tmp_path)).blocked


def test_leakage_between_given_splits(tmp_path):
    fill(tmp_path / "train")
    fill(tmp_path / "test", start=1000)
    shutil.copy(tmp_path / "train" / "a" / "0.png", tmp_path / "test" / "a" / "copy.png")
    files = ["test/a/copy.png", "train/a/0.png"]
    assert findings(tmp_path) == {
        "exact_duplicates": [{"files": files}],
        "leakage": [{"files": files, "splits": ["test", "train"]}],
    }
    assert check(scan(tmp_path)).blocked


def test_flat_pictures(tmp_path):
    fill(tmp_path)
    Image.new("RGB", (40, 40), (13, 57, 99)).save(tmp_path / "a" / "flat.png")
    assert findings(tmp_path) == {"outliers": [{"file": "a/flat.png", "reason": "flat", "spread": 0.0}]}


@pytest.mark.parametrize("many, found", [(30, False), (31, True)])
def test_imbalance_beyond_five_times(tmp_path, many, found):
    fill(tmp_path, ("few",), 6)
    fill(tmp_path, ("many",), many, start=500)
    entry = {"smallest": "few", "count": 6, "largest": "many", "largest_count": many}
    assert findings(tmp_path) == ({"imbalance": [entry]} if found else {})


def test_all_at_once(tmp_path):
    fill(tmp_path)
    (tmp_path / "b" / "cut.png").write_bytes((tmp_path / "b" / "0.png").read_bytes()[:60])
    shutil.copy(tmp_path / "a" / "0.png", tmp_path / "a" / "copy.png")
    Image.new("L", (40, 40), 128).save(tmp_path / "b" / "flat.png")
    found = findings(tmp_path)
    assert {kind: len(entries) for kind, entries in found.items()} == {
        "corrupt": 1,
        "exact_duplicates": 1,
        "outliers": 1,
    }


def test_a_class_of_which_nothing_can_be_read_is_no_second_class(tmp_path):
    fill(tmp_path, ("a",))
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "0.png").write_bytes(b"")
    assert check(scan(tmp_path)).blocked


def photo(path, seed, size=(96, 72), blur=0.0, **how):
    """A picture with large shapes and fine detail."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(seed)
    coarse = Image.fromarray(draw.integers(0, 256, (4, 5, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    fine = Image.fromarray(draw.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    made = Image.blend(coarse, fine, 0.2)
    if blur:
        made = made.filter(ImageFilter.GaussianBlur(blur))
    made.save(path, **how)


def photos(root, count=30):
    for number in range(count):
        photo(root / "ab"[number % 2] / f"{number:02d}.png", number)
    return root


def test_near_copies_under_two_labels_and_in_two_parts_do_not_block(tmp_path):
    photos(tmp_path / "train")
    photo(tmp_path / "test" / "a" / "other.png", 77)
    photo(tmp_path / "test" / "b" / "near.jpg", 4, quality=60)
    report = check(scan(tmp_path))
    files = ["test/b/near.jpg", "train/a/04.png"]
    (entry,) = report.findings["near_duplicates"]
    assert entry["files"] == files and entry["reason"] == "altered" and 0.8 < entry["score"] <= 1
    assert report.findings["conflicting_labels"] == [{"files": files, "classes": ["a", "b"], "near": True}]
    assert report.findings["leakage"] == [{"files": files, "splits": ["test", "train"], "near": True}]
    assert not report.blocked and not report.unchecked


@pytest.mark.parametrize("box, reason", [((0, 0, 96, 72), "resized"), ((8, 4, 90, 68), "cropped")])
def test_what_was_done_to_a_near_copy(tmp_path, box, reason):
    photos(tmp_path)
    with Image.open(tmp_path / "a" / "06.png") as picture:
        picture.crop(box).resize((64, 48)).save(tmp_path / "a" / "near.png")
    assert [each["reason"] for each in findings(tmp_path)["near_duplicates"]] == [reason]


def test_two_groups_of_near_copies_keep_their_reasons(tmp_path):
    photos(tmp_path)
    photo(tmp_path / "b" / "z near.jpg", 2, quality=70)
    with Image.open(tmp_path / "b" / "05.png") as picture:
        picture.crop((7, 7, 90, 66)).save(tmp_path / "a" / "a near.png")
    found = {tuple(each["files"]): each["reason"] for each in findings(tmp_path)["near_duplicates"]}
    assert found == {("a/02.png", "b/z near.jpg"): "altered", ("a/a near.png", "b/05.png"): "cropped"}


def test_outliers_with_their_reasons(tmp_path):
    photos(tmp_path)
    draw = np.random.default_rng(5)
    Image.fromarray(draw.integers(0, 12, (72, 96), dtype=np.uint8)).save(tmp_path / "a" / "dark.png")
    Image.fromarray(draw.integers(246, 256, (72, 96), dtype=np.uint8)).save(tmp_path / "a" / "bright.png")
    photo(tmp_path / "a" / "blurred.png", 90, blur=8)
    photo(tmp_path / "a" / "tiny.png", 91, size=(8, 6))
    photo(tmp_path / "a" / "long.png", 92, size=(320, 24))
    found = {each["file"]: each["reason"] for each in findings(tmp_path)["outliers"]}
    assert found == {
        "a/dark.png": "dark",
        "a/bright.png": "bright",
        "a/blurred.png": "blurred",
        "a/tiny.png": "odd_size",
        "a/long.png": "odd_shape",
    }


def test_a_data_set_of_dark_pictures_is_not_all_outliers(tmp_path):
    for number in range(20):
        values = np.random.default_rng(number).integers(0, 20, (40, 40), dtype=np.uint8)
        path = tmp_path / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(values).save(path)
    assert "outliers" not in findings(tmp_path)


def test_a_file_called_by_another_format(tmp_path):
    photos(tmp_path)
    (tmp_path / "a" / "00.png").rename(tmp_path / "a" / "photo.JPG")
    report = check(scan(tmp_path))
    assert report.findings["wrong_type"] == [{"file": "a/photo.JPG", "form": "png"}]
    assert not report.blocked and not report.findings["corrupt"]


def test_a_folder_beside_the_splits_is_told(tmp_path):
    fill(tmp_path / "train")
    fill(tmp_path / "test", start=1000)
    fill(tmp_path / "extra" / "deep", start=2000)
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "list.txt").write_text("x")
    assert findings(tmp_path)["misplaced"] == [{"file": "extra", "reason": "no_split"}]


def test_what_lies_beside_the_classes(tmp_path):
    photos(tmp_path)
    photo(tmp_path / "stray.png", 55)
    (tmp_path / "c" / "deep").mkdir(parents=True)
    assert findings(tmp_path)["misplaced"] == [
        {"file": "stray.png", "reason": "beside"},
        {"file": "c", "reason": "empty"},
        {"file": "c/deep", "reason": "empty"},
    ]


def test_wrong_labels(tmp_path):
    tints = {"red": (200, 60, 60), "green": (60, 200, 60), "blue": (60, 60, 200)}
    for name, tint in tints.items():
        (tmp_path / name).mkdir()
        for number in range(40):
            noise = np.random.default_rng(100 * len(name) + number).normal(0, 40, (24, 24, 3))
            values = np.clip(np.array(tint) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(values).save(tmp_path / name / f"{number:02d}.png")
    (tmp_path / "red" / "07.png").rename(tmp_path / "blue" / "stray.png")
    (entry,) = findings(tmp_path)["label_suspects"]
    assert (entry["file"], entry["label"], entry["suggested"]) == ("blue/stray.png", "blue", "red")
    assert entry["score"] > 0.9


# --- the command --------------------------------------------------------------------------------------------------


def test_command_says_yes(tmp_path, capsys):
    fill(tmp_path / "数据")
    assert main(["data", "check", str(tmp_path / "数据"), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert {"images", "classes", "findings"} <= set(answer)
    assert answer["images"] == 12 and answer["classes"] == {"a": 6, "b": 6}
    assert set(answer["findings"]) >= KINDS
    assert all(isinstance(entries, list) for entries in answer["findings"].values())


def test_command_says_no(tmp_path, capsys):
    fill(tmp_path)
    shutil.copy(tmp_path / "a" / "0.png", tmp_path / "b" / "猫.png")
    assert main(["data", "check", str(tmp_path), "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["findings"]["conflicting_labels"] == [{"files": ["a/0.png", "b/猫.png"], "classes": ["a", "b"]}]
    assert main(["data", "check", str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    assert "the same content in several classes" in printed and "猫.png" in printed


def test_command_called_wrongly(tmp_path, capsys):
    assert main(["data", "check", str(tmp_path / "nowhere"), "--json"]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and "nowhere" in printed.err
    assert main(["data", "check", str(tmp_path), "--json"]) == 1
    assert "no_pictures" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("language", "words"),
    [
        ("en", ("unreadable: b/bad.jpg (not a picture", "in several classes: a/0.png, b/0.png (a / b)", "Not fit")),
        ("zh", ("无法读取: b/bad.jpg", "出现在多个类别", "暂不宜训练")),
    ],
)
def test_the_command_says_findings_in_words(tmp_path, capsys, language, words):
    for name in "ab":
        (tmp_path / name).mkdir()
        Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(tmp_path / name / "0.png")
    (tmp_path / "b" / "bad.jpg").write_bytes(b"no picture")
    assert main(["--lang", language, "data", "check", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert all(each in out for each in words), out
    assert "conflicting_labels" not in out
    assert "near_duplicates" not in out


def test_one_class_says_why_it_is_refused(tmp_path, capsys):
    (tmp_path / "a").mkdir()
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(tmp_path / "a" / "0.png")
    assert main(["--lang", "en", "data", "check", str(tmp_path)]) == 1
    assert "fewer than two classes" in capsys.readouterr().out
