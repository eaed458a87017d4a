"""Iterating to a target: the rules by themselves, then real runs on small pictures."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from fromzero.errors import RunError, UsageError
from fromzero.improving import FILE, Improvement, Seen, Trial, _asked, _suggested, improve, summary
from fromzero.records import Recipe
from fromzero.runs import Run

WORDS = {"model": "cnn", "epochs": 1, "batch": 8, "imgsz": 16, "seed": 3, "device": "cpu", "augmentation": "none"}


def seen(train, val, task="image", **recipe):
    rows = tuple({"train_loss": t, "val_loss": v} for t, v in zip(train, val, strict=True))
    return Seen(Recipe(**{"lr": 0.002, "batch": 8, "epochs": len(rows), **recipe}), task, rows)


def proposals(run, diverged=False):
    found = [(rule, change) for rule, evidence, change in _suggested(run, diverged) if evidence]
    assert len({rule for rule, _ in found}) == 1
    return found[0][0], [change for _, change in found]


def test_overfitting_asks_for_regularisation_in_the_stated_order():
    run = seen([1.0, 0.4, 0.1], [0.9, 0.7, 0.9], augmentation="none")
    rule, changes = proposals(run)
    assert rule == "overfitting"
    assert [next(iter(each)) for each in changes] == ["augmentation", "dropout", "label_smoothing", "weight_decay"]
    _, changes = proposals(dataclasses.replace(run, task="lm"))
    assert [next(iter(each)) for each in changes] == ["dropout", "weight_decay"]  # what applies to texts to continue


def test_underfitting_asks_for_more_of_everything():
    rule, changes = proposals(seen([2.0, 1.5, 1.2], [2.0, 1.6, 1.3], freeze="backbone"))
    assert rule == "underfitting"
    assert changes == [{"epochs": 6}, {"lr": 0.006}, {"freeze": "gradual"}]
    assert proposals(seen([1.0], [1.0]))[1][0] == {"epochs": 2}
    assert proposals(seen([2.0, 1.0, 0.6], [2.0, 1.2, 1.0]))[0] == "underfitting"  # apart, but both still fall
    assert proposals(seen([2.0, 1.0, 0.6], [2.0, 0.99, 1.0]))[0] == "plateau"


def test_what_jumps_or_diverged_asks_for_a_lower_rate():
    assert proposals(seen([1.0, 1.4, 0.9, 1.5], [1.5, 1.5, 1.5, 1.5])) == ("noise", [{"lr": 0.000667}])
    assert proposals(seen([], [], clip=0.0), diverged=True) == ("diverged", [{"lr": 0.000667}, {"clip": 1.0}])


def test_a_plateau_asks_for_another_rate_then_for_thawing():
    flat = [0.5, 0.495, 0.494]
    assert proposals(seen(flat, flat)) == ("plateau", [{"lr": "find"}])
    assert proposals(seen(flat, flat, freeze="gradual"))[1] == [{"lr": "find"}, {"freeze": "none"}]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Two classes of 30 noisy stripes, lying or standing; every fifth under the wrong name: none gets all right."""
    root, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for number in range(30):
        for label in ("lying", "standing"):
            stripes = np.repeat((np.arange(16) // 2 % 2)[:, None] * rng.integers(60, 120), 16, 1)
            pixels = (stripes if (label == "lying") == bool(number % 5) else stripes.T) + rng.normal(60, 30, (16, 16))
            path = root / label / f"{number}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)
    return root


@pytest.fixture(scope="module")
def improved(pictures, tmp_path_factory):
    """Two runs towards what nobody can reach."""
    output = tmp_path_factory.mktemp("improved")
    return output, improve(pictures, 1.0, 2, output=output, **WORDS)


def test_runs_change_one_thing_at_a_time_and_say_why(improved):
    output, made = improved
    assert [each.state for each in made.trials] == ["finished", "finished"] and not made.reached
    first, second = made.trials
    assert second.base == "trial-1" and second.change == {"epochs": 2} and second.evidence
    one, other = (dataclasses.asdict(Run(output / each.run).plan().recipe) for each in (first, second))
    assert {name for name in one if one[name] != other[name]} == {"epochs"}
    kept = json.loads((output / FILE).read_text(encoding="utf-8"))
    assert kept["measure"] == "val_accuracy" and [each["run"] for each in kept["trials"]] == ["trial-1", "trial-2"]
    assert made.best in summary(made)


def test_only_the_best_run_is_measured_on_the_test_part(improved):
    output, made = improved
    values = {each.run: each.value for each in made.trials}
    assert values[made.best] == max(values.values()) and list(made.tests) == [made.best]
    assert [each.run for each in made.trials if (output / each.run / "evaluation.json").exists()] == [made.best]


def test_the_same_call_goes_on_and_reaches_what_is_reached(improved, pictures):
    output, made = improved
    weights = [(output / each.run / "checkpoints/last/model.safetensors").stat().st_mtime_ns for each in made.trials]
    again = improve(pictures, made.leader.value, 2, output=output, **WORDS)
    assert again.reached and again.trials == made.trials and again.best == made.best
    after = [(output / each.run / "checkpoints/last/model.safetensors").stat().st_mtime_ns for each in made.trials]
    assert weights == after  # nothing was trained again


def test_a_trial_that_was_cut_off_is_finished_first(improved, pictures):
    output, made = improved
    cut = Trial(run="trial-3", rule="optuna", words={**WORDS, "lr": 0.004}, base="trial-1", change={"lr": 0.004})
    kept = json.loads((output / FILE).read_text(encoding="utf-8"))
    kept["trials"].append(dataclasses.asdict(cut))
    (output / FILE).write_text(json.dumps(kept), encoding="utf-8")
    (output / "trial-3" / "checkpoints").mkdir(parents=True)  # killed before the run was one
    done = improve(pictures, 1.0, 3, output=output, **WORDS)
    assert [each.state for each in done.trials] == ["finished"] * 3 and done.trials[:2] == made.trials
    assert Run(output / "trial-3").plan().recipe.lr == 0.004


def test_optuna_answers_the_same_in_the_light_of_the_same_runs(improved, pictures):
    output, made = improved
    base = seen([0.5], [0.5])
    asked = [_asked(output, made, base) for _ in range(2)]
    assert asked[0] == asked[1] and set(asked[0]) == {"lr", "weight_decay", "label_smoothing", "dropout"}
    refused = Trial(run="trial-3", rule="overfitting", words={}, change={"dropout": 0.2}, state="refused")
    without = _asked(output, dataclasses.replace(made, trials=(*made.trials, refused)), base)
    assert set(without) == {"lr", "weight_decay", "label_smoothing"}


def test_other_data_or_words_are_another_improvement(improved, pictures, tmp_path):
    output, _ = improved
    with pytest.raises(RunError) as caught:
        improve(pictures, 0.9, output=output, **{**WORDS, "seed": 4})
    assert caught.value.code == "another_improvement"
    (tmp_path / "mine.txt").write_text("")
    with pytest.raises(RunError) as caught:
        improve(pictures, 0.9, output=tmp_path, **WORDS)
    assert caught.value.code == "run_exists"
    with pytest.raises(UsageError):
        improve(pictures, 0.9, 0, output=tmp_path / "new", **WORDS)


@pytest.mark.parametrize("target", [3.0, 0.0, -1.0, float("nan")])
def test_a_share_above_one_is_refused_before_anything_runs(pictures, tmp_path, target):
    with pytest.raises(UsageError) as caught:
        improve(pictures, target, output=tmp_path / "out", **WORDS)
    assert caught.value.code == "no_such_target" and not (tmp_path / "out").exists()


def test_less_is_better_of_a_loss():
    trials = tuple(Trial(run=f"trial-{n}", rule="first", words={}, state="finished", value=n) for n in (3.0, 2.0, 4.0))
    made = Improvement(data="", measure="-val_loss", target=2.5, budget=3, trials=trials)
    assert made.leader is trials[1]
