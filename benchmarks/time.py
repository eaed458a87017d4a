"""How far the planner's step time is from published measurements, and where its parameters come from.

    python benchmarks/time.py ROWS.csv.gz --traces FOLDER [--per-family 5 | --cached] [--calibrate]
    python benchmarks/time.py --cpu [--calibrate]

ROWS has the columns source, gpu, framework_version, task, model, input, precision, memory_format_or_method,
batch_size_per_gpu, metric, value, note, repro_name, quality and gpu_count; rows on one GPU of quality A and B count.
FOLDER keeps the traces (they take most of the time). Every figure is of rows that the fit did not see: whole families
of models, whole cards, or both are kept out. --calibrate writes facts/calibration.json from all rows, with intervals
from the rows kept out. --cpu measures steps on this machine, each model judged by a fit without it.

Protocols of the sources, as far as they are published: timm runs AMP fp16 without a loss scaler, SGD with momentum,
in 2022 with unfused attention; lambda runs NVIDIA's examples (TF32 allowed); NeuSight and the older ones run forward
and backward without an optimizer; DeepBench and NeuSight's kernels are timed alone.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import functools
import gzip
import hashlib
import json
import math
import platform
import random
import statistics
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch

from fromzero.facts.cards import find_card
from fromzero.machine.ledger import shrunken
from fromzero.planner import timing
from fromzero.planner.calibrate import Run, fit, predicted, weighed
from fromzero.planner.kernels import Setting, path
from fromzero.planner.operators import Cost
from fromzero.planner.search import between
from fromzero.planner.trace import Trace, trace
from fromzero.records import Card, Recipe, Workload
from fromzero.tracing import step_of

Row = dict[str, str]
PROBES = (2, 4)
# Rows of 2025 were measured after these families had folded their branches into one convolution (--reparam).
FOLDED = frozenset(
    """byobnet efficientvit_msra fastvit ghostnet iformer levit nextvit repghost repvit shvit tiny_vit lcnetv2
    efficientvim""".split()
)
# Rows that name several cards mean the common one.
CARDS = {"P100": "Tesla P100-PCIE-16GB", "V100": "Tesla V100-SXM2-16GB"}
# What the catalogue lacks, from the maker's data sheet: chip of another card, boost clock in MHz, watts.
MAX_Q = {"RTX PRO 6000 Blackwell Max-Q": ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", 2280e6, 300.0)}
NEUSIGHT_UNSEEN = ("NVIDIA H100 80GB HBM3", "NVIDIA L4", "NVIDIA A100 80GB PCIe")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="?")
    parser.add_argument("--traces", type=Path, default=Path("traces"))
    parser.add_argument("--per-family", type=int, default=5)
    parser.add_argument("--cached", action="store_true", help="only what FOLDER has traces of")
    parser.add_argument("--folds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--calibrate", action="store_true")
    parser.add_argument("--cpu", action="store_true")
    options = parser.parse_args()
    machine = platform.processor() or platform.machine()
    print(f"{machine}, {date.today()}, Python {platform.python_version()}, torch {torch.__version__}", flush=True)
    if options.cpu:
        return judge_cpu(options.calibrate)
    if not options.rows:
        parser.error("name the file of rows, or --cpu")
    with gzip.open(options.rows, "rt") as file:
        rows = [row for row in csv.DictReader(file) if row["gpu_count"] == "1" and row["quality"] in "AB"]
    traces = Traces(options.traces, options.cached)
    bench = Bench(traces, options.per_family, options.folds, options.steps)
    runs = list(bench.runs(rows))
    models, families = {run.model for run in runs}, {run.family for run in runs}
    cards = {run.setting.card.title for run in runs}
    print(f"{len(runs)} runs: {len(models)} models, {len(families)} families, {len(cards)} cards")
    kept_out = bench.judge(runs)
    if options.calibrate:
        write(calibrated(runs, kept_out, options.steps))


# --- traces ---------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Request:
    """What is traced: a model at an input, and the words of the recipe that change its operators."""

    model: str
    task: str
    shape: tuple[int, ...]
    train: bool
    precision: str
    memory_format: str = "contiguous"
    attention: str = "math"
    optimizer: str = "sgd-momentum"

    def trace(self, batch: int) -> Trace:
        workload = Workload(
            task=self.task,
            model=self.model,
            input_shape=self.shape,
            classes=2 if self.task == "text" else 1000,
            purpose="train" if self.train else "infer",
        )
        recipe = Recipe(
            precision=self.precision,
            memory_format=self.memory_format,
            attention=self.attention,
            optimizer=self.optimizer,
            clip=0.0,
            weight_decay=1e-4,
        )
        return trace(
            step_of(workload, recipe, batch),
            batch=batch,
            precision=self.precision,
            steps=2 if self.train else 1,
            capability=(8, 0) if self.attention == "auto" else (7, 0),
            attention=self.attention,
        )


Counted = tuple[tuple[Cost, int], ...]


class Traces:
    """Traces at two small batches, kept in a folder; the costs at any batch lie on the line between them."""

    def __init__(self, folder: Path, cached: bool = False) -> None:
        self.folder, self.cached = folder, cached
        folder.mkdir(parents=True, exist_ok=True)

    def costs(self, request: Request, batch: float, without: Sequence[str] = ("_amp_",)) -> Counted | None:
        """Equal operators counted; None for a model that does not trace, which is said once. `without`: operators of
        what the source did not run."""
        found = self._probes(request)
        if found is None:
            return None
        made = between(*found, batch)  # type: ignore[arg-type]  # a mean batch may be broken
        if made is None:
            return None
        kept = (each for each in made.costs if not each.operator.startswith(tuple(without)))
        return tuple(Counter(dataclasses.replace(each, operator="", phase="") for each in kept).items())

    @functools.cache  # noqa: B019 - lives as long as the program
    def _probes(self, request: Request) -> tuple[Trace, Trace] | None:
        name = hashlib.sha256(repr(request).encode()).hexdigest()[:16]
        file = self.folder / f"{request.model.replace('/', '_').replace(':', '_')}-{name}.json"
        if not file.exists():
            if self.cached:
                return None
            file.write_text(json.dumps(self._made(request)))
        kept = json.loads(file.read_text())
        if isinstance(kept, str):
            print(f"{request.model}: {kept}", file=sys.stderr)
            return None
        one, other = (Trace((), {}, tuple(_cost(each) for each in kept[str(batch)]), batch) for batch in PROBES)
        return one, other

    def _made(self, request: Request) -> Any:
        try:
            return {str(batch): [list(vars(each).values()) for each in request.trace(batch).costs] for batch in PROBES}
        except Exception as error:  # a model that does not trace is a finding, not the end
            return f"{type(error).__name__}: {str(error)[:120]}"


def _cost(values: list[Any]) -> Cost:
    made = Cost(*values)
    return dataclasses.replace(made, dims=tuple(made.dims))


# --- rows to runs ---------------------------------------------------------------------------------------------------


@functools.cache
def card_of(name: str) -> Card | None:
    if name in MAX_Q:
        chip, boost, watts = MAX_Q[name]
        card = find_card(chip)
        rates = {kind: rate * boost / card.boost_clock for kind, rate in card.rates.items()}
        return dataclasses.replace(card, name=f"NVIDIA {name}", rates=rates, boost_clock=boost, tdp_watts=watts)
    try:
        return find_card(CARDS.get(name, name))
    except Exception:  # a card of before the catalogue
        return None


def release(text: str) -> str:
    """The release of torch in "pytorch 1.13.0a0+d0d6b1f cuda 11.8"; what is older counts as the oldest."""
    words = text.split()
    number = words[1] if len(words) > 1 and words[0] == "pytorch" else ""
    number = number.split("a")[0] if number[:1].isdigit() else {"NGC": "1.9"}.get(number, "0.1")
    return number if number.count(".") else "0.1"


@dataclasses.dataclass
class Bench:
    traces: Traces
    per_family: int
    folds: int
    steps: int

    def runs(self, rows: list[Row]) -> Iterator[Run]:
        by_source = defaultdict(list)
        for row in rows:
            if card_of(row["gpu"]) and row["batch_size_per_gpu"]:
                by_source[row["source"]].append(row)
        for source, read in SOURCES.items():
            yield from read(by_source[source], self)

    def run(self, row: Row, seconds: float, request: Request, family: str, **more: Any) -> Run | None:
        batch, without = float(row["batch_size_per_gpu"]), more.pop("without", ("_amp_",))
        costs = self.traces.costs(request, batch, without)
        if costs is None:
            return None
        setting = Setting(card_of(row["gpu"]), release(row["framework_version"]), more.pop("tf32", False))  # type: ignore[arg-type]
        return Run(seconds, setting, costs, row["model"], family, row["source"], batch=batch, **more)

    # --- protocols: what is kept out, and what is judged

    def judge(self, runs: list[Run]) -> list[tuple[Run, float]]:
        """Prints the error of each protocol; returns the runs that were kept out with their errors (log)."""
        timm = [run for run in runs if run.source == "timm"]
        others = [run for run in runs if run.source != "timm" and not run.lone]
        families = self.kept_out(runs, timm, lambda run: run.family)
        report("unseen families, calibrated card", families, by="label")
        worst(families)
        cards = self.kept_out(runs, others, lambda run: run.setting.card.title)
        report("unseen cards", [each for each in cards if each[0].source == "lambda"], by="label")
        geforce = [each for each in cards if each[0].source == "lambda" and "GeForce" in each[0].setting.card.name]
        report("unseen GeForce cards", geforce, by="label")
        report("unseen cards, other sources", [each for each in cards if each[0].source != "lambda"], by="source")
        both = self.unseen_cards_and_families(runs, timm)
        report("unseen card and unseen families, inference", both, by="label")
        for count in (1, 3):
            after = after_local(cards + both, count)
            report(f"unseen card, after {count} local measurement{'s' * (count > 1)}", after, by="label")
            report("all of these", after)
        split = [run for run in runs if run.setting.card.title not in NEUSIGHT_UNSEEN]
        judged = [run for run in others if run.source == "neusight"]
        report(
            "NeuSight's rows, its split (published: 8.9 % over all, 8.4 % on unseen cards)", self.errors(split, judged)
        )
        for name, baseline in BASELINES.items():
            report(f"baseline: {name}, one scalar each label", scaled(timm + others, baseline), by="label")
        kept_out = families + cards + both
        print(f"\na run's scatter over a card's, both squared: {doubt(cards + both):.2f} (ledger.DOUBT)")
        return kept_out

    def kept_out(self, runs: list[Run], judged: list[Run], key: Callable[[Run], str]) -> list[tuple[Run, float]]:
        """Errors of `judged`, each by a fit without the runs of its key; keys share fits in folds."""
        keys = sorted({key(run) for run in judged})
        random.Random(1).shuffle(keys)
        found = []
        for fold in range(self.folds):
            out = set(keys[fold :: self.folds])
            found += self.errors([r for r in runs if key(r) not in out], [r for r in judged if key(r) in out])
        return found

    def unseen_cards_and_families(self, runs: list[Run], timm: list[Run]) -> list[tuple[Run, float]]:
        found = []
        trained = {run.setting.card.title for run in timm if "train" in run.label}  # nothing is left without that card
        for card in sorted({run.setting.card.title for run in timm} - trained):
            here = [run for run in timm if run.setting.card.title == card and "infer nchw" in run.label]
            keys = sorted({run.family for run in here})
            random.Random(1).shuffle(keys)
            for fold in range(2):
                out = set(keys[fold::2])
                rest = [r for r in runs if r.setting.card.title != card and r.family not in out]
                found += self.errors(rest, [run for run in here if run.family in out])
        return found

    def errors(self, runs: list[Run], judged: list[Run]) -> list[tuple[Run, float]]:
        if not judged:
            return []
        guesses = predicted(judged, fit(weighed(runs), self.steps))
        return [(run, math.log(guess / run.seconds)) for run, guess in zip(judged, guesses, strict=True)]


def timm_runs(rows: list[Row], bench: Bench) -> Iterator[Run]:
    """A few models of each family; the newest stack of each card, and the one that also trained."""
    import timm

    kept = [row for row in rows if row["metric"] == "samples_per_s" and timm.is_model(row["repro_name"])]
    kept = [row for row in kept if "compile" not in row["memory_format_or_method"]]
    chosen = some_of_each(kept, bench.per_family)
    for row in kept:
        if row["repro_name"] in chosen and not builds(row["repro_name"], float(row["params_m"] or 0)):
            continue
        name, version, train = row["repro_name"], release(row["framework_version"]), row["task"] == "train"
        family = family_of(name)
        if (
            name not in chosen
            or version[:3] not in ("1.1", "2.4", "2.9")
            or (version[:3] == "2.9" and family in FOLDED)
        ):
            continue
        if version.startswith("1.1") and (version != "1.12" or not train):
            continue
        layout = "nhwc" if "nhwc" in row["memory_format_or_method"] else "nchw"
        size = int(float(row["input"]))
        request = Request(
            model=name,
            task="image",
            shape=(3, size, size),
            train=train,
            precision="amp-fp16",
            memory_format="channels-last" if layout == "nhwc" else "contiguous",
            attention="math" if version.startswith("1") else "auto",
        )
        label = f"timm {row['task']} {layout} {row['gpu']} torch {version}"
        made = bench.run(row, float(row["batch_size_per_gpu"]) / float(row["value"]), request, family, label=label)
        if made:
            yield made


@functools.cache
def builds(name: str, millions: float) -> bool:
    """Whether today's `name` has as many parameters as the model that was measured: several rows name another size, or
    one with its branches folded."""
    import timm

    with torch.device("meta"):
        built = sum(each.numel() for each in timm.create_model(name).parameters()) / 1e6
    return not millions or abs(built / millions - 1) < 0.03


def some_of_each(rows: list[Row], count: int) -> set[str]:
    """`count` models of each family, those with the most rows first, else by lot."""
    rows_of = Counter(row["repro_name"] for row in rows)
    by_family = defaultdict(list)
    for name in sorted(rows_of):
        by_family[family_of(name)].append(name)
    lot = random.Random(0)
    chosen: set[str] = set()
    for names in by_family.values():
        lot.shuffle(names)
        chosen |= set(sorted(names, key=lambda name: -rows_of[name])[:count])
    return chosen


def family_of(name: str) -> str:
    """timm's own: the file that defines the model."""
    import timm

    return timm.model_entrypoint(name).__module__.rpartition(".")[2]


