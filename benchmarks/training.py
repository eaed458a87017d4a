"""How fast `fromzero train` is beside a bare PyTorch loop and beside others' trainers, all run here and now.

    python benchmarks/training.py [optimizer] [loop] [share] [epoch] [accuracy]      (without a word, all of them)

optimizer a step of AdamW alone over ResNet-18's weights: the ways PyTorch has to make it
loop      what a trainer adds to a step of a bare loop, CPU ms: a tiny network, so that it shows
share     the speed of ResNet-18 at 128 pixels, as a share of the bare loop's
epoch     ResNet-18 at 128 pixels on photographs: CPU time of an epoch from the files on, steps a second
accuracy  ResNet-18 on Fashion-MNIST from the same first weights: CPU time until the same accuracy

Times are CPU seconds of a process and its children: other work on the machine disturbs them less than the clock on the
wall. Every run is a process of its own, rounds are interleaved, a cell is min / median / max. In `loop` and `share` a
trainer and a bare loop take turns, step by step, on equal batches. Rivals are run if they
can be imported: `pip install timm lightning transformers accelerate ultralytics`. "timm" is the loop of timm's training
script put together from timm's own parts, for its package comes without the script. The data are fetched as
`fromzero data get` does; --stamps and --fashion name copies.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import importlib.util
import itertools
import json
import math
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import torch
from torch.nn import functional

from fromzero.models.build import build
from fromzero.terminal import Console

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LEAST_SHARE, MOST_OVERHEAD = 0.98, 0.6e-3  # of the bare loop's speed, CPU seconds a step: what the project asks for
WEIGHT_DECAY, CLIP, WARMUP = 0.05, 1.0, 0.1
TINY = """
def tiny(classes, channels, size):
    from torch import nn

    layers = nn.Conv2d(channels, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(8, classes))
"""


@dataclass(frozen=True)
class Job:
    """What every trainer is given. `data` has train/CLASS and val/CLASS; `weights` are a state_dict."""

    data: str
    classes: int
    model: str
    size: int
    batch: int
    epochs: int
    lr: float
    seed: int
    threads: int
    weights: str
    scratch: str
    more: tuple[tuple[str, Any], ...] = ()  # words of fromzero's recipe

    @functools.cached_property
    def steps(self) -> int:
        return len(list(Path(self.data, "train").glob("*/*"))) // self.batch

    def network(self) -> torch.nn.Module:
        torch.manual_seed(self.seed)
        model = build(self.model, self.classes, 3, self.size)
        model.load_state_dict(torch.load(self.weights))
        return model

    def rate(self, step: int) -> float:
        """A linear warm-up, then a cosine to zero."""
        total = self.steps * self.epochs
        warmup = max(1, round(WARMUP * total))
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


class Clock:
    """Marks of a run: CPU and wall seconds since the process started, when an epoch starts, has learnt, is measured."""

    def __init__(self) -> None:
        self.epochs: list[dict[str, Any]] = []

    @staticmethod
    def now() -> tuple[float, float]:
        own = psutil.Process()
        times = [own.cpu_times()]
        for child in own.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                times.append(child.cpu_times())
        cpu = time.process_time() + sum(each.user + each.system for each in times[1:])
        return cpu + times[0].children_user + times[0].children_system, time.time() - own.create_time()

    def start(self) -> None:
        self.epochs.append({"start": self.now()})

    def trained(self) -> None:
        self.epochs[-1]["trained"] = self.now()

    def measured(self, accuracy: float) -> None:
        self.epochs[-1] |= {"measured": self.now(), "accuracy": accuracy}


# --- the trainers ----------------------------------------------------------------------------------------------------


def transforms(job: Job) -> tuple[Any, Any]:
    """What fromzero calls crop-flip, and what it shows the network of a picture that is not varied."""
    from torchvision import transforms as t

    end = [t.ToTensor(), t.Normalize(MEAN, STD)]
    crop = t.RandomResizedCrop(job.size, scale=(0.35, 1.0))
    return t.Compose([crop, t.RandomHorizontalFlip(), *end]), t.Compose(
        [t.Resize(job.size), t.CenterCrop(job.size), *end]
    )


def folders(job: Job) -> tuple[Any, Any]:
    from torchvision.datasets import ImageFolder

    return tuple(  # type: ignore[return-value]
        ImageFolder(str(Path(job.data, part)), each)
        for part, each in zip(("train", "val"), transforms(job), strict=True)
    )


def loaders(job: Job) -> tuple[Any, Any]:
    """In the loop's own process: on the whole that costs the least CPU time."""
    train, val = folders(job)
    loader = torch.utils.data.DataLoader
    return loader(train, job.batch, shuffle=True, drop_last=True), loader(val, 2 * job.batch)


