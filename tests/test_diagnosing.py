"""Diagnosis: the contract of the families, rules on records, and planted faults end to end."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fromzero import diagnosis, language
from fromzero.cli import main
from fromzero.diagnosing import EXPLAINS, FILE, _beside, apply, as_json, diagnose, ranked, summary
from fromzero.diagnosis import Finding
from fromzero.diagnosis._facts import Facts
from fromzero.errors import RunError, UnknownName, UsageError
from fromzero.files import write_json
from fromzero.runs import Run
from fromzero.starting import train
from fromzero.training import data_of

MODELS = """
import torch
from torch import nn


def logarithm(classes, channels, size):
    class Log(nn.Module):
        def forward(self, x):
            return torch.log(torch.relu(x))

    wide = channels * size * size
    return nn.Sequential(nn.Flatten(), nn.Linear(wide, 32), Log(), nn.Linear(32, classes))


def root(classes, channels, size):
    class Root(nn.Module):
        def forward(self, x):
            return torch.sqrt(nn.functional.dropout(x, 0.2, self.training).abs())

    wide = channels * size * size
    return nn.Sequential(nn.Flatten(), nn.Linear(wide, 32), Root(), nn.Linear(32, classes))


def plain(classes, channels, size):
    layers = [nn.Flatten()]
    for number in range(8):
        layers += [nn.Linear(channels * size * size if number == 0 else 64, 64), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(64, classes))


def born_dead(classes, channels, size):
    model = nn.Sequential(nn.Flatten(), nn.Linear(channels * size * size, 64), nn.ReLU(), nn.Linear(64, classes))
    nn.init.constant_(model[1].bias[:60], -30.0)
    return model