LAMBDA = {
    "resnet50_v1.5": ("torchvision:resnet50", "image", (3, 224, 224), "sgd-momentum"),
    "bert_base_uncased_squad": ("hf:google-bert/bert-base-uncased", "text", (384,), "adamw"),
    "bert_large_uncased_squad": ("hf:google-bert/bert-large-uncased", "text", (384,), "adamw"),
}


def lambda_runs(rows: list[Row], bench: Bench) -> Iterator[Run]:
    for row in rows:
        if row["metric"] != "samples_per_s" or row["model"] not in LAMBDA:
            continue
        model, task, shape, optimizer = LAMBDA[row["model"]]
        half = not row["precision"].startswith("fp32")
        request = Request(model, task, shape, True, "amp-fp16" if half else "fp32", optimizer=optimizer)
        seconds = float(row["batch_size_per_gpu"]) / float(row["value"])
        label = f"lambda {row['model'].split('_')[0]} {'amp' if half else 'fp32'}"
        tf32 = "tf32" in row["precision"]
        made = bench.run(row, seconds, request, row["model"].split("_")[0], label=label, tf32=tf32, without=())
        if made:
            yield made


def dle_runs(rows: list[Row], bench: Bench) -> Iterator[Run]:
    for row in rows:
        train, half = row["task"] == "train", row["precision"] == "amp"
        if row["metric"] != ("samples_per_s" if train else "step_ms") or not row["repro_name"]:
            continue
        layout = "channels-last" if half else "contiguous"
        request = Request(row["repro_name"], "image", (3, 224, 224), train, "amp-fp16" if half else "fp32", layout)
        value = float(row["value"])
        seconds = float(row["batch_size_per_gpu"]) / value if train else value / 1e3
        made = bench.run(row, seconds, request, "resnet", label=f"nvidia_dle {row['task']}", tf32=True)
        if made:
            yield made


