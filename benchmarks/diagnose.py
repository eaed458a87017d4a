"""Whether `fromzero diagnose` finds what was planted, stays silent where nothing was, and mends what it found.

    python benchmarks/diagnose.py [--seed 1] [--only overfitting,healthy] [--keep FOLDER] [--no-fix]

Every case is a tiny training, made here and now by `fromzero.train`: pictures (scikit-learn's digits, stripes drawn
here), tables (breast cancer, numbers drawn here) and texts (words drawn here), each with a test part that is clean and
that neither training nor diagnosis sees. A fault is planted in the recipe, the model or the data; a fault of the
machine (memory in pieces, heat) in the record of a run, since there is no such machine here.

recall        faulty runs in whose findings the planted one is
first         faulty runs in which it stands first
false alarms  healthy runs with any finding at all
mended        faulty runs with a fix whose new run, made by what `train --apply` calls, is better by the fault's own
              measure: accuracy on the test part, unless the table says otherwise

The thresholds were set with seed 0; the table of docs/diagnose.md is of a seed that was not looked at before.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

os.environ.setdefault("FROMZERO_STATE", os.devnull + "/state")  # what this machine learnt is no part of it

import numpy as np
import torch
from PIL import Image
from sklearn import datasets

from fromzero import checkpoint, metrics
from fromzero.diagnosing import apply, diagnose
from fromzero.diagnosis._facts import Facts, Part
from fromzero.errors import RunError
from fromzero.runs import Run
from fromzero.runtimes.torch_runtime import open_module
from fromzero.starting import train

RECALL, FALSE_ALARMS, MENDED = 0.95, 1 / 12, 0.8  # what the project asks for

# Networks of a user's own, some of them badly made.
MODELS = """
import torch
from torch import nn


def small_resnet(classes, channels, size):
    class Block(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.first, self.norm1 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
            self.second, self.norm2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)

        def forward(self, x):
            return torch.relu(x + self.norm2(self.second(torch.relu(self.norm1(self.first(x))))))

    stem = nn.Conv2d(channels, 24, 3, 2, padding=1, bias=False), nn.BatchNorm2d(24), nn.ReLU()
    return nn.Sequential(*stem, Block(24), Block(24), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, classes))


def perceptron(classes, channels, size):
    return _plain(classes, channels * size * size, 2, nn.ReLU)


def plain_conv(classes, channels, size):
    return _convolutions(classes, channels, 3, nn.ReLU)


def deep_sigmoid(classes, channels, size):
    return _plain(classes, channels * size * size, 10, nn.Sigmoid)


def deep_sigmoid_conv(classes, channels, size):
    return _convolutions(classes, channels, 9, nn.Sigmoid)


def deep_loud(classes, channels, size):
    return _scaled(_plain(classes, channels * size * size, 10, nn.ReLU), 6.0)


def deep_loud_conv(classes, channels, size):
    return _scaled(_convolutions(classes, channels, 9, nn.ReLU), 7.0)


def deep_relu(classes, channels, size):
    return _plain(classes, channels * size * size, 8, nn.ReLU)


def all_alike(classes, channels, size):
    model = _convolutions(classes, channels, 4, nn.ReLU)
    for each in model.parameters():
        nn.init.constant_(each, 0.02)
    return model


def born_dead(classes, channels, size):
    model = _convolutions(classes, channels, 3, nn.ReLU)
    nn.init.constant_(model[2].bias[: int(0.8 * len(model[2].bias))], -30.0)
    return model


def born_dead_perceptron(classes, channels, size):
    model = _plain(classes, channels * size * size, 2, nn.ReLU)
    nn.init.constant_(model[3].bias[: int(0.9 * len(model[3].bias))], -30.0)
    return model


def shouting(classes, channels, size):
    class Loud(nn.Module):
        def forward(self, x):
            return 40 * x

    return nn.Sequential(_plain(classes, channels * size * size, 2, nn.ReLU), Loud())


def logarithm(classes, channels, size):
    class Log(nn.Module):
        def forward(self, x):
            return torch.log(torch.relu(x))

    layers = _plain(classes, channels * size * size, 2, nn.ReLU)
    return nn.Sequential(*layers[:3], Log(), *layers[3:])


