"""Does `fromzero profile` name what holds a step up? `python benchmarks/bottlenecks.py [--seconds S] [--only NAME ...]`

Each row is a training with one planted bottleneck, and one or two without: trained for an epoch, profiled, and asked
for its one sentence. A share is right if the bottleneck is named; the figures are of this machine, and whoever else
computes on it is in them.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image

MODELS = '''
import torch
from torch import nn


class Slow(nn.Module):
    """A loop in Python that computes nothing."""

    def __init__(self, classes):
        super().__init__()
        self.head = nn.Linear(3 * 32 * 32, classes)

    def forward(self, x):
        total = 0
        for number in range(400_000):
            total += number % 7
        return self.head(x.flatten(1)) + 0 * total


class Tiny(nn.Module):
    """Hundreds of operators on a few numbers each."""

    def __init__(self, classes):
        super().__init__()
        self.head = nn.Linear(3 * 32 * 32, classes)
        self.scales = nn.ParameterList([nn.Parameter(torch.ones(classes)) for _ in range(150)])

    def forward(self, x):
        x = self.head(x.flatten(1))
        for scale in self.scales:
            x = (x * scale).tanh() + x
        return x


class Wide(nn.Module):
    """Many weights for few pictures: a step of the optimizer is longer than the pass."""

    def __init__(self, classes):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3 * 32 * 32, 2048), nn.ReLU(), nn.Linear(2048, 2048), nn.ReLU())
        self.head = nn.Linear(2048, classes)

    def forward(self, x):
        return self.head(self.layers(x.flatten(1)))


class Copying(nn.Module):
    """Turns its pictures over and over."""

    def __init__(self, classes):
        super().__init__()
        self.widen, self.head = nn.Conv2d(3, 16, 1), nn.Linear(16, classes)

    def forward(self, x):
        x = self.widen(x)
        for _ in range(20):
            x = x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2).contiguous()
        return self.head(x.mean((2, 3)))


class Sorting(nn.Module):
    """One operator that takes nearly all of the time."""

    def __init__(self, classes):
        super().__init__()
        self.widen, self.head = nn.Conv2d(3, 32, 1), nn.Linear(32, classes)

    def forward(self, x):
        x = self.widen(x).flatten(2)
        return self.head(x.sort(-1).values[..., ::4].mean(-1))


class Moving(nn.Module):
    """Much is read and written, little computed, in many kinds of operators."""

    def __init__(self, classes):
        super().__init__()
        self.widen, self.norm, self.head = nn.Conv2d(3, 32, 1), nn.BatchNorm2d(32), nn.Linear(32, classes)

    def forward(self, x):
        x = self.widen(x)
        for _ in range(3):
            x = self.norm(torch.relu(x) * 1.01 + 0.1) - nn.functional.avg_pool2d(x, 3, 1, 1)
        return self.head(x.mean((2, 3)))


class Computing(nn.Module):
    """Nothing is wrong: convolutions and products, one after the other."""

    def __init__(self, classes):
        super().__init__()
        wide = [nn.Conv2d(3, 64, 3, 2, 1), nn.ReLU(), nn.Conv2d(64, 128, 3, 2, 1), nn.ReLU(), nn.Flatten()]
        self.layers = nn.Sequential(*wide, nn.Linear(128 * 64, 512), nn.ReLU())
        self.head = nn.Linear(512, classes)

    def forward(self, x):
        return self.head(self.layers(x))


def slow(classes): return Slow(classes)
def tiny(classes): return Tiny(classes)
def wide(classes): return Wide(classes)
def copying(classes): return Copying(classes)
def sorting(classes): return Sorting(classes)
def moving(classes): return Moving(classes)
def computing(classes): return Computing(classes)
'''


@dataclass(frozen=True)
class Case:
    """A training, and the codes that are right about it."""

    name: str
    model: str
    batch: int
    right: tuple[str, ...]
    large: bool = False  # pictures that take long to decode


CASES = (
    Case("pictures of 5 megapixels", "cnn", 8, ("loader",), large=True),
    Case("a loop in Python", "slow", 16, ("python",)),
    Case("450 tiny operators", "tiny", 8, ("overhead",)),
    Case("10 M weights, batch 2", "wide", 2, ("optimizer",)),
    Case("40 transposing copies", "copying", 32, ("copies",)),
    Case("a sort", "sorting", 32, ("operator",)),
    Case("traffic", "moving", 64, ("memory",)),
    Case("healthy: own model", "computing", 64, ("compute", "operator")),
    Case("healthy: cnn", "cnn", 64, ("compute", "operator", "memory")),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--only", nargs="*", help="names of models")
    options = parser.parse_args()
    os.environ["FROMZERO_LANG"] = "en"
    print(f"# What holds a step up, {date.today()}, {_machine()}")
    print(f"Python {platform.python_version()}, torch {version('torch')}, fromzero {version('fromzero')}, ", end="")
    print(f"load {os.getloadavg()[0]:.1f} at the start\n")
    print("| planted | named | share | a step | batch there | said | seconds |\n|---|---|---|---|---|---|---|")
    wrong = 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "models.py").write_text(MODELS)
        for case in CASES:
            if not options.only or case.model in options.only:
                wrong += not _row(case, folder, options.seconds)
    print(f"\n{wrong} wrong.")
    return 1 if wrong else 0


def _row(case: Case, folder: Path, seconds: float) -> bool:
    from fromzero import train
    from fromzero.profiling.profiles import profile

    data = folder / ("large" if case.large else "small")
    if not data.exists():
        draw(data, (2600, 1950) if case.large else (32, 32), 24 if case.large else 96)
    model = case.model if case.model == "cnn" else f"{folder / 'models.py'}:{case.model}"
    run = train(data, model=model, imgsz=32, batch=case.batch, epochs=1, output=folder / case.name, device="cpu")
    began = time.perf_counter()
    found = profile(run.path, seconds)
    took = time.perf_counter() - began
    right = found.bottleneck.code in case.right
    cells = [case.name, found.bottleneck.code + ("" if right else " **wrong**"), f"{found.bottleneck.share:.0%}"]
    cells += [f"{found.step * 1e3:.0f} ms", f"{found.resident * 1e3:.0f} ms", found.bottleneck.text, f"{took:.0f}"]
    print("| " + " | ".join(cells) + " |", flush=True)
    return right


def draw(folder: Path, size: tuple[int, int], count: int) -> None:
    """Pictures of two classes, their noise coarse enough for a JPEG of a usual size."""
    rng = np.random.default_rng(0)
    for number in range(count):
        place = folder / ("dark", "light")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        noise = rng.integers(0, 128, (48, 64, 3), dtype=np.uint8) + 100 * (number % 2)
        picture = Image.fromarray(noise.astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
        picture.save(place / f"{number:03d}.jpg", quality=92)


def _machine() -> str:
    from fromzero.machine.detect import cpu_name
    from fromzero.machine.process import usable_cores

    return f"{cpu_name()}, {usable_cores()} cores"


if __name__ == "__main__":
    raise SystemExit(main())
