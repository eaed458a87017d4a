"""Every task and family of models in every format that installs here: does the artifact answer as the model does?

    python benchmarks/export.py [--formats onnx,torch-export] [--models cnn,...] [--write docs/export.md]

Each model is small and freshly made; what would be trivially zero or one - the scale and shift of norms, biases - is
drawn at random, so that every branch counts. It is written as a run on generated data of real files, and exported as
any run is: parity is what `fromzero export` itself measures. The rows are added to the table of the document between
its marks; a row that is there is replaced.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import os
import platform
import random
import re
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

MODELS = {
    "cnn": "image",
    "resnet18": "image",
    "mobilenetv3_small_050": "image",
    "tf_efficientnet_lite0": "image",
    "convnext_atto": "image",
    "regnetx_002": "image",
    "densenet121": "image",
    "vit_tiny_patch16_224": "image",
    "swin_tiny_patch4_window7_224": "image",
    "transformer": "text",
    "rnn": "text",
    "rnn-gru": "text",
    "rnn-wide": "text",
    "hf:bert": "text",
    "mlp": "table",
    "ft-transformer": "table",
    "table-gru": "table",
    "table-rnn": "table",
    "gpt": "lm",
}
SIZES = {"vit_tiny_patch16_224": 64, "swin_tiny_patch4_window7_224": 56}  # pixels; 32 for the others
LENGTH = 16  # tokens
SUFFIXES = {"image": "", "text": ".csv", "table": ".csv", "lm": ".txt"}
BERT = """{"model_type": "bert", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
"intermediate_size": 64, "vocab_size": 500, "max_position_embeddings": 64, "pad_token_id": 0}"""
FORMATS = ("onnx", "torch-export", "tflite")
BEGIN, END = "<!-- matrix: benchmarks/export.py -->", "<!-- end of matrix -->"


@dataclass(frozen=True)
class Row:
    task: str
    model: str
    format: str
    samples: int
    agreement: float
    probability: float
    logit: float
    seconds: float
    refused: str = ""


def data_for(model: str, folder: Path) -> Path:
    """A small data set of real files, made by the first model that needs it."""
    import numpy as np
    from PIL import Image

    task, sequences = MODELS[model], model == "table-rnn"
    path = folder / ("data-sequences" if sequences else f"data-{task}")
    rng, words = np.random.default_rng(7), random.Random(7)
    if path.with_suffix(SUFFIXES[task]).exists():
        return path.with_suffix(SUFFIXES[task])
    if task == "image":
        for label, tint in (("红", (200, 60, 60)), ("green", (60, 200, 60)), ("blue", (60, 60, 200))):
            (path / label).mkdir(parents=True)
            for number in range(40):
                array = np.clip(np.array(tint) + rng.normal(0, 60, (70 + number % 5, 80, 3)), 0, 255)
                suffix = "png" if number % 2 else "jpg"
                Image.fromarray(array.astype(np.uint8)).save(path / label / f"{number}.{suffix}")
        return path
    path = path.with_suffix(SUFFIXES[task])
    said = {"pos": ["good", "great", "fine", "好看"], "neg": ["bad", "awful", "poor", "难看"]}
    between = ["the", "film", "was", "a", "plot", "actor", "and", "很", "not"]

    def sentence(label: str) -> str:
        return " ".join(words.choice(said[label] + between) for _ in range(words.randint(3, 20)))

    if task == "lm":
        path.write_text("\n\n".join(sentence(words.choice(["pos", "neg"])) for _ in range(600)), encoding="utf-8")
        return path
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        if task == "text":
            rows.writerow(["text", "label"])
            rows.writerows([sentence(label), label] for _ in range(150) for label in said)
        else:
            rows.writerow(
                [*(["group", "time"] if sequences else ["customer", "day"]), "age", "income", "city", "class"]
            )
            for number in range(400):
                age, city = words.randint(18, 80), words.choice(["rome", "paris", "北京", "上海"])
                income = "" if words.random() < 0.1 else f"{words.gauss(3, 1):.3f}"
                label = "yes" if age + 10 * (city == "rome") + words.gauss(0, 9) > 50 else "no"
                day = f"2025-{1 + number // 28 % 12:02d}-{1 + number % 28:02d}"
                rows.writerow([f"c{number % 40}", day, age, income, city, label])
    return path


def randomised(module: Any, seed: int = 0) -> Any:
    """What starts at exactly zero or one, or in a state that hides a branch, is drawn: norms, biases, running
    statistics, layer scales."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, each in [*module.named_parameters(), *module.named_buffers()]:
            if not each.is_floating_point() or each.numel() < 2:
                continue
            if name.endswith("running_var"):
                each.uniform_(0.5, 1.5, generator=generator)
            elif each.dim() <= 1 or "gamma" in name or "layer_scale" in name:
                scale = name.endswith(("weight", "gamma")) or "layer_scale" in name
                noise = torch.randn(each.shape, generator=generator) * 0.2
                each.copy_(noise + 1 if scale else noise)
    return module


