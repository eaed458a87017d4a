"""Texts through the whole path: a classifier and a language model are trained, measured, and answer."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import safetensors.torch
import torch
from safetensors.torch import load_file

from fromzero import tasks
from fromzero.data import tokens
from fromzero.errors import FromzeroError, RunError, UsageError
from fromzero.generating import drawn, generate
from fromzero.models.fresh import fresh
from fromzero.predicting import classify, given, open_classifier
from fromzero.preparing import prepare
from fromzero.records import Recipe
from fromzero.starting import train
from fromzero.tasks import lm, text

WORDS = {"device": "cpu", "seed": 3}


@pytest.fixture(scope="module")
def reviews(tmp_path_factory):
    """160 texts of random words, one of which tells the class."""
    rng = np.random.default_rng(0)
    words = [f"{a}{b}" for a in "酒店房间服务早餐位置" for b in "大小新旧远近"]
    path = tmp_path_factory.mktemp("reviews") / "reviews.csv"
    with path.open("w", encoding="utf-8") as file:
        file.write("text,label\n")
        for n in range(160):
            some = [*rng.choice(words, 3 + n % 9), ("喜欢", "讨厌")[n % 2]]
            file.write(f"{' '.join(rng.permutation(some))},{('good', 'bad')[n % 2]}\n")
    return path


SYLLABLES = [f"{a}{b}" for a in "bdfgklmn" for b in "aeiou"]


def follows(word):
    """The two words that may come after one."""
    place = SYLLABLES.index(word)
    return SYLLABLES[(3 * place + 1) % 40], SYLLABLES[(7 * place + 2) % 40]


@pytest.fixture(scope="module")
def novel(tmp_path_factory):
    """Paragraphs in which two words may follow each."""
    path, rng = tmp_path_factory.mktemp("novel") / "novel.txt", np.random.default_rng(0)
    rows = []
    for _ in range(150):
        said = [str(rng.choice(SYLLABLES))]
        while len(said) < 30:
            said.append(follows(said[-1])[rng.integers(2)])
        rows.append(" ".join(said))
    path.write_text("\n\n".join(rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def classifier(reviews, tmp_path_factory):
    return train(reviews, model="rnn", output=tmp_path_factory.mktemp("runs") / "rnn", epochs=8, batch=16, lr=1e-2,
                 **WORDS)  # fmt: skip


@pytest.fixture(scope="module")
def writer(novel, tmp_path_factory):
    return train(novel, output=tmp_path_factory.mktemp("runs") / "gpt", epochs=8, batch=8, seq=32, lr=2e-3, **WORDS)


def history(run):
    header, *rows = (run.path / "metrics.csv").read_text(encoding="utf-8").splitlines()
    return [dict(zip(header.split(","), map(float, row.split(",")), strict=True)) for row in rows]


def test_a_classifier_learns_and_tells_classes(classifier):
    assert history(classifier)[-1]["val_accuracy"] > 0.9
    how = classifier.preprocessing()
    assert (classifier.path / "tokenizer.json").read_text(encoding="utf-8") == how.tokenizer
    assert classifier.plan().workload.vocabulary == how.vocabulary == tokens.opened(how.tokenizer).get_vocab_size()
    opened = open_classifier(classifier.path)
    assert classify(opened, "早大 喜欢 店新")[0].label == "good"
    assert classify(opened, "早大 讨厌 店新")[0].label == "bad"


def test_a_classifier_may_start_from_vectors_of_its_words(reviews, tmp_path):
    run = train(reviews, model="rnn", init="cooccurrence", output=tmp_path / "run", epochs=1, batch=16, **WORDS)
    plain = fresh(run.plan().workload, run.plan().recipe).state_dict()["embedding.weight"]
    learnt = load_file(run.last / "model.safetensors")["embedding.weight"]
    assert (learnt - plain).abs().mean() > 0.1 and plain.shape == learnt.shape  # an epoch alone moves it by far less
    with pytest.raises(UsageError) as caught:
        train(reviews, model="rnn", init="cooccurrence", pretrained="auto", output=tmp_path / "none", **WORDS)
    assert caught.value.code == "init_or_pretrained" and not (tmp_path / "none").exists()


def test_erased_texts_differ_by_epoch_and_keep_their_ends(reviews):
    manifest = prepare(reviews)
    how = text.preprocessing(manifest, "rnn", {})
    plain = text.samples(manifest, how)
    erased = text.samples(manifest, how, Recipe(batch=8, augmentation="erase"))
    rows = plain.rows("train")[:64]
    before = [plain.encoded[row] for row in rows]
    once, again, later = ([erased._erased(row, epoch) for row in rows] for epoch in (0, 0, 1))
    assert all(np.array_equal(a, b) for a, b in zip(once, again, strict=True))
    assert any(not np.array_equal(a, b) for a, b in zip(once, later, strict=True))
    assert all(a[0] == b[0] and a[-1] == b[-1] for a, b in zip(once, before, strict=True))
    assert 0.85 < sum(map(len, once)) / sum(map(len, before)) < 0.97  # a tenth of what lies between
    inputs, _ = erased.batch([(int(row), 0) for row in rows])
    assert (inputs != how.padding).sum() == sum(map(len, once))


def test_variations_of_pictures_are_refused_for_texts(reviews, tmp_path):
    for words in ({"augmentation": "crop-flip"}, {"mix": "cutmix"}):
        with pytest.raises(UsageError) as caught:
            train(reviews, model="rnn", output=tmp_path / "none", **words, **WORDS)
        assert caught.value.code == "no_such_variation" and "erase" in caught.value.fix
    for words in ({"resize": "pad"}, {"imgsz": 32}):
        with pytest.raises(UsageError) as caught:
            train(reviews, model="rnn", output=tmp_path / "none", **words, **WORDS)
        assert caught.value.code == "flag_for_other_data"


def test_classes_are_not_balanced_where_there_are_none(novel, tmp_path):
    for words in ({"sampling": "sqrt"}, {"class_weights": "balanced"}):
        with pytest.raises(UsageError) as caught:
            train(novel, output=tmp_path / "none", **words, **WORDS)
        assert caught.value.code == "flag_for_other_data" and not (tmp_path / "none").exists()


def test_a_language_model_is_diagnosed(writer, monkeypatch):
    """Its rows are windows and not texts: nobody may ask for features of them."""
    from fromzero.diagnosing import diagnose
    from fromzero.diagnosis import _facts, samples

    monkeypatch.setattr(samples, "LEAST_COMPARED", 2)
    monkeypatch.setattr(_facts.Facts, "features", lambda facts, rows: pytest.fail("features of windows"))
    made = diagnose(writer.path)
    assert made.checked and not any(each.finding.code == "leakage" for each in made.findings)


def test_files_of_texts_are_read_in_their_encoding(classifier, tmp_path):
    opened = open_classifier(classifier.path)
    (tmp_path / "a.txt").write_bytes("很好，值得买".encode("gb18030"))
    (tmp_path / "b.csv").write_bytes("评论,类别\n很好，值得买,1\n".replace("，值", "。值").encode("utf-16"))
    (tmp_path / "c.csv").write_text("x,y\n1,2\n")
    assert [text for _, text in given(opened, str(tmp_path / "a.txt"))] == ["很好，值得买"]
    assert list(given(opened, str(tmp_path / "b.csv"))) == [(f"{tmp_path / 'b.csv'}:1", "很好。值得买")]
    for word, code in ((str(tmp_path / "c.csv"), "no_text_column"), ("nosuch.csv", "no_text_file")):
        with pytest.raises(UsageError) as caught:
            list(given(opened, word))
        assert caught.value.code == code
    assert list(given(opened, "see report.csv")) == [("see report.csv", "see report.csv")]


def test_a_language_model_learns_and_writes(writer):
    rows = history(writer)
    assert rows[-1]["val_loss"] < 0.6 * rows[0]["val_loss"]
    assert rows[-1]["val_perplexity"] == pytest.approx(math.exp(rows[-1]["val_loss"]))
    said = generate(writer.path, "ba", tokens=8).split()
    assert sum(each in follows(before) for before, each in zip(["ba", *said], said, strict=False)) >= len(said) - 1 > 2
    drawn_twice = [generate(writer.path, "ba ba", tokens=20, temperature=2.0, seed=5) for _ in range(2)]
    assert drawn_twice[0] == drawn_twice[1] != generate(writer.path, "ba ba", tokens=20, temperature=2.0, seed=6)
    assert generate(writer.path, "ba", tokens=8, stop=f" {said[1]}").split() == said[:1]
    with pytest.raises(UsageError):
        generate(writer.path, "ba", top_p=0.0)


def test_a_classifier_writes_nothing(classifier):
    with pytest.raises(RunError) as error:
        generate(classifier.path, "早大")
    assert error.value.code == "no_language_model"


def test_a_language_model_goes_on_from_another_run(writer, tmp_path):
    """Dialogues on top of running text: the tokenizer of the weights is kept, or its numbers would mean nothing."""
    path = tmp_path / "chats.jsonl"
    ask = [{"instruction": f"Count from {n}: {n * n}", "output": "one two three"} for n in range(30)]
    path.write_text("\n".join(map(json.dumps, ask)), encoding="utf-8")
    weights = writer.best / "model.safetensors"
    run = train(
        path, model="gpt", output=tmp_path / "run", pretrained=str(weights), epochs=1, batch=4, lr=1e-7, **WORDS
    )
    how = run.preprocessing()
    assert how.tokenizer == writer.preprocessing().tokenizer and how.template == "plain"
    was, became = (load_file(each.best / "model.safetensors")["embedding.weight"] for each in (writer, run))
    torch.testing.assert_close(became, was, atol=1e-4, rtol=0)
    assert isinstance(generate(run.path, "Count from 3", tokens=4), str)


def test_a_head_is_fitted_to_what_a_text_model_knows(reviews, classifier, tmp_path):
    """Weights that know the words and a head that starts at random: after the fit nothing is left to learn."""
    from fromzero import checkpoint

    tensors = checkpoint.load(classifier.best, "model")[0]["model"]
    rest = {name: each for name, each in tensors.items() if not name.startswith("head")}
    assert len(rest) == len(tensors) - 2
    file = tmp_path / "body.safetensors"
    safetensors.torch.save_file(rest, file)
    words = {"model": "rnn", "epochs": 1, "batch": 16, "lr": 1e-9, "pretrained": str(file), **WORDS}
    fitted = train(reviews, output=tmp_path / "fitted", linear_probe=True, **words)
    plain = train(reviews, output=tmp_path / "plain", **words)
    assert fitted.record()["best"]["val_accuracy"] >= 0.9 > plain.record()["best"]["val_accuracy"]


def test_how_a_transformers_model_reads(reviews, tmp_path):
    """A folder's own tokenizer with its weights; one trained here, smaller than the configuration's, without."""
    transformers = pytest.importorskip("transformers")
    manifest = prepare(reviews)
    kit = tokens.opened(tokens.train_tokenizer(["喜欢 讨厌 酒店"] * 3, 300))
    wrapped = transformers.PreTrainedTokenizerFast(tokenizer_object=kit, pad_token="<pad>", eos_token="<end>")
    wrapped.save_pretrained(tmp_path)
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.BertConfig(vocab_size=kit.get_vocab_size(), max_position_embeddings=40, **small)
    transformers.BertModel(config).save_pretrained(tmp_path)
    name = f"hf:{tmp_path}"
    published = text.preprocessing(manifest, name, {"pretrained": "auto"})
    assert tokens.opened(published.tokenizer).encode("喜欢").ids == kit.encode("喜欢").ids
    assert published.vocabulary == kit.get_vocab_size()
    trained = text.preprocessing(manifest, name, {})
    assert 0 < trained.vocabulary < config.vocab_size and trained.length <= 40
    with pytest.raises(UsageError):
        text.preprocessing(manifest, name, {"seq": 64})


def test_perplexity_counts_tokens_not_blocks():
    logits = torch.zeros(2, 4, 5)
    targets = torch.tensor([[1, 2, 3, 4], [1, 2, -100, -100]])
    found = lm.answers(logits, targets).numpy()
    assert found[:, 1].tolist() == [3, 1]
    measured = lm.measures(found, np.empty(0))
    assert measured["loss"] == pytest.approx(math.log(5)) and measured["perplexity"] == pytest.approx(5)
    assert lm.loss_for(Recipe())(logits, targets).item() == pytest.approx(math.log(5))


def test_what_is_drawn_keeps_to_its_limits():
    logits = torch.log(torch.tensor([0.1, 0.5, 0.1, 0.3]))
    dice = torch.Generator().manual_seed(0)
    assert drawn(logits, 0, 0, 1.0, dice) == 1
    draw = lambda **limits: {drawn(logits, 1.0, limits.get("k", 0), limits.get("p", 1.0), dice) for _ in range(200)}  # noqa: E731
    assert draw() == {0, 1, 2, 3} and draw(k=1) == {1} and draw(k=2) == {1, 3}
    assert draw(p=0.5) == {1} and draw(p=0.6) == {1, 3}
    counts = [drawn(logits, 1.0, 0, 1.0, dice) for _ in range(2000)].count(1)
    assert counts == pytest.approx(1000, abs=100)


def test_weights_may_be_left_out_of_the_loss():
    logits, classes = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1])
    even, uneven = (text.loss_for(Recipe(), each)(logits, classes) for each in (None, torch.tensor([1.0, 0.0])))
    assert uneven < even


@pytest.mark.parametrize("name", ["text", "lm"])
def test_the_shapes_that_are_planned_bound_what_comes(name, reviews, novel):
    task = tasks.task(name)
    manifest = prepare(reviews if name == "text" else novel)
    how = task.preprocessing(manifest, task.MODEL, {})
    samples = task.samples(manifest, how, dataclasses.replace(Recipe(), batch=8))
    assert task.shape(how) == {"seq": how.length, "vocabulary": how.vocabulary}
    rows = samples.order(samples.rows("train"), 0)[:8]
    inputs, _ = samples.batch([(int(row), 0) for row in rows])
    assert inputs.shape[1] <= how.length and inputs.min() >= 0 and inputs.max() < how.vocabulary
    assert task.count(manifest, how) == len(samples.rows("train"))


def test_an_empty_training_part_is_said(reviews):
    manifest = prepare(reviews)
    none = manifest.with_column("split", dataclasses.replace(manifest).columns["given"])
    with pytest.raises(FromzeroError) as error:
        text.preprocessing(none, "rnn", {})
    assert error.value.code == "no_tokens"
