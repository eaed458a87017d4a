"""Files of rows: every encoding and form into the same manifest, and errors that name the line."""

import json
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fromzero.data.manifest import content_hash, load, save
from fromzero.data.opening import open_data
from fromzero.data.pack import read as read_picture
from fromzero.data.rows import content
from fromzero.data.split import split
from fromzero.errors import DataError, UsageError

REVIEWS = [
    ("很好，下次还来", "好评"),
    ("太差了", "差评"),
    ("Nice, really", "好评"),
    ('他说"不错"', "好评"),
    ("行\n两行", "差评"),
]


def csv_text(pairs=REVIEWS, delimiter=",", head=("评论", "标签")):
    def cell(text):
        return f'"{text.replace(chr(34), chr(34) * 2)}"' if any(each in text for each in '",\n\t;') else text

    return "".join(delimiter.join(map(cell, row)) + "\n" for row in (head, *pairs))


def write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


def table_of(tmp_path, text, name="t.csv", **how):
    return open_data(write(tmp_path / name, text), **how)


def fails(tmp_path, text, name="t.csv", **how):
    with pytest.raises((DataError, UsageError)) as caught:
        table_of(tmp_path, text, name, **how)
    assert str(tmp_path) in str(caught.value) or caught.value.code == "no_such_column"
    return caught.value


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030", "utf-16"])
@pytest.mark.parametrize("delimiter", [",", "\t", ";"])
def test_encodings_and_delimiters_are_found_out(tmp_path, encoding, delimiter):
    manifest = open_data(write(tmp_path / "评论.csv", csv_text(delimiter=delimiter), encoding))
    assert manifest.kind == "texts" and manifest.classes == ("好评", "差评")
    assert content.texts(manifest).to_pylist() == [text for text, _ in REVIEWS]
    assert manifest["label"].tolist() == [0, 1, 0, 0, 1]
    assert manifest["bytes"].tolist() == [len(text.encode()) for text, _ in REVIEWS]
    assert manifest["hash"][1] == content_hash("太差了".encode())
    assert manifest.name(1) == "评论.csv:2"


def test_windows_line_ends_and_blank_lines(tmp_path):
    manifest = table_of(tmp_path, "text,label\r\na,1\r\n\r\nb,2\r\n")
    assert content.texts(manifest).to_pylist() == ["a", "b"]


def test_equal_content_has_one_hash(tmp_path):
    manifest = table_of(tmp_path, "text,label\nＡ　B  c,1\n A B\u00a0c ,1\na b c,1\n")
    first, second, third = manifest["hash"].tolist()
    assert first == second != third


def test_what_cannot_be_used_is_a_problem_not_an_error(tmp_path):
    manifest = table_of(tmp_path, "text,label\n  　,1\ngood,\nfine,2\n")
    assert manifest["problem"].tolist() == ["text_empty", "label_missing", ""]
    assert manifest.good().tolist() == [2]


def test_labels_that_are_numbers_are_in_their_order(tmp_path):
    assert table_of(tmp_path, "text,label\na,10\nb,9\nc,1\n").classes == ("1", "9", "10")


def test_the_file_is_read_once_until_it_changes(tmp_path, monkeypatch):
    lines = [f"text {number},{number % 2}\n" for number in range(20)]
    path = write(tmp_path / "t.csv", "text,label\n" + "".join(lines))
    first = save(split(open_data(path)))
    with monkeypatch.context() as patch:
        patch.setattr("fromzero.data.rows.files.opened", lambda path: pytest.fail("read again"))
        again = open_data(path)
    assert again["split"].tolist() == first["split"].tolist()
    write(path, "text,label\nnew,1\n" + "".join(reversed(lines)))
    third = open_data(path)
    assert len(third) == 21 and content.texts(third, [0])[0].as_py() == "new"
    assert third["split"].tolist() == ["", *reversed(first["split"].tolist())]
    assert third.rule == first.rule
    assert open_data(path, label="text", text="label").classes[0] == "new"


def test_a_lost_or_damaged_copy_is_made_again(tmp_path):
    path = write(tmp_path / "t.csv", "text,label\na,1\nb,2\n")
    manifest = open_data(path)
    (kept,) = (tmp_path / ".fromzero" / "t.csv").glob("rows-*.arrow")
    for damage in (kept.unlink, lambda: kept.write_bytes(b"ARROW1 nonsense")):
        damage()
        with pytest.raises(DataError, match="no longer there"):
            content.texts(manifest)
        assert content.texts(open_data(path)).to_pylist() == ["a", "b"]


