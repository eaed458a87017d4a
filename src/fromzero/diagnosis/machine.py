"""What the machine did to a run: waiting for the loader, memory in pieces, clocks held down by heat."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from fromzero import engine as engines
from fromzero.data.batches import training_batches
from fromzero.data.load import ON_ARRAYS, Pictures, can_keep
from fromzero.diagnosis import Finding
from fromzero.diagnosis import _drawing as drawing
from fromzero.diagnosis._facts import Facts
from fromzero.language import say
from fromzero.records import Recipe
from fromzero.step import make_optimizer
from fromzero.terminal import bytes_text
from fromzero.training import entered

CODES = ("loader_bound", "memory_fragmented", "thermally_throttled")

WAITING = 0.4  # share of a step that goes by before its batch is there; below, other work matters more
LEAST_SECONDS = 0.002  # a batch that comes sooner is nobody's trouble
BATCHES = 6  # that are timed
IN_PIECES = 1.3  # bytes PyTorch holds from the driver for each that tensors fill at the peak; its own rounding is below
FULL = 0.7  # share of the card's memory from which pieces can be what an allocation fails for
HOT = 83.0  # degrees Celsius where consumer cards begin to lower their clocks (their default target)
HEAT = ("temperature", "hardware")  # what NVML calls it
EXPANDABLE = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}


def find(facts: Facts) -> Iterator[Finding]:
    yield from _fragmented(facts)
    yield from _throttled(facts)
    if facts.record["status"] == "finished":
        yield from _waiting(facts)


def _fragmented(facts: Facts) -> Iterator[Finding]:
    """Only a card's allocator reserves more than it gives out."""
    allocated, reserved = (facts.measured.get(f"{name}_peak") for name in ("allocated", "reserved"))
    if not allocated or not reserved or not facts.plan.card.usable_bytes:
        return
    ratio, share = reserved / allocated, reserved / facts.plan.card.usable_bytes
    if ratio < IN_PIECES or share < FULL:
        return
    evidence = {
        "reserved": bytes_text(reserved),
        "allocated": bytes_text(allocated),
        "lost": bytes_text(reserved - allocated),
        "ratio": ratio,
        "share": share,
    }
    yield Finding(code="memory_fragmented", strength=ratio / IN_PIECES, evidence=evidence, environment=dict(EXPANDABLE))


def _throttled(facts: Facts) -> Iterator[Finding]:
    for card in facts.measured.get("cards") or ():
        reasons = [each for each in card.get("throttle") or () if each in HEAT]
        hottest = card.get("temperature_peak") or 0.0
        if reasons and (hottest >= HOT or "temperature" in reasons):
            evidence = {"card": card.get("name", ""), "temperature": hottest, "reasons": ", ".join(reasons)}
            yield Finding(
                code="thermally_throttled",
                strength=max(1.0, hottest / HOT),
                evidence=evidence,
                where=(f"{card.get('name', '')} {card.get('index', 0)}",),
            )


def _waiting(facts: Facts) -> Iterator[Finding]:
    """Batches as training makes them, with as many threads, against the steps that wait for them."""
    loading, stepping = _times(facts)
    share = loading / (loading + stepping) if _one_by_one(facts) else 1 - min(1.0, stepping / loading)
    if share < WAITING or loading < LEAST_SECONDS:
        return
    evidence = {"share": share, "loading": 1e3 * loading, "stepping": 1e3 * stepping, "workers": _varied(facts).workers}
    words: dict[str, Any] = {}
    keeps = isinstance(facts.samples, Pictures) and can_keep(facts.manifest, facts.how)
    if keeps and facts.recipe.augmentation not in ON_ARRAYS:
        words = {"augmentation": "shift-flip" if "shift-flip" in ON_ARRAYS else "none"}
    yield Finding(code="loader_bound", strength=share / WAITING, evidence=evidence, words=words)


def _one_by_one(facts: Facts) -> bool:
    """Whether a batch is made only when the step before is over."""
    return not _varied(facts).workers


def _varied(facts: Facts) -> Any:
    return facts.once("varied", lambda: facts.task.samples(facts.manifest, facts.how, facts.recipe, facts.console))


def _times(facts: Facts) -> tuple[float, float]:
    return facts.once("times", lambda: _timed(facts))


def _timed(facts: Facts) -> tuple[float, float]:
    """Seconds that a batch takes to make and a step to compute, each alone, the median of a few."""
    recipe: Recipe = facts.recipe
    assert recipe.batch is not None
    samples = _varied(facts)
    batches = training_batches(samples, samples.rows("train"), recipe.batch, 0, 0)
    first = next(batches)
    waits = [_seconds(lambda: next(batches, None)) for _ in range(BATCHES)]
    waits = waits[: max(1, min(BATCHES, len(samples.rows("train")) // recipe.batch - 1))]
    engine = engines.start(recipe, facts.device.type)
    model = engine.wrap(facts.beginning())
    optimizer = engine.prepare_optimizer(make_optimizer(model, recipe))
    loss_of = facts.task.loss_for(recipe)
    given = entered(first, facts.task.entry(facts.how).to(facts.device), recipe, facts.device)
    model.train()

    def step() -> None:
        float(engine.step(model, loss_of, optimizer, [given], recipe))  # reading the loss waits for the device

    step()
    steps = [_seconds(step) for _ in range(BATCHES)]
    return sorted(waits)[len(waits) // 2], sorted(steps)[len(steps) // 2]


def _seconds(work: Any) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def draw(facts: Facts, finding: Finding) -> bytes:
    if finding.code == "loader_bound":
        loading, stepping = _times(facts)
        names = [say("diagnose.draw.loading"), say("diagnose.draw.stepping")]
        return drawing.bars(say("diagnose.draw.milliseconds"), names, [1e3 * loading, 1e3 * stepping], marked=names[:1])
    if finding.code == "memory_fragmented":
        names = [say("diagnose.draw.reserved"), say("diagnose.draw.allocated")]
        values = [facts.measured["reserved_peak"] / 2**30, facts.measured["allocated_peak"] / 2**30]
        return drawing.bars(say("diagnose.draw.gib"), names, values, marked=names[:1])
    cards = facts.measured["cards"]
    names = [f"{each['name']} {each['index']}" for each in cards]
    return drawing.bars(
        say("diagnose.draw.temperature"),
        names,
        [each["temperature_peak"] or 0.0 for each in cards],
        marked=finding.where,
    )