def run_of(model: str, task: str, data: Path, folder: Path) -> Path:
    """A run folder as `train` leaves it, with weights drawn at random in place of trained ones."""
    from fromzero import checkpoint, runs, tasks
    from fromzero.data.manifest import digest
    from fromzero.models.fresh import fresh
    from fromzero.planning import plan
    from fromzero.preparing import prepare
    from fromzero.training import State

    name = model
    if model == "hf:bert":
        (folder / "config.json").write_text(BERT, encoding="utf-8")
        name = f"hf:{folder / 'config.json'}"
    path = folder / re.sub(r"\W", "-", model)
    manifest, work = prepare(data), tasks.trained(task)
    how = work.preprocessing(manifest, name, {"imgsz": SIZES.get(model, 32), "seq": words_of(task, model)}, None)
    words = {"batch": 8, "classes": max(1, len(manifest.classes)), "samples": 100, **work.shape(how)}
    planned = plan(name, card="cpu", **words)
    run = runs.create(
        path, model, planned, how, data=str(data.resolve()), data_digest=digest(manifest), classes=manifest.classes
    )
    module = randomised(fresh(planned.workload, planned.recipe))
    checkpoint.save(run.best, {"model": module.state_dict(), "optimizer": {}}, dataclasses.asdict(State()))
    return path


def words_of(task: str, model: str) -> int | None:
    """How long a text or a sequence of rows is."""
    if model == "table-rnn":
        return 4
    return LENGTH if task in ("text", "lm") else None


def measured(model: str, formats: list[str], data: Path, folder: Path) -> Iterator[Row]:
    from fromzero.errors import FromzeroError, MissingPackage
    from fromzero.exporting import export, writer_of

    task = MODELS[model]
    path = run_of(model, task, data, folder)
    for format in formats:
        if task not in writer_of(format).TASKS:
            continue
        began = time.perf_counter()
        try:
            found = export(path, format).parity
        except MissingPackage:
            raise
        except FromzeroError as error:
            yield Row(
                task, model, format, 0, 0, 0, 0, time.perf_counter() - began, f"{error.code}: {error.cause}"[:200]
            )
            continue
        seconds = time.perf_counter() - began
        yield Row(
            task,
            model,
            format,
            found.samples,
            found.agreement,
            found.max_difference,
            found.max_logit_difference,
            seconds,
        )


def line(row: Row) -> str:
    if row.refused:
        return f"| {row.task} | {row.model} | {row.format} | | refused | {row.refused} | | {row.seconds:.0f} |"
    return (
        f"| {row.task} | {row.model} | {row.format} | {row.samples} | {row.agreement:.2%} | {row.probability:.1e} |"
        f" {row.logit:.1e} | {row.seconds:.0f} |"
    )


HEAD = (
    "| task | model | format | samples | same class | max. difference of a probability | of a logit | seconds |\n"
    "|---|---|---|---|---|---|---|---|"
)


def conditions() -> str:
    packages = ("torch", "onnx", "onnxruntime", "timm", "transformers", "litert-torch", "ai-edge-litert")
    found = []
    for each in packages:
        try:
            found.append(f"{each} {version(each)}")
        except PackageNotFoundError:
            continue
    processor = next(
        (text.partition(":")[2].strip() for text in _cpuinfo() if text.startswith("model name")), platform.machine()
    )
    return (
        f"{date.today()}, {processor}, {os.cpu_count()} cores, Python {platform.python_version()}, {', '.join(found)}."
    )


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


def write(document: Path, rows: list[Row]) -> None:
    """The rows into the table of the document; those of other models and formats stay."""
    text = document.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    old, _, after = rest.partition(END)
    kept = {tuple(each.split(" | ")[:3]): each for each in old.splitlines() if each.startswith("| ")}
    kept.pop(tuple(HEAD.split("\n")[0].split(" | ")[:3]), None)
    kept |= {tuple(line(row).split(" | ")[:3]): line(row) for row in rows}
    order = list(MODELS)

    def place(key: tuple[str, ...]) -> tuple[int, int]:
        return order.index(key[1]), FORMATS.index(key[2])

    table = "\n".join([HEAD, *(kept[key] for key in sorted(kept, key=place))])
    notes = [each for each in old.splitlines() if re.match(r"\d{4}-", each)]
    notes = list(dict.fromkeys([*notes, conditions()]))
    document.write_text(f"{before}{BEGIN}\n{table}\n\n" + "\n\n".join(notes) + f"\n{END}{after}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--formats", default="onnx,torch-export", help=", ".join(FORMATS))
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--write", type=Path, help="the document whose table is filled in")
    options = parser.parse_args()
    print(conditions(), HEAD, sep="\n", flush=True)
    with tempfile.TemporaryDirectory() as place:
        for model in options.models.split(","):
            folder = Path(place) / re.sub(r"\W", "-", model)
            folder.mkdir()
            for row in measured(model, options.formats.split(","), data_for(model, Path(place)), folder):
                print(line(row), flush=True)
                if options.write:
                    write(options.write, [row])


if __name__ == "__main__":
    main()
