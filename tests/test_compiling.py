"""torch.compile by measurement: tried on the run's own batches, and kept only where it is faster."""

from __future__ import annotations

import json
import time

import pytest
import torch
from torch import nn

import fromzero
from fromzero import compiling, engine
from fromzero.records import Recipe
from fromzero.runs import Run

BATCHES = [(torch.randn(8, 4), torch.randint(0, 2, (8,))) for _ in range(2)]


def tried(model):
    return compiling.try_compiled(engine.start(Recipe(batch=8), "cpu"), model, nn.functional.cross_entropy, BATCHES)


def net():
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.ReLU(), nn.Linear(8, 2)).eval()


@pytest.mark.parametrize(("slow", "kept"), [("eager", True), ("compiled", False)])
def test_what_is_faster_is_kept_and_nothing_else_changes(monkeypatch, slow, kept):
    """In the place of the compiler stands one that only remembers that it is running."""
    model = net()
    before = {name: each.clone() for name, each in model.state_dict().items()}
    dice, running = torch.get_rng_state(), ["eager"]

    def remembering(module):
        def run(inputs):
            running.append("compiled")
            outputs = module(inputs)
            running.pop()
            return outputs

        return run

    monkeypatch.setattr(torch, "compile", remembering)
    model.register_forward_pre_hook(lambda *_: time.sleep(0.02 if running[-1] == slow else 0.0))
    found, measured = tried(model)
    assert measured.kept == kept == (measured.compiled < measured.eager) and (found is not model) == kept
    assert all(torch.equal(each, before[name]) for name, each in model.state_dict().items())
    assert torch.equal(dice, torch.get_rng_state()) and not model.training
    assert all(each.grad is None for each in model.parameters())


def test_what_cannot_be_compiled_goes_on_as_it_is(monkeypatch):
    def refuse(module):
        def run(_):
            raise RuntimeError("no C++ compiler\nat all")

        return run

    monkeypatch.setattr(torch, "compile", refuse)
    model = net()
    found, measured = tried(model)
    assert found is model and measured.reason == "no C++ compiler" and not measured.kept


@pytest.mark.slow  # it really compiles
def test_a_compiled_run_learns_the_same_and_saves_the_same_names(tiny_data, tmp_path, monkeypatch):
    monkeypatch.setattr(compiling, "GAIN", -1e9)  # kept whatever it brings on this machine
    words = {"model": "cnn", "epochs": 1, "batch": 8, "imgsz": 16, "device": "cpu", "augmentation": "none"}
    plain = fromzero.train(tiny_data, output=tmp_path / "plain", **words)
    run = fromzero.train(tiny_data, output=tmp_path / "compiled", compile=True, **words)
    noted = json.loads((run.path / "run.json").read_text(encoding="utf-8"))["compiled"]
    assert noted["kept"] and noted["compiled"] > 0
    one, other = (Run(each.path).metrics.read_text().splitlines()[1].split(",")[:2] for each in (plain, run))
    assert float(one[1]) == pytest.approx(float(other[1]), rel=1e-3)
    assert fromzero.predict(run.path, [next(tiny_data.rglob("*.png"))])