def accuracy_of(model: torch.nn.Module, batches: Any) -> float:
    model.eval()
    right = total = 0
    with torch.no_grad():
        for inputs, targets in batches:
            right += int((model(inputs).argmax(1) == targets).sum())
            total += len(targets)
    model.train()
    return right / total


def bare_step(model: Any, optimizer: Any, inputs: Any, targets: Any, rate: float) -> torch.Tensor:
    for group in optimizer.param_groups:
        group["lr"] = rate
    loss = functional.cross_entropy(model(inputs), targets)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
    optimizer.step()
    optimizer.zero_grad()
    return loss.detach()


def adamw(model: torch.nn.Module, job: Job) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), job.lr, weight_decay=WEIGHT_DECAY)


def bare(job: Job, clock: Clock, feed: Any = None) -> None:
    model = job.network()
    optimizer = adamw(model, job)
    train, val = feed or loaders(job)
    step = 0
    for _ in range(job.epochs):
        clock.start()
        model.train()
        total = torch.zeros(())
        for inputs, targets in train:
            total += bare_step(model, optimizer, inputs, targets, job.lr * job.rate(step))
            step += 1
        clock.trained()
        clock.measured(accuracy_of(model, val) if val else math.nan)


def fromzero(job: Job, clock: Clock, feed: Any = None, console: Console | None = None) -> None:
    from fromzero.starting import train

    words = {
        "optimizer": "adamw", "schedule": "cosine", "warmup": WARMUP, "clip": CLIP, "weight_decay": WEIGHT_DECAY,
        "patience": job.epochs, "augmentation": "crop-flip", **dict(job.more),
    }  # fmt: skip
    run = train(
        job.data, model=job.model, imgsz=job.size, batch=job.batch, epochs=job.epochs, lr=job.lr, seed=job.seed,
        device="cpu", output=Path(job.scratch, "run"), console=console or Watching(clock, job.steps), **words,
    )  # fmt: skip
    rows = run.metrics.read_text().split()
    column = rows[0].split(",").index("val_accuracy")
    for epoch, row in zip(clock.epochs, rows[1:], strict=console is None):
        epoch["accuracy"] = float(row.split(",")[column])


class Watching(Console):
    """Learns from what fromzero says where it is: a bar of as many steps as an epoch has is an epoch."""

    def __init__(self, clock: Clock, steps: int) -> None:
        self.clock, self.steps = clock, steps

    @contextlib.contextmanager
    def progress(self, title: str, total: int) -> Iterator[Callable[..., None]]:
        if total != self.steps:
            yield lambda steps=1, text="": None
            return
        self.clock.start()
        yield lambda steps=1, text="": None
        self.clock.trained()

    def line(self, text: str) -> None:
        if self.clock.epochs and "trained" in self.clock.epochs[-1]:
            self.clock.epochs[-1].setdefault("measured", self.clock.now())


def lightning(job: Job, clock: Clock, feed: Any = None) -> None:
    import lightning as pl

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = job.network()

        def training_step(self, batch: Any, number: int) -> Any:
            return functional.cross_entropy(self.model(batch[0]), batch[1])

        def validation_step(self, batch: Any, number: int) -> None:
            right = (self.model(batch[0]).argmax(1) == batch[1]).float().mean()
            self.log("accuracy", right, batch_size=len(batch[1]))

        def configure_optimizers(self) -> Any:
            optimizer = adamw(self.model, job)
            rates = torch.optim.lr_scheduler.LambdaLR(optimizer, job.rate)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": rates, "interval": "step"}}

        def on_train_epoch_start(self) -> None:
            clock.start()

        def on_validation_start(self) -> None:
            clock.trained()

        def on_train_epoch_end(self) -> None:  # with a validation set, it comes after the validation
            if "trained" not in clock.epochs[-1]:
                clock.trained()
            clock.measured(float(self.trainer.callback_metrics.get("accuracy", math.nan)))

    train, val = feed or loaders(job)
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=job.epochs, gradient_clip_val=CLIP, logger=False, num_sanity_val_steps=0,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=feed is None,
        default_root_dir=job.scratch,
    )  # fmt: skip
    trainer.fit(Module(), train, val)


