"""From the operators of a step to seconds: a roofline with stated, uncalibrated efficiencies.

Each operator takes the longer of its arithmetic at a share of the card's peak and its traffic at a share of the card's
bandwidth, and never less than a launch. The shares are priors, not fits: the interval says so.
"""

from __future__ import annotations

from dataclasses import dataclass

from fromzero.planner.operators import Cost
from fromzero.planner.trace import Trace
from fromzero.records import Card, Energy, Time

# Share of the dense peak that a kernel class reaches when it is large.
EFFICIENCY = {"gemm": 0.6, "conv": 0.5, "bmm": 0.5, "attention": 0.4, "grouped": 0.2, "depthwise": 0.1}
BANDWIDTH_SHARE = 0.7
LAUNCH_SECONDS = 6e-6
# Python and the dispatcher, per operator: 26-60 microseconds were measured on old hosts.
HOST_SECONDS = 25e-6
# An uncalibrated roofline was 44 % off on average for training on an RTX 3090, and more on cards it had not seen.
INTERVAL = (0.55, 1.8)
# A CPU reaches less of its measured matrix rate in convolutions and spends more on each small operator.
CPU_EFFICIENCY = {"gemm": 0.8, "conv": 0.5, "bmm": 0.5, "attention": 0.4, "grouped": 0.15, "depthwise": 0.1}
CPU_LAUNCH_SECONDS = 15e-6
BUSY_POWER_SHARE = 0.85  # a training card draws most of its limit


@dataclass(frozen=True)
class Length:
    """How long a run is: `samples` an epoch, `epochs`, optimizer step of `batch` samples."""

    samples: int
    epochs: int
    batch: int


def timing(trace: Trace, card: Card, length: Length) -> Time:
    """Seconds of a traced optimizer step on `card`, and of the run it is a step of."""
    device = dict.fromkeys(("forward", "backward", "optimizer"), 0.0)
    for each in trace.costs:
        device[each.phase or "forward"] += seconds(each, card)
    host = 0.0 if card.is_cpu else len(trace.costs) * HOST_SECONDS
    step = max(sum(device.values()), host)
    per_epoch = step * length.samples / length.batch if length.samples else 0.0
    return Time(
        step=step,
        low=step * INTERVAL[0],
        high=step * INTERVAL[1],
        samples_per_second=length.batch / step if step else 0.0,
        epoch=per_epoch,
        total=per_epoch * length.epochs,
        parts={**device, "host": host},
    )


def energy(time: Time, card: Card) -> Energy:
    """Electricity of the whole run at a stated share of the power limit; money only with a tariff from the user."""
    return Energy(kwh=time.total * card.tdp_watts * BUSY_POWER_SHARE / 3.6e6)


def seconds(operator: Cost, card: Card) -> float:
    """One operator on `card`."""
    shares, launch = (CPU_EFFICIENCY, CPU_LAUNCH_SECONDS) if card.is_cpu else (EFFICIENCY, LAUNCH_SECONDS)
    traffic = operator.bytes / (card.bandwidth * BANDWIDTH_SHARE)
    arithmetic = operator.flops / (_rate(card, operator.dtype) * shares[operator.kind]) if operator.flops else 0.0
    return max(arithmetic, traffic) + launch


def _rate(card: Card, dtype: str) -> float:
    """The peak that matters: half precision runs on tensor cores where the card has them, else at the fp32 rate
    (GeForce Pascal and GTX 16 gain no speed from it)."""
    if dtype == "float16":
        return card.rates.get("fp16", card.rates["fp32"])
    if dtype == "bfloat16":
        return card.rates.get("bf16", card.rates["fp32"] / 2)
    return card.rates["fp32"]