def older_runs(rows: list[Row], bench: Bench) -> Iterator[Run]:
    """Torch7 and PyTorch 0.3: forward and backward, no optimizer."""
    for row in rows:
        framework = row["framework_version"].split()[0].lower()
        if row["metric"] != "step_ms" or not row["repro_name"] or framework not in ("torch7", "pytorch"):
            continue
        train, name = row["task"] == "train", row["repro_name"]
        request = Request(f"torchvision:{name}", "image", (3, 224, 224), train, row["precision"], optimizer="sgd")
        label = f"{row['source']} {row['task']}"
        without = ("_amp_", "_foreach")
        made = bench.run(
            row, float(row["value"]) / 1e3, request, name.rstrip("0123456789"), label=label, without=without
        )
        if made:
            yield made


NEUSIGHT = {
    "bert_large": ("hf:google-bert/bert-large-uncased", "text"),
    "gpt2_large": ("hf:openai-community/gpt2-large", "lm"),
    "opt_13": ("hf:facebook/opt-1.3b", "lm"),
}


def neusight_runs(rows: list[Row], bench: Bench) -> Iterator[Run]:
    for row in rows:
        if row["metric"] != "step_ms" or row["memory_format_or_method"] != "eager":
            continue
        model, task = NEUSIGHT.get(row["model"]) or (bench_gpt(bench.traces.folder, row["model"]), "lm")
        if model is None:
            continue
        shape = (int(row["input"].removeprefix("seq")),)
        request = Request(model, task, shape, row["task"] == "train", "fp32", optimizer="sgd")
        label = f"neusight {row['task']}"
        made = bench.run(
            row, float(row["value"]) / 1e3, request, row["model"], label=label, without=("_amp_", "_foreach")
        )
        if made:
            yield made


