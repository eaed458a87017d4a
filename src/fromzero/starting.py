"""train(): what comes before there is a run.

data -> how samples become inputs -> plan -> trained weights, a learning rate -> a run folder -> `training`
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import accelerate
import numpy as np
import torch

from fromzero import checkpoint, ladder, launching, runs, tasks, trackers
from fromzero import engine as engines
from fromzero.cautions import cautions, check_bf16, safe_precision
from fromzero.data.batches import Batch, ordered_batches, training_batches
from fromzero.data.manifest import Manifest, digest
from fromzero.data.opening import whereabouts
from fromzero.data.sampling import drawn
from fromzero.errors import FromzeroError, UnknownName, UsageError
from fromzero.finding import STEPS as TRIED_STEPS
from fromzero.finding import Found, find_lr
from fromzero.fitting import fit as fitting
from fromzero.language import say
from fromzero.models import vectors
from fromzero.models.build import task_of
from fromzero.models.families import pruned
from fromzero.models.fresh import fresh
from fromzero.models.frozen import features_of
from fromzero.models.probe import fit_head, only_head
from fromzero.models.weights import load_pretrained
from fromzero.planning import plan
from fromzero.preparing import Fold, prepare
from fromzero.records import PRECISIONS, RESIZES, Plan, to_json
from fromzero.runs import Run
from fromzero.step import FUSED
from fromzero.terminal import Console, bytes_text
from fromzero.training import State, begin, entered, weights_of_classes

PROBED = 20_000  # samples at most that a new head is fitted to: more hardly move it, and their features fill memory


def train(
    data: Path | str,
    *,
    model: str | None = None,
    output: Path | str | None = None,
    imgsz: int | None = None,
    resize: str | None = None,
    seq: int | None = None,
    batch: int | str | None = None,
    device: str = "auto",
    fold: Fold | None = None,
    without: Sequence[int | str] = (),
    track: str | Sequence[str] = (),
    preprocessing: Any = None,
    console: Console | None = None,
    **recipe: Any,
) -> Run:
    """Train `model` (None: the usual one for such data) on what lies at `data`, sized to the device at hand ("auto":
    the GPU if PyTorch can use one; "cpu"). `fold` is (number, folds) of a cross-validation, `without` are rows and
    columns of the data to leave out, `track` names trackers beside TensorBoard ("wandb,mlflow"; see `trackers`),
    `preprocessing` is how samples become inputs, where that is decided: a student reads them as its teacher does. The
    words after `console` are the fields of `Recipe`. Raises FromzeroError("does_not_fit") before anything runs if the
    plan says no, and no change that leaves the result the same would make it fit."""
    console = console or Console()
    on_cpu = device == "cpu" or not torch.cuda.is_available()
    if resize not in (None, *RESIZES):
        raise UnknownName("choice", str(resize), RESIZES)
    tracked = trackers.named(track)
    _check_recipe(recipe, on_cpu)
    if model is not None:
        model = _named(model)
        task_of(model)  # asked before anything else: a wrong name must not cost a scan
    manifest = prepare(data, console, fold, without)
    model = model or tasks.usual_model(manifest.kind, bool(manifest.classes))
    workload_task = task_of(model)
    task = tasks.trained(workload_task)
    if manifest.kind not in task.KINDS:
        kinds = say("list.or").join(say(f"kind.{each}") for each in task.KINDS)
        raise UsageError("kind_not_for_model", path=data, kind=say(f"kind.{manifest.kind}"), model=model, kinds=kinds)
    if recipe.get("linear_probe") and workload_task == "lm":
        raise UsageError("probe_of_tokens", model=model)
    pictures = manifest.kind == "pictures"
    for flag, useless in (
        ("--resize", resize is not None and not pictures),
        ("--imgsz", imgsz is not None and not pictures),
        ("--seq", seq is not None and pictures),
        ("--sampling", recipe.get("sampling", "natural") != "natural" and not manifest.classes),
        ("--class-weights", recipe.get("class_weights", "none") != "none" and not manifest.classes),
    ):
        if useless:
            raise UsageError("flag_for_other_data", flag=flag, model=model)
    if recipe.get("init") == "cooccurrence" and workload_task not in ("text", "lm"):
        raise UsageError("init_without_tokens", model=model)
    for word in ("augmentation", "mix"):
        if recipe.get(word, "none") not in ("none", "auto", *task.VARIATIONS):
            known = ", ".join(("none", *task.VARIATIONS))
            raise UsageError("no_such_variation", flag=f"--{word} {recipe[word]}", model=model, known=known)
    pretrained = recipe.get("pretrained")
    words = {"imgsz": imgsz, "resize": resize, "seq": seq, "pretrained": pretrained}
    if recipe.get("teacher"):
        recipe["teacher"] = str(Path(recipe["teacher"]).resolve())
        preprocessing = _taught_how(Path(recipe["teacher"]), manifest, workload_task, console)
    how = preprocessing or task.preprocessing(manifest, model, words, console)
    usual = task.usual(manifest, how)  # what the user said goes before it
    finding = recipe.get("lr") == "find"  # the plan has its own until then
    left_open = [("augmentation", "auto"), ("lr", "find")]
    usual_batch = usual.pop("batch", None)
    batch = usual_batch if batch is None else batch
    recipe = {**usual, **{name: value for name, value in recipe.items() if (name, value) not in left_open}}
    if on_cpu and recipe.get("optimizer", "adamw") in FUSED:  # several times as fast there (benchmarks/training.py)
        recipe.setdefault("fused", True)
    samples = task.count(manifest, how, console)
    planned = _planned(
        model,
        console,
        card="cpu" if on_cpu else None,
        batch=min(batch, samples) if isinstance(batch, int) else batch,
        classes=max(1, len(manifest.classes)),
        samples=samples,
        cores=task.loading(manifest, how, recipe["augmentation"]),
        **task.shape(how),
        **recipe,
    )
    # Before there is a run: a missing file must leave nothing behind, and a resumed run must not need it again.
    there = "cpu" if on_cpu else "cuda"
    start = _start(planned, manifest, how, there, console)
    found = found_lr(planned, manifest, how, there, start, console) if finding else None
    if found is not None and found.lr is not None:
        planned = _with_lr(planned, found.lr)
    run = runs.create(
        Path(output) if output else None,
        f"{Path(data).resolve().name}-{model.replace(':', '-').replace('/', '-')}",
        planned,
        how,
        data=whereabouts(data),
        data_digest=digest(manifest),
        fold=fold,
        without=list(without),
        track=tracked,
        classes=manifest.classes,
        device=there,
        predicted={"memory": planned.memory, "time": planned.time, "energy": planned.energy},
        versions={"torch": torch.__version__, "accelerate": accelerate.__version__},
        **({} if found is None else {"lr_found": found}),
    )
    if start is not None:
        checkpoint.save(run.last, {"model": start, "optimizer": {}}, dataclasses.asdict(State()))
    return begin(run, manifest, console)


def words_of(plan: Plan) -> dict[str, Any]:
    """The words of `train` that a plan stands for: a plan is a config."""
    task, shape = plan.workload.task, plan.workload.input_shape
    size = {"seq" if task in ("text", "lm", "table") else "imgsz": shape[-1]}
    if task == "table" and len(shape) == 1:  # single rows
        size = {}
    return {"model": plan.workload.model, **size, **to_json(plan.recipe)}


def _named(model: str) -> str:
    """A model's name that outlives the folder a run was started in."""
    if model.startswith(pruned.PREFIX):
        return f"{pruned.PREFIX}{pruned.path_of(model).resolve()}"
    if ".py:" not in model:
        return model
    file, _, function = model.rpartition(":")
    return f"{Path(file).resolve()}:{function}"


