"""plan(): builds the workload's step and hands it to the planner.

words -> Workload, Recipe, Card -> trace of training_step -> memory, verdict, time, energy -> Plan
"""

from __future__ import annotations

import dataclasses
import functools
import math
import platform
from collections.abc import Iterable, Mapping
from typing import Any

from fromzero.cautions import cautions
from fromzero.errors import UnknownName, UsageError
from fromzero.facts.cards import find_card
from fromzero.language import say
from fromzero.launching import check_shape
from fromzero.machine.ledger import correction, entries
from fromzero.machine.measured import load_bench
from fromzero.machine.process import settled_bytes
from fromzero.models.build import task_of, usual_size
from fromzero.planner.breakdown import Course, by_module, course, peak
from fromzero.planner.kernels import Setting
from fromzero.planner.loading import bounded, loader, workers_for
from fromzero.planner.memory import memory, verdict
from fromzero.planner.parallel import ddp, fsdp, offload_optimizer, pipeline, waiting
from fromzero.planner.search import LADDER, largest_batch
from fromzero.planner.timing import (
    NETWORK,
    Length,
    as_measured,
    doubts,
    energy,
    takes_tf32,
    timing,
    watts,
    with_waiting,
)
from fromzero.planner.trace import Trace
from fromzero.records import Advice, Card, Memory, Plan, Recipe, Stack, Time, Verdict, Workload
from fromzero.step import DEFAULT_LR, REFERENCE_BATCH, scaled_lr
from fromzero.terminal import bytes_text, seconds_text
from fromzero.tracing import trace_at

# The least that torch.compile leaves of an eager step's activations and time: assumptions, the upper bound is eager's.
COMPILED_ACTIVATIONS, COMPILED_TIME = 0.6, 0.6
TRACED_STEPS = 3  # the optimizer's state exists from the second step on
PRETRAINED_LR_SHARE = 0.1  # trained weights are nudged, not thrown away


