"""How far the planner's peak memory is from published measurements.

    python benchmarks/memory.py ROWS.csv.gz [--source gpumemnet|xmem|largest-batch] [--models 40] [--seed 0]
                                            [--rivals PYTHON]

Three protocols:

gpumemnet      fp32, SGD with momentum, the model's own picture size, one A100; the total of the card. The fixed part of
               that machine is the median over the other families, so that no family is judged by its own figures. ROWS
               has the columns source, gpu, model, optimizer, batch_size, peak_mib, oom, zero_grad_mode, row_quality.
xmem           fp32, four steps, peak above the base context on RTX 3060, RTX 4060 and A100; pictures of 86 pixels,
               texts of 128 tokens; outputs and loss of a step live through the next forward pass. The same columns.
largest-batch  timm's largest training batch on an RTX 3090: PyTorch 1.10 to 1.12, fp16 autocast without a loss scaler,
               SGD with momentum, eager attention, gradients kept between steps, down a ladder from 512. ROWS has the
               columns source, gpu, task, metric, value, input, repro_lib, repro_name, repo_path, framework_version.

Prints machine, date and versions; the error; how often the interval holds the measured peak; what "fits" was said of
that did not fit; the worst families and rows. `--rivals` names the Python that has torch-preflight, torch-kitsune or
vramcalc beside this machine's torch and timm: those that take a row are judged on the same rows.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import gzip
import importlib.resources
import json
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
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
}
# transformers 4.51, on which the rows were measured, had no fused attention for these
EAGER = {"T5-small": "google-t5/t5-small", "t5-base": "google-t5/t5-base"}
TEN_CLASSES = ("MnasNet", "MobeNetV3Large", "MobeNetV3Small")
OPTIMIZERS = {"SGD": "sgd"}
ZERO_GRAD = {"0": "start", "1": "before-backward", "2": "after-step", "unrecorded": "before-backward"}
LARGEST = {
    "card": "RTX 3090",
    "batch": "auto",
    "precision": "amp-fp16",
    "optimizer": "sgd-momentum",
    "attention": "math",
    "zero_grad": "before-backward",
    "clip": 0.0,
    "weight_decay": 0.0,
}
FORMATS = {"nchw": "contiguous", "nhwc": "channels-last"}
# Smaller cards on which the measured rows are asked "does it fit": GiB that a process can get.
SMALLER = (7.8, 9.8, 11.75, 15.75, 23.7)


@dataclass
class Judged:
    """One row: measured and predicted peaks and the interval in MiB, without the fixed part of the machine; `words`
    are those of its plan."""

    model: str
    family: str
    card: str
    batch: int
    measured: float
    predicted: float
    low: float
    high: float
    words: dict[str, Any]
    verdict: str
    base: float = 0.0

    @property
    def error(self) -> float:
        return (self.predicted + self.base) / self.measured - 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows")
    parser.add_argument("--source", choices=("gpumemnet", "xmem", "largest-batch"), default="gpumemnet")
    parser.add_argument("--models", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rivals", default="", help="a Python with the rivals installed")
    options = parser.parse_args()
    import torch

    machine = platform.processor() or platform.machine()
    print(f"{machine}, {date.today()}, Python {platform.python_version()}, torch {torch.__version__}")
    with gzip.open(options.rows, "rt") as file:
        rows = list(csv.DictReader(file))
    start = time.process_time()
    if options.source == "largest-batch":
        largest_batches(rows, options.models, options.seed)
    else:
        judged = list(xmem(rows) if options.source == "xmem" else gpumemnet(rows, options.models, options.seed))
        report(judged)
        if options.source == "gpumemnet":
            smaller_cards(judged)
        else:
            out_of_memory(rows, judged)
        if options.rivals:
            rivals(judged, options.rivals)
    print(f"{time.process_time() - start:.0f} CPU-s")


# --- peaks ----------------------------------------------------------------------------------------------------------


def gpumemnet(rows: list[dict[str, str]], models: int, seed: int) -> Iterator[Judged]:
    """Rows of a random choice of timm models."""
    import timm

    by_model = defaultdict(list)
    for row in measured(rows, "GPUMemNet-timm"):
        if timm.is_model(row["model"]):
            by_model[row["model"]].append(row)
    words = {"card": "NVIDIA A100-SXM4-40GB", "optimizer": "sgd-momentum", "clip": 0.0}
    found = []
    for name in chosen(by_model, models, seed):
        size = timm.get_pretrained_cfg(name).input_size[-1]
        for row in by_model[name]:
            found += judge(row, family(name), {"model": name, "imgsz": size, **words})
    # every base before any row is touched: a family is judged by the others' fixed part
    for row in found:
        others = (each.measured - each.predicted for each in found if each.family != row.family)
        yield replace(row, base=statistics.median(others))


def xmem(rows: list[dict[str, str]]) -> Iterator[Judged]:
    """All rows that did not run out of memory."""
    for row in sorted(measured(rows, "xMem"), key=lambda row: (row["model"], row["optimizer"])):  # traces are shared
        yield from judge(row, row["model"], xmem_words(row))


def xmem_words(row: dict[str, str]) -> dict[str, Any]:
    name = row["model"]
    model = eager(EAGER[name]) if name in EAGER else XMEM_MODELS.get(name, f"hf:{name}")
    return {
        "model": model,
        "card": CARDS.get(row["gpu"], row["gpu"]),
        "optimizer": OPTIMIZERS.get(row["optimizer"], row["optimizer"].lower()),
        "zero_grad": ZERO_GRAD[row["zero_grad_mode"]],
        "classes": 10 if name in TEN_CLASSES else 1000,
        **({"seq": 128} if model.startswith("hf:") else {"imgsz": 86}),
        "clip": 0.0,
        "weight_decay": 0.0,
        "keep_outputs": True,
        "lr": 1e-3,
        "steps": 4,
    }


def eager(name: str) -> str:
    """The model `name` without fused attention: a configuration file that says so."""
    known = json.loads(importlib.resources.files("fromzero.facts").joinpath("configs.json").read_text("utf-8"))
    folder = Path(tempfile.gettempdir(), "fromzero-benchmark", name.replace("/", "-"))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**known[name], "attn_implementation": "eager"}), encoding="utf-8")
    return f"hf:{folder}"


def measured(rows: Iterable[dict[str, str]], source: str, oom: str = "0") -> list[dict[str, str]]:
    return [r for r in rows if r["source"] == source and r["oom"] == oom and r["row_quality"] in ("ok", "")]


def chosen(names: Iterable[Any], count: int, seed: int) -> list[Any]:
    ordered = sorted(names)
    random.Random(seed).shuffle(ordered)
    return ordered[:count]


def judge(row: dict[str, str], family: str, words: dict[str, Any]) -> list[Judged]:
    """The row beside its plan; nothing for a model that does not trace, which is said."""
    from fromzero import plan
    from fromzero.facts.context import context

    batch = int(row["batch_size"])
    try:
        made = plan(**words, batch=batch)
    except Exception as error:  # a model that does not trace is a finding, not the end
        print(f"{row['model']}: {type(error).__name__}: {str(error)[:120]}", file=sys.stderr)
        return []
    outside = context(made.card, made.stack)
    found = made.memory
    predicted, low, high = found.reserved_peak, found.low - outside.low, found.high - outside.high
    figures = (each / MIB for each in (predicted, low, high))
    return [Judged(row["model"], family, row["gpu"], batch, float(row["peak_mib"]), *figures, words, made.verdict)]


def family(name: str) -> str:
    """The part of a timm name before its size: "resnet", "vit"."""
    return name.split("_")[0].rstrip("0123456789")


def report(judged: Sequence[Judged]) -> None:
    print(f"{len(judged)} rows, {len({row.model for row in judged})} models: {error_text([r.error for r in judged])}")
    inside = [row.low <= row.measured - row.base <= row.high for row in judged]
    below = sum(row.measured - row.base < row.low for row in judged)
    print(f"interval holds {statistics.mean(inside):.1%}; {below / len(judged):.1%} lie below it")
    refit(judged)
    for card in sorted({row.card for row in judged}):
        of_card = [row for row in judged if row.card == card]
        held = statistics.mean(row.low <= row.measured - row.base <= row.high for row in of_card)
        print(f"  {card}: {len(of_card)} rows, {error_text([r.error for r in of_card])}, interval holds {held:.1%}")
    by_family = defaultdict(list)
    for row in judged:
        by_family[row.family].append(abs(row.error))
    worst = sorted(by_family.items(), key=lambda item: -statistics.median(item[1]))[:8]
    print("worst families:", ", ".join(f"{name} {statistics.median(each):.0%}" for name, each in worst))
    for row in sorted(judged, key=lambda row: -abs(row.error))[:10]:
        print(f"  {row.model} batch {row.batch}: {row.error:+.0%} of {row.measured:.0f} MiB")


def refit(judged: Sequence[Judged]) -> None:
    """How often an interval of the other families' own 5 and 95 % quantiles would hold: what calibration can give."""
    held = []
    for name in {row.family for row in judged}:
        ratios = sorted((r.measured - r.base) / r.predicted for r in judged if r.family != name)
        low, high = ratios[int(0.05 * len(ratios))], ratios[int(0.95 * len(ratios))]
        held += [low <= (r.measured - r.base) / r.predicted <= high for r in judged if r.family == name]
    print(f"quantiles of the other families would hold {statistics.mean(held):.1%}")


