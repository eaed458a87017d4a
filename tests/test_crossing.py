"""Cross-validation: every sample once, a validation part of its own, and what cannot be folded."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fromzero.crossing import SUMMARY, cross_validate, summary
from fromzero.errors import RunError, UsageError
from fromzero.predicting import classify, given, open_classifier
from fromzero.preparing import prepare

WORDS = {"model": "mlp", "epochs": 2, "batch": 16, "device": "cpu"}


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("rows") / "rows.csv"
    lines = [f"{a:.3f},{b:.3f},{('no', 'yes')[int(a > b)]}" for a, b in rng.normal(size=(90, 2))]
    path.write_text("\n".join(["a,b,label", *lines]) + "\n")
    return path


@pytest.fixture(scope="module")
def made(rows, tmp_path_factory):
    output = tmp_path_factory.mktemp("folds") / "out"
    return cross_validate(rows, 3, output=output, **WORDS), output


def test_every_sample_is_tested_once_and_never_decides_about_epochs(rows):
    parts = [prepare(rows, fold=(number, 3)) for number in range(3)]
    tested = np.concatenate([each.rows("test") for each in parts])
    assert sorted(tested) == list(range(90))
    for each in parts:
        assert len(each.rows("val")) and not set(each.rows("val")) & set(each.rows("test"))
        assert len(each.rows("train")) + len(each.rows("val")) + len(each.rows("test")) == 90


def test_the_figures_are_those_of_the_folds(made):
    found, output = made
    accuracies = [each["accuracy"] for each in found.measures]
    assert found.mean["accuracy"] == pytest.approx(np.mean(accuracies))
    assert found.half_width["accuracy"] == pytest.approx(4.303 * np.std(accuracies, ddof=1) / 3**0.5, rel=1e-3)
    tested = [json.loads((output / f"fold-{n}" / "evaluation.json").read_text()) for n in (1, 2, 3)]
    right = sum(round(each["accuracy"] * each["samples"]) for each in tested)
    assert found.accuracy == right / 90 and found.interval[0] < found.accuracy < found.interval[1]
    assert json.loads((output / SUMMARY).read_text())["folds"] == 3
    assert "accuracy" in summary(found)


def test_finished_folds_are_kept(made, rows):
    found, output = made
    before = [(output / f"fold-{n}" / "metrics.csv").stat().st_mtime_ns for n in (1, 2, 3)]
    assert cross_validate(rows, 3, output=output, **WORDS).measures == found.measures
    assert [(output / f"fold-{n}" / "metrics.csv").stat().st_mtime_ns for n in (1, 2, 3)] == before
    with pytest.raises(RunError) as error:  # three folds are no part of four
        cross_validate(rows, 4, output=output, **WORDS)
    assert error.value.code == "run_exists"


def test_refusals(rows, tmp_path):
    with pytest.raises(UsageError) as error:
        cross_validate(rows, 1, output=tmp_path / "out", **WORDS)
    assert error.value.code == "bad_fold"
    with pytest.raises(UsageError) as error:
        cross_validate(rows, 80, output=tmp_path / "out", **WORDS)
    assert error.value.code == "too_many_folds" and not (tmp_path / "out").exists()


def test_another_cross_validation_is_not_taken_for_this_one(made, rows, tmp_path):
    """Its folds are finished: they would be told as figures of what was asked for now."""
    other = tmp_path / "other.csv"
    other.write_bytes(rows.read_bytes())
    for data, words in ((other, WORDS), (rows, {**WORDS, "dropout": 0.5})):
        with pytest.raises(RunError) as error:
            cross_validate(data, 3, output=made[1], **words)
        assert error.value.code == "another_cross_validation"


def test_files_are_read_as_training_reads_them(made, rows, tmp_path):
    classifier = open_classifier(made[1] / "fold-1")
    wanted = [row for _, row in given(classifier, str(rows))]
    text = rows.read_text(encoding="utf-8")
    for name, content in (
        ("a.csv", text.replace(",", ";").encode("utf-16")),
        ("a.tsv", text.replace(",", "\t").encode("gb18030")),
    ):
        (tmp_path / name).write_bytes(content)
        assert [row for _, row in given(classifier, str(tmp_path / name))] == wanted


def test_a_typed_row_with_a_misspelt_column_is_refused(made):
    classifier = open_classifier(made[1] / "fold-1")
    ((_, row),) = given(classifier, '{"a": 1, "bogus": 2}')
    with pytest.raises(UsageError) as error:
        classify(classifier, row)
    assert error.value.code == "unknown_column"


def test_rows_are_given_by_their_columns(made, rows):
    classifier = open_classifier(made[1] / "fold-1")
    assert [name for name, _ in given(classifier, str(rows))][:2] == [f"{rows}:1", f"{rows}:2"]
    assert next(given(classifier, str(rows)))[1].keys() == {"a", "b"}  # the label is no input
    assert list(given(classifier, '{"a": 1}')) == [('{"a": 1}', {"a": 1})]
    for word, code in (
        ("{", "not_a_row"),
        ("[1]", "not_a_row"),
        ('{"x": 1}', "no_known_column"),
        ("n.csv", "no_text_file"),
    ):
        with pytest.raises(UsageError) as error:
            list(given(classifier, word))
        assert error.value.code == code
