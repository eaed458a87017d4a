"""Where the loss stopped being a number."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from fromzero import pictures
from fromzero.diagnosis import Finding
from fromzero.diagnosis import _drawing as drawing
from fromzero.diagnosis._facts import Facts
from fromzero.language import say
from fromzero.step import scaled_lr

CODES = ("nan_source",)

GREW = 1e3  # times the largest activation of the first step: the weights ran away, the operator only broke first
LOWER = 10.0  # times the rate, where the values ran away
CHUNK = 512
FEW_STEPS = 3


def find(facts: Facts) -> Iterator[Finding]:
    origin = facts.origin
    if origin is None:
        return
    evidence: dict[str, Any] = {
        "step": origin.step,
        "phase": origin.phase,
        "module": origin.module,
        "kind": origin.kind,
        "operator": origin.operator,
        "growth": origin.growth,
    }
    words: dict[str, Any] = {}
    without: tuple[int, ...] = ()
    where: tuple[str, ...] = (origin.module,) if origin.module else ()
    recipe = facts.recipe
    assert recipe.lr is not None and recipe.batch is not None
    if origin.phase == "input":
        without = _broken_rows(facts)
        evidence["count"] = len(without)
        where = tuple(facts.manifest.name(row) for row in without[:20])
        cause = "input"
    elif origin.growth > GREW or origin.phase in ("update", "validation"):
        usual = scaled_lr(recipe.optimizer, recipe.batch * recipe.accumulate)
        words = {"lr": float(f"{min(recipe.lr / LOWER, usual):.2g}"), **({} if recipe.clip else {"clip": 1.0})}
        cause = "ran_away"
    elif recipe.precision not in ("fp32", "tf32"):
        words = {"precision": "fp32"}
        cause = "precision"
    else:
        cause = "operator"
    evidence["cause"] = cause
    yield Finding(code="nan_source", strength=100.0, evidence=evidence, where=where, words=words, without=without)


def _broken_rows(facts: Facts) -> tuple[int, ...]:
    """Training rows whose input is no finite number."""
    rows, found = facts.samples.rows("train"), []
    for start in range(0, len(rows), CHUNK):
        part = rows[start : start + CHUNK]
        inputs = facts.samples.batch([(int(row), 0) for row in part])[0]
        bad = ~np.isfinite(inputs.reshape(len(part), -1)).all(axis=1)
        found += part[bad].tolist()
    return tuple(found)


def draw(facts: Facts, finding: Finding) -> bytes:
    origin = facts.origin
    assert origin is not None
    if len(origin.course) < FEW_STEPS and origin.modules:  # no course to draw: the layers of that step
        names = [name for name, _ in origin.modules]
        spoilt = [name for name, value in origin.modules if not np.isfinite(value)]
        values = [value if np.isfinite(value) else 0.0 for _, value in origin.modules]
        return drawing.bars(say("diagnose.draw.outputs"), names, values, marked=[*spoilt, origin.module])
    steps = [step for step, _ in origin.course] or [origin.step]
    finite = [value for _, value in origin.course if np.isfinite(value)] or [1.0]
    values = [value if np.isfinite(value) else 10 * max(finite) for _, value in origin.course] or [1.0]
    title = say("diagnose.draw.largest")
    return pictures.lines(title, say("diagnose.draw.step"), {"": (steps, np.log10(np.maximum(values, 1e-30)).tolist())})