GPTS = {"gpt3_xl": (3072, 24, 24), "gpt3_27": (2560, 32, 32)}  # width, layers, heads, as NeuSight set them


def bench_gpt(folder: Path, name: str) -> str | None:
    if name not in GPTS:
        return None
    width, layers, heads = GPTS[name]
    target = folder / name
    target.mkdir(exist_ok=True)
    config = {"n_embd": width, "n_layer": layers, "n_head": heads, "n_positions": 2048, "vocab_size": 50257}
    (target / "config.json").write_text(json.dumps({"model_type": "gpt2", **config}))
    return f"hf:{target}"


# Kernels timed alone: so many of each card and kind, by lot.
LONE = 30


def neusight_kernels(rows: list[Row], bench: Bench) -> Iterator[Run]:
    for row in by_lot(rows, lambda row: (row["gpu"], row["model"])):
        sizes = {name: int(value) for name, value in (each.split("=") for each in row["input"].split())}
        b, m, n, k = (sizes[each] for each in "BMNK")
        kind = "bmm" if row["model"] == "bmm" else "gemm"
        moved = 4.0 * b * (m * k + k * n + m * n)
        cost = Cost("", kind, "float32", 2.0 * b * m * n * k, moved, dims=(m, n, k, b, 1, 1))
        seconds = float(row["note"].split("latency_ms=")[1].split(";")[0]) / 1e3
        yield lone(row, seconds, [cost])


def deepbench_kernels(rows: list[Row], bench: Bench) -> Iterator[Run]:
    wanted = [row for row in rows if row["metric"] == "step_ms" and row["precision"] in ("fp32", "fp16")]
    for row in by_lot(wanted, lambda row: (row["gpu"], row["precision"], row["model"], row["memory_format_or_method"])):
        sizes = dict(each.split("=") for each in row["input"].split())
        yield lone(row, float(row["value"]) / 1e3, list(_deepbench(sizes, row)))


