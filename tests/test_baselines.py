"""The baselines learn what there is to learn, on the same split and by the same measures, and say what they are not
for."""

import numpy as np
import pytest

from fromzero.baselines import baseline, writes_spaces
from fromzero.data.columns import Words
from fromzero.data.manifest import SPLIT_WORDS
from fromzero.data.opening import open_data
from fromzero.data.split import split
from fromzero.errors import UsageError

GOOD = ("lovely room, kind people", "clean and quiet, lovely", "kind staff and a clean bath")
BAD = ("dirty room, rude people", "loud and dirty, rude", "rude staff and a dirty bath")
ZH = {"好评": ("房间很干净，服务也好", "安静又舒适，很满意"), "差评": ("房间太脏，服务很差", "又吵又脏，很失望")}


def table(tmp_path, count=300, classes="no yes", missing=True):
    """The class follows from a column of words and the sign of a number that is not always there."""
    rng = np.random.default_rng(0)
    names, lines = classes.split(), []
    for n in range(count):
        ward, pulse = rng.integers(0, 300) if missing else rng.integers(0, 3), rng.normal()
        label = names[int((pulse > 0) ^ (ward % 3 == 0)) if len(names) == 2 else min(2, int(ward % 3))]
        lines.append(f"{pulse if n % 9 else ''},w{ward % 3},{rng.normal()},{label}")
    path = tmp_path / "t.csv"
    path.write_text("\n".join(["pulse,ward,noise,label", *lines]) + "\n")
    return split(open_data(path))


def texts(tmp_path, pairs):
    path = tmp_path / "t.csv"
    path.write_text("text,label\n" + "".join(f'"{text}",{label}\n' for text, label in pairs), encoding="utf-8")
    return split(open_data(path))


def test_boosting_learns_words_and_numbers_that_are_missing(tmp_path):
    found = baseline(table(tmp_path))
    assert found.method == "gradient-boosting" and set(found.measures) == {"val", "test"}
    assert found.measures["test"]["auc"] > 0.9 and found.seconds > 0
    assert found.chosen["leaves"] in (4, 8, 31) and found.chosen["trees"] >= 1


@pytest.mark.slow
def test_it_is_the_same_each_time_and_never_sees_the_test_part(tmp_path):
    manifest = table(tmp_path)
    one = baseline(manifest)
    assert baseline(manifest).measures == one.measures
    away = np.asarray(manifest["split"].tolist(), dtype=object)
    away[manifest.rows("test")] = "none"
    other = baseline(manifest.with_column("split", Words.of(away, SPLIT_WORDS)))
    assert other.chosen == one.chosen and other.measures == {"val": one.measures["val"]}


def test_several_classes_of_which_training_lacks_one(tmp_path):
    manifest = table(tmp_path, classes="a b c")
    assert baseline(manifest).measures["test"]["accuracy"] > 0.95
    rows = manifest["label"] == 2
    parts = np.where(rows, "test", np.asarray(manifest["split"].tolist(), dtype=object))
    parts[np.flatnonzero(rows)[:3]] = "val"
    found = baseline(manifest.with_column("split", Words.of(parts, SPLIT_WORDS))).measures
    assert found["val"]["accuracy"] < 1  # of the class it never saw, it names another


def test_texts_by_words_or_by_characters(tmp_path):
    rng = np.random.default_rng(0)
    english = [(f"{text} {rng.integers(999)}", label) for label, some in (("good", GOOD), ("bad", BAD))
               for text in some for _ in range(15)]  # fmt: skip
    found = baseline(texts(tmp_path, english))
    assert found.method == "words-linear" and found.measures["test"]["accuracy"] > 0.95
    chinese = [(f"{text}{rng.integers(999)}", label) for label, some in ZH.items() for text in some for _ in range(20)]
    folder = tmp_path / "zh"
    folder.mkdir()
    manifest = texts(folder, chinese)
    assert not writes_spaces(manifest)
    found = baseline(manifest)
    assert found.method == "characters-linear" and found.measures["test"]["accuracy"] > 0.95


def test_what_has_no_baseline_is_refused(tmp_path):
    path = tmp_path / "prices.csv"
    path.write_text("rooms,price\n" + "".join(f"{n % 5},{n * 1.37}\n" for n in range(60)))
    with pytest.raises(UsageError) as caught:
        baseline(split(open_data(path, label="price")))
    assert caught.value.code == "no_baseline"
