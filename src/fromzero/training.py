"""The one training loop, read top to bottom.

    train():  data -> preprocessing -> plan -> a run folder -> fit
    resume(): a run folder -> fit

`fit` needs nothing but the run folder. Everything random or scheduled is a function of the seed and the step, so the
state of a run is its tensors and a few counters: a run that was killed and resumed ends, on a CPU, with the same bits
as one that was not.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import math
import shlex
import statistics as stats
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import accelerate
import torch
from filelock import FileLock, Timeout
from torch.utils.tensorboard import SummaryWriter

from fromzero import checkpoint, runs
from fromzero.data import load
from fromzero.data.augment import choose
from fromzero.data.draft import shorter_side
from fromzero.data.manifest import Manifest
from fromzero.errors import FromzeroError, RunError, UsageError
from fromzero.evaluation import cross_entropy, scores_of
from fromzero.files import write_text
from fromzero.language import say
from fromzero.machine import ledger
from fromzero.machine.process import PeakMemory, process_bytes, usable_cores
from fromzero.machine.watch import Recording, Sampler, own_memory
from fromzero.models.adapt import adapt, train_mode
from fromzero.models.build import build, task_of
from fromzero.models.deploy import Deployed, Normalise
from fromzero.models.frozen import features_of, frozen_head, weights_digest
from fromzero.models.weights import load_pretrained
from fromzero.planning import plan, summary
from fromzero.preparing import digest, prepare, preprocessing_for
from fromzero.records import PRECISIONS, Plan, Preprocessing, Recipe, to_json
from fromzero.runs import Run
from fromzero.runtimes import Classifier
from fromzero.runtimes.torch_runtime import HeadClassifier, TorchClassifier
from fromzero.step import learning_rate, make_optimizer, training_step
from fromzero.tasks import image
from fromzero.terminal import Console, bytes_text, seconds_text

SAVE_SECONDS = 60.0  # a crash loses at most this much
TELLING_STEPS = 20  # a run of fewer is mostly the first step's preparations
LOOK_STEPS = 20  # the loss is read from the device this often
MIXED = {"fp32": "no", "tf32": "no", "amp-fp16": "fp16", "amp-bf16": "bf16"}


def train(
    data: Path | str,
    *,
    model: str = "cnn",
    output: Path | str | None = None,
    imgsz: int | None = None,
    batch: int | str | None = None,
    device: str = "auto",
    console: Console | None = None,
    **recipe: Any,
) -> Run:
    """Train `model` on a folder of pictures, sized to the device at hand ("auto": the GPU if PyTorch can use one;
    "cpu"). The words after `console` are the fields of `Recipe`. Raises FromzeroError("does_not_fit") before anything
    runs if the plan says no."""
    console = console or Console()
    on_cpu = device == "cpu" or not torch.cuda.is_available()
    _check_precision(recipe.get("precision", "fp32"), on_cpu)
    _check_trained(recipe)
    if task_of(model) not in ("image", "custom"):  # asked before anything else: a wrong name must not cost a scan
        raise UsageError("task_not_trained", model=model, task=task_of(model))
    if ".py:" in model:  # a run outlives the folder it was started in
        file, _, function = model.rpartition(":")
        model = f"{Path(file).resolve()}:{function}"
    manifest = prepare(data, console)
    pretrained = recipe.get("pretrained")
    how = preprocessing_for(manifest, model, imgsz, pretrained=bool(pretrained), console=console)
    if recipe.get("augmentation", "auto") == "auto":
        recipe["augmentation"] = choose(shorter_side(manifest), how.size)
    samples = len(manifest.rows("train"))
    kept = recipe["augmentation"] in load.ON_ARRAYS and load.can_keep(manifest, how)
    planned = plan(
        model,
        card="cpu" if on_cpu else None,
        batch=min(batch, samples) if isinstance(batch, int) else batch,
        imgsz=how.size,
        channels=how.channels,
        classes=len(manifest.classes),
        samples=samples,
        cores=None if kept else usable_cores(),
        **recipe,
    )
    if planned.verdict == "does_not_fit":
        advice = " ".join(each.text for each in planned.advice if each.saves or each.code == "no_batch_fits")
        need, have = bytes_text(planned.memory.process_peak), bytes_text(planned.card.usable_bytes)
        raise FromzeroError("does_not_fit", card=planned.card.title, need=need, have=have, advice=advice)
    # Before there is a run: a missing file must leave nothing behind, and a resumed run must not need it again.
    start = _pretrained(model, planned.recipe, how, len(manifest.classes), console) if pretrained else None
    run = runs.create(
        Path(output) if output else None,
        f"{Path(data).resolve().name}-{model.replace(':', '-').replace('/', '-')}",
        planned,
        data=str(data) if "://" in str(data) else str(Path(data).resolve()),
        data_digest=digest(manifest),
        classes=manifest.classes,
        preprocessing=how,
        device="cpu" if on_cpu else "cuda",
        predicted={"memory": planned.memory, "time": planned.time},
        versions={"torch": torch.__version__, "accelerate": accelerate.__version__},
    )
    if start is not None:
        checkpoint.save(run.last, {"model": start, "optimizer": {}}, dataclasses.asdict(State()))
    return fit(run, manifest, console)


def resume(path: Path | str, console: Console | None = None) -> Run:
    """Continue a run that was cut off, from its last checkpoint."""
    console = console or Console()
    run = Run(Path(path))
    record = run.record()
    if record["status"] == "finished":
        console.line(say("train.already", path=run.path))
        return run
    manifest = prepare(record["data"], console)
    if digest(manifest) != record["data_digest"]:
        raise RunError("data_changed", path=record["data"])
    return fit(run, manifest, console)


@dataclass
class State:
    """Where a run stands. Everything but tensors; kept as JSON in each checkpoint."""

    step: int = 0  # optimizer steps done
    loss_sum: float = 0.0  # over the steps of the epoch so far
    best: float = -1.0  # best validation accuracy
    best_epoch: int = 0
    stale: int = 0  # epochs since then
    history: list[dict[str, float]] = field(default_factory=list)
    scaler: dict[str, Any] = field(default_factory=dict)
    steps_seconds: list[float] = field(default_factory=list)


def fit(run: Run, manifest: Manifest, console: Console) -> Run:
    """Follow a run's plan to its end, from its last checkpoint or from the start. Raises RunError if another process
    is at it: two of them would write one checkpoint."""
    try:
        with FileLock(run.path / ".lock", timeout=0):  # the system lets go of it when a process is killed
            return _fit(run, manifest, console)
    except Timeout as error:
        raise RunError("run_in_use", path=run.path) from error


def _fit(run: Run, manifest: Manifest, console: Console) -> Run:
    planned, record, how = run.plan(), run.record(), run.preprocessing()
    console.line(summary(planned))
    recipe, workload = planned.recipe, planned.workload
    assert recipe.batch is not None
    engine = _engine(recipe, record["device"])

    torch.manual_seed(recipe.seed)
    model = build(workload.model, workload.classes, how.channels, how.size)
    adapt(model, recipe)
    model = model.to(engine.device)
    if recipe.memory_format == "channels-last":
        model = model.to(memory_format=torch.channels_last)
    optimizer = engine.prepare_optimizer(make_optimizer(model, recipe))
    normalise = Normalise(how).to(engine.device)
    loss_of = image.loss_for(recipe)
    keep: list[Any] | None = [] if recipe.keep_outputs else None

    kept = load.keep_decoded(manifest, how, console) if recipe.augmentation in load.ON_ARRAYS else None
    pictures = load.Pictures(manifest, how, recipe.augmentation, recipe.seed, kept, recipe.mix)
    unvaried = load.Pictures(manifest, how, kept=kept)
    classifier = TorchClassifier(workload.model, manifest.classes, how, Deployed(model, how).to(engine.device))
    fed = _Fed(pictures, unvaried, model, normalise, classifier)
    if recipe.freeze == "backbone" and recipe.augmentation == recipe.mix == "none":
        fed = _head_alone(fed, how, recipe, engine.device, console) or fed
    rows, held_out = manifest.rows("train"), manifest.rows("val")
    micro = load.steps_per_epoch(len(rows), recipe.batch)
    per_epoch = max(1, micro // recipe.accumulate)
    total = per_epoch * recipe.epochs
    workers = load.worker_count(fed.samples)

    state = _restore(run, model, optimizer, engine)
    if state.step:
        console.line(say("train.resumed", step=state.step, total=total))
    writer = SummaryWriter(str(run.path / "tensorboard"), purge_step=state.step or None)
    base = process_bytes()
    peak, sampler = PeakMemory().start(), Sampler(interval=1.0).start()
    saved_at = time.monotonic()
    try:
        while state.step < total and state.stale < recipe.patience:
            epoch = state.step // per_epoch
            done = state.step % per_epoch
            batches = load.training_batches(
                fed.samples, rows, recipe.batch, epoch, done * recipe.accumulate, workers, engine.device.type == "cuda"
            )
            epoch_start = time.monotonic()
            loss_sum = torch.tensor(state.loss_sum, dtype=torch.float64, device=engine.device)
            train_mode(model)
            with console.progress(say("train.epoch", epoch=epoch + 1, epochs=recipe.epochs), per_epoch) as advance:
                seen = ""
                advance(done)
                for _ in range(done, per_epoch):
                    step_start = time.perf_counter()
                    parts = [next(batches) for _ in range(recipe.accumulate)]
                    inputs = [_to_device(each, fed.entry, recipe, engine.device) for each in parts]
                    lr = learning_rate(recipe, state.step, total)
                    for group in optimizer.param_groups:
                        group["lr"] = lr
                    torch.manual_seed(_mixed(recipe.seed, state.step))  # dropout: a function of the step
                    loss = training_step(engine, fed.learner, loss_of, optimizer, inputs, recipe, keep)
                    loss_sum += loss.double()
                    state.step += 1
                    if state.step % LOOK_STEPS == 0 or state.step == 1:
                        seen = f"loss {_look(loss, lr, state, run, writer):.3f}"
                    state.steps_seconds.append(time.perf_counter() - step_start)
                    advance(1, seen)
                    if time.monotonic() - saved_at > SAVE_SECONDS and state.step % per_epoch:
                        state.loss_sum = float(loss_sum)
                        _save(run, model, optimizer, engine, state)
                        saved_at = time.monotonic()
            model.eval()
            scores, truth = scores_of(fed.classifier, fed.unvaried, held_out)
            row = {
                "epoch": epoch + 1,
                "train_loss": float(loss_sum) / per_epoch,
                "val_loss": cross_entropy(scores, truth),
                "val_accuracy": float((scores.argmax(axis=1) == truth).mean()),
                "lr": learning_rate(recipe, state.step - 1, total),
            }
            if not math.isfinite(row["train_loss"] + row["val_loss"]):
                raise RunError("loss_not_finite", step=state.step, path=run.path)
            seconds = time.monotonic() - epoch_start
            state.history.append({**row, "seconds": round(seconds, 3)})
            state.loss_sum = 0.0
            if row["val_accuracy"] > state.best:
                state.best, state.best_epoch, state.stale = row["val_accuracy"], epoch + 1, 0
                checkpoint.save(run.best, {"model": model.state_dict()}, {"epoch": epoch + 1, **row})
            else:
                state.stale += 1
            _save(run, model, optimizer, engine, state)
            saved_at = time.monotonic()
            _record_epoch(run, writer, state, console, recipe, seconds)
            if changed := pictures.changed | unvaried.changed:
                console.line(say("train.data_changed", count=len(changed)))
    except KeyboardInterrupt:
        console.line(say("train.interrupted", path=shlex.quote(str(run.path))))
        raise
    finally:
        writer.close()
        highest, recording = peak.stop(), sampler.stop()
    _finish(run, state, base, highest, recording, engine.device, console, whole=fed.learner is model)
    return run


# --- parts of a step -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Fed:
    """What the loop teaches and from what: the whole model from pictures, or its head from a frozen backbone's
    features. `entry` makes inputs of what the loader gives."""

    samples: load.Samples
    unvaried: load.Samples
    learner: torch.nn.Module
    entry: Callable[[torch.Tensor], torch.Tensor]
    classifier: Classifier


def _head_alone(fed: _Fed, how: Preprocessing, recipe: Recipe, device: torch.device, console: Console) -> _Fed | None:
    """The head on features that are computed once; None where each epoch would see others, or the disk is too small."""
    model = fed.learner
    head = frozen_head(model)
    if head is None:
        return None

    def features(pixels: Any) -> Any:
        inputs, _ = _to_device((torch.tensor(pixels), torch.empty(0)), fed.entry, recipe, device)
        return features_of(model.eval(), head, inputs).cpu().numpy()

    assert isinstance(fed.unvaried, load.Pictures)
    kept = load.keep_features(fed.unvaried, weights_digest(model, head), features, console)
    if kept is None:
        return None
    console.line(say("train.features", width="x".join(map(str, kept.shape))))
    labels = fed.classifier.labels
    samples = load.Features(kept.manifest, kept.kept, recipe.seed)
    return _Fed(samples, kept, head, lambda given: given, HeadClassifier("head", labels, how, head))


def _to_device(
    batch: Any, entry: Callable[[torch.Tensor], torch.Tensor], recipe: Recipe, device: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    given, labels = batch
    inputs = entry(given.to(device, non_blocking=True))
    channels_last = recipe.memory_format == "channels-last" and inputs.dim() == 4
    inputs = inputs.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    return inputs, labels.to(device, non_blocking=True)


def _pretrained(model: str, recipe: Recipe, how: Preprocessing, classes: int, console: Console) -> checkpoint.Tensors:
    """The state a run starts from: trained weights, and a fresh head."""
    assert recipe.pretrained is not None
    torch.manual_seed(recipe.seed)
    module = build(model, classes, how.channels, how.size)
    load_pretrained(module, model, recipe.pretrained, console)
    return module.state_dict()


# --- device -------------------------------------------------------------------------------------------------------


def _check_precision(precision: str, on_cpu: bool) -> None:
    if precision in PRECISIONS and precision not in MIXED:
        raise UsageError("precision_infer_only", precision=precision)
    if precision == "amp-fp16" and on_cpu:
        raise UsageError("no_fp16_on_cpu")


def _check_trained(recipe: dict[str, Any]) -> None:
    """Refuse what a plan knows and this loop does not run yet."""
    for each in dataclasses.fields(Recipe):
        if each.metadata["planned_only"] and recipe.get(each.name, each.default) != each.default:
            raise UsageError("planned_not_trained", flag="--" + each.name.replace("_", "-"))
    if recipe.get("optimizer") == "adamw8bit":
        raise UsageError("planned_not_trained", flag="--optimizer adamw8bit")


def _engine(recipe: Recipe, device: str) -> accelerate.Accelerator:
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("device_gone")
    torch.set_float32_matmul_precision("high" if recipe.precision == "tf32" else "highest")
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)  # it refuses a second setting in a process
    return accelerate.Accelerator(mixed_precision=MIXED[recipe.precision], cpu=device == "cpu")


# --- state --------------------------------------------------------------------------------------------------------


def _restore(run: Run, model: torch.nn.Module, optimizer: Any, engine: Any) -> State:
    if not checkpoint.exists(run.last):
        return State()
    tensors, values = checkpoint.load(run.last, "model", "optimizer")
    model.load_state_dict(tensors["model"])
    checkpoint.unpack_optimizer(optimizer.optimizer, tensors["optimizer"])
    state = State(**{each.name: values[each.name] for each in dataclasses.fields(State) if each.name in values})
    if engine.scaler is not None:
        engine.scaler.load_state_dict(state.scaler)
    return state


def _save(run: Run, model: torch.nn.Module, optimizer: Any, engine: Any, state: State) -> None:
    state.scaler = engine.scaler.state_dict() if engine.scaler is not None else {}
    tensors = {"model": model.state_dict(), "optimizer": checkpoint.pack_optimizer(optimizer.optimizer)}
    checkpoint.save(run.last, tensors, {**dataclasses.asdict(state), "steps_seconds": state.steps_seconds[-200:]})


def _mixed(seed: int, step: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}:{step}".encode(), digest_size=7).digest(), "big")


# --- records ------------------------------------------------------------------------------------------------------


def _look(loss: torch.Tensor, lr: float, state: State, run: Run, writer: SummaryWriter) -> float:
    value = loss.item()
    if not math.isfinite(value):
        raise RunError("loss_not_finite", step=state.step, path=run.path)
    writer.add_scalar("train/loss", value, state.step)
    writer.add_scalar("train/lr", lr, state.step)
    return value


def _record_epoch(
    run: Run, writer: SummaryWriter, state: State, console: Console, recipe: Recipe, seconds: float
) -> None:
    row = state.history[-1]
    for name in ("train_loss", "val_loss", "val_accuracy"):
        writer.add_scalar(f"epoch/{name}", row[name], state.step)
    writer.flush()
    text = io.StringIO()
    table = csv.DictWriter(text, fieldnames=list(row), lineterminator="\n")
    table.writeheader()
    table.writerows(state.history)
    write_text(run.metrics, text.getvalue())
    console.line(
        say(
            "train.epoch_done",
            epoch=int(row["epoch"]),
            epochs=recipe.epochs,
            loss=f"{row['train_loss']:.3f}",
            val_loss=f"{row['val_loss']:.3f}",
            accuracy=f"{row['val_accuracy']:.2%}",
            seconds=seconds_text(seconds),
        )
    )


def _note(planned: Plan, step: float, peak: int) -> None:
    """A line in the ledger that corrects later plans for this device."""
    ledger.note(
        ledger.Entry(
            when=ledger.now(),
            device=planned.card.title,
            model=planned.workload.model,
            batch=planned.recipe.batch or 0,
            precision=planned.recipe.precision,
            torch=torch.__version__,
            predicted_step=planned.time.step / planned.time.correction,
            measured_step=step,
            predicted_bytes=planned.memory.process_peak,
            measured_bytes=peak,
        )
    )


def _finish(
    run: Run,
    state: State,
    base: int,
    highest: int,
    recording: Recording,
    device: torch.device,
    console: Console,
    *,
    whole: bool,
) -> None:
    """Write what was measured beside what was predicted. A run of the head alone is not what the plan predicted, and
    teaches the ledger nothing."""
    step = stats.median(state.steps_seconds) if state.steps_seconds else 0.0
    measured: dict[str, Any] = {
        "step": step,
        "cached_features": not whole,
        "process_peak": highest,
        "base": base,
        "allocated_peak": highest - base,
    }
    if device.type == "cuda":
        measured["allocated_peak"] = torch.cuda.max_memory_allocated(device)
        measured["reserved_peak"] = torch.cuda.max_memory_reserved(device)
        held = [own_memory(card) or 0 for sample in recording.samples for card in sample.gpus]
        measured["process_peak"] = max(held, default=0) or None  # inside a container the driver does not tell
    measured |= {"kwh": recording.kwh, "power_assumed": recording.cpu_power_assumed, "seconds": recording.seconds}
    if whole and len(state.steps_seconds) >= TELLING_STEPS:
        _note(run.plan(), step, measured["process_peak"] or 0)
    run.note(
        status="finished",
        measured=to_json(measured),
        best={"epoch": state.best_epoch, "val_accuracy": state.best},
        epochs=len(state.history),
    )
    console.line(say("train.done", path=run.path, epoch=state.best_epoch, accuracy=f"{state.best:.2%}"))
