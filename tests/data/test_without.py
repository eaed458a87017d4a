"""A cleaned copy of a file of rows: the original is untouched, every row that stays is as it was."""

import json

import pyarrow
import pyarrow.parquet
import pytest

from fromzero.data.check import DataReport
from fromzero.data.findings.clean import apply, propose, undo
from fromzero.data.findings.without import copy_without
from fromzero.data.opening import open_data
from fromzero.errors import DataError, UsageError

CSV = 'text,label\r\n"a, ""quoted""\nin two lines",好\r\nb,坏\r\n\r\n"c\r\n\r\nd",好\r\ne,坏'


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize(
    "rows, left",
    [
        ({0}, 'text,label\r\nb,坏\r\n\r\n"c\r\n\r\nd",好\r\ne,坏'),
        ({2}, 'text,label\r\n"a, ""quoted""\nin two lines",好\r\nb,坏\r\n\r\ne,坏'),
        ({1, 3}, 'text,label\r\n"a, ""quoted""\nin two lines",好\r\n\r\n"c\r\n\r\nd",好\r\n'),
        (set(), CSV),
    ],
)
def test_csv(tmp_path, encoding, rows, left):
    file = tmp_path / "评论.csv"
    file.write_bytes(CSV.encode(encoding))
    made = copy_without(file, rows, 4)
    assert made.name == "评论.cleaned.csv"
    assert made.read_bytes() == left.encode(encoding)
    assert file.read_bytes() == CSV.encode(encoding)


def test_gbk(tmp_path):
    lines = ["内容,标签", *(f"这个商品的质量{n}很不错,好" for n in range(20))]
    file = tmp_path / "a.csv"
    file.write_bytes("\n".join(lines).encode("gbk"))
    assert copy_without(file, {0, 5}, 20).read_bytes().decode("gbk").splitlines() == [
        line for number, line in enumerate(lines) if number not in (1, 6)
    ]


def test_a_tab_file_of_three_headings(tmp_path):
    file = tmp_path / "a.tab"
    file.write_text("text\tlabel\nstring\tdiscrete\nmeta\tclass\na\t1\nb\t0\n")
    assert copy_without(file, {0}, 2).read_text() == "text\tlabel\nstring\tdiscrete\nmeta\tclass\nb\t0\n"


def test_json_lines_and_lists(tmp_path):
    objects = [{"instruction": f"问{n}", "output": f"答{n}"} for n in range(4)]
    lines = tmp_path / "a.jsonl"
    lines.write_text("\n\n".join(json.dumps(each, ensure_ascii=False) for each in objects), encoding="utf-8")
    made = copy_without(lines, {1}, 4).read_text(encoding="utf-8")
    assert [json.loads(each) for each in made.splitlines() if each] == [objects[0], *objects[2:]]
    listed = tmp_path / "a.json"
    listed.write_text(json.dumps(objects), encoding="utf-8")
    assert json.loads(copy_without(listed, {0, 3}, 4).read_text(encoding="utf-8")) == objects[1:3]


def test_parquet(tmp_path):
    file = tmp_path / "a.parquet"
    table = pyarrow.table({"text": [f"t{n}" for n in range(1000)], "label": list(range(1000))})
    pyarrow.parquet.write_table(table, file, row_group_size=64)
    made = pyarrow.parquet.read_table(copy_without(file, {0, 63, 64, 999}, 1000))
    assert made.schema == table.schema
    assert made["label"].to_pylist() == [n for n in range(1000) if n not in (0, 63, 64, 999)]


def test_no_copy_is_overwritten(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text("text,label\nx,1\ny,0\n")
    names = [copy_without(file, {0}, 2).name for _ in range(3)]
    assert names == ["a.cleaned.csv", "a.cleaned-2.csv", "a.cleaned-3.csv"]


def test_rows_that_do_not_agree_leave_nothing(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text("text,label\nx,1\ny,0\n")
    with pytest.raises(DataError, match="one reading"):
        copy_without(file, {0}, 5)
    with pytest.raises(UsageError, match=r"\.csv"):
        copy_without(tmp_path / "a.xlsx", {0}, 5)
    assert [each.name for each in tmp_path.iterdir()] == ["a.csv"]


def test_from_finding_to_copy(tmp_path):
    file = tmp_path / "评论.csv"
    file.write_text('text,label\n"不\n错",好\n差,坏\n"不\n错",好\n差,好\n', encoding="utf-8")
    manifest = open_data(file)
    found = {
        "exact_duplicates": [{"files": ["评论.csv:1", "评论.csv:3"]}],
        "conflicting_labels": [{"files": ["评论.csv:2", "评论.csv:4"], "classes": ["坏", "好"]}],
    }
    moves = propose(manifest, DataReport(4, {}, found), keep=["坏"])
    assert [each.file for each in moves] == ["评论.csv:4", "评论.csv:3"]
    assert apply(manifest, moves).read_text(encoding="utf-8") == 'text,label\n"不\n错",好\n差,坏\n'
    with pytest.raises(UsageError, match="never changed"):
        undo(file)
