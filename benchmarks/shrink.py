"""How much faster a trained network becomes for how much accuracy, side by side with itself in one run.

    fromzero data get fashion-mnist
    python benchmarks/shrink.py [data/fashion-mnist] [--samples 6000] [--models resnet18:5 mobilenetv3_small_100:16]
                                [--faster 2] [--max-drop 0.01] [--epochs N] [--place FOLDER]
    python benchmarks/shrink.py data/tux-paint-stamps --samples 0 --imgsz 128 --resize pad --batch 16
                                --models resnet18:20 mobilenetv2_100:30

A part of Fashion-MNIST (the same for all; 28 x 28, grey), each model trained from scratch for the epochs behind its
name and then given to `fromzero shrink` with a budget: so many times as fast, at most so much accuracy lost. Latency is
that of one picture in ONNX Runtime with one thread, in turns with the original in the same process; accuracy is that of
3,000 test pictures, which neither training saw. These are short trainings on a tenth of the data: an accuracy to
compare by, not one to quote. `--samples 0` takes a whole data set by its own split. With `--place` what was made is
kept, and found again.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import shutil
import tempfile
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path

import torch

TESTED = 3000


def part_of(data: Path, samples: int, folder: Path) -> Path:
    """`samples` training and TESTED test pictures, as many of each class, drawn once."""
    for part, count in (("train", samples), ("test", TESTED)):
        labels = sorted(each for each in (data / part).iterdir() if each.is_dir())
        for label in labels:
            place = folder / part / label.name
            if place.is_dir():
                continue
            place.mkdir(parents=True)
            for each in random.Random(0).sample(sorted(label.iterdir()), count // len(labels)):
                shutil.copy(each, place)
    return folder


def machine() -> str:
    """What this ran on, in a line."""
    from fromzero.machine.detect import this_cpu

    flags = Path("/proc/cpuinfo").read_text().split() if Path("/proc/cpuinfo").is_file() else []
    vnni = "with VNNI" if {"avx512_vnni", "avx_vnni"} & set(flags) else "without VNNI"
    return (
        f"{this_cpu().title} {vnni}, {os.cpu_count()} cores, one thread; Python {platform.python_version()}, "
        f"torch {torch.__version__}, onnxruntime {version('onnxruntime')}, torch-pruning {version('torch-pruning')}; "
        f"{date.today()}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", type=Path, default=Path("data/fashion-mnist"))
    parser.add_argument("--samples", type=int, default=6000)
    parser.add_argument("--imgsz", type=int, default=28)
    parser.add_argument("--resize", default="crop")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--models", nargs="+", default=["resnet18:5", "mobilenetv3_small_100:16"])
    parser.add_argument("--faster", type=float, default=2.0)
    parser.add_argument("--max-drop", type=float, default=0.01)
    parser.add_argument("--ratios", nargs="+", default=["0.25", "0.5", "0.7"])
    parser.add_argument("--epochs", type=int, help="of each training that recovers; half of the run's by default")
    parser.add_argument("--place", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        place = asked.place or Path(temporary)
        os.environ["FROMZERO_STATE"] = str(place / "state")  # the ledger of real runs learns nothing from these
        from fromzero.runs import Run
        from fromzero.shrinking import shrink, summary, table
        from fromzero.starting import train
        from fromzero.terminal import Terminal

        print(machine())
        data = part_of(asked.data, asked.samples, place / "data") if asked.samples else asked.data
        answers = []
        for word in asked.models:
            model, _, epochs = word.partition(":")
            run, began = place / model, time.process_time()
            if not (run / "run.json").is_file() or Run(run).record()["status"] != "finished":
                words = {"imgsz": asked.imgsz, "resize": asked.resize, "batch": asked.batch, "device": "cpu"}
                train(data, model=model, epochs=int(epochs or 5), output=run, console=Terminal(), **words)
            budget = {"latency": f"{asked.faster}x", "max_drop": asked.max_drop, "threads": 1}
            found = shrink(run, ratios=asked.ratios, epochs=asked.epochs, console=Terminal(), **budget)
            headings, rows = table(found)
            print(f"\n{word}\n\n| {' | '.join(headings)} |\n|{'---|' * len(headings)}")
            for row in rows:
                print(f"| {' | '.join(row)} |")
            print(f"\n{summary(found)}\n{time.process_time() - began:.0f} CPU seconds", flush=True)
            chosen = found.of(found.best or found.nearest)
            if chosen is not None and chosen.measured is not None:
                answers.append((model, chosen.faster or 0.0, chosen.measured.drop, found.best is not None))
        print(f"\n| model | times as fast (goal {asked.faster:g}) | points lost (at most {asked.max_drop * 100:g}) | |")
        print("|---|---|---|---|")
        for model, faster, drop, kept in answers:
            print(f"| {model} | {faster:.2f} | {drop * 100:+.2f} | {'kept' if kept else 'missed'} |")


if __name__ == "__main__":
    main()
