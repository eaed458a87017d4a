"""Rows of a table as inputs: by the training rows alone, the same in training and for one row from a user."""

import numpy as np
import pytest

from fromzero.data.columns import Words
from fromzero.data.inputs import prepared
from fromzero.data.manifest import SPLIT_WORDS
from fromzero.data.opening import open_data
from fromzero.data.rows.content import content
from fromzero.data.split import split
from fromzero.data.tabular import RARE, Table, columns, encoded, raw, width
from fromzero.errors import UnknownName, UsageError
from fromzero.records import Columns, from_json, to_json

JOBS = ("clerk", "cook", "driver", "nurse")


def written(tmp_path, lines, head="age,income,job,label"):
    path = tmp_path / "people.csv"
    path.write_text("\n".join([head, *lines]) + "\n", encoding="utf-8")
    return open_data(path)


def people(tmp_path, count=60):
    rng = np.random.default_rng(0)
    lines = [
        f"{rng.integers(18, 80)},{'' if n % 7 == 0 else rng.integers(1000, 9000)},{JOBS[n % 3]},{'yn'[n % 2]}"
        for n in range(count)
    ]
    return split(written(tmp_path, lines))


def parts(manifest, **rows):
    """The manifest with these rows in these parts."""
    words = np.full(len(manifest), "train", dtype=object)
    for part, which in rows.items():
        words[which] = part
    return manifest.with_column("split", Words.of(words, SPLIT_WORDS))


def test_inputs_are_standardised_by_the_training_rows(tmp_path):
    manifest = people(tmp_path)
    how = columns(manifest)
    assert [name for name, *_ in how.numbers] == ["age", "income"] and how.flagged == ("income",)
    assert [name for name, _ in how.words] == ["job"] and set(how.words[0][1]) == set(JOBS[:3])
    made = encoded(*raw(content(manifest), how), how)
    assert made.dtype == np.float32 and made.shape == (60, 4) and width(how) == 3
    train = made[manifest.rows("train")]
    assert abs(train[:, 0].mean()) < 1e-5 and train[:, 0].std() == pytest.approx(1, abs=1e-5)
    missing = train[:, 2] == 1
    assert missing.any() and (train[missing, 1] == 0).all()
    assert train[~missing, 1].std() == pytest.approx(1, abs=1e-5)
    assert set(train[:, 3]) == {1, 2, 3}


def test_what_is_infinite_counts_as_missing(tmp_path):
    lines = [f"{20 + n % 37},{'inf' if n % 7 == 0 else 1000 + n % 31},{JOBS[n % 3]},{'yn'[n % 2]}" for n in range(60)]
    how = columns(split(written(tmp_path, lines)))
    assert how.flagged == ("income",) and all(np.isfinite([mean, std]).all() for _, mean, std in how.numbers)
    given = prepared({"age": 30, "income": float("inf"), "job": "cook"}, how)
    assert np.array_equal(given, prepared({"age": 30, "job": "cook"}, how)) and np.isfinite(given).all()


def test_other_parts_do_not_move_the_inputs(tmp_path):
    lines = [f"{20 + n % 9},{n % 5},{JOBS[n % 2]},{'yn'[n % 2]}" for n in range(30)]
    one = columns(parts(written(tmp_path, lines), val=np.arange(20, 25), test=np.arange(25, 30)))
    lines[27] = "9999,,nurse,y"  # a test row
    other = columns(parts(written(tmp_path, lines), val=np.arange(20, 25), test=np.arange(25, 30)))
    assert one == other


def test_words_that_are_rare_or_unseen_are_place_0(tmp_path):
    lines = [f"{n},1,{'nurse' if n == 3 else 'clerk' if n % 3 else 'cook'},{'yn'[n % 2]}" for n in range(30)]
    manifest = parts(written(tmp_path, lines), val=np.arange(20, 25))
    how = columns(manifest)
    assert RARE == 2 and how.words == (("job", ("clerk", "cook")),)  # the commonest first
    assert encoded(*raw(content(manifest), how), how)[3, -1] == 0


