"""The learning-rate finder, on real digits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import cross_entropy

from fromzero.commands._parsing import parser_of
from fromzero.engine import start
from fromzero.errors import UsageError
from fromzero.finding import HIGHEST, LOWEST, STEPS, find_lr, read_curve
from fromzero.models.cnn import Cnn
from fromzero.records import Recipe
from fromzero.starting import train


@pytest.fixture(scope="module")
def digits():
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    return torch.tensor(pixels / 16, dtype=torch.float32).view(-1, 1, 8, 8), torch.tensor(labels)


def batches(digits):
    pixels, labels = digits
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))
    for number in range(10_000):
        rows = order[(torch.arange(32) + 32 * number) % len(order)]
        yield [(pixels[rows], labels[rows])]


@pytest.mark.parametrize("optimizer", ["adamw", "sgd-momentum"])
def test_a_rate_is_found_that_learns_and_one_ten_thousand_times_larger_does_not(digits, optimizer):
    torch.manual_seed(0)
    model, recipe = Cnn(10, 1, width=8), Recipe(optimizer=optimizer)
    found = find_lr(start(recipe, "cpu"), model, cross_entropy, recipe, batches(digits))
    assert found.lr == pytest.approx(found.lowest / 10) and LOWEST < found.lr < HIGHEST
    assert len(found.rates) == len(found.losses) == len(found.smoothed) <= STEPS
    assert found.losses[-1] > min(found.losses)  # the curve shows where it is too much
    assert min(found.smoothed) < 0.9 * found.smoothed[10]


def test_the_same_search_finds_the_same(digits):
    rates = []
    for _ in range(2):
        torch.manual_seed(0)
        model, recipe = Cnn(10, 1, width=8), Recipe()
        rates.append(find_lr(start(recipe, "cpu"), model, cross_entropy, recipe, batches(digits), steps=40))
    assert rates[0] == rates[1]


def test_a_loss_that_never_falls_gives_no_rate():
    flat = [2.3] * 50
    assert read_curve([10**-n for n in range(50)], flat, flat).lr is None
    assert read_curve([], [], []).lr is None


def test_the_steepest_fall_lies_before_the_lowest_loss():
    smoothed = [2.0] * 15 + [1.9, 1.5, 1.0, 0.8, 0.75, 0.9, 2.0]
    rates = [1e-6 * 2**n for n in range(len(smoothed))]
    found = read_curve(rates, smoothed, smoothed)
    assert found.lowest == rates[19] and found.steepest == rates[16] and found.lr == rates[19] / 10


def test_a_run_takes_the_rate_that_was_found_and_keeps_the_curve(digits, tmp_path):
    pixels, labels = digits
    for number, (each, label) in enumerate(zip(pixels[:200], labels, strict=False)):
        path = tmp_path / "data" / str(int(label)) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((each[0].numpy() * 255).astype(np.uint8)).save(path)
    words = {"model": "cnn", "device": "cpu", "epochs": 1, "batch": 16, "augmentation": "none"}
    run, again = (train(tmp_path / "data", output=tmp_path / name, lr="find", **words) for name in ("one", "other"))
    found, planned = run.record()["lr_found"], run.plan()
    assert planned.recipe.lr == found["lr"] == found["lowest"] / 10
    assert len(found["rates"]) == len(found["smoothed"]) and "learning_rate" not in {x.code for x in planned.advice}
    assert again.record()["lr_found"] == found  # trying is a function of the seed, too
    assert float(run.metrics.read_text().splitlines()[1].rpartition(",")[2]) <= found["lr"]


def test_the_flag_takes_a_number_or_find():
    parser = parser_of("train")
    assert parser.parse_args(["data", "--lr", "find"]).lr == "find"
    assert parser.parse_args(["data", "--lr", "1e-3"]).lr == 1e-3
    for wrong in ("-1", "much"):
        with pytest.raises(UsageError):
            parser.parse_args(["data", "--lr", wrong])
    with pytest.raises(UsageError):  # a plan tries nothing
        parser_of("plan").parse_args(["cnn", "--lr", "find"])
