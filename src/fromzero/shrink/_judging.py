"""What a candidate must keep, and what becomes of it."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fromzero.errors import UsageError
from fromzero.shrink._measuring import Measured

ORIGINAL = "original"
MAX_DROP = 0.01
FASTER = 1.1  # times: what is less may be the machine's noise


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a candidate must keep: `latency` seconds of one sample (its median), or being `faster` so many times, on
    `on` ("cpu", measured with `threads`; a card, predicted), and at most `max_drop` of accuracy lost. Without
    `latency` and `faster` it must only be faster than the original, and the fastest is the best."""

    latency: float | None = None
    faster: float | None = None
    on: str = "cpu"
    threads: int = 1
    max_drop: float = MAX_DROP

    @property
    def open(self) -> bool:
        return self.latency is None and self.faster is None


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What became of a candidate. `reason` is a row `shrink.verdict.<reason>`, `shrink.reason.<reason>` or what an
    error said; `measured` is None for what was not made; `latency` and `faster` are those that were judged."""

    name: str
    kept: bool
    reason: str
    latency: float | None = None
    faster: float | None = None
    measured: Measured | None = None
    run: str | None = None
    artifact: str | None = None


@dataclass(frozen=True, kw_only=True)
class Shrunk:
    """The candidates, the original first. `best` keeps the budget; where none does, `nearest` comes closest."""

    path: Path
    model: str
    device: str
    budget: Budget
    candidates: tuple[Verdict, ...]
    best: str | None
    nearest: str | None

    def of(self, name: str | None) -> Verdict | None:
        return next((each for each in self.candidates if each.name == name), None)


def fast_enough(budget: Budget, latency: float, faster: float) -> bool:
    if budget.latency is not None:
        return latency <= budget.latency
    return faster >= (budget.faster or 1.0)


def reason(budget: Budget, latency: float | None, faster: float | None, drop: float) -> str:
    """Why a candidate is dropped; "kept" where it is not."""
    if latency is None or faster is None:
        return "not_predicted"
    if faster < FASTER:
        return "not_faster"
    if not fast_enough(budget, latency, faster):
        return "too_slow"
    return "too_inaccurate" if drop > budget.max_drop else "kept"


def best(verdicts: Sequence[Verdict], budget: Budget) -> Verdict | None:
    """The most accurate that is fast enough, the faster of equals; the fastest where no latency was named."""
    kept = [each for each in verdicts if each.kept and each.measured is not None]

    def rank(each: Verdict) -> tuple[float, float]:
        assert each.measured is not None and each.faster is not None
        return (each.faster, 0.0) if budget.open else (each.measured.accuracy, each.faster)

    return max(kept, key=rank, default=None)


def nearest(verdicts: Sequence[Verdict], budget: Budget) -> str | None:
    """Of those that lose little enough the fastest; where all lose too much, the one that loses least."""
    made = [each for each in verdicts if each.measured is not None and each.name != ORIGINAL and each.faster]
    right = [each for each in made if each.measured and each.measured.drop <= budget.max_drop]
    if right:
        return max(right, key=lambda each: each.faster or 0.0).name
    return min(made, key=lambda each: each.measured.drop if each.measured else 1.0).name if made else None


def goal(latency: str | None) -> dict[str, float]:
    """ "10ms" and "2x" as fields of Budget."""
    if latency is None:
        return {}
    match = re.fullmatch(r"([0-9]*\.?[0-9]+) ?(us|µs|ms|s|x)", latency.strip().lower())
    if not match or not float(match[1]) > 0:
        raise UsageError("not_a_latency", value=latency)
    value, unit = float(match[1]), match[2]
    return {"faster": value} if unit == "x" else {"latency": value * {"s": 1, "ms": 1e-3}.get(unit, 1e-6)}


def share(text: str) -> float:
    """ "1%" and "0.01" as 0.01. Raises UsageError for what is no share."""
    match = re.fullmatch(r"([0-9]*\.?[0-9]+) ?(%?)", text.strip())
    value = float(match[1]) / (100 if match[2] else 1) if match else math.inf
    if not 0 <= value <= 1:
        raise UsageError("not_a_share", value=text)
    return value
