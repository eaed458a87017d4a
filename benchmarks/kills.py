"""Runs that are killed at random moments and resumed, compared with the same runs undisturbed.

    python benchmarks/kills.py [--kills 50] [--seed 0] [--threads 1] [--only NAME ...] [--keep FOLDER]

Each case trains a small model on data made up here. A process of its own trains, gets SIGKILL at a moment drawn from
the time between the appearance of its folder and the end of an undisturbed run, and is resumed by another process,
which one time in three is killed as well. What is compared in the end: the bytes of every checkpoint's weights and of
the optimizer's state, metrics.csv, steps.csv, and all points that TensorBoard's own reader finds, each of which must be
there once.

Processes are forked from one that has imported the packages but done nothing, so that fifty kills take minutes. A
checkpoint is due after a tenth of a second instead of a minute, or else such runs would have none within an epoch.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fromzero import language

SAVE_SECONDS = 0.1
WARM = "fromzero.training torch.utils.tensorboard pyarrow.compute scipy.linalg tokenizers torchmetrics".split()
AGAIN = 1 / 3  # of the resumed runs that are killed too


def pictures(root: Path) -> Path:
    from PIL import Image

    rng = np.random.default_rng(0)
    for label, tint in enumerate(((200, 60, 60), (60, 200, 60), (60, 60, 200))):
        folder = root / "pictures" / f"class-{label}"
        folder.mkdir(parents=True)
        for number in range(60):
            noise = rng.normal(0, 60, (20, 20, 3))
            Image.fromarray(np.clip(tint + noise, 0, 255).astype(np.uint8)).save(folder / f"{number}.png")
    return root / "pictures"


def reviews(root: Path) -> Path:
    rng = np.random.default_rng(0)
    words = [f"{a}{b}" for a in "酒店房间服务早餐位置" for b in "大小新旧远近"]
    lines = ["text,label"]
    for n in range(240):
        some = [*rng.choice(words, 3 + n % 9), ("喜欢", "讨厌")[n % 2]]
        lines.append(f"{' '.join(rng.permutation(some))},{('good', 'bad')[n % 2]}")
    (root / "reviews.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root / "reviews.csv"


def novel(root: Path) -> Path:
    rng = np.random.default_rng(0)
    syllables = [f"{a}{b}" for a in "bdfgklmn" for b in "aeiou"]
    paragraphs = []
    for _ in range(200):
        said = [int(rng.integers(40))]
        while len(said) < 30:
            said.append((3 * said[-1] + 1 + int(rng.integers(2))) % 40)
        paragraphs.append(" ".join(syllables[each] for each in said))
    (root / "novel.txt").write_text("\n\n".join(paragraphs), encoding="utf-8")
    return root / "novel.txt"


def patients(root: Path) -> Path:
    rng = np.random.default_rng(0)
    lines = ["pulse,pressure,ward,smokes,label"]
    for _ in range(300):
        pulse, pressure = int(rng.integers(50, 110)), int(rng.integers(90, 180))
        ill = pulse + pressure / 2 + rng.normal(0, 15) > 150
        smokes = ("yes", "no", "")[rng.integers(3)]
        lines.append(f"{pulse},{pressure},{'abc'[rng.integers(3)]},{smokes},{('well', 'ill')[ill]}")
    (root / "patients.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root / "patients.csv"


@dataclass(frozen=True)
class Case:
    data: Callable[[Path], Path]
    words: dict[str, Any] = field(default_factory=dict)


CASES = {
    "image: cnn": Case(pictures, {"model": "cnn", "imgsz": 16, "batch": 8, "epochs": 3}),
    "image: cnn, varied, mixed, SGD": Case(
        pictures,
        {"model": "cnn", "imgsz": 16, "batch": 8, "epochs": 3, "augmentation": "crop-flip", "mix": "cutmix",
         "optimizer": "sgd-momentum"},
    ),
    "image: EMA, gradual, plateau": Case(
        pictures,
        {"model": "cnn", "imgsz": 16, "batch": 8, "epochs": 4, "ema": 0.98, "freeze": "gradual", "schedule": "plateau",
         "accumulate": 2, "sampling": "balanced"},
    ),
    "text: rnn": Case(reviews, {"model": "rnn", "batch": 8, "epochs": 4, "dropout": 0.2}),
    "text: transformer": Case(reviews, {"model": "transformer", "batch": 8, "epochs": 3, "dropout": 0.1}),
    "lm: gpt": Case(novel, {"model": "gpt", "batch": 8, "epochs": 2, "seq": 32}),
    "table: mlp": Case(patients, {"model": "mlp", "batch": 8, "epochs": 4, "dropout": 0.2}),
    "table: ft-transformer, Adafactor": Case(
        patients, {"model": "ft-transformer", "batch": 16, "epochs": 3, "optimizer": "adafactor", "l1": 1e-4}
    ),
}  # fmt: skip


def started(log: Path, **words: Any) -> int:
    """The id of a process that trains, or resumes."""
    sys.stdout.flush()
    if number := os.fork():
        return number
    status = 1
    try:
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(out, 1)
        os.dup2(out, 2)
        from fromzero import starting, training
        from fromzero.terminal import Terminal

        training.SAVE_SECONDS = SAVE_SECONDS
        if "resume" in words:
            training.resume(words["resume"], Terminal())
        else:
            starting.train(device="cpu", seed=3, console=Terminal(), **words)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def ended(process: int) -> int:
    """How it ended: its exit status, or minus the signal."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def appears(path: Path, process: int) -> bool:
    """Waits for a file; False if the process ended without making it."""
    while not path.exists():
        if os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return False
        time.sleep(0.001)
    return True