def root(classes, channels, size):
    class Root(nn.Module):
        def forward(self, x):
            return torch.sqrt(nn.functional.dropout(x, 0.2, self.training).abs())

    layers = _plain(classes, channels * size * size, 2, nn.ReLU)
    return nn.Sequential(*layers[:3], Root(), *layers[3:])


def _plain(classes, inputs, depth, bend, width=96):
    layers = [nn.Flatten()]
    for number in range(depth):
        layers += [nn.Linear(inputs if number == 0 else width, width), bend()]
    return nn.Sequential(*layers, nn.Linear(width, classes))


def _convolutions(classes, channels, depth, bend, width=24):
    layers = []
    for number in range(depth):
        layers += [nn.Conv2d(channels if number == 0 else width, width, 3, 2 if number == 0 else 1, 1), bend()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16 * width, classes))


def _scaled(model, factor):
    with torch.no_grad():
        for each in model.modules():
            if isinstance(each, (nn.Linear, nn.Conv2d)):
                each.weight.mul_(factor)
    return model
"""


# --- data: (folder, random) -> the path that is trained on -----------------------------------------------------------

Maker = Callable[[Path, np.random.Generator], Path]
Split = dict[str, tuple[Any, np.ndarray]]  # part -> samples and their classes


def _pictures(folder: Path, parts: Split, form: str = "png") -> Path:
    for part, (images, labels) in parts.items():
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            path = folder / part / f"class {label}" / f"{number}.{form}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path, **({"quality": 90} if form == "jpg" else {}))
    return folder


def _rows(folder: Path, columns: list[str], parts: Split) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "rows.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow([*columns, "label", "split"])
        for part, (rows, labels) in parts.items():
            for row, label in zip(rows, labels, strict=True):
                table.writerow([*([row] if isinstance(row, str) else row), f"class {label}", part])
    return folder / "rows.csv"


def _parted(samples: Any, labels: np.ndarray, sizes: tuple[int, int], rng: np.random.Generator) -> Split:
    """Training, validation, and the rest for the test."""
    order = rng.permutation(len(labels))
    cuts = {"train": order[: sizes[0]], "val": order[sizes[0] : sum(sizes)], "test": order[sum(sizes) :]}
    return {name: (_taken(samples, each), labels[each]) for name, each in cuts.items()}


def _taken(samples: Any, rows: np.ndarray) -> Any:
    return samples[rows] if isinstance(samples, np.ndarray) else [samples[each] for each in rows]


def _noisy(parts: Split, share: float, rng: np.random.Generator, where: tuple[str, ...] = ("train", "val")) -> Split:
    """Labels changed to another class."""
    changed = dict(parts)
    for name in where:
        samples, labels = parts[name]
        labels, classes = labels.copy(), len(np.unique(parts["train"][1]))
        wrong = rng.random(len(labels)) < share
        labels[wrong] = (labels[wrong] + rng.integers(1, classes, wrong.sum())) % classes
        changed[name] = (samples, labels)
    return changed


def _copied(parts: Split, share: float, rng: np.random.Generator) -> Split:
    """Validation rows of a table that were measured once more, a little differently, for the training part."""
    samples, labels = parts["train"]
    held, theirs = parts["val"]
    rows = np.flatnonzero(rng.random(len(theirs)) < share)
    again = held[rows] + rng.normal(0, 0.02, held[rows].shape) * samples.std(0)
    return {**parts, "train": (np.concatenate([samples, again]), np.concatenate([labels, theirs[rows]]))}


def _foretold(parts: Split, rng: np.random.Generator) -> Split:
    """A column that follows from the class, and that nobody knows yet when the model is asked: nothing in the test."""
    changed = dict(parts)
    for name, (samples, labels) in parts.items():
        column = labels * 2.0 + rng.normal(0, 0.2, len(labels))
        samples = samples.copy()
        samples[:, -1] = rng.permutation(column) if name == "test" else column
        changed[name] = (samples, labels)
    return changed


def _uneven(parts: Split, least: int) -> Split:
    """A half of the classes with `least` training and validation samples each."""
    changed = dict(parts)
    for name, most in (("train", least), ("val", max(6, least // 2))):
        samples, labels = parts[name]
        rare = sorted(set(labels.tolist()))[1::2]
        kept = np.concatenate([np.flatnonzero(labels == e)[: most if e in rare else None] for e in np.unique(labels)])
        changed[name] = (_taken(samples, kept), labels[kept])
    return changed


def digits(sizes: tuple[int, int] = (900, 400), change: Callable[..., Split] | None = None) -> Maker:
    def make(folder: Path, rng: np.random.Generator) -> Path:
        found = datasets.load_digits()
        images = np.repeat(np.repeat((found.images * 15.9).astype(np.uint8), 2, 1), 2, 2)
        images = np.clip(images + rng.normal(0, 12, images.shape), 0, 255).astype(np.uint8)
        parts = _parted(images, found.target, sizes, rng)
        return _pictures(folder, change(parts, rng) if change else parts)

    return make


def stripes(
    each: int = 120,
    noise: float = 60.0,
    side: int = 16,
    form: str = "png",
    held: int = 60,
    change: Callable[..., Split] | None = None,
) -> Maker:
    """Four classes: stripes lying, standing, and rising either way, of any width and phase under noise."""

    def make(folder: Path, rng: np.random.Generator) -> Path:
        count = 4 * (each + 2 * held)
        labels = np.arange(count) % 4
        y, x = np.mgrid[:side, :side] / side * 16
        angle = labels * np.pi / 4 + rng.normal(0, 0.12, count)
        along = np.cos(angle)[:, None, None] * y + np.sin(angle)[:, None, None] * x
        phase, width = rng.uniform(0, 6.3, (count, 1, 1)), rng.uniform(0.9, 1.6, (count, 1, 1))
        images = 128 + 60 * np.sin(along * width + phase) + rng.normal(0, noise, (count, side, side))
        parts = _parted(np.clip(images, 0, 255).astype(np.uint8), labels, (4 * each, 4 * held), rng)
        return _pictures(folder, change(parts, rng) if change else parts, form)

    return make


def cancer(change: Callable[..., Split] | None = None, train: int = 250) -> Maker:
    def make(folder: Path, rng: np.random.Generator) -> Path:
        found = datasets.load_breast_cancer()
        parts = _parted(np.round(found.data, 5), found.target, (train, 120), rng)
        return _rows(folder, [f"c{n}" for n in range(30)], change(parts, rng) if change else parts)

    return make


def numbers(train: int = 1200, apart: float = 1.6, change: Callable[..., Split] | None = None) -> Maker:
    """Four classes of three clouds each in twelve columns, four of which say nothing."""

    def make(folder: Path, rng: np.random.Generator) -> Path:
        values, labels = datasets.make_classification(
            train + 400 + 600, 12, n_informative=8, n_redundant=0, n_classes=4, n_clusters_per_class=2,
            class_sep=apart, flip_y=0.0, random_state=int(rng.integers(1 << 30)),
        )  # fmt: skip
        parts = _parted(np.round(values, 4), labels, (train, 400), rng)
        return _rows(folder, [f"c{n}" for n in range(12)], change(parts, rng) if change else parts)

    return make


def words(train: int = 800, clear: float = 0.25, length: int = 20, change: Callable[..., Split] | None = None) -> Maker:
    """Four subjects with forty words each among four hundred that all use; `clear` is the share of a text's own."""

    def make(folder: Path, rng: np.random.Generator) -> Path:
        letters = np.array(list("abdeghiklmnoprstuv"))
        vocabulary = ["".join(rng.choice(letters, rng.integers(4, 8))) for _ in range(560)]
        common, own = vocabulary[:400], np.array(vocabulary[400:]).reshape(4, 40)
        labels = np.arange(train + 300 + 500) % 4
        texts = []
        for label in labels:
            mine = rng.random(rng.integers(length // 2, length)) < clear
            texts.append(" ".join(str(rng.choice(own[label] if each else common)) for each in mine))
        parts = _parted(texts, labels, (train, 300), rng)
        return _rows(folder, ["text"], change(parts, rng) if change else parts)

    return make


# --- the cases --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A run: `fault` is what is planted ("" for nothing), `measure` what its fix is to improve; `record` is planted in
    run.json after the run."""

    name: str
    fault: str
    data: Maker
    model: str
    words: dict[str, Any] = field(default_factory=dict)
    measure: str = "accuracy"
    record: dict[str, Any] = field(default_factory=dict)


PICTURES = {"batch": 32, "epochs": 6, "augmentation": "none"}
TABLES = {"batch": 64, "epochs": 20, "lr": 1e-3}
TEXTS = {"batch": 32, "epochs": 8, "lr": 1e-3}
GPU = {"card": "made up"}


def own(name: str) -> str:
    return f"models.py:{name}"


CASES = (
    Case("cnn, noisy stripes", "overfitting", stripes(60, 130), "cnn", {**PICTURES, "epochs": 16, "weight_decay": 0.0}),
    Case("transformer, words", "overfitting", words(400, 0.12), "transformer", {**TEXTS, "epochs": 14, "dropout": 0.0}),
    Case("frozen cnn, digits", "underfitting", digits(), "cnn", {**PICTURES, "freeze": "backbone"}),
    Case("mlp, dropout 0.97", "underfitting", numbers(), "mlp", {**TABLES, "dropout": 0.97}),
    Case("cnn, digits", "label_noise", digits(change=lambda p, r: _noisy(p, 0.3, r)), "cnn",
         {**PICTURES, "epochs": 12}),
    Case("mlp, numbers", "label_noise", numbers(apart=2.5, change=lambda p, r: _noisy(p, 0.3, r)), "mlp",
         {**TABLES, "epochs": 40}),
    Case("a column of the future", "leakage", numbers(800, 0.8, change=_foretold), "mlp", TABLES),
    Case("rows measured twice", "leakage", numbers(500, 0.6, change=lambda p, r: _copied(p, 0.6, r)), "ft-transformer",
         {**TABLES, "epochs": 30, "lr": 3e-3}, "honesty"),
    Case("perceptron, sgd 8", "learning_rate_high", digits(), own("perceptron"),
         {**PICTURES, "optimizer": "sgd-momentum", "lr": 8.0}),
    Case("transformer, adamw 0.2", "learning_rate_high", words(600), "transformer", {**TEXTS, "epochs": 5, "lr": 0.2}),
    Case("cnn, adamw 1e-6", "learning_rate_low", digits(), "cnn", {**PICTURES, "lr": 1e-6}),
    Case("ft-transformer, 2e-6", "learning_rate_low", numbers(), "ft-transformer",
         {**TABLES, "epochs": 8, "lr": 2e-6}),
    Case("resnet, adamw 0.03", "learning_rate_noisy", digits((500, 300)), own("small_resnet"),
         {**PICTURES, "batch": 16, "epochs": 10, "lr": 3e-2, "schedule": "constant"}, "last"),
    Case("ft-transformer, batch 4", "learning_rate_noisy", numbers(600), "ft-transformer",
         {**TABLES, "batch": 4, "epochs": 10, "lr": 5e-3, "schedule": "constant"}, "last"),
    Case("ten sigmoids", "vanishing_gradients", digits(), own("deep_sigmoid"), PICTURES),
    Case("nine sigmoid convolutions", "vanishing_gradients", stripes(), own("deep_sigmoid_conv"), PICTURES),
    Case("ten loud layers", "exploding_gradients", digits(), own("deep_loud"), {**PICTURES, "clip": 0.0}),
    Case("nine loud convolutions", "exploding_gradients", stripes(), own("deep_loud_conv"), {**PICTURES, "clip": 0.0}),
    Case("convolutions, bias -30", "dead_units", stripes(), own("born_dead"), PICTURES),
    Case("perceptron, bias -30", "dead_units", digits(), own("born_dead_perceptron"), PICTURES),
    Case("eight layers, gaussian", "bad_initialisation", digits(), own("deep_relu"), {**PICTURES, "init": "gaussian"}),
    Case("all weights alike", "bad_initialisation", stripes(), own("all_alike"), PICTURES),
    Case("logits times 40, digits", "saturated_softmax", stripes(120, 120), own("shouting"),
         {**PICTURES, "epochs": 10}, "calibration"),
    Case("rnn, words by heart", "saturated_softmax", words(400, 0.12), "rnn-gru", {**TEXTS, "epochs": 12},
         "calibration"),
    Case("cnn, batch 2", "tiny_batch_norm", stripes(60), "cnn", {**PICTURES, "batch": 2, "epochs": 4}),
    Case("resnet, batch 2", "tiny_batch_norm", digits((500, 300)), own("small_resnet"),
         {**PICTURES, "batch": 2, "epochs": 3}),
    Case("cnn, 12 of some", "class_imbalance", stripes(200, 100, change=lambda p, r: _uneven(p, 12)), "cnn",
         {**PICTURES, "epochs": 8}, "balanced"),
    Case("mlp, 15 of some", "class_imbalance", numbers(1600, 1.0, change=lambda p, r: _uneven(p, 15)), "mlp", TABLES,
         "balanced"),
    Case("cnn, 12 a class", "too_few_samples", stripes(12, 80), "cnn", {**PICTURES, "batch": 8, "epochs": 12}),
    Case("transformer, 20 a class", "too_few_samples", words(80, 0.3), "transformer",
         {**TEXTS, "batch": 8, "epochs": 12}),
    Case("perceptron, sgd 1e4", "nan_source", digits(), own("plain_conv"),
         {**PICTURES, "optimizer": "sgd-momentum", "lr": 1e4, "clip": 0.0}),
    Case("logarithm of 0", "nan_source", digits(), own("logarithm"), PICTURES),
    Case("slope of a root at 0", "nan_source", stripes(), own("root"), PICTURES),
    Case("jpegs of 600 pixels", "loader_bound", stripes(32, 40, 600, "jpg", 10), own("plain_conv"),
         {**PICTURES, "imgsz": 32, "epochs": 2, "augmentation": "crop-flip"}, "speed"),
    Case("randaugment of 700 pixels", "loader_bound", stripes(32, 40, 700, "jpg", 10), own("perceptron"),
         {**PICTURES, "imgsz": 24, "epochs": 2, "augmentation": "randaugment"}, "speed"),
    Case("in the record", "memory_fragmented", digits((300, 200)), "cnn", {**PICTURES, "batch": 16, "epochs": 3}, "",
         {"allocated_peak": 6.0, "reserved_peak": 9.5}),
    Case("in the record", "thermally_throttled", digits((300, 200)), "cnn", {**PICTURES, "batch": 16, "epochs": 3}, "",
         {"cards": [{"index": 0, "name": "a card", "temperature_peak": 88.0, "throttle": ["temperature"]}]}),
    Case("cnn, digits", "", digits(), "cnn", PICTURES),
    Case("resnet, digits", "", digits(), own("small_resnet"), PICTURES),
    Case("perceptron, digits", "", digits(), own("perceptron"), PICTURES),
    Case("cnn, stripes, smoothed", "", stripes(200, 50), "cnn", {**PICTURES, "label_smoothing": 0.1, "epochs": 7}),
    Case("convolutions, sgd", "", stripes(200, 50), own("plain_conv"),
         {**PICTURES, "optimizer": "sgd-momentum", "lr": 0.1, "epochs": 14}),
    Case("resnet, stripes, one cycle", "", stripes(200, 50), own("small_resnet"),
         {**PICTURES, "schedule": "one-cycle"}),
    Case("mlp, cancer", "", cancer(), "mlp", TABLES),
    Case("ft-transformer, cancer", "", cancer(), "ft-transformer", {**TABLES, "epochs": 12}),
    Case("mlp, numbers", "", numbers(apart=2.5), "mlp", TABLES),
    Case("table-gru, numbers", "", numbers(apart=2.5), "table-gru", {**TABLES, "epochs": 15, "lr": 3e-3}),
    Case("transformer, words", "", words(1000, 0.4), "transformer", {**TEXTS, "epochs": 6}),
    Case("rnn, words", "", words(1000, 0.4), "rnn-gru", {**TEXTS, "epochs": 6, "lr": 2e-3}),
)  # fmt: skip


# --- judging ----------------------------------------------------------------------------------------------------------


def measured(run: Run, name: str) -> float:
    """By the fault's own measure, on the test part that nothing was chosen by; more is better."""
    record = run.record()
    if name == "speed":
        return 1 / record["measured"]["step"]
    if not checkpoint.exists(run.last):  # it failed before the first epoch was over
        return 0.0
    best = open_module(run.path) if name != "last" else None
    test, val = (_answers(run, best, part) for part in ("test", "val"))
    if test is None:  # no finite answer at all
        return 0.0
    if name == "honesty":
        assert val is not None
        return -abs(val.accuracy - test.accuracy)
    if name == "calibration":
        return -metrics.cross_entropy(test.scores, test.truth)
    if name == "last":
        return -metrics.cross_entropy(test.scores, test.truth)
    if name == "balanced":
        return float(np.mean([test.right[test.truth == each].mean() for each in np.unique(test.truth)]))
    return test.accuracy


def _answers(run: Run, model: Any, split: str) -> Part | None:
    facts = Facts(run)
    if model is not None:
        facts.model = model.eval()
    return facts.answers(split, 1 << 30)


def runs_of(case: Case, folder: Path, seed: int) -> Run:
    """The case, trained; also where it fails with a loss that is no number."""
    data = case.data(folder / "data", np.random.default_rng((seed, sum(map(ord, case.fault + case.name)))))
    (folder / "models.py").write_text(MODELS, encoding="utf-8")
    model = str(folder / case.model) if ".py:" in case.model else case.model
    try:
        return train(data, model=model, output=folder / "run", device="cpu", **{"seed": seed, **case.words})
    except RunError as error:
        if error.code != "loss_not_finite":
            raise
        return Run(folder / "run")


def _planted(run: Run, case: Case) -> None:
    """A record as a machine with that trouble leaves it; peaks are shares of ten of the card's memory."""
    usable = run.plan().card.usable_bytes
    values = {n: int(v / 10 * usable) if isinstance(v, float) else v for n, v in case.record.items()}
    run.note(measured={**run.record()["measured"], **values})


@dataclass
class Outcome:
    case: Case
    found: list[str]
    seconds: float
    before: float | None = None
    after: float | None = None
    note: str = ""


def judge(case: Case, folder: Path, seed: int, fix: bool) -> Outcome:
    began = time.process_time()
    run = runs_of(case, folder, seed)
    if case.record:
        _planted(run, case)
    made = diagnose(run.path)
    outcome = Outcome(case, [each.finding.code for each in made.findings], 0.0, note=", ".join(made.unchecked))
    mine = next((each for each in made.findings if each.finding.code == case.fault), None)
    if fix and mine is not None and mine.finding.applicable and case.measure:
        outcome.before = measured(run, case.measure)
        try:
            outcome.after = measured(apply(run.path, case.fault), case.measure)
        except RunError as error:
            outcome.after, outcome.note = float("-inf"), error.code
    outcome.seconds = time.process_time() - began
    return outcome


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="faults, or healthy")
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--no-fix", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(
        f"{date.today()}, {platform.processor() or platform.machine()}, torch {torch.__version__}, seed {options.seed}"
    )
    wanted = set(options.only.split(",")) - {""}
    cases = [each for each in CASES if not wanted or (each.fault or "healthy") in wanted]
    outcomes = []
    with tempfile.TemporaryDirectory() as temporary:
        for number, case in enumerate(cases):
            folder = (options.keep or Path(temporary)) / f"{number:02d}-{case.fault or 'healthy'}"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            outcome = judge(case, folder, options.seed, not options.no_fix)
            outcomes.append(outcome)
            print(line(outcome), flush=True)
            if not options.keep:
                shutil.rmtree(folder)
    print("\n".join(totals(outcomes)))