def hf_trainer(job: Job, clock: Clock, feed: Any = None) -> None:
    import transformers

    class Wrapped(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = job.network()

        def forward(self, pixels: Any, labels: Any) -> dict[str, Any]:
            logits = self.model(pixels)
            return {"loss": functional.cross_entropy(logits, labels), "logits": logits}

    class Marks(transformers.TrainerCallback):
        def on_epoch_begin(self, *_: Any, **__: Any) -> None:
            clock.start()

        def on_epoch_end(self, *_: Any, **__: Any) -> None:
            clock.trained()
            if feed:
                clock.measured(math.nan)

        def on_evaluate(self, *_: Any, metrics: dict[str, float], **__: Any) -> None:
            clock.measured(metrics["eval_accuracy"])

    class Fed(transformers.Trainer):
        def get_train_dataloader(self) -> Any:
            return Named(feed[0]) if feed else super().get_train_dataloader()

    def collate(samples: list[Any]) -> dict[str, Any]:
        return {
            "pixels": torch.stack([each[0] for each in samples]),
            "labels": torch.tensor([each[1] for each in samples]),
        }

    train, val = folders(job)
    when = "no" if feed else "epoch"
    settings = transformers.TrainingArguments(
        output_dir=job.scratch, per_device_train_batch_size=job.batch, per_device_eval_batch_size=2 * job.batch,
        num_train_epochs=job.epochs, learning_rate=job.lr, weight_decay=WEIGHT_DECAY, max_grad_norm=CLIP,
        lr_scheduler_type="cosine", warmup_steps=max(1, round(WARMUP * job.steps * job.epochs)), eval_strategy=when,
        save_strategy=when, save_total_limit=1, report_to="none", disable_tqdm=True, use_cpu=True, seed=job.seed,
        dataloader_drop_last=True, remove_unused_columns=False, label_names=["labels"],
    )  # fmt: skip
    Fed(
        Wrapped(), settings, collate, train, val, callbacks=[Marks()],
        compute_metrics=lambda given: {"accuracy": float((given.predictions.argmax(1) == given.label_ids).mean())},
    ).train()  # fmt: skip


class Named:
    """Batches under the names of the model's arguments."""

    def __init__(self, batches: Any) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return ({"pixels": inputs, "labels": targets} for inputs, targets in self.batches)


def timm_parts(job: Job, clock: Clock, feed: Any = None) -> None:
    """The order of timm's training script: loader, optimizer, schedule a step, means of the loss, saver an epoch."""
    import timm.utils
    from timm.data import create_dataset, create_loader
    from timm.optim import create_optimizer_v2
    from timm.scheduler import create_scheduler_v2

    model = job.network()
    optimizer = create_optimizer_v2(model, "adamw", lr=job.lr, weight_decay=WEIGHT_DECAY)
    steps = job.steps
    schedule, _ = create_scheduler_v2(
        optimizer, "cosine", num_epochs=job.epochs, warmup_epochs=WARMUP * job.epochs, warmup_lr=job.lr / steps,
        step_on_epochs=False, updates_per_epoch=steps,
    )  # fmt: skip
    common: dict[str, Any] = {
        "input_size": (3, job.size, job.size), "use_prefetcher": False, "num_workers": 0, "mean": MEAN, "std": STD,
        "persistent_workers": False,
    }  # fmt: skip
    if feed is None:
        train = create_loader(
            create_dataset("", job.data, split="train"), batch_size=job.batch, is_training=True, scale=(0.35, 1.0),
            color_jitter=0.0, **common,
        )  # fmt: skip
        val = create_loader(create_dataset("", job.data, split="val"), batch_size=2 * job.batch, crop_pct=1.0, **common)
        saver = timm.utils.CheckpointSaver(model, optimizer, checkpoint_dir=job.scratch, max_history=2)
    else:
        train, val, saver = feed[0], None, None
    updates = 0
    loss_of = torch.nn.CrossEntropyLoss()
    for epoch in range(job.epochs):
        clock.start()
        model.train()
        losses, took = timm.utils.AverageMeter(), timm.utils.AverageMeter()
        end = time.time()
        for inputs, targets in train:
            loss = loss_of(model(inputs), targets)
            loss.backward()
            timm.utils.dispatch_clip_grad(model.parameters(), CLIP)
            optimizer.step()
            optimizer.zero_grad()
            losses.update(loss.item(), inputs.size(0))
            took.update(time.time() - end)
            updates += 1
            schedule.step_update(updates, metric=losses.avg)
            end = time.time()
        clock.trained()
        if val is None or saver is None:
            clock.measured(math.nan)
            continue
        right = timm.utils.AverageMeter()
        model.eval()
        with torch.no_grad():
            for inputs, targets in val:
                right.update(timm.utils.accuracy(model(inputs), targets)[0].item(), len(targets))
        saver.save_checkpoint(epoch, metric=right.avg)
        clock.measured(right.avg / 100)


def ultralytics(job: Job, clock: Clock, feed: Any = None) -> None:
    os.environ |= {"YOLO_OFFLINE": "true", "YOLO_CONFIG_DIR": job.scratch}
    from ultralytics.models.yolo.classify import ClassificationTrainer
    from ultralytics.nn.tasks import ClassificationModel

    network = job.network()

    class Network(ClassificationModel):
        """The given network as Ultralytics calls one: a batch gives its loss, pictures give probabilities."""

        def __init__(self) -> None:
            torch.nn.Module.__init__(self)
            self.model = torch.nn.Sequential(network)  # it looks at the last module of a sequence
            self.stride, self.yaml, self.task = torch.tensor([32]), {}, "classify"

        def forward(self, given: Any, *_: Any, **__: Any) -> Any:
            if isinstance(given, dict):
                return self.loss(given)
            logits = self.model(given)
            return logits if self.training else (logits.softmax(1), logits)

    globals()["Network"], Network.__qualname__ = Network, "Network"  # it saves models by their class's name

    class Trainer(ClassificationTrainer):
        def setup_model(self) -> None:
            self.model = Network()

        def final_eval(self) -> None:
            """What comes after the last epoch is not compared."""

    settings = {
        "model": "resnet18", "data": job.data, "imgsz": job.size, "batch": job.batch, "nbs": job.batch,
        "epochs": job.epochs, "optimizer": "AdamW", "lr0": job.lr, "lrf": 0.0, "cos_lr": True, "momentum": 0.9,
        "weight_decay": WEIGHT_DECAY, "warmup_epochs": WARMUP * job.epochs, "warmup_bias_lr": 0.0, "scale": 0.65,
        "fliplr": 0.5, "auto_augment": None, "erasing": 0.0, "hsv_h": 0.0, "hsv_s": 0.0, "hsv_v": 0.0, "amp": False,
        "warmup_momentum": 0.9, "device": "cpu", "seed": job.seed, "deterministic": False, "plots": False,
        "project": job.scratch, "name": "ultralytics", "patience": job.epochs, "verbose": False,
    }  # fmt: skip
    trainer = Trainer(overrides=settings)
    torch.set_num_threads(job.threads)  # choosing the device has set it
    trainer.add_callback("on_train_epoch_start", lambda _: clock.start())
    trainer.add_callback("on_train_epoch_end", lambda _: clock.trained())
    trainer.add_callback("on_fit_epoch_end", lambda each: clock.measured(each.metrics["metrics/accuracy_top1"]))
    trainer.train()


# --- what is trained on ----------------------------------------------------------------------------------------------


def photographs(source: Path | None, scratch: Path, batch: int) -> tuple[Path, int]:
    """Tux Paint's stamps, each fifth of a class for validation, whole batches for training."""
    from fromzero.data.sources.get import get

    found = get("tux-paint-stamps", source or scratch / "stamps")
    files = sorted(found.glob("*/*.png"))
    val = set(files[::5])
    train = [each for each in files if each not in val]
    random.Random(0).shuffle(train)
    return parted(train[: len(train) // batch * batch], sorted(val), scratch / "photographs"), len(
        {*map(parent, files)}
    )


def garments(source: Path | None, scratch: Path, counts: tuple[int, int]) -> tuple[Path, int]:
    """Fashion-MNIST: the first of a shuffled list, training and validation from its training part."""
    from fromzero.data.sources.get import get

    files = sorted(get("fashion-mnist", source or scratch / "fashion").glob("train/*/*.png"))
    random.Random(0).shuffle(files)
    train, val = files[: counts[0]], files[counts[0] : sum(counts)]
    return parted(train, val, scratch / "garments"), len({*map(parent, files)})


def parent(path: Path) -> str:
    return path.parent.name


def parted(train: list[Path], val: list[Path], root: Path) -> Path:
    """As colour PNG without transparency, which everyone reads alike."""
    from fromzero.data.images import decode

    for part, files in (("train", train), ("val", val)):
        for each in files:
            target = root / part / parent(each) / each.name
            target.parent.mkdir(parents=True, exist_ok=True)
            decode(each.read_bytes(), each.name).convert("RGB").save(target.with_suffix(".png"))
    return root


class Feed:
    """fromzero's own batches, ready for the network: each walk through it is an epoch. `after` is called when the next
    batch is asked for."""

    def __init__(self, job: Job, after: Callable[[], None] = lambda: None) -> None:
        from fromzero import tasks
        from fromzero.preparing import prepare
        from fromzero.records import Recipe

        self.job, self.after, self.epoch = job, after, 0
        task = tasks.trained("image")
        manifest = prepare(job.data)
        how = task.preprocessing(manifest, job.model, {"imgsz": job.size}, Console())
        self.samples = task.samples(manifest, how, Recipe(augmentation="none", seed=job.seed), Console())
        self.entry = task.entry(how)

    def __len__(self) -> int:
        return self.job.steps

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        from fromzero.data.batches import training_batches

        rows = self.samples.rows("train")
        for inputs, targets in training_batches(self.samples, rows, self.job.batch, self.epoch, 0):
            yield self.entry(inputs).contiguous(), targets
            self.after()
        self.epoch += 1


class Turns(Console):
    """A step of the trainer, a step of a bare loop, and so on in one process: what disturbs one disturbs the other.
    `ours` and `theirs` are the CPU seconds of the trainer's steps and of the bare loop's. With one thread they are the
    main thread's, and the trainer's steps are longer by the share of a core that other threads take all the time."""

    def __init__(self, job: Job) -> None:
        self.job, self.feed = job, Feed(job)
        self.model = job.network()
        self.optimizer = adamw(self.model, job)
        self.batches: Iterator[Any] = iter(())
        self.clock = time.thread_time if job.threads == 1 else time.process_time
        self.ours: list[float] = []
        self.theirs: list[float] = []
        self.behind, self.began, self.last = -self._other_threads(), time.monotonic(), self.clock()

    def _other_threads(self) -> float:
        return time.process_time() - time.thread_time() if self.job.threads == 1 else 0.0

    def turn(self) -> None:
        self.ours.append(self.clock() - self.last)
        start, step = self.clock(), len(self.theirs)
        if step % self.job.steps == 0:
            self.batches = iter(self.feed)
            self.model.train()
        bare_step(self.model, self.optimizer, *next(self.batches), self.job.lr * self.job.rate(step))
        self.theirs.append(self.clock() - start)
        self.last = self.clock()

    @contextlib.contextmanager
    def progress(self, title: str, total: int) -> Iterator[Callable[..., None]]:
        self.last = self.clock()
        if total == self.job.steps:
            yield lambda steps=1, text="": self.turn() if steps else None
        else:
            yield lambda steps=1, text="": None

    def found(self) -> dict[str, Any]:
        """Without the first epoch, which warms up, and the first step of each, which holds the validation."""
        behind = (self.behind + self._other_threads()) / (time.monotonic() - self.began)  # of a core
        kept = [number for number in range(self.job.steps, len(self.ours)) if number % self.job.steps]
        return {
            "ours": [self.ours[each] * (1 + behind) for each in kept],
            "theirs": [self.theirs[each] for each in kept],
        }


# --- runs ------------------------------------------------------------------------------------------------------------

Trainer = Callable[..., None]  # (job, clock, feed=None)
TUNED = (("fused", True), ("memory_format", "channels-last"))
TRAINERS: dict[str, tuple[str, Trainer]] = {  # what has to be there, and what runs it
    "bare loop": ("torchvision", bare),
    "fromzero": ("fromzero", fromzero),
    "fromzero --fused --memory-format channels-last": (
        "fromzero",
        lambda job, clock: fromzero(dataclasses.replace(job, more=TUNED), clock),
    ),
    "timm's parts": ("timm", timm_parts),
    "Lightning": ("lightning", lightning),
    "HF Trainer": ("transformers", hf_trainer),
    "Ultralytics": ("ultralytics", ultralytics),
}
LOOPS = ("fromzero", "timm's parts", "Lightning", "HF Trainer")  # those that take batches from outside


def child(given: dict[str, Any]) -> None:
    """One run in this process; its marks go to a file, for libraries print what they like."""
    job, name = Job(**given["job"]), given["name"]
    torch.set_num_threads(job.threads)
    clock = Clock()
    if not given["turns"]:
        TRAINERS[name][1](job, clock)
        found: Any = clock.epochs
    elif TRAINERS[name][1] is fromzero:
        turns = Turns(job)
        fromzero(dataclasses.replace(job, more=(("augmentation", "none"),)), clock, console=turns)
        found = turns.found()
    else:
        turns = Turns(job)
        TRAINERS[name][1](job, clock, (Feed(job, turns.turn), None))
        found = turns.found()
    Path(job.scratch, "marks.json").write_text(json.dumps(found))


def run(name: str, job: Job, turns: bool = False) -> Any:
    with tempfile.TemporaryDirectory(dir=Path(job.weights).parent) as scratch:
        given = {"turns": turns, "name": name, "job": vars(dataclasses.replace(job, scratch=scratch))}
        environment = os.environ | {"OMP_NUM_THREADS": str(job.threads), "LANG": "C", "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(
            [sys.executable, __file__, "--child", json.dumps(given)], env=environment, capture_output=True, text=True
        )
        if done.returncode:
            print(f"{name} failed: {done.stderr.strip()[-1000:]}\n", flush=True)
            return None
        return json.loads(Path(scratch, "marks.json").read_text())


def rounds(names: list[str], jobs: list[Job], turns: bool = False) -> dict[str, list[Any]]:
    """The marks of each trainer in each round (a job is a round); without the trainers that failed."""
    found: dict[str, list[Any]] = {name: [] for name in names}
    for number, job in enumerate(jobs):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            found[name].append(run(name, job, turns))
            print(f"round {number + 1}: {name}", file=sys.stderr, flush=True)
    return {name: runs for name, runs in found.items() if all(runs)}


def present(names: Any) -> list[str]:
    return [each for each in names if importlib.util.find_spec(TRAINERS[each][0])]


def weights(model: str, classes: int, size: int, seed: int, scratch: Path) -> str:
    """What `fromzero train --seed` starts from, in a file."""
    path = scratch / f"first-{Path(model).name.replace(':', '-')}-{size}-{seed}.pt"
    torch.manual_seed(seed)
    torch.save(build(model, classes, 3, size).state_dict(), path)
    return str(path)


# --- parts -----------------------------------------------------------------------------------------------------------


def loop(options: argparse.Namespace, scratch: Path) -> None:
    """A step of a tiny network: what the trainer itself costs is all that differs."""
    data, classes = garments(options.fashion, scratch, (3200 + 16, 160))
    prepared(data, 16)
    model = scratch / "tiny.py"
    model.write_text(TINY)
    name = f"{model}:tiny"
    jobs = [
        Job(str(data), classes, name, 28, 16, 3, 1e-3, seed, 1, weights(name, classes, 28, seed, scratch), "")
        for seed in range(options.rounds)
    ]
    found = rounds(present(LOOPS), jobs, turns=True)
    verdicts: list[tuple[bool, str]] = []
    print("| | CPU ms a step | bare loop | more than the bare loop |\n|---|---|---|---|")
    for each, runs in found.items():
        ours, theirs = ([statistics.median(marks[key]) for marks in runs] for key in ("ours", "theirs"))
        more = [a - b for a, b in zip(ours, theirs, strict=True)]
        print(f"| {each} | {spread(ours, 1e3)} | {spread(theirs, 1e3)} | {spread(more, 1e3)} |", flush=True)
        if each == "fromzero":
            told = statistics.median(more)
            text = f"fromzero adds {told * 1e3:.2f} ms a step; at most {MOST_OVERHEAD * 1e3:.1f}"
            verdicts.append((told <= MOST_OVERHEAD, text))
    show(verdicts)


def share(options: argparse.Namespace, scratch: Path) -> None:
    """ResNet-18 at 128 pixels: the bare loop's time for a step over the trainer's."""
    data, classes = photographs(options.stamps, scratch, options.batch)
    prepared(data, options.batch)
    for threads in options.threads:
        first = weights("resnet18", classes, 128, 0, scratch)
        job = Job(str(data), classes, "resnet18", 128, options.batch, 4, 1e-3, 0, threads, first, "")
        found = rounds(present(LOOPS), [job] * options.rounds, turns=True)
        verdicts: list[tuple[bool, str]] = []
        print(f"\n{threads} threads\n\n| | speed, of the bare loop's | CPU ms a step | bare loop |\n|---|---|---|---|")
        for name, runs in found.items():
            ours, theirs = ([statistics.median(marks[key]) for marks in runs] for key in ("ours", "theirs"))
            ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
            print(
                f"| {name} | {spread(ratios, 1, 3)} | {spread(ours, 1e3, 0)} | {spread(theirs, 1e3, 0)} |", flush=True
            )
            if name == "fromzero":
                told = statistics.median(ratios)
                verdicts.append((told >= LEAST_SHARE, f"{told:.3f} of the bare loop's speed; at least {LEAST_SHARE}"))
        show(verdicts)


def epoch(options: argparse.Namespace, scratch: Path) -> None:
    """From files to a validated and saved epoch, the second and later ones."""
    data, classes = photographs(options.stamps, scratch, options.batch)
    prepared(data, options.batch)
    for threads in options.threads:
        first = weights("resnet18", classes, 128, 0, scratch)
        job = Job(str(data), classes, "resnet18", 128, options.batch, 4, 1e-3, 0, threads, first, "")
        found = rounds(present(TRAINERS), [job] * options.rounds)
        print(f"\n{threads} threads, {job.steps} steps of {job.batch} an epoch\n")
        print(
            "| | CPU s an epoch | of it to learn: CPU ms a step | steps a second (wall) | until the first step: CPU s |"
        )
        print("|---|---|---|---|---|")
        for name, runs in found.items():
            later = [each for marks in runs for each in marks[1:]]
            pairs = [pair for marks in runs for pair in itertools.pairwise(marks[1:])]
            whole = [after["start"][0] - before["start"][0] for before, after in pairs]
            learning = [step_cpu(each, job) for each in later]
            rate = [job.steps / (each["trained"][1] - each["start"][1]) for each in later]
            begun = [marks[0]["start"][0] for marks in runs]
            print(
                f"| {name} | {spread(whole)} | {spread(learning, 1e3, 0)} | {spread(rate)} | {spread(begun, 1, 1)} |",
                flush=True,
            )


def accuracy(options: argparse.Namespace, scratch: Path) -> None:
    """The same first weights, data, batches and schedule; each round has a seed of its own."""
    data, classes = garments(options.fashion, scratch, (3200 + 32, 1000))
    prepared(data, 32)
    jobs = [
        Job(
            str(data), classes, "resnet18", 32, 32, 5, 1e-3, seed, options.threads[0],
            weights("resnet18", classes, 32, seed, scratch), "",
        )
        for seed in range(options.rounds)
    ]  # fmt: skip
    found = rounds(present(TRAINERS), jobs)
    best = {name: [max(each["accuracy"] for each in marks) for marks in runs] for name, runs in found.items()}
    target = math.floor(min(map(min, best.values())) * 100) / 100  # what everyone reached in every round
    print(f"\n{jobs[0].epochs} epochs of {jobs[0].steps} steps of {jobs[0].batch}\n")
    print(f"| | best validation accuracy, % | CPU s in all | CPU s until {target:.0%} | of it before the first step |")
    print("|---|---|---|---|---|")
    for name, runs in found.items():
        reached = [next(each["measured"][0] for each in marks if each["accuracy"] >= target) for marks in runs]
        whole, begun = [marks[-1]["measured"][0] for marks in runs], [marks[0]["start"][0] for marks in runs]
        print(
            f"| {name} | {spread(best[name], 100, 1)} | {spread(whole, 1, 1)} | {spread(reached, 1, 1)} |"
            f" {spread(begun, 1, 1)} |",
            flush=True,
        )


def prepared(data: Path, batch: int) -> None:
    """Scanned, which benchmarks/data.py measures; and whole batches without what fromzero would move to another part,
    because it is like a picture there. Without those, others may be the nearest: until nothing moves."""
    from fromzero.preparing import prepare

    while True:
        manifest = prepare(data)
        placed = zip(manifest["path"], manifest["split"], strict=True)
        moved = {data / each for each, part in placed if not each.startswith(part)}
        kept = [each for each in sorted((data / "train").glob("*/*")) if each not in moved]
        surplus = kept[len(kept) // batch * batch :]
        if not moved and not surplus:
            return
        for each in {*moved, *surplus}:
            each.unlink()


def step_cpu(marks: dict[str, Any], job: Job) -> float:
    return (marks["trained"][0] - marks["start"][0]) / job.steps


def spread(values: Any, unit: float = 1.0, digits: int = 2) -> str:
    found = min(values), statistics.median(values), max(values)
    return " / ".join(f"{each * unit:.{digits}f}" for each in found)


def show(verdicts: list[tuple[bool, str]]) -> None:
    for good, text in verdicts or [(False, "fromzero was not measured")]:
        print(f"\n{'reached' if good else 'MISSED'}: {text}", flush=True)


def optimizer(options: argparse.Namespace, scratch: Path) -> None:
    """AdamW over ResNet-18's weights with gradients of noise: one tensor after the other, many together, fused."""
    import timm

    for threads in options.threads:
        torch.set_num_threads(threads)
        made: dict[str, Any] = {}
        for name in ("plain", "foreach", "fused"):
            tensors = list(timm.create_model("resnet18", num_classes=10).parameters())
            for each in tensors:
                each.grad = torch.randn_like(each)
            ways = {"foreach": name == "foreach", "fused": name == "fused"}
            made[name] = torch.optim.AdamW(tensors, lr=1e-3, **ways)
            made[name].step()  # makes its state
        taken: dict[str, list[float]] = {name: [] for name in made}
        for _ in range(10 * options.rounds):
            for name, each in made.items():
                start = time.process_time()
                each.step()
                taken[name].append(time.process_time() - start)
        least = statistics.median(taken["foreach"])
        print(f"\n{threads} threads\n\n| | CPU ms a step | of foreach |\n|---|---|---|")
        for name, found in taken.items():
            print(f"| {name} | {spread(found, 1e3)} | {statistics.median(found) / least:.2f} |", flush=True)
    torch.set_num_threads(1)


PARTS: dict[str, Callable[[argparse.Namespace, Path], None]] = {
    "optimizer": optimizer,
    "loop": loop,
    "share": share,
    "epoch": epoch,
    "accuracy": accuracy,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--stamps", type=Path, help="a copy of tux-paint-stamps")
    parser.add_argument("--fashion", type=Path, help="a copy of fashion-mnist")
    options = parser.parse_args()
    machine = platform.processor() or platform.machine()
    print(f"# Training beside others, {date.today()}, {machine}, {os.cpu_count()} cores\n")
    print(f"Python {platform.python_version()}, {versions()}. Cells: min / median / max.")
    for missing in [name for name in TRAINERS if name not in present(TRAINERS)]:
        print(f"\nNot installed, left out: {missing}.")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="fromzero-training-") as scratch:
        for part in options.parts or PARTS:
            place = Path(scratch, part)
            place.mkdir()
            print(f"\n## {part}\n", flush=True)
            PARTS[part](options, place)


def versions() -> str:
    found = []
    for name in ("fromzero", "torch", "torchvision", "accelerate", "timm", "lightning", "transformers", "ultralytics"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found.append(f"{name} {metadata.version(name)}")
    return ", ".join(found)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(json.loads(sys.argv[2]))
    else:
        main()
