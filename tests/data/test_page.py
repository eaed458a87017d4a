"""The page of findings: one file, every picture of a finding, hostile names harmless, bounded, in both languages."""

import base64
import html.parser
import io
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from fromzero import language
from fromzero.data.check import DataReport
from fromzero.data.checks import copies
from fromzero.data.findings import page as pages
from fromzero.data.findings.page import page
from fromzero.data.findings.telling import rows_named, shown, told
from fromzero.data.folder import scan
from fromzero.data.opening import open_data

HOSTILE = "<img src=x onerror=alert(1)>"


def picture(path, seed, size=(60, 40)):
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(array).save(path)


def report(count, classes, findings):
    return DataReport(count, classes, {"conflicting_labels": [], "leakage": [], **findings}, ())


def check(manifest):
    """The findings that need no more than the manifest: quick."""
    classes = dict(zip(manifest.classes, manifest.counts(manifest.good()).tolist(), strict=True))
    return DataReport(len(manifest), classes, copies.findings(manifest))


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    root = tmp_path_factory.mktemp("数据") / "动物 & <b>"
    for part, base in (("train", 0), ("test", 1000)):
        for n, name in enumerate(("小 狗", "猫", HOSTILE)):
            for number in range(4):
                picture(root / part / name / f"{number}.png", base + 100 * n + number)
    train = root / "train"
    shutil.copy(train / "小 狗" / "0.png", train / "猫" / "其实.png")
    shutil.copy(train / "小 狗" / "1.png", root / "test" / "小 狗" / "漏.png")
    for number in range(10):
        shutil.copy(train / "小 狗" / "2.png", train / "小 狗" / f"copy {number}.png")
    (train / "猫" / f"{HOSTILE}.png").write_bytes(b"bad")
    (train / "猫" / "line\nbreak\x1b[31m\u202egnp.png").write_bytes(b"")
    return root


