"""Texts as numbers: tokenizers trained here, rows encoded once, batches of texts and blocks of running text."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fromzero.data import tokens
from fromzero.data.batches import training_batches
from fromzero.data.opening import open_data
from fromzero.data.rows.content import texts as texts_of
from fromzero.data.texts import IGNORED, PLAIN, blocks, dialogue, labelled, lengths_of, prompt, training_texts
from fromzero.errors import UsageError
from fromzero.preparing import prepare
from fromzero.records import Tokens

GOOD, BAD = "酒店很好，服务不错 the hotel is good", "房间很差，再也不来 the room is bad"


@pytest.fixture
def reviews(tmp_path):
    """80 texts of 4 to 30 words, each in a random order."""
    rng = np.random.default_rng(0)
    words = [f"{a}{b}" for a in "酒店房间服务早餐位置价格" for b in "好差大小新旧远近"]
    rows = [f"{' '.join(rng.choice(words, 4 + n % 27))},{('good', 'bad')[n % 2]}\n" for n in range(80)]
    (tmp_path / "reviews.csv").write_text("text,label\n" + "".join(rows), encoding="utf-8")
    return prepare(tmp_path / "reviews.csv")


def how_of(tokenizer: str, length: int, exact: bool = False, template: str = "") -> Tokens:
    kit = tokens.opened(tokenizer)
    end = kit.token_to_id(tokens.END) if exact else -1
    count = kit.get_vocab_size()
    return Tokens(length=length, vocabulary=count, padding=0, tokenizer=tokenizer, end=end, template=template)


def test_a_tokenizer_is_the_same_for_the_same_texts_and_as_small_as_asked():
    texts = [GOOD, BAD, "ＡＢＣ，Full width", "酒店 酒店"] * 5
    first, second = (tokens.train_tokenizer(texts, 120) for _ in range(2))
    assert first == second
    kit = tokens.opened(first)
    assert kit.get_vocab_size() <= 120
    assert [kit.token_to_id(each) for each in (tokens.PADDING, tokens.UNKNOWN, tokens.END)] == [0, 1, 2]
    assert kit.encode("酒店").tokens == ["酒店"]  # frequent words are one token, in Chinese too
    assert kit.encode("ＨＯＴＥＬ").ids == kit.encode("hotel").ids
    assert kit.encode("龘").ids == [1]


def test_an_exact_tokenizer_gives_the_text_back():
    tokenizer = tokens.train_tokenizer([GOOD, BAD] * 5, 400, exact=True)
    kit = tokens.opened(tokenizer)
    for text in (GOOD, "  Two  spaces,\n\tTAB 龘 😀 ½", "", "不在训练文本里的字"):
        assert kit.decode(kit.encode(text).ids) == text


def test_rows_are_encoded_once(reviews, monkeypatch):
    how = how_of(tokens.train_tokenizer(training_texts(reviews), 200), 16)
    first = labelled(reviews, how).encoded
    monkeypatch.setattr("fromzero.data.texts._texts", lambda manifest: pytest.fail("encoded again"))
    second = labelled(reviews, how).encoded
    assert isinstance(second.ids, np.memmap)
    assert all((first[row] == second[row]).all() for row in range(len(reviews)))
    assert second[3].tolist() == tokens.opened(how.tokenizer).encode(texts_of(reviews, [3])[0].as_py()).ids[:16]


def test_a_batch_is_as_long_as_its_longest_text(reviews):
    how = how_of(tokens.train_tokenizer(training_texts(reviews), 200), 64)
    samples = labelled(reviews, how)
    short = int(samples.encoded.lengths.argmin())
    inputs, labels = samples.batch([(short, 0)])
    width = inputs.shape[1]
    assert width % 8 == 0 and width - 8 < samples.encoded.lengths[short] <= width < 64
    assert (inputs[0, samples.encoded.lengths[short] :] == 0).all()
    assert labels.tolist() == [int(reviews["label"][short])]
    assert tokens.prepared(texts_of(reviews, [short])[0].as_py(), how)[:width].tolist() == inputs[0].tolist()
    with pytest.raises(UsageError):
        tokens.prepared(7, how)


def test_texts_of_a_length_come_together_and_each_comes_once(reviews):
    how = how_of(tokens.train_tokenizer(training_texts(reviews), 200), 64)
    samples = labelled(reviews, how, seed=1, batch=8)
    rows = samples.rows("train")
    order = samples.order(rows, 0)
    assert sorted(order) == sorted(rows) and (order == labelled(reviews, how, seed=1, batch=8).order(rows, 0)).all()
    assert (order != samples.order(rows, 1)).any()
    full = len(rows) // 8 * 8
    spread = np.ptp(samples.encoded.lengths[order[:full]].reshape(-1, 8), axis=1)
    plain = np.ptp(samples.encoded.lengths[labelled(reviews, how).order(rows, 0)[:full]].reshape(-1, 8), axis=1)
    assert spread.mean() < 0.5 * plain.mean()
    one = [each.tolist() for each, _ in training_batches(samples, rows, 8, 0, 2)]
    assert one == [each.tolist() for each, _ in training_batches(samples, rows, 8, 0, 0)][2:]  # a resumed epoch


def test_running_text_is_cut_into_blocks_and_nothing_is_lost(tmp_path):
    path = tmp_path / "novel.txt"
    path.write_text("\n\n".join(f"Paragraph {n} of\na tale about {n * n}." for n in range(60)), encoding="utf-8")
    manifest = prepare(path)
    assert manifest.kind == "texts" and len(manifest) == 60 and not manifest.classes
    how = how_of(tokens.train_tokenizer(training_texts(manifest), 300, exact=True), 32, exact=True)
    found = blocks(manifest, how)
    stream = np.concatenate([found.batch([(row, 0)])[1][0] for row in found.rows("val")])
    text = tokens.opened(how.tokenizer).decode(stream[stream >= 0].tolist(), skip_special_tokens=False)
    wanted = [each.as_py() for each in texts_of(manifest, manifest.rows("val"))]
    assert text.split(tokens.END) == [*wanted, ""]
    parts = [set(found.rows(split).tolist()) for split in ("train", "val", "test")]
    assert not parts[0] & parts[1] and not parts[1] & parts[2] and all(parts)
    assert (stream == IGNORED).sum() == len(found.rows("val")) * 32 - len(stream[stream >= 0])
    assert found.name(int(found.rows("train")[0])).startswith("novel.txt:")


def test_paragraphs_are_lines_where_no_line_is_empty(tmp_path):
    (tmp_path / "poem.txt").write_bytes("\n床前明月光\n疑是地上霜\n举头望明月".encode("gb18030"))
    assert texts_of(open_data(tmp_path / "poem.txt")).to_pylist() == ["床前明月光", "疑是地上霜", "举头望明月"]


@pytest.fixture
def chats(tmp_path):
    path = tmp_path / "chats.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for n in range(40):
            said = {"instruction": f"How much is {n} and {n}?", "input": "", "output": f"It is {2 * n}. " * (1 + n % 3)}
            file.write(json.dumps(said) + "\n")
    return prepare(path)


def test_only_answers_are_learnt(chats):
    how = how_of(tokens.train_tokenizer(training_texts(chats), 300, exact=True), 128, exact=True, template=PLAIN)
    turns = [
        {"role": "user", "text": "Who?"},
        {"role": "assistant", "text": "Me."},
        {"role": "user", "text": "Why?"},
        {"role": "assistant", "text": "So."},
    ]
    ids = dialogue(turns, how)
    kit = tokens.opened(how.tokenizer)
    learnt = kit.decode(ids[ids >= 0].tolist(), skip_special_tokens=False)
    assert learnt == "Me.<end>So.<end>"
    whole = kit.decode(np.where(ids < 0, ~ids, ids).tolist(), skip_special_tokens=False)
    assert whole == "user:\nWho?\nassistant:\nMe.<end>\nuser:\nWhy?\nassistant:\nSo.<end>\n"
    assert kit.decode(prompt(turns[:1], how)) == "user:\nWho?\nassistant:\n"


def test_no_dialogue_is_cut_by_the_border_of_a_block(chats):
    how = how_of(tokens.train_tokenizer(training_texts(chats), 300, exact=True), 96, exact=True, template=PLAIN)
    found = blocks(chats, how)
    rows = found.rows("train")
    assert len(rows) < len(chats.rows("train"))  # several in a block
    inputs, targets = found.batch([(int(row), 0) for row in rows])
    kit = tokens.opened(how.tokenizer)
    seen = 0
    for given, wanted in zip(inputs, targets, strict=True):
        text = kit.decode(given.tolist(), skip_special_tokens=False).rstrip("<pad>")
        assert text.startswith("user:\n") and text.endswith(f"{tokens.END}\n")
        assert (wanted[given == how.padding] == IGNORED).all()
        assert ((wanted == IGNORED) | (wanted == given)).all()
        seen += text.count("user:\n")
    assert seen == len(chats.rows("train"))
    short = blocks(chats, how_of(how.tokenizer, 20, exact=True, template=PLAIN))  # longer than a block: its end is lost
    assert len(short.rows("train")) == len(chats.rows("train"))
    assert lengths_of(chats, how, chats.rows("train")).min() > 20


def test_a_tokenizer_s_own_template_is_used(chats):
    pytest.importorskip("transformers")
    template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    tokenizer = tokens.train_tokenizer(training_texts(chats), 300, exact=True)
    how = how_of(tokenizer, 96, exact=True, template=template)
    turns = [{"role": "user", "text": "Who?"}, {"role": "assistant", "text": "Me."}]
    ids, kit = dialogue(turns, how), tokens.opened(tokenizer)
    assert kit.decode(ids[ids >= 0].tolist(), skip_special_tokens=False) == "Me.<end>"
    assert kit.decode((~ids[ids < 0]).tolist(), skip_special_tokens=False) == "<user>Who?<end><assistant>"
    assert kit.decode(prompt(turns[:1], how), skip_special_tokens=False) == "<user>Who?<end><assistant>"
