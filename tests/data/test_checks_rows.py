"""Checks of texts, tables and chats: planted faults are found, and nothing else is said."""

import json
import sys
import types

import numpy as np
import pytest

from fromzero.data.checks import chats, copies, table, texts
from fromzero.data.checks.lengths import over_long
from fromzero.data.manifest import load, save
from fromzero.data.opening import open_data
from fromzero.data.rows import content, grams, near_texts, scaling
from fromzero.data.split import split

WORDS = "酒店 房间 干净 服务 前台 早餐 位置 交通 方便 价格 安静 空调 热水 网络 周围 环境 入住 退房 态度 老板".split()
ENGLISH = "hotel room clean service desk breakfast place traffic easy price quiet air water network area stay".split()


def sentence(rng, words=WORDS, length=30, between=""):
    return between.join(rng.choice(words, length))


def of(tmp_path, pairs, name="t.csv", head="text,label"):
    path = tmp_path / name
    path.write_text("\n".join([head, *(",".join(map(str, each)) for each in pairs)]) + "\n", encoding="utf-8")
    return open_data(path)


@pytest.fixture
def no_suspects(monkeypatch):
    """Learning is tested where it lives."""
    calls = []

    def find(features, labels, seed, groups, judge):
        calls.append((features, labels))
        return [(0, int(labels.max()), 0.123456)]

    monkeypatch.setitem(sys.modules, "fromzero.data.suspects", types.SimpleNamespace(find=find))
    import fromzero.data

    monkeypatch.setattr(fromzero.data, "suspects", sys.modules["fromzero.data.suspects"], raising=False)
    return calls


def plain(found):
    return {kind: entries for kind, entries in found.items() if entries}


@pytest.mark.parametrize("words", [WORDS, ENGLISH])
def test_a_sound_set_of_texts_gets_no_finding(tmp_path, words):
    rng = np.random.default_rng(0)
    between = " " if words is ENGLISH else ""
    manifest = of(tmp_path, [(sentence(rng, words, between=between), number % 2) for number in range(200)])
    assert plain(texts.findings(manifest, suspects=False)) == {}


def test_planted_faults_in_texts(tmp_path):
    rng = np.random.default_rng(1)
    sound = [(sentence(rng), number % 2) for number in range(100)]
    copy, nearly = sound[3][0], sound[4][0]
    changed = nearly[:20] + "！！" + nearly[20:-2] + "哦"
    planted = [
        (copy, 1), (copy, 0), (changed, 0), (" 　", 0), (sentence(rng, ENGLISH, between=" "), 0), ("好" * 600, 1),
        ("OK", 1), ("see https://example.com/an/address/that/is/long 很好的酒店房间", 1),
    ]  # fmt: skip
    found = plain(texts.findings(of(tmp_path, sound + planted), suspects=False))
    assert found == {
        "exact_duplicates": [{"files": ["t.csv:4", "t.csv:101", "t.csv:102"]}],
        "conflicting_labels": [{"files": ["t.csv:4", "t.csv:101", "t.csv:102"], "classes": ["0", "1"]}],
        "near_duplicates": [{"files": ["t.csv:5", "t.csv:103"]}],
        "empty": [{"file": "t.csv:104"}],
        "mixed_language": [{"file": "t.csv:105", "script": "Latin", "share": 1.0}],
        "over_long": [{"file": "t.csv:106", "tokens": 600, "limit": 512, "estimated": True}],
    }


def test_leakage_between_given_parts_exact_and_near(tmp_path):
    rng = np.random.default_rng(2)
    one, two = sentence(rng), sentence(rng)
    pairs = [
        (one, 0, "train"),
        (one, 0, "test"),
        (two, 1, "train"),
        (two + "的", 1, "test"),
        (sentence(rng), 1, "test"),
    ]
    found = texts.findings(of(tmp_path, pairs, head="text,label,split"), suspects=False)
    assert found["leakage"] == [
        {"files": ["t.csv:1", "t.csv:2"], "splits": ["test", "train"]},
        {"files": ["t.csv:3", "t.csv:4"], "splits": ["test", "train"], "near": True},
    ]