def test_a_row_of_a_user_is_the_row_of_training(tmp_path):
    manifest = people(tmp_path)
    how = columns(manifest)
    batch, labels = Table(manifest, how).batch([(row, 0) for row in range(60)])
    assert labels.tolist() == manifest["label"].tolist()
    for row, given in enumerate(content(manifest).to_pylist()):
        given.pop("label")
        np.testing.assert_array_equal(prepared(given, how), batch[row])
        asked = {name: str(value) for name, value in given.items() if value is not None}  # as a form sends it
        np.testing.assert_array_equal(prepared(asked, how), batch[row])
    again = from_json(Columns, to_json(how))
    assert again == how


def test_what_is_wrong_with_a_row_is_said(tmp_path):
    how = columns(people(tmp_path))
    nothing = prepared({}, how)
    assert nothing.tolist() == [0, 0, 1, 0]  # all missing, and said so where training knew it
    assert prepared({"job": "astronaut"}, how)[-1] == 0
    with pytest.raises(UnknownName) as caught:
        prepared({"jobs": "cook"}, how)
    assert caught.value.near == ["job"]
    with pytest.raises(UsageError, match=r"'age'.*'old'"):
        prepared({"age": "old"}, how)
    with pytest.raises(UsageError, match="not a list"):
        prepared([{"age": 3}], how)


def test_batches_need_no_memory_for_the_whole_table(tmp_path, monkeypatch):
    manifest = people(tmp_path)
    how = columns(manifest)
    kept = Table(manifest, how)
    monkeypatch.setattr("fromzero.data.tabular.KEPT_BYTES", 0)
    read = Table(manifest, how)
    items = [(row, 0) for row in (5, 59, 0, 5)]
    assert kept.workers == 0 and read.workers > 0
    np.testing.assert_array_equal(kept.batch(items)[0], read.batch(items)[0])


def visits(tmp_path, count=40):
    lines = [
        f"p{n % 4},2024-{1 + n // 28:02}-{1 + n % 28:02},{n * 7 % 23},{JOBS[n % 3]},{'yn'[n % 2]}" for n in range(count)
    ]
    return split(written(tmp_path, lines[::-1], "group,date,pulse,ward,label"))


@pytest.mark.parametrize("kept", [True, False])
def test_a_sequence_is_what_was_known_of_the_entity(tmp_path, monkeypatch, kept):
    if not kept:
        monkeypatch.setattr("fromzero.data.tabular.KEPT_BYTES", 0)
    manifest = visits(tmp_path)
    how = columns(manifest, window=3)
    assert [name for name, *_ in how.numbers] == ["pulse"] and [name for name, _ in how.words] == ["ward"]
    made, _ = Table(manifest, how).batch([(row, 0) for row in range(40)])
    assert made.shape == (40, 3, 3) and width(how) == 2
    (_, mean, std) = how.numbers[0]
    rows = content(manifest).to_pylist()
    for row, sequence in zip(rows, made, strict=True):
        known = [each for each in rows if each["group"] == row["group"] and each["date"] <= row["date"]]
        known.sort(key=lambda each: each["date"])
        there = sequence[:, 1] == 1
        assert there.tolist() == [place < len(known) for place in range(3)]
        np.testing.assert_allclose(sequence[there, 0] * std + mean, [each["pulse"] for each in known[-3:]], atol=1e-3)
        assert (sequence[~there] == 0).all()
        given = [{name: each[name] for name in ("pulse", "ward", "date")} for each in known]
        np.testing.assert_allclose(prepared(given, how), sequence, atol=1e-6)


def test_sequences_need_a_group_and_a_time(tmp_path):
    with pytest.raises(UsageError) as caught:
        columns(people(tmp_path), window=4)
    assert caught.value.code == "no_sequences"
    with pytest.raises(UsageError):
        prepared([], columns(visits(tmp_path), window=2))
