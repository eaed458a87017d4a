"""Fit the parameters of `kernels` to measured runs.

All parameters at once, from the prior's centre by L-BFGS: squared distance to the prior in its own spread, plus a
soft-L1 of the error in logs, so that a few odd runs do not bend the rest. The priors make the fit hierarchical:
offsets of a card or a stack have narrow ones, so what several cards share goes to their architecture, and what all
share to the kernel class. Deterministic; no start but the prior's centre.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fromzero.planner.kernels import (
    HOST,
    Setting,
    compute_terms,
    filled,
    headroom,
    is_limited,
    memory_terms,
    path,
    prior_watts,
    resident,
    step_name,
    tiles,
)
from fromzero.planner.operators import Cost

SCALE = 0.1  # an error of 10 % counts as one
STEPS = 400
NEVER = -60.0  # log seconds of an arithmetic that does not exist
SOFT_MAX = 8.0  # how sharply a step turns from waiting for the device to waiting for the host


@dataclass(frozen=True)
class Run:
    """`seconds` measured for `costs` (equal ones counted) in `setting`. `family` is the kind of model and `source` who
    measured: rows of one pair say much the same, so they share their weight. `lone` is a kernel timed by itself."""

    seconds: float
    setting: Setting
    costs: tuple[tuple[Cost, int], ...]
    model: str
    family: str
    source: str
    label: str = ""
    batch: float = 0.0
    lone: bool = False
    weight: float = 1.0


def weighed(runs: Iterable[Run], lone: float = 0.3) -> list[Run]:
    """Each run with 1/sqrt(runs of its card, family and label); lone kernels count less than whole steps."""
    runs = list(runs)
    sizes = Counter(map(_kin, runs))
    return [replace(each, weight=sizes[_kin(each)] ** -0.5 * (lone if each.lone else 1.0)) for each in runs]


def _kin(run: Run) -> tuple[str, str, str, str]:
    return run.setting.card.title, run.family, run.source, run.label


def fit(runs: Sequence[Run], steps: int = STEPS) -> dict[str, float]:
    """The parameters that fit `runs`. Those that no run speaks of are left out: they are at their prior."""
    table = Table(runs)
    place = torch.zeros_like(table.centre).requires_grad_(True)  # in spreads of the prior, so that all are of one scale
    search = torch.optim.LBFGS(
        [place], max_iter=steps, history_size=40, line_search_fn="strong_wolfe", tolerance_change=1e-7
    )

    def loss() -> Tensor:
        search.zero_grad()
        error = (table.log_seconds(table.centre + table.spread * place) - table.measured) / SCALE
        value = (table.weight * 2 * ((1 + error**2).sqrt() - 1)).sum() + (place**2).sum()
        value.backward()
        return value

    search.step(loss)
    theta = table.centre + table.spread * place.detach()
    return dict(zip(table.names, theta.tolist(), strict=True))


class Table:
    """The runs as arrays: a row a kernel, with the numbers and values of its terms."""

    def __init__(self, runs: Sequence[Run], extra: Iterable[str] = ()) -> None:
        self.names: dict[str, int] = {}
        for name in (*GLOBAL, *extra):
            self._number(name)
        compute, memory, flops, traffic, count, owner, watts, power, launches, room, step = ([] for _ in range(11))
        for number, run in enumerate(runs):
            setting, card, make = run.setting, run.setting.card, run.setting.make
            own = "cpu." if card.is_cpu else ""
            for cost, times in run.costs:
                terms, peak, limit, given, head = [], 1.0, "power", math.inf, 0.0
                if cost.flops:
                    way, rate = path(cost.kind, cost.dtype, make)
                    peak, head = card.rates[rate], headroom(way, make)
                    terms = [*compute_terms(cost, way, make), *_card_compute(cost, setting)]
                    if is_limited(card):
                        limit, given = f"watts.{make.architecture}.{way}", math.log(card.tdp_watts / (peak / 1e12))
                compute.append(self._numbered(terms))
                room.append(head)
                near = (f"{own}resident", resident(cost.bytes, card))
                memory.append(
                    self._numbered(
                        [
                            *memory_terms(cost, make),
                            near,
                            *(() if card.is_cpu else [(f"card.{card.title}.memory", 1.0)]),
                        ]
                    )
                )
                flops.append(math.log(cost.flops / peak) if cost.flops else NEVER)
                traffic.append(math.log(max(cost.bytes, 1.0) / card.bandwidth))
                count.append(float(times))
                owner.append(number)
                launches.append(cost.launches)
                step.append(self._number(step_name(cost, make)))
                watts.append(given)
                power.append(self._number(limit))
        self.compute, self.memory = _padded(compute), _padded(memory)
        self.flops, self.traffic, self.count, self.watts = map(_numbers, (flops, traffic, count, watts))
        self.launches, self.room = _numbers(launches), _numbers(room)
        self.owner, self.power = torch.tensor(owner), torch.tensor(power)
        owns = ["cpu." if run.setting.card.is_cpu else "" for run in runs]
        self.p = torch.tensor([self._number(f"{each}p") for each in owns])[self.owner]
        self.launch = torch.tensor([self._number(f"{each}launch") for each in owns])[self.owner]
        self.step = torch.tensor(step)
        self.host = torch.tensor([self._number(_host(run)) for run in runs])
        self.dispatched = _numbers(
            [0.0 if run.lone or run.setting.card.is_cpu else float(sum(n for _, n in run.costs)) for run in runs]
        )
        self.measured = _numbers([math.log(run.seconds) for run in runs])
        self.weight = _numbers([run.weight for run in runs])
        priors = [prior(name) for name in self.names]
        self.centre = _numbers([centre for centre, _ in priors])
        self.spread = _numbers([spread for _, spread in priors])

    def log_seconds(self, theta: Tensor) -> Tensor:
        """log seconds of each run."""
        device = torch.zeros_like(self.measured).index_add(0, self.owner, self.kernel_seconds(theta) * self.count)
        host = theta[self.host].exp() * self.dispatched + 1e-12
        return torch.logaddexp(SOFT_MAX * device.log(), SOFT_MAX * host.log()) / SOFT_MAX

    def kernel_seconds(self, theta: Tensor) -> Tensor:
        short = theta[self.power] - self.watts
        slowed = theta[self.names["power"]].exp() * torch.nn.functional.softplus(4 * short) / 4
        compute = self.flops - _sum(self.compute, theta) - self.room + slowed
        memory = self.traffic - _sum(self.memory, theta)
        limit = torch.where(self.room > 0, self.flops + slowed, NEVER)
        p = theta[self.p].exp()
        waits = theta[self.launch].exp() + theta[self.step].exp() * (self.launches - 1)
        bound = torch.logaddexp(torch.logaddexp(p * compute, p * limit), p * memory) / p
        return bound.exp() + waits

    def filled(self, parameters: dict[str, float]) -> Tensor:
        """`parameters` in this table's order; what they lack is at its prior."""
        centre = self.centre.tolist()
        return _numbers([parameters.get(name, centre[number]) for name, number in self.names.items()])

    def _number(self, name: str) -> int:
        return self.names.setdefault(name, len(self.names))

    def _numbered(self, terms: Sequence[tuple[str, float]]) -> list[tuple[int, float]]:
        return [(self._number(name), value) for name, value in terms if value]


