"""From the operators of a step to seconds, with an interval, and to energy.

    trace -> kernels timed one by one -> max(the device's sum, the host's dispatching) -> Time

The parameters and the intervals are fitted to published measurements (facts/calibration.json, made by
benchmarks/time.py); the interval is the one that held 90 % of the rows that were kept out of the fit.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fromzero.facts.wheels import version
from fromzero.machine.measured import DeviceBench
from fromzero.planner.kernels import HOST, Kernels, Known, Setting, base, timed
from fromzero.planner.operators import Cost
from fromzero.planner.trace import Trace
from fromzero.records import Card, Energy, Time

PHASES = ("forward", "backward", "optimizer")
# From this share of the step on, a kind of kernel that is hard to predict makes the whole step uncertain.
NOTEWORTHY = 0.1
# Beyond this share of the device's time, the host's dispatching is what one waits for.
HOST_BOUND = 0.7
# Power while busy, in shares of the limit: an assumption (no energy was measured), idle host-bound gaps, traffic at
# full bandwidth, arithmetic at full rate.
IDLE_SHARE, MEMORY_SHARE, COMPUTE_SHARE = 0.15, 0.7, 0.95


@dataclass(frozen=True)
class Length:
    """How long a run is: `samples` an epoch, `epochs`, optimizer step of `batch` samples."""

    samples: int
    epochs: int
    batch: int


@dataclass(frozen=True, eq=False)
class Calibration(Known):
    """The fitted parameters; `spreads` are the half-widths, in log seconds, of the 90 % interval by what makes a step
    hard to predict ("" is an ordinary one); `architectures` are those that were measured."""

    spreads: Mapping[str, float] = field(default_factory=dict)
    architectures: tuple[str, ...] = ()
    about: Mapping[str, object] = field(default_factory=dict)


@functools.cache
def calibration() -> Calibration:
    """The built-in calibration."""
    path = Path(__file__).parents[1] / "facts" / "calibration.json"
    found = json.loads(path.read_text(encoding="utf-8"))
    return Calibration(found["parameters"], found["spreads"], tuple(found["architectures"]), found["about"])


def timing(trace: Trace, setting: Setting, length: Length) -> Time:
    """Seconds of a traced optimizer step where `setting` says, and of the run it is a step of."""
    known = calibration()
    kernels = timed(trace.costs, setting, known)
    phases = dict.fromkeys(PHASES, 0.0)
    for cost, seconds in zip(kernels.costs, kernels.seconds.tolist(), strict=True):
        phases[cost.phase or "forward"] += seconds
    host = _host(trace, setting, known)
    step = max(sum(phases.values()), host)
    width = math.exp(max(known.spreads.get(each, 0.0) for each in ("", *_doubts(kernels, host, setting, known))))
    per_epoch = step * length.samples / length.batch if length.samples else 0.0
    return Time(
        step=step,
        low=step / width,
        high=step * width,
        samples_per_second=length.batch / step if step else 0.0,
        epoch=per_epoch,
        total=per_epoch * length.epochs,
        parts={**phases, "host": host},
    )


def doubts(trace: Trace, setting: Setting, known: Calibration | None = None) -> tuple[str, ...]:
    """Why this step is harder to predict than others, as codes of `DOUBTS`."""
    known = known or calibration()
    kernels = timed(trace.costs, setting, known)
    return _doubts(kernels, _host(trace, setting, known), setting, known)


def takes_tf32(precision: str, torch: str) -> bool:
    """Whether fp32 matrix products may run in TF32: when asked to, and in PyTorch 1.7 to 1.11 by default (later ones
    let convolutions only)."""
    return precision == "tf32" or (precision == "fp32" and bool(torch) and (1, 7) <= version(torch) < (1, 12))


# What makes a step hard to predict, by the share of its kernels or by where it runs.
DOUBTS = (
    "cpu",
    "large_depthwise",
    "grouped_channels_last",
    "recurrent",
    "host_bound",
    "unseen_architecture",
    "low_power",
)


def _doubts(kernels: Kernels, host: float, setting: Setting, known: Calibration) -> tuple[str, ...]:
    card = setting.card
    found = {
        "cpu": card.is_cpu,
        "large_depthwise": kernels.share(lambda c: base(c.kind) == "depthwise" and c.dims[4] >= 49) > NOTEWORTHY,
        "grouped_channels_last": kernels.share(lambda c: base(c.kind) == "grouped" and c.layout == "nhwc") > NOTEWORTHY,
        "recurrent": kernels.share(lambda c: base(c.kind) == "rnn") > NOTEWORTHY,
        "host_bound": host > HOST_BOUND * kernels.seconds.sum(),
        "unseen_architecture": not card.is_cpu and setting.make.architecture not in known.architectures,
        "low_power": card.form == "laptop" or (not card.is_cpu and 0 < card.tdp_watts <= LOW_POWER_WATTS),
    }
    return tuple(code for code in DOUBTS if found[code])


LOW_POWER_WATTS = 75  # T4, L4, P4: what the slot alone gives


def _host(trace: Trace, setting: Setting, known: Calibration) -> float:
    """Seconds in which the host only sends the operators off; on a CPU that is part of each."""
    return 0.0 if setting.card.is_cpu else len(trace.costs) * math.exp(known.parameters.get("host", math.log(HOST)))


# --- a card that was measured -----------------------------------------------------------------------------------------

# What `fromzero bench` runs on a GPU: square products of this side, and a copy of so many bytes.
BENCH_SIDE, BENCH_COPY = 8192, 256 << 20
_BENCH_TYPES = {"fp32": "float32", "tf32": "float32", "fp16": "float16", "bf16": "bfloat16"}
_ROUNDS = 4  # a slower peak needs less power, so the share is found in a few rounds
MOST_SHARE = 2.0  # a rate that is further off was disturbed


def as_measured(card: Card, found: DeviceBench | None) -> Card:
    """`card` with peaks and bandwidth at which the model predicts what `fromzero bench` measured of it; as it is
    without a record of this very card. What a large product or a copy loses on any card is in the calibration: only
    what is this card's own (its cooling, its power limit, a factory overclock) moves the figures."""
    if found is None or card.is_cpu or found.card != card.title:
        return card
    for _ in range(_ROUNDS):
        shares = {name: _share(card, name, found.rates[name]) for name in _BENCH_TYPES if found.rates.get(name)}
        if "fp16" in shares:  # what tells GeForce cards from others stays
            shares["fp16-acc16"] = shares["fp16"]
        rates = {name: rate * shares.get(name, 1.0) for name, rate in card.rates.items()}
        card = dataclasses.replace(card, rates=rates)
    if not found.bandwidth:
        return card
    moved = 2.0 * BENCH_COPY
    copied = timed((Cost("", "copy", "float32", 0.0, moved),), Setting(card), calibration()).seconds.sum()
    return dataclasses.replace(card, bandwidth=card.bandwidth * _believable(found.bandwidth / (moved / copied)))


