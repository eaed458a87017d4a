"""Too much or too little was learnt from the training part: overfitting, underfitting, too few samples."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fromzero import pictures
from fromzero.diagnosis import Finding
from fromzero.diagnosis import _drawing as drawing
from fromzero.diagnosis._facts import Facts
from fromzero.improving import RULES, learning_more, regularised
from fromzero.language import say

CODES = ("overfitting", "underfitting", "too_few_samples")

AHEAD = 0.05  # accuracy on training rows above that on validation rows, beyond the 95 % noise of both
BEHIND = 0.05  # the same of training rows below what a quick judge reaches on rows it never saw
STRONG = 0.3  # dropout, weight decay or smoothing beyond which a model may be held back
MORE = 4  # times the epochs, where nothing holds the model back but time
FEW = 50  # training samples of a class, in the median; with fewer no class has shown its variety
MIRRORED = 0.8  # of the accuracy; photographs lose less, digits and signs more
VERY_FEW = 20  # so few that no curve can be drawn of them
RISING = 0.02  # accuracy that the judge gains when its samples are doubled: it would go on gaining


def find(facts: Facts) -> Iterator[Finding]:
    """By accuracies where there are classes, by the losses alone for a language model."""
    if not facts.rows:
        return
    told = RULES["overfitting"][0](facts.seen)
    if facts.kind == "lm":
        if told:
            yield _overfitting(facts, facts.rows[-1]["val_loss"] / max(facts.rows[-1]["train_loss"], 1e-9) / 2)
        return
    if facts.parts is None:
        return
    if told and facts.ahead > AHEAD:
        yield _overfitting(facts, facts.ahead / AHEAD)
    if facts.behind > BEHIND:
        yield _underfitting(facts)
    yield from _too_few(facts)


def _overfitting(facts: Facts, strength: float) -> Finding:
    losses = [each["val_loss"] for each in facts.rows]
    evidence = {
        "train_loss": facts.seen.train_loss,
        "val_loss": facts.seen.val_loss,
        "least": min(losses),
        "epoch": losses.index(min(losses)) + 1,
        **_accuracies(facts),
    }
    return Finding(code="overfitting", strength=strength, evidence=evidence, words=_restrained(facts))


def _restrained(facts: Facts) -> dict[str, Any]:
    """All that `improving` would try one after the other: a diagnosis is sure enough to try it at once."""
    wanted: dict[str, Any] = {}
    for change in regularised(facts.seen):
        wanted |= change
    if wanted.get("augmentation") == "auto" and _mirror_matters(facts):
        wanted["augmentation"] = "rotate"
    return facts.takes(wanted)


def _mirror_matters(facts: Facts) -> bool:
    """Whether pictures are another thing in a mirror, as letters are: the usual ways to vary them would teach that."""
    if facts.val is None or facts.mirrored is None:
        return False
    return facts.mirrored.accuracy < MIRRORED * facts.val.accuracy


def _underfitting(facts: Facts) -> Finding:
    recipe = facts.recipe
    loosened: dict[str, Any] = {}
    if (recipe.dropout or 0.0) > STRONG:
        loosened["dropout"] = None
    if recipe.weight_decay > STRONG:
        loosened["weight_decay"] = type(recipe)().weight_decay
    if recipe.label_smoothing > STRONG:
        loosened["label_smoothing"] = 0.0
    if recipe.l1 > 0:
        loosened["l1"] = 0.0
    if recipe.freeze != "none" and not recipe.pretrained:  # a frozen backbone that never learnt anything
        loosened["freeze"] = "none"
    if not loosened:
        loosened = {**next(learning_more(facts.seen)), "epochs": MORE * recipe.epochs}
    evidence = {"reference": facts.reference, **_accuracies(facts), "train_loss": facts.seen.train_loss}
    return Finding(code="underfitting", strength=facts.behind / BEHIND, evidence=evidence, words=loosened)


def _too_few(facts: Facts) -> Iterator[Finding]:
    import numpy as np

    counts = facts.counts[facts.counts > 0]
    if not len(counts) or facts.ahead <= AHEAD or not facts.judged:
        return
    typical = float(np.median(counts))
    accuracies = list(facts.judged.values())
    gain = accuracies[-1] - accuracies[-2]
    if typical >= FEW or (typical >= VERY_FEW and gain < RISING):
        return
    evidence = {"typical": typical, "least": int(counts.min()), "gain": gain, **_accuracies(facts)}
    words = _restrained(facts) | {"epochs": 2 * facts.recipe.epochs}
    yield Finding(code="too_few_samples", strength=FEW / typical, evidence=evidence, words=words)


def _accuracies(facts: Facts) -> dict[str, float]:
    if facts.parts is None:
        return {}
    train, val = facts.parts
    return {"train": train.accuracy, "val": val.accuracy, "ahead": train.accuracy - val.accuracy}


def draw(facts: Facts, finding: Finding) -> bytes:
    if finding.code == "too_few_samples":
        counts, accuracies = zip(*facts.judged.items(), strict=True)
        return pictures.lines(say("diagnose.draw.judged"), say("diagnose.draw.samples"), {"": (counts, accuracies)})
    return drawing.losses(facts.rows)
