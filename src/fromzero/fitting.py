"""fit(): what to change so that a job fits one card, and what each change costs in time.

Three kinds of change, from the harmless to the deep: those that give the same result (micro-batches, checkpointing),
those that give nearly the same (half precision, 8-bit optimizer state), and those that train something else (LoRA,
QLoRA). Every proposal is a plan of its own, at the same effective batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fromzero.errors import UsageError
from fromzero.language import say
from fromzero.models.build import task_of
from fromzero.planning import plan
from fromzero.records import Option, Plan
from fromzero.terminal import bytes_text
from fromzero.tracing import block_count

KEEPS = ("same", "close", "different")
LORA_RANK = 16
ENOUGH = 6  # proposals that fit; more is a list nobody reads
MICRO_BATCHES = (1024, 512, 256, 128, 64, 32, 16, 8, 4, 2, 1)


def fit(model: str, *, batch: int | str | None = None, **words: Any) -> tuple[Plan, tuple[Option, ...]]:
    """The plan as asked, and the changes that make it fit: cheapest first within each kind of change. The words are
    those of `plan`; `batch` x `accumulate` is the effective batch that every proposal keeps. Empty if nothing helps."""
    asked = plan(model, batch=batch, **words)
    assert asked.recipe.batch is not None
    effective = asked.recipe.batch * asked.recipe.accumulate
    words = {**words, "card": asked.card}
    found: list[Option] = []
    for keeps, changes in _ladder(model, asked):
        if len(found) >= ENOUGH:
            break
        made = _split(model, {**words, **changes}, effective)
        if made is None:
            continue
        if changes.get("checkpointing") == "blocks":
            made = _fewer_blocks(model, {**words, **changes}, made) or made
        if made.recipe != asked.recipe:
            found.append(_option(keeps, asked, made))
    found.sort(key=lambda each: (KEEPS.index(each.keeps), each.plan.time.step))
    return asked, tuple(found)


def _ladder(model: str, asked: Plan) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """What to try, in order; what the recipe has already, or the card has no use for, is left out."""
    recipe = asked.recipe
    half = asked.card.half if recipe.precision in ("fp32", "tf32") else None
    checkpointed = {} if recipe.checkpointing != "none" else {"checkpointing": "blocks"}
    eight = {"optimizer": "adamw8bit"} if recipe.optimizer in ("adam", "adamw") else {}
    amp = {"precision": f"amp-{half}"} if half else {}
    yield "same", {}
    if checkpointed:
        yield "same", checkpointed
    if amp:
        yield "close", amp
        yield "close", {**amp, **checkpointed}
    if eight:
        yield "close", {**amp, **checkpointed, **eight}
    if recipe.lora_rank == 0 and asked.workload.purpose == "train":
        adapters: dict[str, Any] = {"lora_rank": LORA_RANK}
        yield "different", {**adapters, **amp}
        if task_of(model) != "image":
            pure = {"precision": half} if half else {}
            yield "different", {**adapters, **pure, **checkpointed}
            yield "different", {**adapters, **pure, "base_quantisation": "nf4"}
            yield "different", {**adapters, **pure, **checkpointed, **eight, "base_quantisation": "nf4"}


def _split(model: str, words: Mapping[str, Any], effective: int) -> Plan | None:
    """The plan with the largest micro-batch that fits, at the same effective batch; None if not even one sample does,
    or the change does not apply to this model."""
    words = {name: value for name, value in words.items() if name != "accumulate"}
    for micro in (effective, *(each for each in MICRO_BATCHES if each < effective and effective % each == 0)):
        try:
            made = plan(model, batch=micro, accumulate=effective // micro, **words)
        except UsageError:
            return None
        if made.verdict == "fits":
            return made
    return None


def _fewer_blocks(model: str, words: Mapping[str, Any], all_of_them: Plan) -> Plan | None:
    """The same with the fewest checkpointed blocks that fit at that micro-batch: each one costs a second forward pass.
    The first blocks are taken, whose activations live longest."""
    batch, accumulate = all_of_them.recipe.batch, all_of_them.recipe.accumulate
    words = {**words, "batch": batch, "accumulate": accumulate}
    low, high, best = 0, block_count(all_of_them.workload), None
    while high - low > 1:
        middle = (low + high) // 2
        made = plan(model, **{**words, "checkpointing": f"1-{middle}"})
        if made.verdict == "fits":
            high, best = middle, made
        else:
            low = middle
    return best


def _option(keeps: str, asked: Plan, made: Plan) -> Option:
    saves = asked.memory.process_peak - made.memory.process_peak
    slower = made.time.step / asked.time.step - 1 if asked.time.step else 0.0
    changes = {
        name: getattr(made.recipe, name)
        for name in vars(made.recipe)
        if name != "lr" and getattr(made.recipe, name) != getattr(asked.recipe, name)
    }
    text = say(
        "fit.option",
        changes=_in_words(changes, made),
        saves=bytes_text(abs(saves)),
        sign="−" if saves >= 0 else "+",
        time=f"{slower:+.0%}",
    )
    return Option(keeps=keeps, text=text, changes=changes, saves=saves, slower=slower, plan=made)


def _in_words(changes: Mapping[str, Any], made: Plan) -> str:
    said = []
    if {"batch", "accumulate"} & changes.keys():
        said.append(say("fit.split", batch=made.recipe.batch, accumulate=made.recipe.accumulate))
    for name, value in changes.items():
        if value == "blocks":
            value = f"1-{block_count(made.workload)}"
        if name not in ("batch", "accumulate"):
            said.append(say(f"fit.{name}", value=value))
    return say("fit.and").join(said)