def test_near_texts_are_found_and_others_are_not():
    """Against exact Jaccard similarity of all pairs."""
    import pyarrow as pa

    rng = np.random.default_rng(3)
    found = [sentence(rng, length=int(rng.integers(4, 40))) for _ in range(300)]
    for text in found[:100]:
        letters = list(text)
        for _ in range(int(rng.integers(1, 4))):
            letters[int(rng.integers(len(letters)))] = "换"
        found.append("".join(letters))
    column = pa.chunked_array([found])
    kept, signatures = near_texts._signatures(column, np.arange(len(found)), 2, near_texts.Console())
    pairs = near_texts._verified(column, kept, near_texts._pairs(signatures), 2)
    sets = [{(each + "\0\0")[place : place + 3] for place in range(len(each))} for each in found]
    close = {
        (one, two)
        for one in range(len(found))
        for two in range(one + 1, len(found))
        if len(sets[one] & sets[two]) >= near_texts.SAME * len(sets[one] | sets[two])
    }
    assert {tuple(each) for each in pairs.tolist()} <= close
    assert len(close) > 50 and len(pairs) >= 0.97 * len(close)


def test_clusters_keep_copies_of_their_members_together(tmp_path):
    rng = np.random.default_rng(4)
    pairs = [(sentence(rng), number % 2) for number in range(60)]
    pairs += [(text + "。的", label) for text, label in pairs[:20]] + pairs[:20]
    manifest = near_texts.mark(of(tmp_path, pairs))
    cluster = manifest["cluster"]
    assert cluster.dtype == np.int32 and cluster.max() == 19 and (cluster[20:60] == -1).all()
    assert cluster[:20].tolist() == cluster[60:80].tolist() == cluster[80:].tolist()
    parts = np.array(split(save(manifest))["split"].tolist())
    assert (parts[:20] == parts[60:80]).all() and (parts[:20] == parts[80:]).all()
    assert load(manifest.root)["cluster"].tolist() == cluster.tolist()


def test_texts_without_letters_and_a_set_of_one(tmp_path):
    assert near_texts.mark(of(tmp_path, [("!!!", 0), ("？？", 1)]))["cluster"].tolist() == [-1, -1]
    assert near_texts.mark(of(tmp_path, [("好", 0)]))["cluster"].tolist() == [-1]
    assert plain(texts.findings(of(tmp_path, [(" ", 0)]), suspects=False)) == {"empty": [{"file": "t.csv:1"}]}


def test_a_set_in_two_languages_has_no_foreign_texts(tmp_path):
    rng = np.random.default_rng(5)
    pairs = [(sentence(rng, *((WORDS, 20, "") if number % 3 else (ENGLISH, 20, " "))), 0) for number in range(60)]
    pairs.append(("Это гостиница и номер очень чистый", 0))
    found = texts.findings(of(tmp_path, pairs), suspects=False)
    assert found["mixed_language"] == [{"file": "t.csv:61", "script": "Cyrillic", "share": 1.0}]