def _taught_how(teacher: Path, manifest: Manifest, task: str, console: Console) -> Any:
    """How a teacher's samples become inputs. Raises UsageError for a teacher of other classes."""
    run = Run(teacher)
    if task == "lm" or run.labels() != tuple(manifest.classes):
        raise UsageError("other_teacher", path=teacher)
    console.line(say("train.taught", path=teacher))
    return run.preprocessing()


def _planned(model: str, console: Console, **words: Any) -> Plan:
    """The plan as asked, or with the cheapest change that leaves the result the same where only that fits."""
    asked = plan(model, **words)
    for each in cautions(asked.recipe, asked.card):
        console.line(each.text)
    precision = safe_precision(asked.recipe.precision, asked.card)
    if precision != asked.recipe.precision:
        return _planned(model, console, **{**words, "precision": precision})
    if asked.verdict != "does_not_fit":
        return asked
    options = fitting(model, **words)[1] if isinstance(words["batch"], int) else ()
    same = next((each for each in options if each.keeps == "same"), None)
    if same is not None:
        console.line(say("train.adapted", change=same.text))
        return same.plan
    advice = " ".join(each.text for each in asked.advice if each.saves or each.code == "no_batch_fits")
    advice = " ".join([advice, *(each.text for each in options[:3])])
    need, have = bytes_text(asked.memory.process_peak), bytes_text(asked.card.usable_bytes)
    raise FromzeroError("does_not_fit", card=asked.card.title, need=need, have=have, advice=advice)


def _start(planned: Plan, manifest: Manifest, how: Any, device: str, console: Console) -> checkpoint.Tensors | None:
    """The state a run starts from: trained weights and a fresh head, or vectors of its own texts' words. None where the
    seed says it all."""
    recipe, name = planned.recipe, planned.workload.model
    if recipe.pretrained is not None:
        where = recipe.pretrained
        model = fresh(planned.workload, recipe, lambda model: load_pretrained(model, name, where, console))
        if recipe.linear_probe:
            _fit_head(model, planned, manifest, how, device, console)
        return model.state_dict()
    if recipe.init != "cooccurrence":
        return None
    samples = tasks.trained(planned.workload.task).samples(manifest, how)
    words = [samples.encoded[row] for row in manifest.rows("train")]
    return fresh(planned.workload, recipe, lambda model: vectors.fill(model, words)).state_dict()


