"""What the strategies are worth on one small real data set, side by side in one run.

    fromzero data get fashion-mnist
    python benchmarks/strategies.py [data/fashion-mnist] [--samples 3000] [--epochs 4] [--seeds 3] [--groups rates ...]

A part of Fashion-MNIST's training pictures (the same for all), the project's own `cnn`, every strategy as
`fromzero train` runs it and all else at its default. A cell is the mean and the range, over the seeds, of the best
validation accuracy: an accuracy to compare strategies by, not one to quote. Rows that overlap do not differ.
Short runs are what this compares; averages, mixing and strong regularisation are made for long ones.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import shutil
import statistics
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import torch

from fromzero.starting import train

DEFAULT: dict[str, Any] = {}
GROUPS: dict[str, dict[str, dict[str, Any]]] = {
    "optimizers": {
        "--optimizer adamw (default)": DEFAULT,
        "--optimizer adam": {"optimizer": "adam"},
        "--optimizer sgd-momentum": {"optimizer": "sgd-momentum"},
        "--optimizer sgd": {"optimizer": "sgd"},
    },
    "rates": {
        "--lr find": {"lr": "find"},
        "--optimizer sgd --lr find": {"optimizer": "sgd", "lr": "find"},
    },
    "schedules": {
        "--schedule linear": {"schedule": "linear"},
        "--schedule one-cycle": {"schedule": "one-cycle"},
        "--schedule step": {"schedule": "step"},
        "--schedule constant": {"schedule": "constant"},
    },
    "starts": {
        "--init he": {"init": "he"},
        "--init xavier": {"init": "xavier"},
        "--init orthogonal": {"init": "orthogonal"},
        "--init gaussian": {"init": "gaussian"},
    },
    "regularisation": {
        "--augmentation none": {"augmentation": "none"},
        "--label-smoothing 0.1": {"label_smoothing": 0.1},
        "--head mlp": {"head": "mlp"},  # brings the dropout that `cnn` itself has none of
        "--head mlp --dropout 0.2": {"head": "mlp", "dropout": 0.2},
        "--ema 0.99": {"ema": 0.99},
        "--mix mixup": {"mix": "mixup"},
        "--weight-decay 0.3": {"weight_decay": 0.3},
    },
}


def part_of(data: Path, samples: int, folder: Path) -> Path:
    """A folder of `samples` training pictures, as many of each class, drawn once."""
    labels = sorted(each for each in (data / "train").iterdir() if each.is_dir())
    for label in labels:
        pictures = sorted(label.iterdir())
        (folder / label.name).mkdir(parents=True)
        for each in random.Random(0).sample(pictures, samples // len(labels)):
            shutil.copy(each, folder / label.name)
    return folder


def measured(data: Path, words: dict[str, Any], seed: int, epochs: int, folder: Path) -> tuple[float, float]:
    """The best validation accuracy, and the CPU seconds."""
    started = time.process_time()
    run = train(data, model="cnn", device="cpu", epochs=epochs, seed=seed, output=folder, **words)
    return run.record()["best"]["val_accuracy"], time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", type=Path, default=Path("data/fashion-mnist"))
    parser.add_argument("--samples", type=int, default=3000)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--groups", nargs="*", choices=[*GROUPS], default=[*GROUPS])
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, one thread; Python", end=" ")
    print(f"{platform.python_version()}, torch {torch.__version__}; {date.today()}")
    print(f"{asked.samples} pictures, {asked.epochs} epochs, {asked.seeds} seeds\n")
    print("| | validation accuracy | lowest to highest | CPU s a run |\n|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["FROMZERO_STATE"] = str(Path(folder) / "state")  # the ledger of real runs learns nothing from these
        data = part_of(asked.data, asked.samples, Path(folder) / "data")
        for group in asked.groups:
            for number, (name, words) in enumerate(GROUPS[group].items()):
                runs = [
                    measured(data, words, seed, asked.epochs, Path(folder) / f"{group}-{number}-{seed}")
                    for seed in range(asked.seeds)
                ]
                found = [each for each, _ in runs]
                seconds = statistics.fmean(each for _, each in runs)
                cells = f"{statistics.fmean(found):.2%}", f"{min(found):.2%} to {max(found):.2%}", f"{seconds:.1f}"
                print(f"| `{name}` | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
