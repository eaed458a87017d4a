"""The one training loop, read top to bottom.

    resume(): a run folder -> fit
    fit():    epochs of steps, each measured on the validation part, saved, and told

`fit` needs nothing but the run folder. Everything random or scheduled is a function of the seed and the step, so the
state of a run is its tensors and a few counters: a run that was killed and resumed ends, on a CPU, with the same bits
as one that was not.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
import hashlib
import itertools
import math
import shlex
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout

from fromzero import checkpoint, compiling, ladder, launching, tasks
from fromzero import engine as engines
from fromzero.data import load
from fromzero.data.batches import Batch, Samples, training_batches
from fromzero.data.manifest import Manifest, digest
from fromzero.data.sampling import class_weights, drawn
from fromzero.errors import RunError
from fromzero.evaluation import answers_of
from fromzero.files import disk_error
from fromzero.language import say
from fromzero.machine.process import settled_bytes
from fromzero.models.adapt import checkpoint_blocks, set_trainable, train_mode
from fromzero.models.averaging import averaged
from fromzero.models.fresh import fresh
from fromzero.models.frozen import features_of, frozen_head, weights_digest
from fromzero.models.initialise import scales, sentences
from fromzero.models.teacher import taught, with_answers
from fromzero.planning import summary
from fromzero.preparing import prepare
from fromzero.records import Recipe, to_json
from fromzero.runs import Run
from fromzero.runtimes.torch_runtime import open_module
from fromzero.schedules import learning_rate, momentum
from fromzero.step import inference_step, make_optimizer, set_rates
from fromzero.stopping import Stop, stopping
from fromzero.terminal import Console
from fromzero.watching import Watch

SAVE_SECONDS = 60.0  # a crash loses at most this much; for each second that saving takes, where that is more than one
LOOK_STEPS = 20  # the loss is read from the device, and processes agree, this often; in a short run more often,
LOOKS = 50  # so that its curves are of so many points
SCALE_SAMPLES = 8  # that the first look at activations and gradients takes
COMPILED_BATCHES = 4  # by which torch.compile is judged
LOST_SHARE = 0.01  # of the samples that may have become unreadable; a run does not go on without more


def resume(path: Path | str, console: Console | None = None) -> Run:
    """Continue a run that was cut off, from its last checkpoint."""
    console = console or Console()
    run = Run(Path(path))
    record = run.record()
    if record["status"] == "finished":
        console.line(say("train.already", path=run.path))
        return run
    manifest = data_of(run, console)
    if digest(manifest) != record["data_digest"]:
        raise RunError("data_changed", path=record["data"])
    return begin(run, manifest, console)


def begin(run: Run, manifest: Manifest, console: Console) -> Run:
    """Follow a run's plan, here or in as many processes as it has cards."""
    recipe = run.plan().recipe
    if launching.wanted(recipe):
        launching.together(run.path, recipe, run.record()["device"], console)
        return run
    return fit(run, manifest, console)


def data_of(run: Run, console: Console | None = None) -> Manifest:
    """The data that a run learns from, split as it was."""
    record = run.record()
    fold = record.get("fold")
    return prepare(record["data"], console, tuple(fold) if fold else None, record.get("without", ()))


@dataclass
class State:
    """Where a run stands. Everything but tensors; kept as JSON in each checkpoint."""

    step: int = 0  # optimizer steps done
    loss_sum: float = 0.0  # over the steps of the epoch so far
    best: float = -math.inf  # of the task's measure, turned so that more is better
    best_epoch: int = 0
    stale: int = 0  # epochs since then
    history: list[dict[str, float]] = field(default_factory=list)
    scaler: dict[str, Any] = field(default_factory=dict)
    steps_seconds: list[float] = field(default_factory=list)