def predicted(runs: Sequence[Run], parameters: dict[str, float]) -> list[float]:
    """Seconds of each run, by the very formula that was fitted."""
    table = Table(runs)
    return table.log_seconds(table.filled(parameters)).exp().tolist()


Terms = tuple[Tensor, Tensor]


def _card_compute(cost: Cost, setting: Setting) -> Sequence[tuple[str, float]]:
    pieces = tiles(cost)
    if setting.card.is_cpu:
        return []
    terms = [(f"card.{setting.card.title}.compute", 1.0)]
    return [*terms, ("tiles", filled(pieces, max(setting.card.sms, 1)))] if pieces else terms


def _padded(rows: Sequence[Sequence[tuple[int, float]]]) -> Terms:
    width = max(map(len, rows), default=0)
    filled = [[*row, *[(0, 0.0)] * (width - len(row))] for row in rows]
    return torch.tensor([[n for n, _ in row] for row in filled], dtype=torch.long), _numbers(
        [[v for _, v in row] for row in filled]
    )


def _sum(terms: Terms, theta: Tensor) -> Tensor:
    return (theta[terms[0]] * terms[1]).sum(1)


def _numbers(values: Sequence[object]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _host(run: Run) -> str:
    return f"host.{run.source}"


# --- what is believed before any measurement ------------------------------------------------------------------------

GLOBAL = (
    *("p", "launch", "power", "resident", "tiles", "step", "step.upsample"),
    *("cpu.p", "cpu.launch", "cpu.resident", "cpu.step"),
)

# The beginning of a parameter's name -> centre and spread of its prior; the longest that fits counts. The spreads of
# traffic, shapes and layouts are half of what one would guess: with those, families kept out came out best.
PRIORS: dict[str, tuple[float, float]] = {
    "p": (math.log(2.5), 0.3),
    "launch": (math.log(4e-6), 0.4),
    "step": (math.log(1e-5), 0.5),
    "step.upsample": (math.log(3e-7), 0.5),  # a look into memory takes some 500 cycles
    "cpu.step": (math.log(1e-5), 0.5),
    "power": (math.log(0.45), 0.3),
    "resident": (0.3, 0.2),
    "host": (math.log(HOST), 0.5),
    "compute.depthwise": (math.log(0.1), 0.5),
    "compute.grouped": (math.log(0.3), 0.5),
    "compute.stem": (math.log(0.35), 0.5),
    "compute.gemm": (math.log(0.75), 0.5),
    "compute.conv": (math.log(0.65), 0.5),
    "compute.conv1x1": (math.log(0.65), 0.5),
    "compute.rnn": (math.log(0.3), 0.7),
    "compute.bmm": (math.log(0.6), 0.5),
    "compute": (math.log(0.5), 0.5),
    "memory": (math.log(0.75), 0.2),
    "architecture": (0.0, 0.2),
    "era": (0.0, 0.1),
    "card": (0.0, 0.1),
    "columns": (0.5, 0.125),
    "depth": (0.5, 0.125),
    "rows": (0.5, 0.125),
    "tiles": (0.5, 0.15),
    "misaligned": (-0.3, 0.3),
    "area": (0.0, 0.1),
    "few": (-0.5, 3.0),
    "side": (0.0, 0.125),
    "stride": (0.0, 0.15),
    "cpu.p": (math.log(2.5), 0.3),
    "cpu.launch": (math.log(1.5e-5), 1.0),
    "cpu.memory": (math.log(0.6), 0.5),
    "cpu.resident": (0.3, 0.3),
    "cpu.side": (0.0, 1.0),
    "cpu.rows": (0.5, 0.3),
    "cpu.columns": (0.5, 0.3),
    "cpu.depth": (0.5, 0.3),
    "cpu": (math.log(0.5), 0.7),
}
_DIRECTIONS = ("dgrad", "wgrad", "backward")
PATH_SPREAD, LAYOUT_SPREAD, SHAPE_SPREAD = 0.25, 0.2, 0.075


def prior(name: str) -> tuple[float, float]:
    """Centre and spread of a parameter's prior."""
    head, *rest = name.split(".")
    last = rest[-1] if rest else ""
    if head == "watts":
        return prior_watts(rest[0], rest[1]), 0.3
    if head in ("compute", "memory") and last in ("nhwc", "half"):
        return 0.0, LAYOUT_SPREAD
    if head == "compute" and last in ("tensor", "tf32", "simt"):
        return 0.0, PATH_SPREAD
    if head in ("columns", "depth") and len(rest) > 1:
        return 0.0, 2 * SHAPE_SPREAD if rest[0] == "grouped" else SHAPE_SPREAD
    if head == "compute" and last in _DIRECTIONS:
        rest = rest[:-1]
    return PRIORS.get(".".join([head, *rest]), PRIORS.get(".".join([head, *rest[:1]]), PRIORS[head]))