def _deepbench(sizes: dict[str, str], row: Row) -> Iterator[Cost]:
    dtype, width = ("float32", 4.0) if row["precision"] == "fp32" else ("float16", 2.0)
    number = {name: int(value) for name, value in sizes.items() if value.isdigit()}
    if row["model"].startswith("rnn"):
        yield from _deepbench_layer(number, row, dtype, width)
        return
    if row["model"] == "gemm":
        m, n, k = number["M"], number["N"], number["K"]
        yield Cost("", "gemm", dtype, 2.0 * m * n * k, width * (m * n + k * n + m * k), dims=(m, n, k, 1, 1, 1))
        return
    high = (number["H"] + 2 * number["pad_h"] - number["R"]) // number["Vertical"] + 1
    wide = (number["W"] + 2 * number["pad_w"] - number["S"]) // number["Horizontal"] + 1
    area, channels, filters = number["R"] * number["S"], number["C"], number["K"]
    positions = number["N"] * high * wide
    moved = number["N"] * channels * number["H"] * number["W"] + positions * filters + filters * channels * area
    kind = "stem" if channels <= 4 else "conv" if area > 1 else "conv1x1"
    dims = (positions, filters, channels * area, 1, area, max(number["Vertical"], number["Horizontal"]))
    sides = ["", ".wgrad"] if kind == "stem" else ["", ".dgrad", ".wgrad"]
    for side in sides[:1] if row["memory_format_or_method"] == "cudnn fwd" else sides:
        flops = 2.0 * positions * filters * channels * area
        yield Cost("", kind + side, dtype, flops, width * moved, dims=dims, layout="nchw")


def _deepbench_layer(number: dict[str, int], row: Row, dtype: str, width: float) -> Iterator[Cost]:
    """One recurrent layer whose input is as wide as its state."""
    gates = {"rnn_vanilla": 1, "rnn_gru": 3, "rnn_lstm": 4}[row["model"]]
    hidden, batch, steps = number["hidden"], number["batch"], number["timesteps"]
    weights = gates * hidden * 2 * hidden
    moved = width * (steps * weights + 2 * steps * batch * hidden)
    dims = (batch, gates * hidden, hidden, 1, 1, 1)
    for kind, share in (("rnn", 1.0), ("rnn.backward", 2.0)):
        if share == 1.0 or "bwd" in row["memory_format_or_method"]:
            flops = share * 2.0 * steps * batch * weights
            yield Cost("", kind, dtype, flops, share * moved, dims=dims, launches=share * steps)


def by_lot(rows: list[Row], key: Callable[[Row], Any]) -> Iterator[Row]:
    groups = defaultdict(list)
    for row in rows:
        groups[key(row)].append(row)
    lot = random.Random(0)
    for name in sorted(groups):
        lot.shuffle(groups[name])
        yield from groups[name][:LONE]


def lone(row: Row, seconds: float, costs: list[Cost]) -> Run:
    version = release(row["framework_version"])
    setting = Setting(card_of(row["gpu"]), version)  # type: ignore[arg-type]
    counted = tuple((cost, 1) for cost in costs)
    kind = row["model"]
    return Run(seconds, setting, counted, kind, kind, row["source"], f"{kind} {row['precision']}", lone=True)


SOURCES: dict[str, Callable[[list[Row], Bench], Iterator[Run]]] = {
    "timm": timm_runs,
    "lambda": lambda_runs,
    "nvidia_dle": dle_runs,
    "u39kun": older_runs,
    "jcjohnson": older_runs,
    "neusight": neusight_runs,
    "neusight_ops": neusight_kernels,
    "deepbench": deepbench_kernels,
}


# --- baselines ------------------------------------------------------------------------------------------------------


def flops_over_peak(run: Run) -> float:
    return sum(count * _arithmetic(cost, run) for cost, count in run.costs)


def roofline(run: Run) -> float:
    bandwidth = run.setting.card.bandwidth
    return sum(count * max(_arithmetic(cost, run), cost.bytes / bandwidth) for cost, count in run.costs)


def _arithmetic(cost: Cost, run: Run) -> float:
    return cost.flops / run.setting.card.rates[path(cost.kind, cost.dtype, run.setting.make)[1]]


BASELINES = {"FLOPs over peak": flops_over_peak, "plain roofline": roofline}


def scaled(runs: list[Run], guess: Callable[[Run], float]) -> list[tuple[Run, float]]:
    """Errors of a baseline that was given one factor for each label, fitted on the judged rows themselves."""
    raw = [(run, math.log(max(guess(run), 1e-9) / run.seconds)) for run in runs]
    middles = defaultdict(list)
    for run, error in raw:
        middles[run.label].append(error)
    return [(run, error - statistics.median(middles[run.label])) for run, error in raw]


def system(run: Run) -> tuple[str, str, str]:
    """Rows of one card and software are one user's."""
    return run.source, run.setting.card.title, run.setting.torch