def _share(card: Card, precision: str, measured: float) -> float:
    """What a large product reached over what the model predicts."""
    if precision not in card.rates:
        return 1.0
    dtype, side = _BENCH_TYPES[precision], float(BENCH_SIDE)
    moved = 3 * side * side * (4 if dtype == "float32" else 2)
    product = Cost("", "gemm", dtype, 2 * side**3, moved, dims=(side, side, side, 1, 1, 1))
    seconds = timed((product,), Setting(card, tf32=precision == "tf32"), calibration()).seconds.sum()
    return _believable(measured / (product.flops / seconds))


def _believable(share: float) -> float:
    return share if 1 / MOST_SHARE < share < MOST_SHARE else 1.0


# --- energy ---------------------------------------------------------------------------------------------------------


def energy(seconds: float, draw: float, tariff: float | None = None, currency: str = "") -> Energy:
    """Electricity of a run of `seconds` at `draw` watts, and its cost if the user gave a `tariff` a kWh."""
    kwh = seconds * draw / 3.6e6
    return Energy(kwh=kwh, cost=None if tariff is None else kwh * tariff, currency=currency)


def with_waiting(draw: float, card: Card, busy: float) -> float:
    """Watts on average of a card that draws `draw` for the share `busy` of the time and waits for pictures in the rest;
    a CPU is what loads them."""
    return draw if card.is_cpu else busy * draw + (1 - busy) * IDLE_SHARE * card.tdp_watts


