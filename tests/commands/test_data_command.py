"""`fromzero data` as a person meets it: what it prints, its JSON, its exit statuses."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from fromzero.cli import main


def picture(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)).save(path)


@pytest.fixture
def faulty(tmp_path):
    root = tmp_path / "数据"
    for n, name in enumerate(("猫", "狗")):
        for number in range(12):
            picture(root / name / f"{number:02d}.png", 100 * n + number)
    (root / "狗" / "坏\n的.png").write_bytes(b"bad")
    for number in range(9):
        shutil.copy(root / "猫" / "00.png", root / "猫" / f"copy {number}.png")
    return root


def ran(capsys, *words):
    status = main(["data", *map(str, words)])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def test_findings_are_a_table_and_a_few_of_each(faulty, capsys):
    for number in range(8):
        (faulty / "狗" / f"bad {number}.png").write_bytes(b"bad")
    status, out, _ = ran(capsys, "check", faulty)
    assert status == 0
    lines = out.splitlines()
    assert any(line.split()[:2] == ["unreadable", "9"] for line in lines)
    assert sum(line.startswith("- unreadable: ") for line in lines) == 6
    assert "and 4 more" in out
    assert "坏\\n的.png" in ran(capsys, "clean", faulty)[1]
    assert "(+6)" in out  # files of one finding


def test_the_page_is_written_beside_the_json(faulty, tmp_path, capsys):
    page = tmp_path / "结果.html"
    status, out, err = ran(capsys, "check", faulty, "--html", page, "--json")
    assert status == 0 and len(json.loads(out)["findings"]["corrupt"]) == 1
    assert "data:image/" in page.read_text(encoding="utf-8") and str(page) in err
    assert ran(capsys, "check", faulty, "--html", tmp_path / "nowhere" / "x.html")[0] == 1


def test_blockers_are_status_1(faulty, capsys):
    shutil.copy(faulty / "猫" / "00.png", faulty / "狗" / "也是.png")
    status, out, _ = ran(capsys, "check", faulty)
    assert status == 1
    assert any(line.endswith("yes") for line in out.splitlines())


def test_clean_there_and_back(faulty, capsys):
    before = sorted(path.name for path in faulty.rglob("*.png"))
    status, out, _ = ran(capsys, "clean", faulty)
    assert status == 0 and "10 samples" in out and "坏\\n的.png" in out and "00.png stays" in out and "--apply" in out
    assert sorted(path.name for path in faulty.rglob("*.png")) == before
    status, out, _ = ran(capsys, "clean", faulty, "--apply")
    assert status == 0 and "10 files are now in" in out
    assert not any(faulty.glob("猫/copy*"))
    assert "Nothing to take out" in ran(capsys, "clean", faulty, "--apply")[1]
    assert "10 files are back" in ran(capsys, "clean", faulty, "--undo")[1]
    assert sorted(path.name for path in faulty.rglob("*.png")) == before
    assert ran(capsys, "clean", faulty, "--undo")[0] == 2


def test_clean_in_json(faulty, capsys):
    answer = json.loads(ran(capsys, "clean", faulty, "--kinds", "corrupt", "--json")[1])
    assert not answer["applied"] and answer["to"] is None
    assert answer["moves"] == [{"file": "狗/坏\n的.png", "kind": "corrupt", "why": {"code": "image_unknown"}}]
    answer = json.loads(ran(capsys, "clean", faulty, "--kinds", "corrupt", "--apply", "--json")[1])
    assert answer["applied"] and answer["to"].startswith(str(faulty) + ".removed")
    assert json.loads(ran(capsys, "clean", faulty, "--undo", "--json")[1]) == {"files": ["狗/坏\n的.png"], "lost": []}


@pytest.mark.parametrize(
    "words, code",
    [
        (["--kinds", "corupt"], "unknown_choice"),
        (["--keep", "狼"], "unknown_class"),
        (["--apply", "--undo"], "bad_arguments"),
        (["--undo"], "nothing_to_undo"),
    ],
)
def test_clean_called_wrongly(faulty, capsys, words, code):
    status, out, err = ran(capsys, "clean", faulty, *words)
    assert status == 2 and out == "" and err.startswith(f"fromzero: {code}")


@pytest.mark.parametrize(
    "words",
    [
        ["--how", "random"],
        ["--how", "stratified", "--shares", "0.5", "0.25", "0.25", "--seed", "3"],
        ["--how", "time"],
        ["--how", "time", "--by", "modified"],
        ["--how", "kfold", "--folds", "3", "--fold", "2"],
    ],
)
def test_split(faulty, capsys, words):
    for copy in faulty.glob("猫/copy*"):
        copy.unlink()
    status, out, _ = ran(capsys, "split", faulty, *words, "--json")
    counts = json.loads(out)
    assert status == 0
    assert sum(sum(part.values()) for part in counts.values()) == 24
    assert ran(capsys, "split", faulty, "--json")[1] == out  # the rule is kept


def test_split_by_folder_keeps_folders_whole(tmp_path, capsys):
    for patient in range(10):
        for number in range(4):
            picture(tmp_path / "ab"[number % 2] / f"patient {patient}" / f"{number}.png", 10 * patient + number)
    assert ran(capsys, "split", tmp_path, "--how", "grouped", "--by", "folder")[0] == 0
    from fromzero.data.folder import scan

    manifest = scan(tmp_path)
    places = {}
    for path, part in zip(manifest["path"], manifest["split"], strict=True):
        places.setdefault(path.rpartition("/")[0], set()).add(part)
    assert all(len(each) == 1 for each in places.values())


@pytest.mark.parametrize(
    "words, code",
    [
        (["--how", "grouped", "--by", "patient"], "unknown_choice"),
        (["--how", "kfold", "--folds", "3", "--fold", "3"], "bad_fold"),
        (["--how", "alphabetical"], "bad_arguments"),
        (["--shares", "1", "1", "1"], "bad_shares"),
    ],
)
def test_split_called_wrongly(faulty, capsys, words, code):
    status, out, err = ran(capsys, "split", faulty, *words)
    assert status == 2 and out == "" and err.startswith(f"fromzero: {code}")


def test_rows_of_a_file(tmp_path, capsys):
    file = tmp_path / "评论.csv"
    file.write_text("评价,好坏,日期\n" + "".join(f"文字{n},{n % 2},2024-01-{n + 1:02d}\n" for n in range(20)), "utf-8")
    words = (file, "--text", "评价", "--label", "好坏")
    counts = json.loads(ran(capsys, "split", *words, "--how", "time", "--by", "日期", "--json")[1])
    assert {part: sum(each.values()) for part, each in counts.items()} == {"train": 14, "val": 3, "test": 3}
    assert ran(capsys, "preview", *words)[0] == 2


@pytest.mark.parametrize("word", ["check", "clean", "split", "preview"])
def test_no_data_there(tmp_path, capsys, word):
    status, out, err = ran(capsys, word, tmp_path / "nowhere")
    assert status == 2 and out == "" and "nowhere" in err