def test_given_splits_groups_and_times(tmp_path):
    head = "text,label,split,group,date\n"
    lines = "a,1,train,g1,2024-1-9\nb,2,Test,g2,2024-01-10 08:00\nc,1,验证集,g1,2023年12月31日\n"
    manifest = table_of(tmp_path, head + lines)
    assert manifest["given"].tolist() == ["train", "test", "val"]
    groups = content.values(manifest, "grouped")
    assert groups[0] == groups[2] != groups[1]
    assert np.argsort(content.values(manifest, "time")).tolist() == [2, 0, 1]
    assert content.values(manifest, "grouped", "label").tolist() == [0, 1, 0]
    with pytest.raises(UsageError, match="no column 'town'"):
        content.values(manifest, "grouped", "town")
    with pytest.raises(DataError, match=r"t.csv:1 has 'a'"):
        content.values(manifest, "time", "text")


def test_a_group_is_never_cut(tmp_path):
    lines = "".join(f"text {number},{number % 2},patient {number // 5}\n" for number in range(100))
    manifest = table_of(tmp_path, "text,label,group\n" + lines)
    groups = content.values(manifest, "grouped")
    parts = np.array(split(manifest, how="grouped", by="group", values=groups)["split"].tolist())
    assert all(len(set(parts[groups == each])) == 1 for each in set(groups.tolist()))
    assert set(parts) == {"train", "val", "test"}


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [
        ("text,label\na,1\nb,2,3\n", "row_width", "line 3"),
        ('text,label\n"two\nlines",1\nx\n', "row_width", "line 4"),
        ('text,label\na,1\n"b,2\nc,3\n', "row_quote", "line 3"),
        ("text,label\n", "no_rows", ""),
        ("", "rows_empty", ""),
        ("\n\n", "rows_empty", ""),
        ("text,text,label\na,b,1\n", "column_twice", "text"),
        ("a,b\n1,2\n", "no_target", "a, b"),
        ("text,label,split\na,1,train\nb,2,vla\n", "split_unknown", "row 2"),
        ("image,label\nx.jpg,1\n,2\n", "row_no_picture", "row 2"),
        ("image,label\nx.jpg,1\ny.jpg,\n", "row_no_label", "row 2"),
        ("image,size\nx.jpg,1\n", "no_label_column", "image, size"),
        ("x,y\n1,\n2,NA\n", "target_empty", "'y'"),
    ],
)
def test_wrong_files_are_refused_with_the_place(tmp_path, text, code, says):
    error = fails(tmp_path, text)
    assert error.code == code and says in str(error)


def test_files_that_are_no_text(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"PK\x03\x04\0\0\0")
    with pytest.raises(DataError) as caught:
        open_data(tmp_path / "t.csv")
    assert caught.value.code == "rows_binary"
    latin = "text,label\nfine,1\nMünchen ist schön,1\nGrüße aus Köln,2\n".encode("latin-1")
    (tmp_path / "t.csv").write_bytes(latin)
    with pytest.raises(DataError, match="line 3"):
        open_data(tmp_path / "t.csv")
    (tmp_path / "t.csv").write_bytes("text,label\n很好,1\n".encode("gb18030") + b"\xff\xff,2\n")
    with pytest.raises(DataError, match=r"line 2 .* neither UTF-8"):
        open_data(tmp_path / "t.csv")
    (tmp_path / "t.parquet").write_bytes(b"PAR1 nonsense PAR1")
    with pytest.raises(DataError) as caught:
        open_data(tmp_path / "t.parquet")
    assert caught.value.code == "rows_damaged"


def test_a_bad_byte_behind_the_first_block_is_named_by_line(tmp_path):
    text = "text,label\n" + "很好很好很好很好,1\n" * 300_000
    (tmp_path / "t.csv").write_bytes(text.encode() + b"\xff,1\n")
    with pytest.raises(DataError, match="line 300002"):
        open_data(tmp_path / "t.csv")


def test_an_unknown_column_is_answered_with_the_known_ones(tmp_path):
    assert "评论, 标签" in str(fails(tmp_path, csv_text(), label="label"))


def test_a_table(tmp_path):
    lines = "".join(f"{number},{number * 1.5},{'红蓝'[number % 2]},{number % 3}\n" for number in range(30))
    manifest = table_of(tmp_path, "编号,长度,颜色,类别\n" + lines + "30,NA,,1\n")
    assert manifest.kind == "table" and manifest.classes == ("0", "1", "2")
    assert manifest.about["features"] == ["长度", "颜色"] and manifest.about["numeric"] == ["长度"]
    assert manifest.about["row_numbers"] == ["编号"]
    table = content.content(manifest, [30, 1])
    assert table["长度"].to_pylist() == [None, 1.5] and table["颜色"].to_pylist() == [None, "蓝"]


