"""What the model answers: surer than it should be, and worse for the classes it rarely saw."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from fromzero import metrics, pictures
from fromzero.data.checks.copies import IMBALANCE
from fromzero.diagnosis import Finding
from fromzero.diagnosis import _drawing as drawing
from fromzero.diagnosis._facts import Facts, Part
from fromzero.language import say

CODES = ("saturated_softmax", "class_imbalance")

TOO_SURE = 0.1  # mean confidence above accuracy, beyond the noise of the accuracy: a promise of 9 in 10 kept 8 times
CERTAIN = 0.99  # a probability that leaves no doubt
WRONGLY = 0.3  # share of the mistakes that were made with such a probability
FEWEST_MISTAKES = 10  # with fewer the share says nothing
SMOOTHING = 0.1
UNEVEN = 0.1  # recall averaged over classes below the plain accuracy


def find(facts: Facts) -> Iterator[Finding]:
    if facts.val is None:
        return
    yield from _too_sure(facts, facts.val)
    yield from _uneven(facts, facts.val)


def _too_sure(facts: Facts, val: Part) -> Iterator[Finding]:
    confidence = val.scores.max(axis=1)
    over = float(confidence.mean()) - val.accuracy - 1.96 * val.error
    wrong = confidence[~val.right]
    certain = float((wrong > CERTAIN).mean()) if len(wrong) >= FEWEST_MISTAKES else 0.0
    if over < TOO_SURE and not (over > 0 and certain > WRONGLY):
        return
    words: dict[str, Any] = {}
    if facts.recipe.label_smoothing < SMOOTHING:
        words["label_smoothing"] = SMOOTHING
    if facts.rows and len(facts.rows) == facts.recipe.epochs > 1:
        losses = [each["val_loss"] for each in facts.rows]
        best = losses.index(min(losses)) + 1
        if best < len(losses) / 2:  # the answers got surer and not better from there on
            words["epochs"] = max(2, best)
    evidence = {
        "confidence": float(confidence.mean()),
        "accuracy": val.accuracy,
        "error": metrics.calibration_error(val.scores, val.truth),
        "certain": certain,
        "val_loss": metrics.cross_entropy(val.scores, val.truth),
    }
    strength = max(over / TOO_SURE, certain / WRONGLY)
    yield Finding(code="saturated_softmax", strength=strength, evidence=evidence, words=words)


def _uneven(facts: Facts, val: Part) -> Iterator[Finding]:
    counts = facts.counts
    present = np.flatnonzero(counts)
    if len(present) < 2 or counts.max() < IMBALANCE * counts[present].min():
        return
    recalls = _recalls(val, len(counts))
    seen = [each for each in present if not np.isnan(recalls[each])]
    balanced = float(np.mean(recalls[seen])) if seen else 1.0
    if val.accuracy - balanced < UNEVEN:
        return
    rare, frequent = int(min(seen, key=lambda e: recalls[e])), int(counts.argmax())
    evidence = {
        "ratio": float(counts.max() / counts[present].min()),
        "accuracy": val.accuracy,
        "balanced": balanced,
        "class": facts.manifest.classes[rare],
        "recall": float(recalls[rare]),
        "count": int(counts[rare]),
        "frequent": facts.manifest.classes[frequent],
        "most": int(counts[frequent]),
    }
    recipe = facts.recipe
    words = {"sampling": "balanced"} if recipe.sampling == "natural" and recipe.class_weights == "none" else {}
    yield Finding(
        code="class_imbalance",
        strength=(val.accuracy - balanced) / UNEVEN,
        evidence=evidence,
        where=(facts.manifest.classes[rare],),
        words=words,
    )


def _recalls(val: Part, classes: int) -> np.ndarray:
    """(classes,), NaN for a class that the part does not have."""
    total = np.bincount(val.truth, minlength=classes)
    right = np.bincount(val.truth[val.right], minlength=classes)
    return np.where(total > 0, right / np.maximum(total, 1), np.nan)


def draw(facts: Facts, finding: Finding) -> bytes:
    assert facts.val is not None
    if finding.code == "saturated_softmax":
        return pictures.reliability(metrics.calibration(facts.val.scores, facts.val.truth))
    recalls = _recalls(facts.val, len(facts.counts))
    order = np.argsort(-facts.counts, kind="stable")
    names = [f"{facts.manifest.classes[each]} ({facts.counts[each]})" for each in order]
    marked = [name for name, each in zip(names, order, strict=True) if facts.manifest.classes[each] in finding.where]
    title = say("diagnose.draw.recall")
    return drawing.bars(title, names, [float(np.nan_to_num(recalls[each])) for each in order], marked=marked)