"""
WORDS = {"device": "cpu", "batch": 16, "augmentation": "none", "seed": 1}


def stripes(folder: Path, each: int, *, seed: int = 0) -> Path:
    """Four classes of noisy stripes in given parts."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:16, :16]
    for part, count in (("train", each), ("val", max(12, each // 2))):
        for number in range(4 * count):
            angle = number % 4 * np.pi / 4
            along = np.cos(angle) * y + np.sin(angle) * x
            pixels = 128 + 60 * np.sin(along + rng.uniform(0, 6.3)) + rng.normal(0, 40, (16, 16))
            path = folder / part / f"纹 {number % 4}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return stripes(tmp_path_factory.mktemp("数据") / "stripes", 40)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "models.py"
    path.write_text(MODELS, encoding="utf-8")
    return path


def failed(data, output, model, **words):
    with pytest.raises(RunError) as error:
        train(data, model=model, output=output, epochs=2, **WORDS, **words)
    assert error.value.code == "loss_not_finite"
    return Run(output)


def codes(made):
    return [each.finding.code for each in made.findings]


# --- the families -----------------------------------------------------------------------------------------------------


def test_every_finding_has_its_sentences_and_one_family():
    found = diagnosis.codes()
    assert len(found) == len(set(found)) == 19
    rows = language.catalogue()
    for code in found:
        assert f"diagnose.{code}.name" in rows
        assert f"diagnose.{code}" in rows or any(
            key.startswith(f"diagnose.{code}.") and key.endswith(".fix") for key in rows
        )
    assert set(EXPLAINS) | {each for many in EXPLAINS.values() for each in many} <= set(found)
    for family in diagnosis.families().values():
        assert callable(family.find) and callable(family.draw)


def test_causes_come_before_their_symptoms_and_the_strongest_first():
    strong = Finding(code="overfitting", strength=9.0, evidence={})
    cause = Finding(code="label_noise", strength=2.0, evidence={})
    other = Finding(code="leakage", strength=3.0, evidence={})
    assert [(each.code, why) for each, why in ranked([strong, cause, other])] == [
        ("leakage", ""),
        ("label_noise", ""),
        ("overfitting", "label_noise"),
    ]


# --- records alone ----------------------------------------------------------------------------------------------------


@pytest.fixture
def kept(tiny_run, tmp_path):
    """A copy of the finished run that may be changed."""
    shutil.copytree(tiny_run.path, tmp_path / "run")
    return Run(tmp_path / "run")


def found_by(run, family, code):
    return [each for each in diagnosis.families()[family].find(Facts(run)) if each.code == code]


def test_memory_in_pieces_is_told_by_what_the_card_held(kept):
    usable = kept.plan().card.usable_bytes
    measured = kept.record()["measured"]
    kept.note(
        status="stopped", measured={**measured, "allocated_peak": usable * 6 // 10, "reserved_peak": usable * 9 // 10}
    )
    (found,) = found_by(kept, "machine", "memory_fragmented")
    assert (
        found.evidence["ratio"] == pytest.approx(1.5) and "expandable" in found.environment["PYTORCH_CUDA_ALLOC_CONF"]
    )
    kept.note(measured={**measured, "allocated_peak": usable * 8 // 10, "reserved_peak": usable * 9 // 10})
    assert not found_by(kept, "machine", "memory_fragmented")  # what any allocator rounds up to


def test_heat_is_told_by_the_cards_own_reason(kept):
    card = {"index": 0, "name": "card", "temperature_peak": 86.0, "throttle": ["temperature", "power"]}
    kept.note(status="stopped", measured={**kept.record()["measured"], "cards": [card]})
    (found,) = found_by(kept, "machine", "thermally_throttled")
    assert found.evidence["temperature"] == 86.0 and not found.applicable
    kept.note(measured={**kept.record()["measured"], "cards": [{**card, "throttle": ["power"]}]})
    assert not found_by(kept, "machine", "thermally_throttled")  # a power limit is a decision


def test_waiting_is_what_a_loader_takes_beyond_the_step(kept, monkeypatch):
    machine = diagnosis.families()["machine"]
    times = {"seconds": (0.050, 0.004)}
    monkeypatch.setattr(machine, "_timed", lambda facts: times["seconds"])
    (found,) = found_by(kept, "machine", "loader_bound")
    assert found.evidence["share"] > 0.9
    times["seconds"] = (0.001, 0.0001)  # nobody minds a millisecond
    assert not found_by(kept, "machine", "loader_bound")
    times["seconds"] = (0.004, 0.050)
    assert not found_by(kept, "machine", "loader_bound")


# --- planted, from the run to the fix ---------------------------------------------------------------------------------


def test_a_nan_names_the_operator_the_module_and_the_step(data, models, tmp_path):
    run = failed(data, tmp_path / "run", f"{models}:logarithm")
    before = {path: path.read_bytes() for path in run.path.iterdir() if path.is_file()}
    made = diagnose(run.path)
    found = made.findings[0].finding
    assert found.code == "nan_source" and found.evidence["cause"] == "operator"
    assert (found.evidence["operator"], found.evidence["kind"], found.evidence["phase"]) == ("log", "Log", "forward")
    assert found.where == ("2",) and found.evidence["step"] == run.record()["failed"]["step"] == 1
    assert not found.applicable
    with pytest.raises(RunError, match="mends"):
        apply(run.path, "nan_source")
    assert all(path.read_bytes() == content for path, content in before.items())  # a replay writes nothing


def test_a_nan_of_the_backward_pass_is_found_behind_a_finite_loss(data, models, tmp_path):
    run = failed(data, tmp_path / "run", f"{models}:root")
    (found,) = found_by(run, "nan", "nan_source")
    assert found.evidence["phase"] == "backward"
    assert found.evidence["module"].startswith("2") or found.evidence["module"] == "1"


def test_a_run_that_ran_away_is_trained_again_with_smaller_steps(data, models, tmp_path):
    run = failed(data, tmp_path / "run", f"{models}:plain", optimizer="sgd-momentum", lr=1e4, clip=0.0)
    made = diagnose(run.path)
    found = made.findings[0].finding
    assert found.code == "nan_source" and found.evidence["cause"] == "ran_away" and found.evidence["growth"] > 1e3
    again = apply(run.path, "nan_source")
    assert again.record()["status"] == "finished" and again.path == tmp_path / "run-nan-source"
    assert again.plan().recipe.lr < 1 and again.plan().recipe.clip == 1.0
    assert again.record()["mended"]["finding"] == "nan_source"
    mine = apply(run.path, "nan_source", epochs=1, clip=0.5)  # the caller's word goes before the fix's, and is told
    assert mine.plan().recipe.clip == mine.record()["mended"]["words"]["clip"] == 0.5


def test_a_bad_start_is_mended_by_the_start_that_was_measured(data, models, tmp_path):
    run = train(
        data, model=f"{models}:plain", output=tmp_path / "run", epochs=3, init="gaussian", resize="pad", **WORDS
    )
    made = diagnose(run.path)
    assert codes(made)[0] == "bad_initialisation"
    told = made.findings[0]
    assert told.finding.words["init"] in ("he", "orthogonal", "xavier") and "--apply bad_initialisation" in told.apply
    again = apply(run.path, "bad_initialisation")
    assert again.preprocessing() == run.preprocessing() and again.preprocessing().resize == "pad"
    assert again.record()["best"]["val_accuracy"] > run.record()["best"]["val_accuracy"]
    assert not {"bad_initialisation", "vanishing_gradients"} & set(codes(diagnose(again.path)))


def test_dead_units_are_named_by_their_layer(data, models, tmp_path):
    run = train(data, model=f"{models}:born_dead", output=tmp_path / "run", epochs=3, **WORDS)
    (found,) = found_by(run, "gradients", "dead_units")
    assert found.where == ("1",) and found.evidence["share"] >= 60 / 64 and found.words["init"] == "he"


def rows(path, count=240, *, foretold=False, twice=0, seed=0):
    """A table of three classes with given parts; `foretold` adds the class as a column, `twice` held-out rows that are
    measured once more for training."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    values = rng.normal(0, 1, (count, 5)) + labels[:, None] * np.array([0.8, -0.5, 0.0, 0.3, 0.0])
    parts = np.where(np.arange(count) < count * 2 // 3, "train", "val")
    held = np.flatnonzero(parts == "val")[:twice]
    values = np.concatenate([values, values[held] + rng.normal(0, 0.01, (twice, 5))])
    labels, parts = np.append(labels, labels[held]), np.append(parts, ["train"] * twice)
    lines = ["a,b,c,d,later,label,split"]
    for row, label, part in zip(values, labels, parts, strict=True):
        row[4] = label + rng.normal(0, 0.01) if foretold else row[4]
        lines.append(",".join(f"{each:.4f}" for each in row) + f",class {label},{part}")
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_leakage_is_counted_and_left_out(tmp_path, capsys):
    data = rows(tmp_path / "rows.csv", twice=30)
    run = train(data, model="mlp", output=tmp_path / "run", epochs=3, **{**WORDS, "lr": 1e-3})
    assert main(["diagnose", str(run.path), "--json"]) == 1
    told = {each["code"]: each for each in json.loads(capsys.readouterr().out)["findings"]}
    assert 20 <= told["leakage"]["evidence"]["count"] <= 40
    assert (run.path / told["leakage"]["figure"]).read_bytes().startswith(b"\x89PNG")
    other = tmp_path / "clean"
    assert main(["train", str(run.path), "--apply", "leakage", "--output", str(other), "--epochs", "1"]) == 0
    again, left_out = Run(other), len(told["leakage"]["without"])
    assert len(data_of(again).rows("train")) == len(data_of(run).rows("train")) - left_out
    assert again.plan().recipe.epochs == 1 and again.plan().recipe.batch == run.plan().recipe.batch
    assert "leakage" not in codes(diagnose(other))
    assert main(["train", "--resume", str(other)]) == 0  # left out by the record, not by the call


def test_a_column_that_foretells_the_class_is_left_out(tmp_path):
    data = rows(tmp_path / "rows.csv", foretold=True)
    run = train(data, model="mlp", output=tmp_path / "run", epochs=2, **{**WORDS, "lr": 1e-3})
    (found,) = found_by(run, "samples", "leakage")
    assert found.where == found.without == ("later",)
    again = apply(run.path, "leakage")
    assert "later" not in [name for name, *_ in again.preprocessing().numbers]
    assert not found_by(again, "samples", "leakage")


def test_a_healthy_run_is_left_alone(data, tmp_path):
    run = train(data, model="cnn", output=tmp_path / "run", epochs=8, **WORDS)
    made = diagnose(run.path)
    assert codes(made) == [] and not made.unchecked
    assert "Nothing" in summary(made) and as_json(made)["findings"] == []
    with pytest.raises(RunError, match="shows no"):
        apply(run.path, "overfitting")
    with pytest.raises(UnknownName):
        apply(run.path, "overfiting")


# --- what can go wrong ------------------------------------------------------------------------------------------------


def test_without_its_data_the_records_are_still_read(kept):
    card = {"index": 0, "name": "card", "temperature_peak": 86.0, "throttle": ["temperature"]}
    kept.note(status="stopped", data="/nowhere/at/all", measured={**kept.record()["measured"], "cards": [card]})
    made = diagnose(kept.path)
    assert codes(made) == ["thermally_throttled"]
    assert {"samples", "answers"} <= set(made.unchecked) and "label_noise" not in made.checked


def test_what_was_diagnosed_is_not_diagnosed_twice(kept, monkeypatch):
    finding = Finding(code="overfitting", strength=2.0, evidence={}, words={"weight_decay": 0.3})
    write_json(kept.path / FILE, {"findings": [{"finding": dataclasses.asdict(finding)}]})
    monkeypatch.setattr("fromzero.diagnosing.diagnose", lambda *_: pytest.fail("looked again"))
    monkeypatch.setattr("fromzero.diagnosing.train", lambda data, **words: (data, words))
    with pytest.raises(AttributeError):  # what stands in for a run takes no notes
        apply(kept.path, "overfitting")
    kept.note(changed=True)
    with pytest.raises(pytest.fail.Exception, match="looked again"):
        apply(kept.path, "overfitting")


def test_a_run_without_an_epoch_and_apply_without_a_run_are_refused(kept):
    shutil.rmtree(kept.checkpoints)
    kept.metrics.unlink()
    kept.note(status="started")
    with pytest.raises(RunError) as error:
        diagnose(kept.path)
    assert error.value.code == "nothing_to_diagnose"
    assert main(["train", "--apply", "overfitting"]) == UsageError.status
    assert _beside(kept.path, "label_noise").name == "run-label-noise"