def error_text(errors: Iterable[float]) -> str:
    found = sorted(map(abs, errors))
    return f"median {statistics.median(found):.1%}, p90 {found[int(0.9 * len(found))]:.1%}, worst {found[-1]:.1%}"


# --- verdicts -------------------------------------------------------------------------------------------------------


def smaller_cards(judged: Sequence[Judged]) -> None:
    """The same rows on smaller cards: how often "fits" is said where the measured peak exceeds the card. A step may
    still run there, since the allocator gives caches back and cuDNN takes less, so this is the harshest reading."""
    from fromzero import plan
    from fromzero.facts.cards import find_card
    from fromzero.facts.context import context
    from fromzero.records import Stack

    said: Counter[tuple[bool, bool]] = Counter()
    for row in judged:
        large = find_card(row.words["card"])
        for gib in SMALLER:
            if not 0.5 < row.measured / gib / 1024 < 2:  # far from the border every rule is right
                continue
            room = round(gib * (1 << 30) - row.base * MIB + context(large, Stack()).expected)
            made = plan(**{**row.words, "card": replace(large, usable_bytes=room)}, batch=row.batch)
            said[row.measured > gib * 1024, made.verdict == "fits"] += 1
    over, under = (said[each, True] + said[each, False] for each in (True, False))
    wrong = said[True, True]
    print(f'on smaller cards: "fits" of {wrong} of {over} peaks above the card ({wrong / max(1, over):.1%}),', end=" ")
    print(f"of {said[False, True] / max(1, under):.1%} of those within it")