def plan(
    model: str,
    *,
    card: str | Card | None = None,
    batch: int | str | None = None,
    imgsz: int | None = None,
    seq: int = 512,
    channels: int = 3,
    features: int = 32,
    vocabulary: int = 0,
    categories: tuple[int, ...] = (),
    window: int = 0,
    classes: int = 1000,
    samples: int = 0,
    purpose: str = "train",
    steps: int = TRACED_STEPS,
    torch: str = "",
    tariff: float | None = None,
    currency: str = "",
    cores: int | None = None,
    network: float = NETWORK / 1e9,
    **recipe: Any,
) -> Plan:
    """What `model` needs on `card` (None: the device at hand, "cpu": this machine's CPU).

    `imgsz` (None: 224, or the model's own size where it must be another) and `channels` shape pictures, `seq` is the
    length of a text in tokens and `vocabulary` how many there are (0: as many as the model knows); `features` and
    `categories` shape tables: how many numbers, and how many words each column of words has; `window` is how many of
    an entity's rows a recurrent model reads (0: a row by itself). `batch` is a number,
    "auto" for the largest that fits, or None for the usual one made smaller until it fits. `torch` is the release it
    will run on (default: the one here), `tariff` the price of a kWh in `currency`. `cores` are the CPU cores that will
    load pictures (None: loading keeps up), `network` is what each of several machines can send, in Gbit/s. The other
    words are the fields of `Recipe`. Raises UnknownName with near matches for a model, card or word that does not
    exist."""
    for name, value in (
        ("imgsz", 1 if imgsz is None else imgsz),
        ("seq", seq),
        ("channels", channels),
        ("features", features or len(categories)),  # a table may be all words
        ("classes", classes),
        ("steps", steps),
        ("cores", 1 if cores is None else cores),
    ):
        if not isinstance(value, int) or value < 1:
            raise UsageError("not_positive", name=name, value=value)
    if purpose not in ("train", "infer"):
        raise UnknownName("purpose", purpose, ("train", "infer"))
    task = task_of(model)
    workload = Workload(
        task=task,
        model=model,
        input_shape=_input_shape(task, model, imgsz, channels, seq, features, window),
        classes=classes,
        samples=samples,
        purpose=purpose,
        vocabulary=vocabulary if task in ("text", "lm") else 0,
        categories=tuple(categories) if task == "table" else (),
    )
    device = _card(card)
    made = _recipe(recipe)
    check_shape(made.cards, made.nodes)
    if network <= 0:
        raise UsageError("not_positive", name="network", value=network)
    stack = Stack(torch=torch or _torch_version(), os=platform.system().lower())
    judge = _Judge(workload, made, device, steps, stack)
    chosen, largest = _batch(batch, judge, samples // (made.accumulate * made.replicas) if samples else LADDER[-1])
    if samples and chosen * made.accumulate * made.replicas > samples:
        times = made.accumulate * made.replicas
        raise UsageError("batch_too_large", batch=chosen, accumulate=times, samples=samples)
    judged = judge.at(chosen)
    made = dataclasses.replace(made, batch=chosen, lr=_lr(made, chosen) if made.lr is None else made.lr)
    whole = judge.whole(chosen)
    length = Length(
        samples=samples,
        epochs=made.epochs if purpose == "train" else 1,
        batch=chosen * made.accumulate * made.replicas,
    )
    setting = Setting(device, torch, takes_tf32(made.precision, torch))
    traced = timing(whole, setting, length)
    # torch.compile is not traced: what is known of it is that it saves, not how much
    traced = dataclasses.replace(traced, low=traced.low * COMPILED_TIME) if made.compile else traced
    together = _of_recipe(traced, made, whole, device, length, network * 1e9)
    time = _corrected(together, correction(entries(device.title)))
    unloaded, time = time, _loaded(time, workload, length, device, cores)
    draw = with_waiting(watts(traced, setting, whole), device, unloaded.step / time.step if time.step else 1.0)
    return Plan(
        card=device,
        stack=stack,
        workload=workload,
        recipe=made,
        memory=_compiled(_explained(judged)) if made.compile else _explained(judged),
        time=time,
        energy=energy(time.total, draw * made.cards, tariff, currency),
        verdict=judged.verdict,
        max_batch=largest,
        advice=(
            *_advice(made, device, judge, judged, recipe.get("lr"), doubts(whole, setting)),
            *_about_loading(workload, device, unloaded, cores),
            *_about_network(made, network),
        ),
    )


def plan_many(requests: Iterable[Mapping[str, Any]]) -> list[Plan]:
    """Plans in the order of `requests`, each a dict of the words of `plan`; rows of one model share their traces."""
    return [plan(**request) for request in requests]


def summary(made: Plan) -> str:
    """A plan in one sentence."""
    return say(
        "plan.summary",
        card=made.card.title,
        verdict=say(f"verdict.{made.verdict}"),
        batch=made.recipe.batch,
        peak=bytes_text(made.memory.process_peak),
        low=bytes_text(made.memory.low),
        high=bytes_text(made.memory.high),
        usable=bytes_text(made.card.usable_bytes),
        step=seconds_text(made.time.step),
        step_low=seconds_text(made.time.low),
        step_high=seconds_text(made.time.high),
    )


# --- the words of plan() --------------------------------------------------------------------------------------------


def _input_shape(
    task: str, model: str, imgsz: int | None, channels: int, seq: int, features: int, window: int
) -> tuple[int, ...]:
    if task in ("image", "custom"):
        side = imgsz or usual_size(model)
        return channels, side, side
    if task == "table":
        return (features, window) if window else (features,)
    return (seq,)


def _card(card: str | Card | None) -> Card:
    if isinstance(card, Card):
        return card
    if card is None:
        from fromzero.machine.detect import this_card

        found, kept = this_card(), load_bench()
        return as_measured(found, kept.of(found.title) if kept else None)
    if card.casefold() == "cpu":
        from fromzero.machine.detect import this_cpu

        return this_cpu()
    return find_card(card)


def _recipe(words: Mapping[str, Any]) -> Recipe:
    words = {name: value for name, value in words.items() if value is not None}  # None: not said
    if "channels_last" in words:  # the flag's own name
        words["memory_format"] = "channels-last" if words.pop("channels_last") else "contiguous"
    if isinstance(words.get("checkpointing"), bool):
        words["checkpointing"] = "blocks" if words["checkpointing"] else "none"
    fields = {each.name: each for each in dataclasses.fields(Recipe)}
    for name, value in words.items():
        if name not in fields or name == "batch":
            raise UnknownName("word", name, fields)
        choices = fields[name].metadata["choices"]
        if choices and value not in choices:
            raise UnknownName("choice", str(value), choices)
        limits = fields[name].metadata["limits"]
        if limits and not limits[0] <= value <= (*limits, math.inf)[1]:
            raise UsageError("out_of_limits", name=name, value=value, low=limits[0], high=(*limits, "…")[1])
    return Recipe(**words)


def _batch(batch: int | str | None, judge: _Judge, limit: int) -> tuple[int, int | None]:
    """The batch to plan with, and the largest up to `limit` that fits where it was asked for."""
    if batch == "auto":
        largest = largest_batch(lambda size: judge.at(size).verdict, limit)
        return max(1, largest), largest
    if batch is None:
        return max(1, largest_batch(lambda size: judge.at(size).verdict, min(limit, REFERENCE_BATCH))), None
    if not isinstance(batch, int) or batch < 1:
        raise UsageError("not_positive", name="batch", value=batch)
    return batch, None


def _lr(recipe: Recipe, batch: int) -> float:
    return scaled_lr(recipe.optimizer, batch * recipe.accumulate * recipe.replicas) * (
        PRETRAINED_LR_SHARE if recipe.pretrained else 1
    )


def _torch_version() -> str:
    import torch

    return torch.__version__


# --- judging one batch size -----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Judged:
    trace: Trace
    memory: Memory
    verdict: Verdict


class _Judge:
    """Memory and verdict of one workload, recipe and card at any batch."""

    def __init__(self, workload: Workload, recipe: Recipe, card: Card, steps: int, stack: Stack) -> None:
        self.workload, self.recipe, self.card, self.steps, self.stack = workload, recipe, card, steps, stack
        self.at = functools.cache(self._at)

    @functools.cached_property
    def base(self) -> int:
        """What a CPU run holds before its first step. Asked after the first trace, whose machinery stays loaded: every
        run is planned in its own process first."""
        return settled_bytes() if self.card.is_cpu else 0

    def _at(self, batch: int) -> _Judged:
        found = divided(self.whole(batch), self.recipe)
        together = self.recipe.cards
        predicted = memory(found, self.card, self.stack, cards=together, cpu_base=self.base)
        return _Judged(found, predicted, verdict(found, self.card, predicted, self.stack, cards=together))

    def whole(self, batch: int) -> Trace:
        """The step before it is divided among cards."""
        return trace_at(self.workload, self.recipe, self.card, self.steps, batch)


def _of_recipe(time: Time, recipe: Recipe, whole: Trace, card: Card, length: Length, network: float) -> Time:
    """What the trace does not show: further micro-batches, and waiting for other cards or the host."""
    cards, staged = recipe.cards, recipe.cards > 1 and recipe.parallel == "pipeline"
    times = max(1.0, recipe.accumulate / 2)  # two micro-batches are traced
    parts = {n: s * (times if n in ("forward", "backward", "host") else 1.0) for n, s in time.parts.items()}
    between = network if recipe.nodes > 1 else None
    offload = recipe.offload == "optimizer"
    wait = waiting(whole, card, time, cards=cards, how=recipe.parallel, offload=offload, network=between)
    if times == 1.0 and wait == 0.0:
        return time
    if staged:  # each card does its part of the layers, and waits once for each batch
        parts, wait = {name: seconds / cards for name, seconds in parts.items()}, wait * times
    step = max(sum(s for name, s in parts.items() if name != "host"), parts["host"]) + wait
    per_epoch = step * length.samples / length.batch
    return dataclasses.replace(
        time,
        step=step,
        low=step * time.low / time.step,
        high=step * time.high / time.step + 2 * wait,  # how well it is hidden is the least certain
        samples_per_second=length.batch / step,
        epoch=per_epoch,
        total=per_epoch * length.epochs,
        parts={**parts, "waiting": wait},
    )


def _corrected(time: Time, factor: float) -> Time:
    """A prediction in the light of this machine's own runs."""
    seconds = {name: getattr(time, name) * factor for name in ("step", "low", "high", "epoch", "total")}
    rate = time.samples_per_second / factor
    parts = {name: value * factor for name, value in time.parts.items()}
    return dataclasses.replace(time, **seconds, samples_per_second=rate, parts=parts, correction=factor)


def _loaded(time: Time, workload: Workload, length: Length, card: Card, cores: int | None) -> Time:
    """A prediction with the cores that load its pictures as the other bound."""
    if cores is None or workload.task != "image" or workload.purpose != "train":
        return time
    return bounded(time, length.batch, cores, shared=card.is_cpu)


def course_of(made: Plan) -> Course:
    """Live memory over one step of a plan, operator by operator."""
    assert made.recipe.batch is not None
    judge = _Judge(made.workload, made.recipe, made.card, TRACED_STEPS, made.stack)
    return course(judge.at(made.recipe.batch).trace)


def _compiled(eager: Memory) -> Memory:
    """The interval reaches down to what fusing operators and computing some of them twice may save."""
    return dataclasses.replace(eager, low=eager.low - round((1 - COMPILED_ACTIVATIONS) * eager.parts["activations"]))


def _explained(judged: _Judged) -> Memory:
    """The memory with the modules that hold it, and the moment of its peak."""
    found = peak(judged.trace)
    where = say(f"phase.{found.moment.phase or 'forward'}", module=found.moment.module or say("phase.step"))
    return dataclasses.replace(
        judged.memory,
        modules={path or say("phase.step"): size for path, size in by_module(judged.trace, found).items()},
        peak_at=f"{where} ({found.moment.operator})",
    )


def divided(whole: Trace, recipe: Recipe) -> Trace:
    """What one of the recipe's cards holds of the traced step."""
    if recipe.offload == "optimizer":
        whole = offload_optimizer(whole)
    if recipe.cards == 1:
        return whole
    if recipe.parallel == "ddp":
        return ddp(whole)
    if recipe.parallel == "pipeline":
        try:
            return pipeline(whole, recipe.cards)
        except ValueError as error:
            raise UsageError("too_few_blocks", blocks=error, cards=recipe.cards) from error
    return fsdp(whole, recipe.cards, reshard=recipe.parallel == "fsdp")


# --- advice ---------------------------------------------------------------------------------------------------------


def _advice(
    recipe: Recipe, card: Card, judge: _Judge, judged: _Judged, asked_lr: float | None, uncertain: Iterable[str]
) -> Iterable[Advice]:
    if judged.verdict != "fits":
        assert recipe.batch is not None
        fits = largest_batch(lambda size: judge.at(size).verdict, limit=recipe.batch)
        if fits and fits < recipe.batch:
            saves = judged.memory.process_peak - judge.at(fits).memory.process_peak
            text = say("advice.smaller_batch", batch=fits, saves=bytes_text(saves))
            yield Advice(code="smaller_batch", text=text, saves=saves)
        elif not fits:
            yield Advice(code="no_batch_fits", text=say("advice.no_batch_fits", card=card.title))
    yield from cautions(recipe, card)
    if recipe.compile:
        yield Advice(code="compiled", text=say("advice.compiled"))
    if recipe.cards > 1:
        yield Advice(code="time_several_cards", text=say("advice.doubt.several_cards", cards=recipe.cards))
    for code in uncertain:
        yield Advice(code=f"time_{code}", text=say(f"advice.doubt.{code}", card=card.title))
    if judge.workload.purpose == "train" and asked_lr is None:
        yield Advice(code="learning_rate", text=_why_this_lr(recipe))


def _about_loading(workload: Workload, card: Card, unloaded: Time, cores: int | None) -> Iterable[Advice]:
    """The workers that keep the card fed, and the reason; and a word if there are too few cores."""
    if workload.task != "image" or workload.purpose != "train" or card.is_cpu or not unloaded.step:
        return
    workers, rate = workers_for(unloaded.samples_per_second), loader()
    source = say("advice.loader_measured" if rate.measured else "advice.loader_typical")
    told = {"rate": f"{unloaded.samples_per_second:.0f}", "per_core": f"{rate.per_core:.0f}", "source": source}
    if cores is not None and cores < workers:
        yield Advice(code="loader_bound", text=say("advice.loader_bound", workers=workers, cores=cores, **told))
    else:
        yield Advice(code="workers", text=say("advice.workers", workers=workers, **told))


def _about_network(recipe: Recipe, network: float) -> Iterable[Advice]:
    if recipe.nodes > 1:
        yield Advice(code="network", text=say("advice.network", network=f"{network:g}"))


def _why_this_lr(recipe: Recipe) -> str:
    """The learning rate and the rule it follows from."""
    assert recipe.batch is not None and recipe.lr is not None
    effective = recipe.batch * recipe.accumulate * recipe.replicas
    rule = say("advice.lr_linear" if recipe.optimizer.startswith("sgd") else "advice.lr_root")
    start = DEFAULT_LR[recipe.optimizer]
    return say(
        "advice.learning_rate",
        lr=f"{recipe.lr:.2g}",
        batch=effective,
        start=f"{start:g}",
        at=REFERENCE_BATCH,
        rule=rule,
    )