class Reader(html.parser.HTMLParser):
    """What a browser would do: which tags there are, and what they would fetch or run."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.sources, self.handlers, self.words = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.sources += [value for name, value in attributes if name in ("src", "href")]
        self.handlers += [name for name, _ in attributes if name.startswith("on")]

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(params=["en", "zh"])
def made(request, faulty):
    language.use(request.param)
    manifest = scan(faulty)
    return request.param, page(check(manifest), manifest)


def test_it_needs_no_other_file_and_runs_nothing(made):
    seen = Reader(made[1])
    assert not {"script", "link", "iframe", "object", "b:b"} & set(seen.tags) and not seen.handlers
    assert all(each.startswith(("data:image/", "#")) for each in seen.sources)
    assert "default-src 'none'" in made[1]
    assert HOSTILE not in made[1] and "&lt;img src=x onerror=alert(1)&gt;" in made[1]
    assert "\u202e" not in made[1] and "\x1b" not in made[1]
    assert "line\\nbreak" in "".join(seen.words)


def test_it_says_all_in_one_language(made):
    chosen, text = made
    words = "".join(Reader(text).words)
    assert f'lang="{"zh-CN" if chosen == "zh" else "en"}"' in text
    for each in {"en": ("the same content", "training", "empty"), "zh": ("完全相同的", "训练", "空文件")}[chosen]:
        assert each in words
    assert "小 狗" in words and "动物 & <b>" in words


def test_pictures_of_a_finding_stand_side_by_side(made):
    section = made[1].split('id="conflicting_labels"')[1].split("<h2")[0]
    found = re.findall(r"data:image/(\w+);base64,([A-Za-z0-9+/=]+)", section)
    assert len(found) == 2 and found[0] == found[1]
    small = Image.open(io.BytesIO(base64.b64decode(found[0][1])))
    assert small.size == (60, 40)
    assert section.count("<article") == 1 and section.count("<figure") == 2
    assert "小 狗" in section and "猫" in section


def test_what_blocks_stands_first_and_empty_kinds_are_named(made):
    kinds = re.findall(r'<h2 id="(\w+)"', made[1])
    assert set(kinds[:2]) == {"conflicting_labels", "leakage"}
    assert {"corrupt", "exact_duplicates"} <= set(kinds) and "imbalance" not in kinds


def test_many_findings_are_counted_not_shown(faulty, monkeypatch):
    manifest = scan(faulty)
    entries = [{"files": list(manifest["path"])} for _ in range(10_000)]
    text = page(report(20, {f"c{n}": 1 for n in range(500)}, {"near_duplicates": entries}), manifest)
    assert text.count("<article") == pages.ENTRIES
    assert text.count("<figure") == pages.ENTRIES * pages.SAMPLES
    assert "10,000" in text and f"{10_000 - pages.ENTRIES:,}" in text
    assert len(text) < 4e6


def test_of_many_samples_some_of_each_class_are_shown(faulty):
    manifest = scan(faulty)
    found = {"near_duplicates": [{"files": sorted(manifest["path"], key=lambda path: "test/猫" in path)}]}
    text = page(report(20, {}, found), manifest)
    assert text.count("<figure") == pages.SAMPLES
    assert {"train/小 狗", "train/猫", "test/猫"} <= set(re.findall(r"(\w+/(?:小 狗|猫))/", text))


@pytest.mark.parametrize("size", [(1, 3000), (3000, 1), (1, 1), (900, 700)])
def test_thumbnails_are_small_whatever_the_picture(tmp_path, size):
    picture(tmp_path / "a" / "0.png", 1, size)
    picture(tmp_path / "b" / "0.png", 2)
    manifest = scan(tmp_path)
    text = page(report(2, {}, {"outliers": [{"file": "a/0.png", "reason": "odd_size"}]}), manifest)
    content = base64.b64decode(re.search(r"base64,([A-Za-z0-9+/=]+)", text)[1])
    assert max(Image.open(io.BytesIO(content)).size) <= pages.SIDE and len(content) < 40_000


def test_a_picture_that_is_gone_is_said(faulty, tmp_path):
    root = shutil.copytree(faulty, tmp_path / "copy")
    manifest = scan(root)
    found = check(manifest)
    shutil.rmtree(root / "train")
    assert "cannot be shown" in page(found, manifest)


def test_nothing_found(tmp_path):
    for name in "ab":
        picture(tmp_path / name / "0.png", ord(name))
    manifest = scan(tmp_path)
    assert "Nothing was found" in page(report(2, {"a": 1, "b": 1}, {"corrupt": []}), manifest)


def test_rows_of_a_file_are_shown_as_text(tmp_path):
    file = tmp_path / "评论.csv"
    file.write_text("text,label\n<script>alert(1)</script> 很好,好\n不错,好\n差,坏\n不错,坏\n", encoding="utf-8")
    manifest = open_data(file)
    found = {"conflicting_labels": [{"files": ["评论.csv:2", "评论.csv:4"], "classes": ["坏", "好"]}],
             "outliers": [{"file": "评论.csv:1", "reason": "odd"}]}  # fmt: skip
    text = page(report(4, {"好": 2, "坏": 2}, found), manifest)
    assert text.count("<blockquote") == 3 and text.count("不错") == 2
    assert "<script" not in text and "&lt;script&gt;" in text


def test_rows_of_a_table_are_shown_as_text(tmp_path):
    file = tmp_path / "credit.csv"
    file.write_text("age,job,target\n" + "".join(f"{20 + n},clerk {n % 3},{n % 2}\n" for n in range(30)))
    manifest = open_data(file)
    text = page(report(30, {"0": 15, "1": 15}, {"outliers": [{"file": "credit.csv:3"}]}), manifest)
    assert "clerk 2" in text and "22" in text


def test_names_lead_to_rows(faulty, tmp_path):
    manifest = scan(faulty)
    names = list(manifest["path"])
    assert rows_named(manifest, [*names, "gone.png", names[0]]) == {name: row for row, name in enumerate(names)}
    file = tmp_path / "a:b.csv"
    file.write_text("text,label\nx,1\ny,0\n")
    rows = open_data(file)
    assert rows_named(rows, ["a:b.csv:1", "a:b.csv:2", "a:b.csv:3", "c.csv:1", "a:b.csv:0", "a:b.csv"]) == {
        "a:b.csv:1": 0,
        "a:b.csv:2": 1,
    }


@pytest.mark.parametrize(
    "name, expected",
    [("猫 图　1.png", "猫 图　1.png"), ("a\nb", "a\\nb"), ("\x1b[2J", "\\x1b[2J"), ("a\u202eb", "a\\u202eb")],
)
def test_names_are_shown_not_obeyed(name, expected):
    assert shown(name) == expected


def test_details_without_words_of_their_own_are_told_all_the_same():
    assert told("unheard_of", {"file": "x", "column": "age\n", "share": 0.25, "reason": "odd"}).endswith(
        "column age\\n, share 25%"
    )