def _fit_head(model: Any, planned: Plan, manifest: Manifest, how: Any, device: str, console: Console) -> None:
    """Fit a new head to the training samples as they are, before anything else learns."""
    recipe, task = planned.recipe, tasks.trained(planned.workload.task)
    samples, entry, head = task.samples(manifest, how), task.entry(how).to(device), only_head(model)
    rows = samples.rows("train")
    if len(rows) > PROBED:
        rows = np.sort(np.random.default_rng(recipe.seed).choice(rows, PROBED, replace=False))
    assert recipe.batch is not None
    model.to(device).eval()
    found, truth = [], []
    with console.progress(say("train.probing"), len(rows)) as advance:
        for batch in ordered_batches(samples, rows, recipe.batch):
            inputs, targets = entered(batch, entry, recipe, device)
            found.append(features_of(model, head, inputs))
            truth.append(targets)
            advance(len(targets))
    loss_of = task.loss_for(recipe, weights_of_classes(samples, manifest, recipe, torch.device(device)))
    before, after = fit_head(head, torch.cat(found), torch.cat(truth), loss_of)
    model.to("cpu")
    console.line(say("train.probed", count=len(rows), before=f"{before:.3f}", after=f"{after:.3f}"))


def found_lr(
    planned: Plan, manifest: Manifest, how: Any, device: str, start: checkpoint.Tensors | None, console: Console
) -> Found | None:
    """A learning rate for this plan, tried on a model that is thrown away; None where memory did not suffice."""
    task = tasks.trained(planned.workload.task)
    engine = engines.start(planned.recipe, device)
    recipe = engine.recipe  # one process does the work of all cards
    model = fresh(planned.workload, recipe)
    if start is not None:
        model.load_state_dict(start)
    if recipe.memory_format == "channels-last":
        model = model.to(memory_format=torch.channels_last)
    model, entry = engine.wrap(model), task.entry(how).to(engine.device)
    samples = task.samples(manifest, how, recipe, console)
    loss_of = task.loss_for(recipe, weights_of_classes(samples, manifest, recipe, engine.device))
    rows = samples.rows("train")

    def steps() -> Iterator[list[Batch]]:
        assert recipe.batch is not None
        for epoch in itertools.count():
            these = drawn(rows, samples.labels(rows), recipe.sampling, recipe.seed, epoch)
            batches = training_batches(samples, these, recipe.batch, epoch, 0)
            while parts := list(itertools.islice(batches, recipe.accumulate)):
                yield [entered(each, entry, recipe, engine.device) for each in parts]
                advance(1)

    try:
        with console.progress(say("train.trying_rates"), TRIED_STEPS) as advance:
            found = find_lr(engine, model, loss_of, recipe, steps())
    except (RuntimeError, MemoryError) as error:
        if not ladder.out_of_memory(error):
            raise
        console.line(say("train.no_room_for_rates", lr=f"{planned.recipe.lr:.2g}"))
        return None
    if found.lr is None:
        console.line(say("train.no_rate", lr=f"{planned.recipe.lr:.2g}"))
    else:
        told = {"lr": found.lr, "lowest": found.lowest, "usual": planned.recipe.lr}
        console.line(say("train.rate", **{name: f"{value:.2g}" for name, value in told.items()}))
    return found


def _with_lr(planned: Plan, lr: float) -> Plan:
    """The plan with another rate, without its reasons for the old one."""
    advice = tuple(each for each in planned.advice if each.code != "learning_rate")
    return dataclasses.replace(planned, recipe=dataclasses.replace(planned.recipe, lr=lr), advice=advice)


def _check_recipe(recipe: dict[str, Any], on_cpu: bool) -> None:
    """Refuse what a plan knows and this loop does not run."""
    precision = recipe.get("precision", "fp32")
    if precision in PRECISIONS and precision not in engines.MIXED:
        raise UsageError("precision_infer_only", precision=precision)
    if precision == "amp-fp16" and on_cpu:
        raise UsageError("no_fp16_on_cpu")
    check_bf16(precision, on_cpu)
    launching.check(recipe, "cpu" if on_cpu else "cuda")
    if recipe.get("init") == "cooccurrence" and recipe.get("pretrained"):
        raise UsageError("init_or_pretrained")
    if recipe.get("dora") and not recipe.get("lora_rank"):
        raise UsageError("dora_without_lora")
    if recipe.get("linear_probe") and not recipe.get("pretrained"):
        raise UsageError("probe_of_nothing")
    if recipe.get("cards", 1) > 1 and recipe.get("compile"):
        raise UsageError("one_card_only", flag="--compile")