def out_of_memory(rows: Sequence[dict[str, str]], judged: Sequence[Judged]) -> None:
    """What is said of the runs that ran out of memory, and of those that did not."""
    from fromzero import plan

    lost = [plan(**xmem_words(row), batch=int(row["batch_size"])).verdict for row in measured(rows, "xMem", "1")]
    for text, verdicts in (("ran out of memory", lost), ("ran", [row.verdict for row in judged])):
        print(f"{text}: " + ", ".join(f"{name} {count}" for name, count in Counter(verdicts).most_common()))


def largest_batches(rows: Sequence[dict[str, str]], models: int, seed: int) -> None:
    """timm's largest batches against `--batch auto`, rung by rung."""
    from fromzero import plan
    from fromzero.planner.search import LADDER

    by_model = defaultdict(list)
    for row in rows:
        key = (row["source"], row["metric"], row["task"], row["gpu"], row["repro_lib"], row["quality"])
        if key == ("timm", "max_batch", "train", "RTX 3090", "timm", "A"):
            by_model[row["repro_name"], int(row["input"])].append(row)
    found = []
    for name, size in chosen(by_model, models, seed):
        for row in by_model[name, size]:
            layout = "nhwc" if "nhwc" in row["repo_path"] else "nchw"
            version = row["framework_version"].split()[1]
            words = {**LARGEST, "memory_format": FORMATS[layout], "torch": version}
            try:
                best = plan(name, imgsz=size, **words).max_batch or 0
            except Exception as error:
                print(f"{name}: {type(error).__name__}: {str(error)[:120]}", file=sys.stderr)
                break
            true = int(float(row["value"]))
            rungs = LADDER.index(best) - LADDER.index(true) if best else -1 - LADDER.index(true)
            found.append((name, layout, version, true, best, rungs))
    for layout in FORMATS:
        off = [each[-1] for each in found if each[1] == layout]
        if off:
            exact, near, over = (
                statistics.mean(map(test, off)) for test in (lambda n: n == 0, lambda n: abs(n) <= 1, lambda n: n > 0)
            )
            print(f"{layout}: {len(off)} rows, exact {exact:.1%}, within one rung {near:.1%}, too large {over:.1%}")
    for name, layout, version, true, best, rungs in found:
        if rungs:
            print(f"  {name} {layout} {version}: {true} measured, {best} planned")