def test_a_target_is_named_or_a_quantity(tmp_path):
    text = "size,price\n" + "".join(f"{number % 7},{number / 10}\n" for number in range(50))
    assert "--label" in fails(tmp_path, text).fix
    manifest = table_of(tmp_path, text, label="price")
    assert manifest.about["task"] == "regression" and manifest.classes == ()
    assert set(split(manifest, how="random")["split"].tolist()) == {"train", "val", "test"}


def test_the_hash_of_a_table_row_is_that_of_its_features(tmp_path):
    manifest = table_of(tmp_path, "id,a,b,y\n" + "".join(f"{n},{n % 5},x,{n % 2}\n" for n in range(40)))
    assert manifest["hash"][0] == manifest["hash"][5] != manifest["hash"][1]


def test_parquet(tmp_path):
    times = pa.array([1_700_000_000, 1_600_000_000], pa.timestamp("s"))
    label = pa.array(["b", "a"]).dictionary_encode()
    pq.write_table(pa.table({"text": ["x", None], "label": label, "time": times}), tmp_path / "t.parquet")
    manifest = open_data(tmp_path / "t.parquet")
    assert manifest["problem"].tolist() == ["", "text_empty"] and manifest.classes == ("a", "b")
    assert np.argsort(content.values(manifest, "time")).tolist() == [1, 0]
    pq.write_table(pa.table({"image": [{"bytes": b"x"}], "label": [1]}), tmp_path / "p.parquet")
    with pytest.raises(DataError) as caught:
        open_data(tmp_path / "p.parquet")
    assert caught.value.code == "pictures_inside"


def test_orange(tmp_path):
    text = "Category\tText\tSource\nd\tstring\tstring\nclass\tinclude=True\tmeta\nx\tone\ts\ny\ttwo\ts\n"
    manifest = table_of(tmp_path, text, "t.tab")
    assert manifest.kind == "texts" and manifest.classes == ("x", "y")
    assert content.texts(manifest).to_pylist() == ["one", "two"]
    text = "a\tkind\tname\nc\td\tstring\n\tclass\tmeta\n1\tx\tn\n2\ty\tm\n"
    manifest = table_of(tmp_path, text, "u.tab")
    assert manifest.kind == "table" and manifest.about["features"] == ["a"] and manifest.classes == ("x", "y")
    assert table_of(tmp_path, "text\tlabel\na\t1\n", "v.tab").kind == "texts"  # a table with one line of names


def test_a_list_of_pictures(tmp_path):
    (tmp_path / "图 片").mkdir()
    for number in range(3):
        array = np.random.default_rng(number).integers(0, 256, (9, 9, 3), dtype=np.uint8)
        Image.fromarray(array).save(tmp_path / "图 片" / f"{number}.png")
    path = write(
        tmp_path / "list.csv", "image,label,split\n图 片/0.png,猫,train\n图 片\\1.png,狗,test\n图 片/9.png,狗,train\n"
    )
    manifest = open_data(path)
    assert manifest.kind == "pictures" and manifest.classes == ("狗", "猫")
    assert manifest["problem"].tolist() == ["", "", "image_not_read"]
    assert manifest["given"].tolist() == ["train", "test", "train"]
    assert content_hash(read_picture(manifest, 0)) == manifest["hash"][0]
    again = open_data(path)
    assert again["hash"].tolist() == manifest["hash"].tolist() and again["given"].tolist() == ["train", "test", "train"]
    (tmp_path / "图 片" / "0.png").write_bytes((tmp_path / "图 片" / "2.png").read_bytes() + b" ")
    assert open_data(path)["hash"][0] != manifest["hash"][0]


def jsonl(path, objects):
    return write(path, "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in objects))


def test_chats_in_both_forms(tmp_path):
    alpaca = [
        {"instruction": "翻译", "input": "hello", "output": "你好"},
        {"instruction": "Hi", "input": "", "output": ""},
        {"instruction": "q2", "output": "a2", "history": [["q1", "a1"]], "system": "s"},
    ]
    manifest = open_data(jsonl(tmp_path / "a.jsonl", alpaca))
    assert manifest.kind == "chats" and manifest["problem"].tolist() == ["", "chat_no_answer", ""]
    turns = content.content(manifest)["turns"].to_pylist()
    assert turns[0] == [{"role": "user", "text": "翻译\nhello"}, {"role": "assistant", "text": "你好"}]
    assert [each["role"] for each in turns[2]] == ["system", "user", "assistant", "user", "assistant"]
    write(tmp_path / "a.json", json.dumps(alpaca))
    assert open_data(tmp_path / "a.json")["hash"].tolist() == manifest["hash"].tolist()
    sharegpt = [
        {"conversations": [{"from": "human", "value": "翻译 hello"}, {"from": "gpt", "value": "你好"}], "id": 1},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}], "conversations": None},
        {"conversations": []},
    ]
    manifest = open_data(jsonl(tmp_path / "s.jsonl", sharegpt))
    assert manifest["problem"].tolist() == ["", "chat_no_answer", "chat_empty"]
    assert content.content(manifest, [1])["turns"].to_pylist() == [[{"role": "user", "text": "x"}]]


