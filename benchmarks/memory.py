"""How far the planner's peak memory is from published measurements.

    python benchmarks/memory.py ROWS.csv.gz [--models 60] [--seed 0] [--source gpumemnet|xmem]

ROWS has the columns source, gpu, model, input, precision, optimizer, batch_size, peak_mib, oom, zero_grad_mode and
row_quality. Two protocols:

gpumemnet   fp32, SGD with momentum, the model's own picture size, one A100; the total of the card. The fixed part of
            that machine is the median over the other families, so that no family is judged by its own figures.
xmem        fp32, four steps, peak above the base context on RTX 3060, RTX 4060 and A100; pictures of 86 pixels, texts
            of 128 tokens; outputs and loss of a step live through the next forward pass.

Prints machine, date and versions, the error by source, and the worst rows.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import platform
import random
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

MIB = 1 << 20
CARDS = {"NVIDIA GeForce RTX 3060": "RTX 3060 12 GB", "NVIDIA GeForce RTX 4060": "RTX 4060"}
XMEM_MODELS = {
    "MobileNetV2": "torchvision:mobilenet_v2",
    "RegNetX400MF": "torchvision:regnet_x_400mf",
    "RegNetY400MF": "torchvision:regnet_y_400mf",
    "MobeNetV3Large": "torchvision:mobilenet_v3_large",
    "MobeNetV3Small": "torchvision:mobilenet_v3_small",
    "MnasNet": "torchvision:mnasnet1_0",
    "T5-small": "hf:google-t5/t5-small",
    "t5-base": "hf:google-t5/t5-base",
}
TEN_CLASSES = ("MnasNet", "MobeNetV3Large", "MobeNetV3Small")
OPTIMIZERS = {"SGD": "sgd"}
ZERO_GRAD = {"0": "start", "1": "before-backward", "2": "after-step", "unrecorded": "before-backward"}


@dataclass
class Judged:
    """One row: measured and predicted peaks in MiB, the prediction without the fixed part of the machine."""

    model: str
    family: str
    batch: int
    measured: float
    predicted: float
    error: float = 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows")
    parser.add_argument("--source", choices=("gpumemnet", "xmem"), default="gpumemnet")
    parser.add_argument("--models", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    import torch

    machine = platform.processor() or platform.machine()
    print(f"{machine}, {date.today()}, Python {platform.python_version()}, torch {torch.__version__}")
    with gzip.open(options.rows, "rt") as file:
        rows = [row for row in csv.DictReader(file) if row["oom"] == "0" and row["row_quality"] in ("ok", "")]
    start = time.process_time()
    judged = list(xmem(rows) if options.source == "xmem" else gpumemnet(rows, options.models, options.seed))
    print(f"{options.source}: {len(judged)} rows in {time.process_time() - start:.0f} CPU-s")
    report(judged)


def gpumemnet(rows: list[dict[str, str]], models: int, seed: int) -> Iterator[Judged]:
    """Rows of a random choice of timm models."""
    import timm

    by_model = defaultdict(list)
    for row in rows:
        if row["source"] == "GPUMemNet-timm" and timm.is_model(row["model"]):
            by_model[row["model"]].append(row)
    names = sorted(by_model)
    random.Random(seed).shuffle(names)
    words = {"card": "NVIDIA A100-SXM4-40GB", "optimizer": "sgd-momentum", "clip": 0.0}
    found = []
    for name in names[:models]:
        size = timm.get_pretrained_cfg(name).input_size[-1]
        for row in by_model[name]:
            found += judge(row, family(name), model=name, imgsz=size, **words)
    for row in found:
        others = (each.measured - each.predicted for each in found if each.family != row.family)
        yield replace(row, predicted=row.predicted + statistics.median(others))


def xmem(rows: list[dict[str, str]]) -> Iterator[Judged]:
    """All rows that did not run out of memory."""
    words = {"clip": 0.0, "weight_decay": 0.0, "keep_outputs": True, "lr": 1e-3, "steps": 4}
    for row in rows:
        if row["source"] != "xMem":
            continue
        model = XMEM_MODELS.get(row["model"], f"hf:{row['model']}")
        shape = {"seq": 128} if model.startswith("hf:") else {"imgsz": 86}
        yield from judge(
            row,
            row["model"],
            model=model,
            card=CARDS.get(row["gpu"], row["gpu"]),
            optimizer=OPTIMIZERS.get(row["optimizer"], row["optimizer"].lower()),
            zero_grad=ZERO_GRAD[row["zero_grad_mode"]],
            classes=10 if row["model"] in TEN_CLASSES else 1000,
            **shape,
            **words,
        )


def judge(row: dict[str, str], family: str, **words: Any) -> list[Judged]:
    """The row beside its plan; nothing for a model that does not trace, which is said."""
    from fromzero import plan_many

    batch = int(row["batch_size"])
    try:
        [made] = plan_many([{**words, "batch": batch}])
    except Exception as error:  # a model that does not trace is a finding, not the end
        print(f"{row['model']}: {type(error).__name__}: {str(error)[:120]}", file=sys.stderr)
        return []
    predicted = (made.memory.process_peak - made.memory.parts["context"]) / MIB
    return [Judged(row["model"], family, batch, float(row["peak_mib"]), predicted)]


def family(name: str) -> str:
    """The part of a timm name before its size: "resnet", "vit"."""
    return name.split("_")[0].rstrip("0123456789")


def report(judged: list[Judged]) -> None:
    for row in judged:
        row.error = row.predicted / row.measured - 1
    errors = sorted(abs(row.error) for row in judged)
    print(f"median {statistics.median(errors):.1%}, p90 {errors[int(0.9 * len(errors))]:.1%}, worst {errors[-1]:.1%}")
    by_family = defaultdict(list)
    for row in judged:
        by_family[row.family].append(abs(row.error))
    worst = sorted(by_family.items(), key=lambda item: -statistics.median(item[1]))[:8]
    print("worst families:", ", ".join(f"{name} {statistics.median(each):.0%}" for name, each in worst))
    for row in sorted(judged, key=lambda row: -abs(row.error))[:10]:
        print(f"  {row.model} batch {row.batch}: {row.error:+.0%} of {row.measured:.0f} MiB")


if __name__ == "__main__":
    main()