# --- rivals ---------------------------------------------------------------------------------------------------------

# Run by the rivals' Python, one row a line of JSON, one figure in MiB a line of answer; 0 for a row it cannot take.
# Contexts are left out, since the protocols above have none or their own.
RIVALS = {
    "torch-preflight": """
from torch_preflight import VRAMGuard
from torch_preflight.vram.costmodel import estimate
shape = {"image_size": size} if image else {"seq_len": size}
guard = VRAMGuard(model, optimizer=optimizer(), batch_size=batch, **shape)
assert guard.activation_source == "measured"
found = estimate(guard.profile, guard.config, None)
answer = found.total - found.breakdown.cuda_context
""",
    "torch-kitsune": """
from kitsune.predict import predict_memory
assert image
name = "adam" if "adam" in row["optimizer"] else "sgd"
found = predict_memory(model, (3, size, size), batch, optimizer=name)
answer = found.param_bytes + found.gradient_bytes + found.optimizer_bytes + found.activation_bytes
""",
    "vramcalc": """
import tempfile
from vramcalc import estimate
assert not image and row["optimizer"] in ("adamw", "sgd")
folder = tempfile.mkdtemp()
getattr(model, "model", model).config.save_pretrained(folder)
words = {"mode": "train", "dtype": "fp32", "precision": "pure", "attn_impl": "sdpa", "overhead_gb": 0}
answer = estimate(folder, batch=batch, seq_len=size, optimizer=row["optimizer"], **words).total
""",
}
RIVAL_HEAD = """
import io, json, sys, contextlib, torch
sys.path.insert(0, sys.argv[2])
from fromzero.models.build import build
def optimizer():
    kinds = {"sgd-momentum": ("SGD", {"momentum": 0.9}), "sgd": ("SGD", {}), "rmsprop": ("RMSprop", {})}
    kind, words = kinds.get(row["optimizer"], ({"adamw": "AdamW", "adam": "Adam", "adagrad": "Adagrad"}.get(
        row["optimizer"], "Adafactor"), {}))
    return getattr(torch.optim, kind)(model.parameters(), lr=1e-3, **words)
source = compile(sys.argv[1], "rival", "exec")
for line in sys.stdin:
    row = json.loads(line)
    image, batch = "imgsz" in row, row["batch"]
    size = row["imgsz"] if image else row["seq"]
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            model = build(row["model"], row.get("classes", 1000), 3, size)
            exec(source)
    except (Exception, AssertionError):
        answer = 0
    print(answer / 2**20, flush=True)
"""
RIVAL_SECONDS = 600


def rivals(judged: Sequence[Judged], python: str) -> None:
    """The same rows through other estimators, given the same fixed part, and our error on the rows each can take."""
    home = str(Path(__file__).parents[1] / "src")
    lines = "".join(json.dumps({**row.words, "batch": row.batch}) + "\n" for row in judged)
    for name, source in RIVALS.items():
        module = name.replace("-", "_") if name != "torch-kitsune" else "kitsune"
        if subprocess.run([python, "-c", f"import {module}"], capture_output=True).returncode:
            print(f"{name}: not installed")
            continue
        command = [python, "-W", "ignore", "-c", RIVAL_HEAD, source, home]
        with tempfile.TemporaryFile("w+") as answers:
            with contextlib.suppress(subprocess.TimeoutExpired):
                subprocess.run(
                    command, input=lines, stdout=answers, stderr=subprocess.DEVNULL, text=True, timeout=RIVAL_SECONDS
                )
            answers.seek(0)
            figures = [float(line) for line in answers]
        taken = [replace(row, predicted=figure) for row, figure in zip(judged, figures, strict=False) if figure > 0]
        if not taken:
            print(f"{name}: takes none of the rows")
            continue
        if judged[0].base:
            base = statistics.median(row.measured - row.predicted for row in taken)
            taken = [replace(row, base=base) for row in taken]
        same = {(row.model, row.batch, row.words["optimizer"]) for row in taken}
        ours = [row.error for row in judged if (row.model, row.batch, row.words["optimizer"]) in same]
        print(f"{name}: {len(taken)} of {len(judged)} rows, {error_text(row.error for row in taken)}", end="; ")
        print(f"fromzero on these: {error_text(ours)}")


if __name__ == "__main__":
    main()