# What one would measure first, by the beginning of its name.
STANDARD = ("resnet50", "resnet-50", "bert_base", "resnet", "vit_", "deit", "bert", "vgg", "gpt")


def after_local(errors: list[tuple[Run, float]], count: int) -> list[tuple[Run, float]]:
    """Each error once `count` other models were run on that system: the most ordinary ones, of the largest batch."""
    found = []
    for rows in grouped(errors).values():
        standard = sorted((each for each in rows if ordinary(each[0])), key=lambda e: (ordinary(e[0]), -e[0].batch))
        first = {}
        for run, error in standard:
            first.setdefault((run.model, run.label), (run, error))
        chosen = list(first.values())[:count]
        if len(chosen) == count < len(rows):
            factor = math.log(shrunken([math.exp(-error) for _, error in chosen]))
            taken = {id(run) for run, _ in chosen}
            found += [(run, error + factor) for run, error in rows if id(run) not in taken]
    return found


def ordinary(run: Run) -> int:
    """The rank of a model in STANDARD, from 1; 0 for one that is not there."""
    return next((rank for rank, name in enumerate(STANDARD, 1) if run.model.startswith(name)), 0)


def grouped(errors: list[tuple[Run, float]]) -> dict[tuple[str, str, str], list[tuple[Run, float]]]:
    by_system = defaultdict(list)
    for run, error in errors:
        by_system[system(run)].append((run, error))
    return by_system


def doubt(errors: list[tuple[Run, float]], least: int = 4) -> float:
    """The variance of runs within a system over that of systems, both by medians, so that a few odd rows count
    little."""
    middles, inner = [], []
    for rows in grouped(errors).values():
        if len(rows) >= least:
            middle = statistics.median(error for _, error in rows)
            middles.append(middle)
            inner += [abs(error - middle) for _, error in rows]
    between = statistics.median(map(abs, middles))
    return statistics.median(inner) ** 2 / between**2


# --- reports --------------------------------------------------------------------------------------------------------


def report(title: str, errors: list[tuple[Run, float]], by: str = "") -> None:
    print(f"\n{title}", flush=True)
    groups: dict[str, list[float]] = defaultdict(list)
    for run, error in errors:
        groups[getattr(run, by) if by else "all"].append(math.exp(error) - 1)
    for name in sorted(groups):
        print(f"  {name:52} {summary(groups[name])}")


def summary(errors: Sequence[float]) -> str:
    sizes = sorted(map(abs, errors))
    within, bias = sum(each < 0.2 for each in sizes) / len(sizes), statistics.median(errors)
    return (
        f"n {len(sizes):4} MAPE {statistics.mean(sizes):6.1%} median {statistics.median(sizes):6.1%} "
        f"p90 {sizes[int(0.9 * (len(sizes) - 1))]:6.1%} bias {bias:+6.1%} within 20 % {within:4.0%}"
    )


def worst(errors: list[tuple[Run, float]], count: int = 10) -> None:
    by_label: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for run, error in errors:
        by_label[run.label][run.family].append(math.exp(error) - 1)
    for label, families in sorted(by_label.items()):
        means = sorted(((statistics.mean(each), name) for name, each in families.items()), key=lambda e: -abs(e[0]))
        print(f"  worst of {label}: {', '.join(f'{name} {mean:+.0%}' for mean, name in means[:count])}")


# --- the parameters -------------------------------------------------------------------------------------------------


def calibrated(runs: list[Run], kept_out: list[tuple[Run, float]], steps: int) -> dict[str, Any]:
    """All rows fitted, and the half-widths that hold 90 % of the rows kept out."""
    parameters = fit(weighed(runs), steps)
    known = timing.Calibration(parameters, {}, tuple(sorted({run.setting.make.architecture for run in runs})))
    marked = [(run, abs(error), doubts(run, known)) for run, error in kept_out]
    spreads = widths(marked)
    print("\nhalf-widths of the 90 % interval:", {name: round(each, 3) for name, each in spreads.items()})
    across_halves(marked)
    own = {name: value for name, value in parameters.items() if not name.startswith("cpu.")}
    hosts = [own.pop(name) for name in list(own) if name.startswith("host.")]
    own["host"] = statistics.median(hosts)
    about = {
        "date": str(date.today()),
        "torch of the traces": torch.__version__,
        "rows": len(runs),
        "sources": dict(Counter(run.source for run in runs)),
        "median error of rows kept out": round(statistics.median(abs(error) for _, error in kept_out), 3),
    }
    return {"about": about, "architectures": known.architectures, "spreads": spreads, "parameters": own}


Marked = list[tuple[Run, float, tuple[str, ...]]]  # a run kept out, its error without sign, its doubts


def widths(marked: Marked) -> dict[str, float]:
    """The half-width that holds 90 % of the runs of each doubt; "" are those without. A run with several counts for
    the one that is rarest."""
    common = Counter(each for _, _, found in marked for each in found)
    by_doubt: dict[str, list[float]] = defaultdict(list)
    for _, error, found in marked:
        by_doubt[min(found, key=lambda each: common[each], default="")].append(error)
    return {name: quantile(errors, 0.9) for name, errors in by_doubt.items() if len(errors) >= 10}