def line(each: Outcome) -> str:
    case = each.case
    hit = ("ok  " if case.fault in each.found else "MISS") if case.fault else ("ALARM" if each.found else "ok  ")
    mended = ""
    if each.before is not None and each.after is not None:
        word = "better" if each.after > each.before else "NOT BETTER"
        mended = f"  {case.measure} {each.before:.3f} -> {each.after:.3f} {word}"
    return (
        f"{hit:5} {case.fault or 'healthy':20} {case.name:28} {each.seconds:5.1f} s  {', '.join(each.found) or '-'}"
        f"{mended} {each.note}"
    )


def totals(outcomes: list[Outcome]) -> Iterator[str]:
    faulty = [each for each in outcomes if each.case.fault]
    healthy = [each for each in outcomes if not each.case.fault]
    hit = sum(each.case.fault in each.found for each in faulty)
    first = sum(each.found[:1] == [each.case.fault] for each in faulty)
    alarms = sum(bool(each.found) for each in healthy)
    tried = [each for each in faulty if each.after is not None and each.before is not None]
    better = sum((each.after or 0.0) > (each.before or 0.0) for each in tried)
    yield f"recall {hit}/{len(faulty)} = {hit / max(1, len(faulty)):.1%} (goal {RECALL:.0%}); first {first}"
    yield f"false alarms {alarms}/{len(healthy)} (goal {FALSE_ALARMS:.1%})"
    yield f"mended {better}/{len(tried)} = {better / max(1, len(tried)):.1%} (goal {MENDED:.0%})"
    yield f"{sum(each.seconds for each in outcomes):.0f} CPU seconds"


if __name__ == "__main__":
    main()
