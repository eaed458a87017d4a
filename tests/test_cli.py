"""The command line as a person meets it: exit statuses, one-line errors, two languages."""

from __future__ import annotations

import json

import pytest

from fromzero import language
from fromzero.cli import main, words


@pytest.fixture(autouse=True)
def english(monkeypatch):
    monkeypatch.setenv("FROMZERO_LANG", "en")
    language.use(None)
    yield
    language.use(None)


@pytest.mark.parametrize(
    ("arguments", "code", "near"),
    [
        (["trian"], "unknown_command", "train"),
        (["plan", "resnet5O", "--card", "cpu"], "unknown_model", "resnet50"),
        (["plan", "cnn", "--card", "RTX 3065"], "unknown_card", "RTX"),
        (["plan", "cnn", "--card", "3060"], "ambiguous_card", "12 GB"),
        (["plan", "cnn", "--crad", "3060"], "unknown_flag", "--card"),
        (["plan", "cnn", "--precision", "fp17"], "bad_arguments", "fp16"),
        (["plan", "cnn", "--batch", "many"], "bad_arguments", "many"),
        (["plan", "cnn", "--card", "cpu", "--batch", "0"], "not_positive", ""),
        (["plan", "cnn", "--imgsz", "0"], "bad_arguments", "from 1 up"),
        (["plan", "cnn", "--classes", "0"], "bad_arguments", "from 1 up"),
        (["train", "data", "--lr", "-1"], "bad_arguments", "from 0 up"),
        (["train", "data", "--lr", "nan"], "bad_arguments", "from 0 up"),
        (["train", "data", "--label-smoothing", "3"], "bad_arguments", "from 0 to 1"),
        (["train", "data", "--plan", "no/such/plan.json"], "plan_file_not_read", "No such file"),
        (["train", "--resume", "no/such/run"], "no_such_run", ""),
        (["evaluate", "no/such/run"], "no_such_run", ""),
        (["predict", "no/such/run", "a.png", "--top", "0"], "bad_arguments", "from 1 up"),
        (["bench", "--folder", "no/such/folder"], "bench_folder", "no/such/folder"),
        (["plan", "no/such/file.py:make", "--card", "cpu"], "model_file_missing", "no/such"),
        (["train"], "data_or_resume", ""),
        (["train", "runs/first", "--apply", "overfitting", "--folds", "3"], "apply_needs_run", "--folds"),
        (["train", "no/such/folder"], "nothing_there", "no/such/folder"),
        (["data", "get", "fashionmnist"], "unknown_data_set", "fashion-mnist"),
        (["data", "check", "no/such/folder"], "nothing_there", ""),
        (["predict", "no/such/run", "a.png"], "no_such_run", ""),
        (["--lang", "fr", "cards"], "unknown_language", ""),
        (["cards", "one", "--series", "31"], "", ""),
    ],
)
def test_wrong_use_is_one_line_and_status_2(capsys, arguments, code, near):
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.strip().splitlines()) == 1
    assert err.startswith(f"fromzero: {code}")
    assert near in err


def test_a_file_of_other_json_is_no_plan(capsys, tmp_path):
    for text, reason in (("{}", "has no"), ("[]", ""), ("no JSON", "")):
        (tmp_path / "plan.json").write_text(text)
        assert main(["train", "data", "--plan", str(tmp_path / "plan.json")]) == 2
        err = capsys.readouterr().err
        assert err.startswith("fromzero: bad_plan_file")
        assert reason in err


def test_an_error_without_near_matches_has_no_double_blank(capsys):
    assert main(["cards", "qqqqqq"]) == 2
    assert "  " not in capsys.readouterr().err


def test_not_a_run_is_status_1(capsys, tmp_path):
    assert main(["evaluate", str(tmp_path)]) == 1
    assert "not_a_run" in capsys.readouterr().err
    assert main(["predict", str(tmp_path), "a.png"]) == 1
    assert "not_a_model" in capsys.readouterr().err


def test_help_lists_every_command_in_both_languages(capsys):
    assert main(["--help"]) == 0
    english = capsys.readouterr().out
    assert all(word in english for word in words())
    assert main(["--help", "--lang", "zh"]) == 0
    assert "显卡" in capsys.readouterr().out


def test_errors_speak_chinese(capsys):
    assert main(["plan", "cnn", "--card", "RTX 3065", "--lang=zh"]) == 2
    assert "没有名为" in capsys.readouterr().err


def test_recipe_fields_are_flags(capsys):
    import dataclasses

    from fromzero.records import Recipe

    for word in ("plan", "train"):
        with pytest.raises(SystemExit):
            main([word, "--help"])
        text = capsys.readouterr().out
        for each in dataclasses.fields(Recipe):
            flag = "--channels-last" if each.name == "memory_format" else "--" + each.name.replace("_", "-")
            assert flag in text, (word, flag)


def test_json_alone_on_standard_output(capsys):
    assert main(["plan", "cnn", "--card", "RTX 4090", "--imgsz", "28", "--json"]) == 0
    json.loads(capsys.readouterr().out)