@dataclass
class Job:
    """A run at work: all that its steps need."""

    run: Run
    recipe: Recipe
    task: Any  # a file of tasks/
    engine: engines.Engine
    model: torch.nn.Module  # what is saved and measured
    learner: torch.nn.Module  # what learns: the model as the engine wraps it, or its head alone
    entry: Callable[[torch.Tensor], torch.Tensor]  # from a batch as it is loaded to the learner's inputs
    loss_of: Callable[[Any, torch.Tensor], torch.Tensor]
    optimizer: Any
    begun: ladder.Begun  # steps of the optimizer
    samples: Samples  # as they are learnt from
    unvaried: Samples  # as they are measured
    ladder: tuple[ladder.Rung, ...]
    rung: int
    console: Console
    compiled: Any = None  # the learner by torch.compile, where that was asked for and measured to help
    averaged: Any = None  # the moving average of the weights, where the recipe wants one
    teacher: torch.nn.Module | None = None  # whose answers are learnt beside the truth
    state: State = field(default_factory=State)
    keep: list[Any] | None = None
    lost: int = 0  # samples that could not be read
    saving: float = 0.0  # seconds that the last save took

    @functools.cached_property
    def rows(self) -> np.ndarray:
        return self.samples.rows("train")

    @property
    def judged(self) -> torch.nn.Module:
        """What is measured and kept as the best: the average of the weights, where there is one."""
        return self.learner if self.averaged is None else self.averaged.module

    @property
    def per_epoch(self) -> int:
        """Optimizer steps of an epoch."""
        assert self.recipe.batch is not None
        together = self.recipe.batch * self.recipe.accumulate * self.engine.part[1]
        return max(1, len(self.rows) // together)

    @property
    def total(self) -> int:
        return self.per_epoch * self.recipe.epochs

    @property
    def look(self) -> int:
        """Steps between two looks."""
        return max(1, min(LOOK_STEPS, self.total // LOOKS))

    @property
    def done(self) -> bool:
        return self.state.step >= self.total or self.state.stale >= self.recipe.patience


def fit(run: Run, manifest: Manifest, console: Console) -> Run:
    """Follow a run's plan to its end, from its last checkpoint or from the start. Raises RunError if another process
    is at it: two of them would write one checkpoint."""
    console = console if engines.is_main() else Console()
    with _locked(run) if engines.is_main() else contextlib.nullcontext():
        while True:
            try:
                return _fit(run, manifest, console)
            except _Again:
                pass
            except (RuntimeError, MemoryError) as error:
                if not ladder.out_of_memory(error):
                    raise
                reason = ladder.reason(error)
                raise RunError("out_of_memory", path=shlex.quote(str(run.path)), reason=reason) from error
            gc.collect()  # what failed is in nobody's hands now, but may hold itself


def _locked(run: Run) -> Any:
    """The system lets go of the lock when a process is killed."""
    try:
        return FileLock(run.path / ".lock").acquire(timeout=0)
    except Timeout as error:
        raise RunError("run_in_use", path=run.path) from error
    except OSError as error:
        raise disk_error(run.path / ".lock", error) from error


class _Again(Exception):
    """The run goes on from its last checkpoint, in less memory."""


def _fit(run: Run, manifest: Manifest, console: Console) -> Run:
    job = opened(run, manifest, console)
    state, recipe = job.state, job.recipe
    if recipe.compile and not job.done:
        _compile(job)
    with stopping() as stop, Watch(run, recipe, job.engine, state, job.total, console) as watch:
        while not job.done:
            started = time.monotonic()
            _epoch(job, watch, stop)
            measured = _measured(job)
            _check_lost(job)
            _close_epoch(job, watch, measured, time.monotonic() - started)
            _tell_changed(job)
            if stop.signal and not job.done:
                _leave(job, stop)
    if job.engine.main:
        as_planned = job.learner is job.model or job.engine.processes > 1
        watch.finish(run.plan(), whole=as_planned and job.teacher is None)
        key = "train.done" if recipe.select == "best" else "train.done_last"
        job.console.line(say(key, path=run.path, epoch=state.best_epoch, best=_best_text(job)))
    job.engine.close()
    return run


def opened(run: Run, manifest: Manifest, console: Console) -> Job:
    """Everything the loop works with, in the state in which the run was left."""
    planned, record, how = run.plan(), run.record(), run.preprocessing()
    console.line(summary(planned))
    task = tasks.trained(planned.workload.task)
    engine = engines.start(planned.recipe, record["device"])
    recipe = engine.recipe  # this process's share of the work
    model = fresh(planned.workload, recipe)
    if recipe.memory_format == "channels-last":
        model = model.to(memory_format=torch.channels_last)
    rungs, rung = ladder.rungs(model, recipe), record.get("rung", 0)
    if rungs[rung].checkpointing:
        checkpoint_blocks(model, "blocks")
    learner = engine.wrap(model, task.example(planned.workload, recipe.batch, "cpu")[0])
    model = engines.unwrapped(learner)
    optimizer = make_optimizer(model, recipe)
    varied, unvaried = task.samples(manifest, how, recipe, console), task.samples(manifest, how, None, console)
    job = Job(
        run=run,
        recipe=recipe,
        task=task,
        engine=engine,
        model=model,
        learner=learner,
        entry=task.entry(how).to(engine.device),
        loss_of=task.loss_for(recipe, weights_of_classes(varied, manifest, recipe, engine.device)),
        begun=ladder.Begun(optimizer),
        optimizer=engine.prepare_optimizer(optimizer),
        samples=varied,
        unvaried=unvaried,
        ladder=rungs,
        rung=rung,
        console=console,
        averaged=averaged(model, recipe.ema) if recipe.ema else None,
        teacher=open_module(Path(recipe.teacher)).to(engine.device).eval() if recipe.teacher else None,
        keep=[] if recipe.keep_outputs else None,
    )
    if job.teacher is not None:
        job.loss_of = taught(job.loss_of, mixed=recipe.mix != "none")
    _restore(job)
    if recipe.freeze == "backbone" and engine.processes == 1:
        _head_alone(job)
    if job.state.step:
        console.line(say("train.resumed", step=job.state.step, total=job.total))
    return job


def _epoch(job: Job, watch: Watch, stop: Stop) -> None:
    """The steps of an epoch that are left."""
    state, recipe, engine = job.state, job.recipe, job.engine
    epoch, done = divmod(state.step, job.per_epoch)
    batches = batches_left(job)
    loss_sum = torch.tensor(state.loss_sum, dtype=torch.float64, device=engine.device)
    saved_at, seen = time.monotonic(), ""
    with job.console.progress(say("train.epoch", epoch=epoch + 1, epochs=recipe.epochs), job.per_epoch) as advance:
        advance(done)
        for _ in range(done, job.per_epoch):
            started = time.perf_counter()
            parts = [with_teacher(job, _to_device(job, next(batches))) for _ in range(recipe.accumulate)]
            _check_lost(job, loss_sum)
            if not state.step:
                _look_at_scales(job, parts[0])
            loss, lr = stepped(job, parts)
            loss_sum += loss
            looking = state.step % job.look == 0 or state.step == 1
            if looking:
                seen = _look(job, loss, lr, watch)
            state.steps_seconds.append(time.perf_counter() - started)
            advance(1, seen)
            if state.step % job.per_epoch and (looking or engine.processes == 1):  # where all processes can agree
                if engine.any(time.monotonic() - saved_at > SAVE_SECONDS * max(1.0, job.saving)):
                    state.loss_sum = float(engine.mean(loss_sum))
                    _save(job)
                    saved_at = time.monotonic()
                if engine.any(bool(stop.signal)):
                    state.loss_sum = float(engine.mean(loss_sum))
                    _leave(job, stop)
    state.loss_sum = float(engine.mean(loss_sum))


def batches_left(job: Job) -> Iterator[Batch]:
    """The batches of the epoch that are left, with the model in the state that they find it in."""
    recipe, engine = job.recipe, job.engine
    assert recipe.batch is not None
    epoch, done = divmod(job.state.step, job.per_epoch)
    set_trainable(job.model, recipe, epoch, recipe.epochs)
    rows = drawn(job.rows, job.samples.labels(job.rows), recipe.sampling, recipe.seed, epoch)
    train_mode(job.model)
    return training_batches(
        job.samples,
        rows,
        recipe.batch,
        epoch,
        done * recipe.accumulate,
        pin=engine.device.type == "cuda",
        part=engine.part,
    )


def stepped(job: Job, parts: list[Batch]) -> tuple[torch.Tensor, float]:
    """The next step on batches that are on the device: its loss, and the rate it took."""
    lr = learning_rate(job.recipe, job.state.step, job.total, job.state.history)
    set_rates(job.optimizer, lr, momentum(job.recipe, job.state.step, job.total))
    loss = _step(job, parts)
    if job.averaged is not None:
        job.averaged.update_parameters(job.model)
    job.state.step += 1
    return loss, lr


def _step(job: Job, parts: list[Batch]) -> torch.Tensor:
    """One optimizer step. Where memory runs out, the same step again one rung down the ladder; where it ran out in the
    middle of changing the weights, the run goes back to its last checkpoint."""
    while True:
        before = job.begun.count
        # Dropout is a function of the step.
        _seed(_mixed(job.recipe.seed, job.state.step, job.engine.process), job.engine.device)
        try:
            batches = ladder.divided(parts, job.ladder[job.rung].parts)
            learner = job.learner if job.compiled is None else job.compiled
            return job.engine.step(learner, job.loss_of, job.optimizer, batches, job.recipe, job.keep)
        except (RuntimeError, MemoryError) as error:
            if not ladder.out_of_memory(error) or job.rung + 1 == len(job.ladder):
                raise
            reason = ladder.reason(error)
        _climb_down(job, reason, whole=job.begun.count == before and job.engine.processes == 1)


def _climb_down(job: Job, reason: str, *, whole: bool) -> None:
    job.rung += 1
    rung = job.ladder[job.rung]
    assert job.recipe.batch is not None
    micro = job.recipe.batch // rung.parts
    job.run.note(rung=job.rung)  # where the next start begins
    key = "train.less_memory" if whole else "train.less_memory_again"
    how = say("train.checkpointed") if rung.checkpointing else say("train.not_checkpointed")
    job.console.line(say(key, step=job.state.step + 1, reason=reason, micro=micro, how=how))
    if job.engine.processes > 1:  # the others wait for this one: torchrun ends them and starts all again
        raise RunError("out_of_memory_together", path=job.run.path)
    if not whole:
        raise _Again
    job.optimizer.zero_grad(set_to_none=True)
    ladder.reset(job.engine.scaler, job.engine.device)
    if job.keep:
        job.keep.clear()
    if rung.checkpointing and not job.ladder[job.rung - 1].checkpointing:
        checkpoint_blocks(job.model, "blocks")
        job.compiled = None  # was made of the blocks as they were
    if job.engine.device.type == "cuda":
        torch.cuda.empty_cache()


# --- an epoch's end -----------------------------------------------------------------------------------------------


def _measured(job: Job) -> dict[str, float]:
    """The task's measures of the validation part. Every process answers for its share of it."""
    engine, rows = job.engine, job.unvaried.rows("val")
    job.engine.agree(job.model if job.averaged is None else job.averaged.module)
    job.judged.eval()
    answered = answers_of(_answers(job), job.unvaried, engine.share(rows))
    found, truth = (engine.gathered(each, len(rows)) for each in answered)
    if not np.isfinite(found).all():
        raise _not_finite(job)
    return job.task.measures(found, truth)


def _answers(job: Job) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """What the model answers to a batch as it is loaded; to halves of it where memory runs out."""

    def answer(inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        try:
            with torch.inference_mode():
                given, wanted = _to_device(job, (torch.from_numpy(inputs), torch.from_numpy(targets)))
                return job.task.answers(job.judged(given), wanted).float().cpu().numpy()
        except (RuntimeError, MemoryError) as error:
            if not ladder.out_of_memory(error) or len(inputs) == 1 or job.engine.processes > 1:
                raise
        half = len(inputs) // 2  # no longer in the handler: its error holds what is to be let go
        return np.concatenate([answer(inputs[:half], targets[:half]), answer(inputs[half:], targets[half:])])

    return answer


def _close_epoch(job: Job, watch: Watch, measured: dict[str, float], seconds: float) -> None:
    """The epoch's line in the history, and its checkpoint. Raises RunError for a loss that is no number."""
    state, epoch = job.state, job.state.step // job.per_epoch
    row = {
        "epoch": epoch,
        "train_loss": state.loss_sum / job.per_epoch,
        **{f"val_{name}": value for name, value in measured.items()},
        "lr": learning_rate(job.recipe, state.step - 1, job.total, state.history),
    }
    if not math.isfinite(row["train_loss"] + row["val_loss"]):
        raise _not_finite(job)
    state.history.append({**row, "seconds": round(seconds, 3)})
    state.loss_sum = 0.0
    watch.epoch()
    value = row[job.task.BEST.removeprefix("-")] * (-1 if job.task.BEST.startswith("-") else 1)
    if value > state.best or job.recipe.select == "last":
        state.best, state.best_epoch, state.stale = value, epoch, 0
        tensors = job.engine.tensors(job.model if job.averaged is None else job.averaged.module)
        if job.engine.main:
            checkpoint.save(job.run.best, tensors, row)
    else:
        state.stale += 1
    _save(job)


def _best_text(job: Job) -> str:
    """The measure that the best epoch was chosen by, for a person."""
    name, value = job.task.BEST.removeprefix("-"), abs(job.state.best)
    return f"{name} {value:.2%}" if name.endswith("accuracy") else f"{name} {value:.4g}"


def _check_lost(job: Job, loss_sum: torch.Tensor | None = None) -> None:
    """Stop before the model learns from what stands in for samples that could not be read: at the first where nothing
    is left of the data, and where more than LOST_SHARE are lost. With the `loss_sum` of an epoch so far, the state is
    saved before."""
    lost = sum(len(each.lost) for each in (job.samples, job.unvaried) if isinstance(each, load.Pictures))
    if lost == job.lost:
        return
    job.lost, data = lost, job.run.record()["data"]
    code = "data_gone" if _nothing_at(data) else "data_lost" if lost > max(1, LOST_SHARE * len(job.rows)) else ""
    if not code:
        return
    if loss_sum is not None and job.state.step and job.engine.processes == 1:
        job.state.loss_sum = float(loss_sum)
        _save(job)
    raise RunError(code, data=data, count=lost, path=shlex.quote(str(job.run.path)))


def _nothing_at(data: str) -> bool:
    """Whether a path is gone, or an empty folder where a disk was mounted."""
    path = Path(data)
    try:
        return "://" not in data and (not path.exists() or (path.is_dir() and not any(path.iterdir())))
    except OSError:
        return True


def _tell_changed(job: Job) -> None:
    changed = job.samples.changed | job.unvaried.changed
    if changed:
        job.console.line(say("train.data_changed", count=len(changed)))


# --- parts of a step ----------------------------------------------------------------------------------------------


def _to_device(job: Job, batch: Batch) -> Batch:
    return entered(batch, job.entry, job.recipe, job.engine.device)


def with_teacher(job: Job, batch: Batch) -> Batch:
    """With what the teacher, where there is one, says to the same inputs."""
    if job.teacher is None:
        return batch
    inputs, targets = batch
    return inputs, with_answers(targets, inference_step(job.engine, job.teacher, inputs))


def entered(batch: Batch, entry: Callable[[torch.Tensor], torch.Tensor], recipe: Recipe, device: Any) -> Batch:
    """A batch as the learner takes it, on the device."""
    given, targets = batch
    inputs = entry(given.to(device, non_blocking=True))
    if inputs.dim() == 4:
        channels_last = recipe.memory_format == "channels-last"
        inputs = inputs.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    return inputs, targets.to(device, non_blocking=True)


def _head_alone(job: Job) -> None:
    """Where each epoch would see the same features before a frozen backbone's head: the head learns from these, made
    once. Nothing changes where they would be too large."""
    varies = job.recipe.augmentation != "none" or job.recipe.mix != "none" or job.averaged is not None
    varies |= job.teacher is not None
    head = None if varies else frozen_head(job.model)
    if head is None or not isinstance(job.unvaried, load.Rows):
        return

    def features(given: Any) -> Any:
        inputs, _ = _to_device(job, (torch.tensor(given), torch.empty(0)))
        return features_of(job.model.eval(), head, inputs).cpu().numpy()

    kept = load.keep_features(job.unvaried, weights_digest(job.model, head), features, job.console)
    if kept is None:
        return
    job.console.line(say("train.features", width="x".join(map(str, kept.shape))))
    job.samples, job.unvaried = load.Features(kept.manifest, kept.kept, job.recipe.seed), kept
    job.learner, job.entry = head, torch.nn.Identity()


def weights_of_classes(
    samples: Samples, manifest: Manifest, recipe: Recipe, device: torch.device
) -> torch.Tensor | None:
    """What a mistake of each class weighs in the loss (classes,), by the training rows; None where all weigh the
    same."""
    if recipe.class_weights == "none":
        return None
    counts = np.bincount(samples.labels(samples.rows("train")), minlength=len(manifest.classes))
    return torch.from_numpy(class_weights(counts, recipe.class_weights)).to(device)


def _compile(job: Job) -> None:
    """Go on compiled if that was measured to be faster, in this run or before it was cut off: then it is not measured
    again, so that a run goes on as it began."""
    before = job.run.record().get("compiled")
    if before is not None:
        job.compiled = torch.compile(job.learner) if before["kept"] else None
        return
    job.console.line(say("train.compiling"))
    batches = [
        with_teacher(job, _to_device(job, each)) for each in itertools.islice(batches_left(job), COMPILED_BATCHES)
    ]
    learner, found = compiling.try_compiled(job.engine, job.learner, job.loss_of, batches)
    job.compiled = learner if found.kept else None
    job.run.note(compiled=found)
    key = "train.not_compiled" if found.reason else "train.compiled" if found.kept else "train.compiled_slower"
    times = {
        "eager": f"{found.eager * 1e3:.1f}",
        "compiled": f"{found.compiled * 1e3:.1f}",
        "took": f"{found.took:.0f}",
    }
    job.console.line(say(key, reason=found.reason, **times))


def _look_at_scales(job: Job, batch: Batch) -> None:
    """Activations and gradients before the first step: what vanishes or explodes there will not learn."""
    if job.engine.processes > 1:
        return
    few = slice(0, SCALE_SAMPLES)
    try:
        found = scales(job.learner, batch[0][few], batch[1][few], job.loss_of)
    except (RuntimeError, MemoryError) as error:
        if ladder.out_of_memory(error):
            return
        raise
    settled_bytes()  # what the look took would lie scattered where the steps want whole pieces
    job.run.note(scales=to_json(found))
    for text in sentences(found):
        job.console.line(text)


def _look(job: Job, loss: torch.Tensor, lr: float, watch: Watch) -> str:
    """The loss, read from the device and told. Raises RunError if it is no number."""
    value = loss.item()
    if not math.isfinite(value):
        raise _not_finite(job)
    norm = job.engine.norm
    return watch.step({"loss": value, "lr": lr, **({} if norm is None else {"gradient_norm": float(norm)})})


def _not_finite(job: Job) -> RunError:
    """The error, noted in the run for who looks for the reason."""
    if job.engine.main:
        job.run.note(failed={"code": "loss_not_finite", "step": job.state.step})
    kept = say("train.keeps_last", path=job.run.path) if checkpoint.exists(job.run.last) else ""
    return RunError("loss_not_finite", step=job.state.step, kept=kept)


def _seed(seed: int, device: torch.device) -> None:
    """What `torch.manual_seed` does, for the devices in use only: a hundredth of its time."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def _mixed(*numbers: int) -> int:
    return int.from_bytes(hashlib.blake2b(":".join(map(str, numbers)).encode(), digest_size=7).digest(), "big")


# --- state --------------------------------------------------------------------------------------------------------


def _restore(job: Job) -> None:
    if not checkpoint.exists(job.run.last):
        if job.recipe.filled:  # it was killed before what it starts from was written
            raise RunError("no_checkpoint", path=job.run.last)
        return
    if job.engine.main and checkpoint.mend(job.run.last):
        job.console.line(say("train.mended", path=job.run.last))
    job.engine.wait()
    tensors, values = job.engine.load(job.run.last, job.model, job.optimizer)
    if job.averaged is not None and "averaged" in tensors:
        job.averaged.load_state_dict(tensors["averaged"])
    job.state = State(**{each.name: values[each.name] for each in dataclasses.fields(State) if each.name in values})
    if job.engine.scaler is not None:
        job.engine.scaler.load_state_dict(job.state.scaler)


def _save(job: Job) -> None:
    state, engine = job.state, job.engine
    state.scaler = engine.scaler.state_dict() if engine.scaler is not None else {}
    more = {} if job.averaged is None else {"averaged": job.averaged.state_dict()}
    values = {**dataclasses.asdict(state), "steps_seconds": state.steps_seconds[-200:]}
    began = time.monotonic()
    engine.save(job.run.last, job.model, job.optimizer, values, whole=job.done, **more)
    job.saving = time.monotonic() - began


def _leave(job: Job, stop: Stop) -> None:
    """Save, say how to go on, and end as the signal asks."""
    _save(job)
    if job.engine.main:
        job.run.note(status="stopped")
    job.console.line(say("train.interrupted", path=shlex.quote(str(job.run.path)), step=job.state.step))
    stop.end()