def watts(time: Time, setting: Setting, trace: Trace) -> float:
    """What the card draws on average during a traced step of `time`, under its limit: by how much of the time its
    arithmetic units, its memory or neither are busy."""
    card = setting.card
    if card.is_cpu or not time.step:
        return card.tdp_watts * (COMPUTE_SHARE + MEMORY_SHARE) / 2
    kernels = timed(trace.costs, setting, calibration())
    busy = kernels.compute / (kernels.compute + kernels.memory + 1e-30)
    drawn = (kernels.seconds * (MEMORY_SHARE + (COMPUTE_SHARE - MEMORY_SHARE) * busy)).sum()
    idle = max(0.0, time.step - kernels.seconds.sum())
    return float(card.tdp_watts * (drawn + IDLE_SHARE * idle) / (kernels.seconds.sum() + idle))


# --- several cards --------------------------------------------------------------------------------------------------

# Bytes/s in one direction between two cards: PCIe x16 of generations 3 to 5 (PCI-SIG) and NVLink in NVIDIA's data
# sheets (bridges of RTX 2080 Ti and RTX 3090; SXM boards of V100, A100, H100).
LINKS: Mapping[str, float] = {
    "pcie3": 15.75e9,
    "pcie4": 31.5e9,
    "pcie5": 63e9,
    "nvlink-bridge-2": 50e9,
    "nvlink-bridge-3": 56.25e9,
    "nvlink-2": 150e9,
    "nvlink-3": 300e9,
    "nvlink-4": 450e9,
}
# Assumptions, not measured here: GeForce cards without a bridge pass data through host memory, which takes the bus
# twice; a direct link gives about this share of its figure.
THROUGH_HOST, DIRECT = 0.4, 0.8
HOP_SECONDS = 10e-6  # the start of one message
# Between machines: bits/s of the network of each, unless the user says another. An assumption too: the Ethernet that a
# room of workstations has; data centres have 100 to 400 Gbit/s.
NETWORK = 10e9
NETWORK_HOP_SECONDS = 50e-6
OVERLAP = 0.9  # of backward: the first layers' gradients come last and wait for nothing
_PCIE = {"maxwell": "pcie3", "pascal": "pcie3", "volta": "pcie3", "turing": "pcie3", "ampere": "pcie4", "ada": "pcie4"}


def link_of(card: Card) -> str:
    """The PCIe generation of a card's architecture; whether there is a bridge only the user knows."""
    return _PCIE.get(card.architecture.lower(), "pcie5")


def communication(
    data: float, cards: int, link: str, collective: str = "all-reduce", network: float | None = None
) -> float:
    """Seconds in which `cards` cards sum (all-reduce), collect (all-gather) or sum and share out (reduce-scatter)
    `data` bytes in a ring over a link of `LINKS`. A ring through several machines is as fast as its slowest link:
    `network` is that between them in bits/s, None where there is one machine."""
    if cards < 2:
        return 0.0
    rounds = (cards - 1) * {"all-reduce": 2, "all-gather": 1, "reduce-scatter": 1}[collective]
    rate, hop = link_rate(link), HOP_SECONDS
    if network is not None:
        rate, hop = min(rate, network / 8 * DIRECT), NETWORK_HOP_SECONDS
    return rounds * (data / cards / rate + hop)


def link_rate(link: str) -> float:
    """Bytes/s that a link of `LINKS` really gives."""
    return LINKS[link] * (THROUGH_HOST if link.startswith("pcie") else DIRECT)


def exposed(seconds: float, backward: float) -> float:
    """What of a communication of `seconds` the backward pass does not hide."""
    return max(0.0, seconds - OVERLAP * backward, seconds * (1 - OVERLAP))