def across_halves(marked: Marked) -> None:
    """Coverage of the interval where its widths come from the other half of the families and cards."""
    keys = sorted({key_of(run) for run, _, _ in marked})
    random.Random(1).shuffle(keys)
    inside: dict[str, list[bool]] = defaultdict(list)
    for half in (set(keys[::2]), set(keys[1::2])):
        spreads = widths([each for each in marked if key_of(each[0]) not in half])
        for run, error, found in marked:
            if key_of(run) in half:
                held = error < max(spreads.get(each, 0.0) for each in ("", *found))
                for name in ("all", *(found or ("ordinary",))):
                    inside[name].append(held)
    print("coverage of the 90 % interval, widths from the other half of the families and cards:")
    for name, held in sorted(inside.items()):
        print(f"  {name:24} n {len(held):5} inside {statistics.mean(held):6.1%}")


def key_of(run: Run) -> str:
    return run.family if run.source == "timm" else run.setting.card.title


def doubts(run: Run, known: timing.Calibration) -> tuple[str, ...]:
    costs = tuple(cost for cost, count in run.costs for _ in range(count))
    return timing.doubts(Trace((), {}, costs, 1), run.setting, known)


def quantile(values: Iterable[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)))]


# Half-widths that no row kept out can tell: assumptions.
ASSUMED = {"recurrent": 0.6, "unseen_architecture": 0.45}


def write(made: dict[str, Any]) -> None:
    """Into facts/calibration.json; what this run did not fit stays."""
    target = Path(timing.__file__).parents[1] / "facts" / "calibration.json"
    old = json.loads(target.read_text()) if target.exists() else {"about": {}, "spreads": {}, "parameters": {}}
    cpu = all(name.startswith("cpu.") for name in made["parameters"])
    keep = {name: value for name, value in old["parameters"].items() if name.startswith("cpu.") != cpu}
    spreads = {name: value for name, value in old["spreads"].items() if (name == "cpu") != cpu} | made["spreads"]
    if not cpu:
        wider = {name: max(value, made["spreads"].get(name, 0.0)) for name, value in ASSUMED.items()}
        spreads = {"cpu": old["spreads"].get("cpu", 0.4)} | made["spreads"] | wider
    result = {
        "about": old["about"] | made["about"],
        "architectures": made.get("architectures", old.get("architectures", [])),
        "spreads": {name: round(value, 3) for name, value in sorted(spreads.items())},
        "parameters": {name: round(value, 4) for name, value in sorted((keep | made["parameters"]).items())},
    }
    target.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {target.name}: {len(result['parameters'])} parameters")


# --- this machine's CPU ---------------------------------------------------------------------------------------------

# Small and quick, of many kinds: name, picture size, batch.
CPU_MODELS = (
    ("resnet18", 96, 8),
    ("mobilenetv2_100", 96, 8),
    ("vit_tiny_patch16_224", 224, 2),
    ("convnext_atto", 128, 4),
    ("efficientnet_b0", 96, 8),
    ("regnetx_004", 128, 8),
    ("densenet121", 96, 4),
    ("mixer_s32_224", 224, 4),
    ("cnn", 32, 64),
    ("resnet50", 96, 4),
    ("ghostnet_100", 128, 8),
    ("mobilenetv3_small_100", 128, 8),
    ("poolformer_s12", 128, 4),
    ("vovnet39a", 96, 4),
    ("resnext50_32x4d", 96, 4),
    ("deit_tiny_patch16_224", 224, 2),
)
CPU_SECONDS = 3.0  # for each figure; the fastest repetition counts
# A kernel by itself finds its data in the cache, in a step it does not: lone ones only guide where steps say little.
LONE_WEIGHT, LONE_DEPTHWISE_WEIGHT = 0.02, 0.3


def judge_cpu(calibrate: bool) -> None:
    """Steps on one thread, in its own CPU seconds, so that what else runs matters little."""
    torch.set_num_threads(1)
    card = cpu_card()
    print(f"matrix product {card.rates['fp32'] / 1e9:.0f} GFLOP/s, copy {card.bandwidth / 1e9:.1f} GB/s, one thread")
    runs = [*cpu_kernels(card), *cpu_steps(card)]
    steps = [run for run in runs if not run.lone]
    errors = []
    for name in sorted({run.model for run in steps}):
        own = [run for run in steps if run.model == name]
        parameters = fit([run for run in runs if run.model != name], steps=150)
        for run, guess in zip(own, predicted(own, parameters), strict=True):
            errors.append((run, math.log(guess / run.seconds)))
            print(f"  {name:24} {run.label:6} {run.seconds * 1e3:7.1f} ms, predicted {guess * 1e3:7.1f}", flush=True)
    report("models kept out, this CPU", errors, by="label")
    if calibrate:
        fitted = {name: value for name, value in fit(runs, steps=300).items() if name.startswith("cpu.")}
        isa = torch.backends.cpu.get_cpu_capability()
        about = {"CPU": f"{platform.machine()} with {isa}, one thread, torch {torch.__version__}, {date.today()}"}
        spread = quantile([abs(error) for _, error in errors], 0.9)
        write({"about": about, "spreads": {"cpu": spread}, "parameters": fitted})