def test_a_tokenizer_counts_what_the_estimate_guesses(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    import pyarrow as pa

    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.save(str(tmp_path / "tokenizer.json"))
    column = pa.chunked_array([["a " * 20, "a " * 21, "hippopotamus"]])
    found = list(over_long(column, np.arange(3), str(tmp_path / "tokenizer.json"), 20))
    assert found == [(1, 21, 20, False)]
    assert list(over_long(column, np.arange(3), limit=20)) == []


def test_suspects_are_asked_about_each_text_once(tmp_path, no_suspects):
    rng = np.random.default_rng(6)
    pairs = [(sentence(rng), number % 2) for number in range(40)]
    found = texts.findings(of(tmp_path, pairs + pairs[:10] + [("只有一个", 7)]))
    features, labels = no_suspects[0]
    assert features.shape[0] == len(labels) == 40
    assert found["label_suspects"] == [{"file": "t.csv:1", "label": "0", "suggested": "1", "score": 0.123}]


def test_features_of_texts_tell_them_apart():
    import pyarrow as pa

    column = pa.chunked_array([["Good room", "good  ROOM!", "房间好", "好房间", "", "ab" * 200]])
    found = grams.tfidf(column, np.arange(6))
    alike = (found @ found.T).toarray()
    assert np.allclose(alike.diagonal(), [1, 1, 1, 1, 0, 1], atol=1e-6)
    assert alike[0, 1] == pytest.approx(1) and 0 < alike[2, 3] < 1 and alike[0, 2] == 0


def test_flipped_labels_are_suspected(tmp_path):
    rng = np.random.default_rng(7)
    pairs = [(sentence(rng, WORDS[8 * (number % 2) :][:12], 15), number % 2) for number in range(400)]
    wrong = list(range(0, 400, 21))
    for row in wrong:
        pairs[row] = (pairs[row][0], 1 - pairs[row][1])
    found = {int(each["file"].split(":")[1]) - 1 for each in texts.findings(of(tmp_path, pairs))["label_suspects"]}
    assert len(found & set(wrong)) >= 18 and len(found - set(wrong)) <= 4


def numbers(rng, count=200):
    size, colour = rng.normal(10, 2, count).round(6), rng.choice(["red", "blue"], count)
    return size, colour, (rng.random(count) < 0.4).astype(int)


def test_a_sound_table_gets_no_finding(tmp_path):
    size, colour, wanted = numbers(np.random.default_rng(0))
    manifest = of(tmp_path, zip(size, colour, wanted, strict=True), head="size,colour,y")
    assert plain(table.findings(manifest, suspects=False)) == {}


def test_planted_faults_in_a_table(tmp_path):
    rng = np.random.default_rng(1)
    size, colour, wanted = numbers(rng, 400)
    holes = np.where(rng.random(len(size)) < 0.2, "", size.round(1).astype(str))
    size[7] = 9000
    holes[0], holes[2] = "inf", "1e999"
    leak = np.where(wanted == 1, "approved", "refused")
    score = wanted * 5 + rng.normal(0, 0.3, len(size)).round(2)
    lines = list(zip(range(400), size, colour, ["x"] * 400, leak, score, holes, wanted, strict=True))
    lines += [(400, *lines[0][1:]), (401, *lines[1][1:-1], 1 - lines[1][-1])]
    manifest = of(tmp_path, lines, head="id,size,colour,same,decision,score,holes,y")
    found = plain(table.findings(manifest, suspects=False))
    assert found.pop("exact_duplicates") == [{"files": ["t.csv:1", "t.csv:401"]}]
    assert found.pop("conflicting_labels") == [{"files": ["t.csv:2", "t.csv:402"], "classes": ["0", "1"]}]
    (missing,) = found.pop("missing_values")
    assert missing["column"] == "holes" and 0.1 < missing["share"] < 0.3
    assert found.pop("constant_columns") == [{"column": "same"}]
    leaking = {each["column"]: each["reason"] for each in found.pop("leaking_columns")}
    assert leaking == {"id": "row_number", "decision": "predicts_target", "score": "predicts_target"}
    assert [(each["column"], each["files"]) for each in found.pop("outliers")] == [("size", ["t.csv:8"])]
    assert found == {}


def test_a_column_that_is_the_target_under_other_names(tmp_path):
    lines = [(number / 7, "abc"[number % 3], "xyz"[number % 3]) for number in range(60)]
    found = table.findings(of(tmp_path, lines, head="a,b,y"), suspects=False)
    assert found["leaking_columns"] == [{"column": "b", "reason": "same_as_target", "score": 1.0}]


def test_a_quantity_as_target(tmp_path):
    rng = np.random.default_rng(2)
    size = rng.normal(0, 1, 300)
    lines = [(one, rng.normal(), one * 3 + 1) for one in size]
    lines += [lines[0], (*lines[1][:2], lines[1][2] + 0.5)]
    found = table.findings(of(tmp_path, lines, head="a,b,y"), suspects=False)
    assert [each["column"] for each in found["leaking_columns"]] == ["a"]
    assert found["exact_duplicates"] == [{"files": ["t.csv:1", "t.csv:301"]}]
    assert found["conflicting_labels"][0]["files"] == ["t.csv:2", "t.csv:302"]


def test_suspects_of_a_table_see_every_column(tmp_path, no_suspects):
    size, colour, wanted = numbers(np.random.default_rng(3))
    manifest = of(tmp_path, zip(size, colour, wanted, strict=True), head="size,colour,y")
    assert len(table.findings(manifest)["label_suspects"]) == 1
    features, _ = no_suspects[0]
    assert features.shape[1] == 3 and np.abs(features.toarray()).max() <= 1


def test_imbalance_and_missing_targets(tmp_path):
    lines = [(number / 3, int(number % 10 == 0)) for number in range(100)] + [(1.5, ""), (2.5, "NA")]
    found = table.findings(of(tmp_path, lines, head="a,y"), suspects=False)
    assert found["imbalance"] == [{"smallest": "1", "count": 10, "largest": "0", "largest_count": 90}]
    assert [each["code"] for each in found["corrupt"]] == ["target_missing"] * 2


def turns(*said):
    return {"messages": [{"role": who, "content": text} for who, text in said]}


def test_planted_faults_in_chats(tmp_path):
    good = turns(("system", "s"), ("user", "q"), ("assistant", "a"), ("user", "r"), ("assistant", "b"))
    objects = [
        good,
        good,
        turns(("user", "q"), ("assistant", " ")),
        turns(("user", "q"), ("user", "again"), ("assistant", "a")),
        turns(("user", "open"), ("assistant", "call"), ("tool", "1"), ("assistant", "done")),
        turns(("user", "long " * 1000), ("assistant", "a")),
        turns(("assistant", "first"), ("user", "?")),
        turns(),
        turns(("user", "x"), ("assistant", "y"), ("user", "left alone")),
    ]
    path = tmp_path / "c.jsonl"
    path.write_text("\n".join(map(json.dumps, objects)))
    found = plain(chats.findings(open_data(path)))
    assert found["exact_duplicates"] == [{"files": ["c.jsonl:1", "c.jsonl:2"]}]
    assert found["corrupt"] == [{"file": "c.jsonl:3", "code": "chat_no_answer"}]
    assert found["empty"] == [{"file": "c.jsonl:8", "code": "chat_empty"}]
    assert found["empty_turns"] == [{"file": "c.jsonl:3", "turns": [2]}]
    assert [(each["file"][-1], each["turn"]) for each in found["role_order"]] == [("4", 2), ("7", 1), ("9", 3)]
    assert [each["file"] for each in found["over_long"]] == ["c.jsonl:6"]


def test_findings_of_every_kind_are_json(tmp_path, no_suspects):
    size, colour, wanted = numbers(np.random.default_rng(3))
    manifest = of(tmp_path, zip(size, colour, wanted, strict=True), head="size,colour,y")
    json.dumps(table.findings(manifest))
    json.dumps(texts.findings(of(tmp_path, [("好", 0), ("好", 1)], "u.csv")))
    assert set(copies.KINDS) <= set(table.findings(manifest))


def test_statistics_are_those_of_the_training_part(tmp_path):
    size, colour, wanted = numbers(np.random.default_rng(4))
    manifest = split(of(tmp_path, zip(size, colour, wanted, strict=True), head="size,colour,y"))
    found = scaling.statistics(manifest)
    train = manifest.rows("train")
    assert found["numbers"]["size"] == {
        "mean": pytest.approx(size[train].mean()),
        "std": pytest.approx(size[train].std()),
    }
    assert found["categories"] == {"colour": ["blue", "red"]}
    kept = save(scaling.kept(manifest))
    assert load(kept.root).about["statistics"] == found
    of_texts = scaling.statistics(of(tmp_path, [("好的", 0), ("a" * 100, 1)], "u.csv"))
    assert of_texts["characters"]["1"] == 100.0


def test_a_large_group_of_copies_is_one_entry(tmp_path):
    manifest = of(tmp_path, [("谢谢", 0)] * 5000 + [("再见", 1)])
    found = texts.findings(manifest, suspects=False)
    assert len(found["exact_duplicates"]) == 1 and len(found["exact_duplicates"][0]["files"]) == 5000
    assert content.values(manifest, "grouped", "text").max() == 1
