"""The plan's operators beside the measured ones: which of them the planner got wrong, and by how much."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from fromzero.planner.kernels import Setting, timed
from fromzero.planner.timing import calibration, takes_tf32
from fromzero.profiling.events import by_operator
from fromzero.profiling.noted import Deviation
from fromzero.records import Plan
from fromzero.tracing import trace_at

TRACED_STEPS = 2  # the optimizer's state is there in the second
TOP = 12


def predicted(plan: Plan) -> dict[str, float]:
    """Seconds of a step by operator, as the planner's kernels say for the plan's own card."""
    assert plan.recipe.batch is not None
    trace = trace_at(plan.workload, plan.recipe, plan.card, TRACED_STEPS, plan.recipe.batch)
    setting = Setting(plan.card, plan.stack.torch, tf32=takes_tf32(plan.recipe.precision, plan.stack.torch))
    kernels = timed(trace.costs, setting, calibration())
    times = max(1.0, plan.recipe.accumulate / 2)  # two micro-batches are traced
    found: dict[str, float] = defaultdict(float)
    for cost, seconds in zip(kernels.costs, kernels.seconds.tolist(), strict=True):
        found[cost.operator] += seconds * (1.0 if cost.phase == "optimizer" else times)
    return dict(found)


def deviations(plan: Plan, events: list[dict[str, Any]], steps: int) -> tuple[Deviation, ...]:
    """The operators whose measured time is furthest from the predicted one, in seconds of a step."""
    expected = predicted(plan)
    measured = {name: t / steps / 1e6 for name, t in by_operator(events, expected).items()}
    rows = [
        Deviation(operator=name, measured=measured.get(name), predicted=expected.get(name))
        for name in expected.keys() | measured.keys()
    ]
    return tuple(sorted(rows, key=lambda row: -abs((row.measured or 0.0) - (row.predicted or 0.0)))[:TOP])