@pytest.mark.parametrize(
    ("lines", "code", "says"),
    [
        (['{"text": "a", "label": 1}', "{"], "json_line", "line 2"),
        (['{"text": "a", "label": 1}', "[1]"], "json_not_object", "line 2"),
        (['{"text": "a", "label": 1}', '{"txt": "a", "label": 1}'], "json_keys", "txt"),
        (['{"instruction": "a", "output": "b"}', '{"instruction": "a"}'], "chat_form", "no 'output'"),
        (['{"messages": [{"role": "user", "content": 5}]}'], "chat_form", "line 1"),
        (['{"messages": "nonsense"}'], "chat_form", "line 1"),
        (["[" * 100_000], "json_line", "line 1"),
    ],
)
def test_wrong_json(tmp_path, lines, code, says):
    error = fails(tmp_path, "\n".join(lines), "t.jsonl")
    assert error.code == code and says in str(error)


def test_json_of_texts(tmp_path):
    manifest = table_of(tmp_path, '\ufeff{"text": "a\\ud800b", "label": 1}\n\n{"text": null, "label": 2}\n', "t.jsonl")
    assert manifest["problem"].tolist() == ["", "text_empty"]
    assert content.texts(manifest)[0].as_py() == "a?b"


def test_a_folder_of_texts(tmp_path):
    for part in ("train", "test"):
        for name in ("体育", "财经"):
            (tmp_path / part / name).mkdir(parents=True)
            write(tmp_path / part / name / "一.txt", f"{name}新闻 {part}", "gb18030")
    write(tmp_path / "train" / "体育" / "空.txt", "")
    manifest = open_data(tmp_path)
    assert manifest.kind == "texts" and manifest.classes == ("体育", "财经") and len(manifest) == 5
    assert manifest.name(0) == "test/体育/一.txt" and manifest["given"][0] == "test"
    assert content.texts(manifest, [0])[0].as_py() == "体育新闻 test"
    assert manifest["problem"].tolist().count("text_empty") == 1
    before = load(tmp_path)
    assert open_data(tmp_path)["hash"].tolist() == before["hash"].tolist()
    write(tmp_path / "test" / "体育" / "一.txt", "变了")
    assert open_data(tmp_path)["hash"][0] != before["hash"][0]


def test_what_lies_at_a_path(tmp_path, tiny_data):
    assert open_data(tiny_data, quick=True).kind == "pictures"
    inside = tmp_path / "unpacked" / "set"
    inside.mkdir(parents=True)
    write(inside / "r.csv", "text,label\na,1\n")
    assert open_data(tmp_path / "unpacked").kind == "texts"
    write(inside / "s.csv", "text,label\na,1\n")
    with pytest.raises(DataError, match=r"r.csv, s.csv"):
        open_data(tmp_path / "unpacked")
    for name, code in (("missing.csv", "nothing_there"), ("x.docx", "unknown_data_form")):
        if code != "nothing_there":
            write(tmp_path / name, "x")
        with pytest.raises((DataError, UsageError)) as caught:
            open_data(tmp_path / name)
        assert caught.value.code == code


def test_an_archive_stands_for_what_is_in_it(tmp_path):
    with zipfile.ZipFile(tmp_path / "评论.zip", "w") as archive:
        archive.writestr("评论/数据.csv", csv_text().encode("gb18030"))
    assert content.texts(open_data(tmp_path / "评论.zip"))[0].as_py() == REVIEWS[0][0]


def test_a_column_of_texts_needs_no_labels(tmp_path):
    manifest = table_of(tmp_path, "text\none, two\n".replace(", ", " ") + "three\n")
    assert manifest.kind == "texts" and manifest.classes == () and len(manifest.good()) == 2


def test_fields_that_would_fool_a_naive_reader(tmp_path):
    long = "字" * 300_000  # more than Python's csv module takes by itself, and than a block of pyarrow's
    manifest = table_of(tmp_path, f'text,label\n{long},1\n"a ""quoted"", word",2\n\x0bodd\x0c,1\n')
    found = content.texts(manifest).to_pylist()
    assert found[0] == long and found[1] == 'a "quoted", word' and len(found) == 3


def test_a_folder_that_is_read_only_or_gone_is_said(tmp_path):
    with pytest.raises(UsageError) as caught:
        open_data(tmp_path / "nothing" / "here")
    assert caught.value.code == "nothing_there"
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError):
        open_data(tmp_path / "empty")