def cpu_card() -> Card:
    from fromzero.machine.detect import cpu_name

    matrix, source = torch.ones(1024, 1024), torch.ones(16 << 20)
    product, target = torch.empty_like(matrix), torch.zeros_like(source)
    rate = 2 * 1024**3 / fastest(lambda: torch.mm(matrix, matrix, out=product))
    bandwidth = 2 * (64 << 20) / fastest(lambda: target.copy_(source))
    return Card(name=cpu_name(), series="cpu", form="cpu", bandwidth=bandwidth, rates={"fp32": rate}, sms=1)


def cpu_steps(card: Card) -> Iterator[Run]:
    for name, size, batch in CPU_MODELS:
        for purpose in ("train", "infer"):
            workload = Workload(task="image", model=name, input_shape=(3, size, size), classes=10, purpose=purpose)
            recipe = Recipe(lr=1e-3)
            seen = trace(step_of(workload, recipe, batch), batch=batch, capability=None, steps=2)
            seconds = fastest(cpu_step(workload, recipe, batch))
            costs = tuple(Counter(dataclasses.replace(each, phase="") for each in seen.costs).items())
            yield Run(seconds, Setting(card), costs, name, family_of_any(name), "cpu", purpose, batch)


def family_of_any(name: str) -> str:
    return name if name == "cnn" else family_of(name)


def cpu_step(workload: Workload, recipe: Recipe, batch: int) -> Callable[[], object]:
    """The very step that training runs, on random numbers."""
    from accelerate import Accelerator

    from fromzero.models.build import build
    from fromzero.step import inference_step, make_optimizer, training_step
    from fromzero.tasks import image

    engine = Accelerator(cpu=True)
    model = build(workload.model, workload.classes, *workload.input_shape[:2])
    batches = [image.example(workload, batch, "cpu")]
    if workload.purpose == "infer":
        model.eval()
        return lambda: inference_step(engine, model, batches[0][0])
    model.train()
    optimizer, loss = make_optimizer(model, recipe), image.loss_for(recipe)
    return lambda: training_step(engine, model, loss, optimizer, batches, recipe)


def cpu_kernels(card: Card) -> Iterator[Run]:
    """Convolutions forward and backward by themselves: (channels in, out, side, stride, groups, picture, batch)."""
    from fromzero.planner.operators import costs

    aten = torch.ops.aten
    shapes = (
        (3, 32, 3, 2, 1, 112, 8), (3, 64, 7, 2, 1, 112, 8), (64, 64, 3, 1, 1, 28, 16), (128, 128, 3, 1, 1, 14, 16),
        (256, 256, 3, 1, 1, 7, 16), (64, 128, 3, 2, 1, 28, 16), (64, 64, 1, 1, 1, 28, 16), (256, 64, 1, 1, 1, 28, 16),
        (64, 256, 1, 1, 1, 28, 16), (512, 128, 1, 1, 1, 14, 16), (96, 96, 3, 1, 96, 28, 16),
        (144, 144, 3, 2, 144, 28, 16),
        (240, 240, 5, 1, 240, 14, 16), (96, 96, 7, 1, 96, 28, 8), (384, 384, 3, 1, 384, 14, 16),
        (128, 128, 3, 1, 8, 28, 16), (256, 256, 3, 1, 32, 14, 16),
    )  # fmt: skip
    for channels, filters, side, stride, groups, size, batch in shapes:
        for layout in (torch.contiguous_format, torch.channels_last):
            x = torch.randn(batch, channels, size, size).contiguous(memory_format=layout)
            weight = torch.randn(filters, channels // groups, side, side).contiguous(memory_format=layout)
            words = ([stride] * 2, [side // 2] * 2, [1, 1], False, [0, 0], groups)
            forward = (aten.convolution.default, (x, weight, None, *words))
            grad = torch.randn_like(forward[0](*forward[1]))
            backward = aten.convolution_backward.default
            data, weights = ((grad, x, weight, None, *words, [first, not first, False]) for first in (True, False))
            for operator, args in (forward, *([(backward, data)] if channels > 3 else []), (backward, weights)):
                [cost] = costs(operator, args, {}, operator(*args))
                seconds = fastest(lambda operator=operator, args=args: operator(*args), CPU_SECONDS / 10)
                weight_of = LONE_DEPTHWISE_WEIGHT if groups == channels else LONE_WEIGHT
                counted = ((cost, 1),)
                yield Run(
                    seconds, Setting(card), counted, cost.kind, cost.kind, "cpu", "kernel", lone=True, weight=weight_of
                )


def fastest(run: Callable[[], object], seconds: float = CPU_SECONDS) -> float:
    """CPU seconds of the fastest repetition."""
    run()
    best, end = math.inf, time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.process_time()
        run()
        best = min(best, time.process_time() - start)
    return best


if __name__ == "__main__":
    main()
