"""The learning rate: too high, too low, or so that the loss jumps about."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from fromzero.diagnosis import Finding
from fromzero.diagnosis import _drawing as drawing
from fromzero.diagnosis._facts import Facts
from fromzero.finding import Found
from fromzero.improving import RULES, calmer
from fromzero.language import say
from fromzero.step import scaled_lr

CODES = ("learning_rate_high", "learning_rate_low", "learning_rate_noisy")

HIGH = 10.0  # times the rate that the range test takes, which is a tenth of where the loss was lowest: its edge
LOW = 5.0  # times lower than what it takes, if besides
STILL = 0.03  # the median matrix went so little of its own length; a run that learns goes a tenth and more
UNLEARNT = 0.9  # of the first epoch's training loss is still there at the end
RESTLESS = 0.06  # ups and downs of the validation loss in the second half, as a share of it; quiet runs stay below 0.02
NOTHING = 0.1  # of the loss of a guess
CALM_BATCH = 32  # a smaller batch is made so large


def find(facts: Facts) -> Iterator[Finding]:
    """Only where the run went badly is the range test asked: it costs up to a hundred steps."""
    if facts.broken:
        yield from _broken(facts)
        return
    if not facts.rows:
        return
    if not (facts.behind > 0 or RULES["noise"][0](facts.seen) or _restlessness(facts) > RESTLESS):
        return
    if facts.from_scratch and facts.travel:
        moved = float(np.median(list(facts.travel.values())))
        better = _better(facts)
        if facts.behind > 0 and moved < STILL and better > LOW * _rate(facts):
            evidence = {"lr": _rate(facts), "better": better, "moved": moved, **_losses(facts)}
            yield Finding(
                code="learning_rate_low", strength=better / _rate(facts) / LOW, evidence=evidence, words={"lr": better}
            )
            return
    ratio = _rate(facts) / _better(facts)
    first, last = (facts.rows[place]["train_loss"] for place in (0, -1))
    if ratio > HIGH and (facts.behind > 0 or last > UNLEARNT * first):
        evidence = {"lr": _rate(facts), "better": _better(facts), "ratio": ratio, **_losses(facts)}
        words = {"lr": _better(facts), **({} if facts.recipe.clip else {"clip": 1.0})}
        yield Finding(code="learning_rate_high", strength=ratio / HIGH, evidence=evidence, words=words)
    if _restlessness(facts) > RESTLESS:
        yield _noisy(facts)


def _broken(facts: Facts) -> Iterator[Finding]:
    """The values grew until they were none: the rate is to blame only if it is far above what the range test takes."""
    origin = facts.origin
    if origin is None or origin.phase == "input":
        return
    ratio = _rate(facts) / _better(facts)
    if ratio > HIGH:
        evidence = {"lr": _rate(facts), "better": _better(facts), "ratio": ratio, **_losses(facts)}
        words = {"lr": _better(facts), **({} if facts.recipe.clip else {"clip": 1.0})}
        yield Finding(code="learning_rate_high", strength=ratio / HIGH, evidence=evidence, words=words)


def _noisy(facts: Facts) -> Finding:
    recipe, change = facts.recipe, next(calmer(facts.seen))
    assert recipe.batch is not None
    words = {**change, "schedule": "cosine"}
    if recipe.batch < CALM_BATCH <= len(facts.manifest.rows("train")) // 4:
        words = {"batch": CALM_BATCH, "schedule": "cosine"}
    evidence = {
        "lr": _rate(facts),
        "batch": recipe.batch * recipe.accumulate,
        "spread": _restlessness(facts),
        **_losses(facts),
    }
    strength = _restlessness(facts) / RESTLESS
    return Finding(code="learning_rate_noisy", strength=strength, evidence=evidence, words=words)


def _restlessness(facts: Facts) -> float:
    """The mean change of the validation loss from one epoch to the next, in both directions, in the second half of the
    run, as a share of its mean there and of a little of what a guess costs, since hundredths of next to nothing mean
    nothing; 0 where it only falls or only rises."""
    losses = np.array([each["val_loss"] for each in facts.rows][len(facts.rows) // 2 :])
    if len(losses) < 4:
        return 0.0
    steps = np.diff(losses)
    both = min(-steps[steps < 0].sum(), steps[steps > 0].sum()) * 2 / len(steps)
    guess = math.log(max(2, facts.plan.workload.classes))
    return float(both / (losses.mean() + NOTHING * guess))


def _rate(facts: Facts) -> float:
    assert facts.recipe.lr is not None
    return facts.recipe.lr


def _better(facts: Facts) -> float:
    """What the range test takes; the plan's own starting point where the loss fell at no rate."""
    found: Found | None = facts.found
    if found is not None and found.lr is not None:
        return float(f"{found.lr:.2g}")
    assert facts.recipe.batch is not None
    return float(f"{scaled_lr(facts.recipe.optimizer, facts.recipe.batch * facts.recipe.accumulate):.2g}")


def _losses(facts: Facts) -> dict[str, float]:
    return {"first": facts.rows[0]["train_loss"], "last": facts.rows[-1]["train_loss"]} if facts.rows else {}


def draw(facts: Facts, finding: Finding) -> bytes:
    found: Found | None = facts.found if finding.code != "learning_rate_noisy" else None
    if found is None or not found.rates:
        return drawing.losses(facts.rows)
    marks = {say("diagnose.draw.this_run"): _rate(facts), say("diagnose.draw.better"): _better(facts)}
    return drawing.range_test(found.rates, found.smoothed, marks)