def trace(run: Path) -> dict[str, Any]:
    """All of a run that must not depend on whether it was killed."""
    found: dict[str, Any] = {}
    for file in sorted(run.glob("checkpoints/*/*.safetensors")):
        found[f"weights {file.parent.name}/{file.name}"] = hashlib.sha256(file.read_bytes()).hexdigest()
    for name in ("metrics.csv", "steps.csv"):
        found[name] = (run / name).read_bytes()
    found["TensorBoard"] = points(run / "tensorboard")
    return found


def points(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard's reader finds of losses and measures, in its order; of speeds only the steps."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    tags = [each for each in sorted(events.Tags()["scalars"]) if not each.startswith("machine/")]
    keep = {tag: not tag.startswith("speed/") for tag in tags}
    return {tag: [(e.step, e.value if keep[tag] else 0.0) for e in events.Scalars(tag)] for tag in tags}


def stands(run: Path) -> str:
    """Where a run was killed."""
    record = run / "run.json"
    if not record.exists():
        return "before the run"
    if json.loads(record.read_text())["status"] == "finished":
        return "finished"
    state = run / "checkpoints" / "last" / "state.json"
    if not state.exists():
        return "before a checkpoint" if not (run / "checkpoints" / "last.old").exists() else "in a swap"
    return "in an epoch" if json.loads(state.read_text())["loss_sum"] else "at an epoch's end"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--keep", type=Path, help="a folder for the runs; else they are removed")
    options = parser.parse_args(argv)
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    os.environ["FROMZERO_STATE"] = os.path.join(os.devnull, "state")  # what this machine learnt is not to change
    os.environ["FROMZERO_LANG"] = "en"
    for each in WARM:
        importlib.import_module(each)
    language.catalogue()
    with tempfile.TemporaryDirectory() as scratch:
        return table(options, options.keep or Path(scratch))


def table(options: argparse.Namespace, folder: Path) -> int:
    rng = random.Random(options.seed)
    left = dict(Counter(options.only[n % len(options.only)] for n in range(options.kills)))
    print(f"{options.kills} kills, seed {options.seed}, {options.threads} thread(s)\n")
    print("| case | kills | runs | where | weights | metrics.csv, steps.csv | TensorBoard |")
    print("|---" * 7 + "|")
    wrong = 0
    for number, name in enumerate(options.only):
        place = folder / str(number)
        place.mkdir(parents=True)
        wrong += row(name, left.get(name, 0), place, rng)
    return 1 if wrong else 0


def row(name: str, kills: int, place: Path, rng: random.Random) -> int:
    """Kill runs of a case until it was done `kills` times; one line of the table. How many of them differ."""
    case = CASES[name]
    data, log = case.data(place), place / "log"

    def begin(run: Path) -> int:
        return started(log, data=data, output=run, **case.words)

    assert ended(begin(place / "first")) == 0, log.read_text()  # makes what is kept beside the data
    whole = place / "whole"
    process = begin(whole)
    assert appears(whole, process), log.read_text()
    began = time.monotonic()
    assert ended(process) == 0, log.read_text()
    lasts, wanted = time.monotonic() - began, trace(whole)
    where: Counter[str] = Counter()
    runs, same = 0, Counter[str]()
    while kills:
        run = place / f"run-{runs}"
        runs += 1
        process = begin(run)
        assert appears(run, process), log.read_text()
        while kills:
            time.sleep(rng.random() * lasts)
            os.kill(process, signal.SIGKILL)
            status = ended(process)
            if status == -signal.SIGKILL:
                kills -= 1
                where[stands(run)] += 1
            elif status:
                raise SystemExit(log.read_text())
            again = rng.random() < AGAIN
            process = started(log, resume=run)
            if not again:
                break
        if ended(process):
            raise SystemExit(log.read_text())
        found = trace(run)
        for each in wanted:
            same[each] += found.get(each) == wanted[each]
        same["all"] += found == wanted
    kinds = {
        "weights": [each for each in wanted if each.startswith("weights")],
        "files": ["metrics.csv", "steps.csv"],
        "TensorBoard": ["TensorBoard"],
    }
    cells = [f"{min(same[each] for each in names)} of {runs} equal" for names in kinds.values()]
    places = ", ".join(f"{count} {what}" for what, count in where.most_common())
    print(f"| {name} | {sum(where.values())} | {runs} | {places} | {' | '.join(cells)} |", flush=True)
    return runs - same["all"]


if __name__ == "__main__":
    sys.exit(main())
