"""How fast one kernel is: its parameters by name, and the seconds they give.

    t = (compute^p + limit^p + memory^p)^(1/p) + launch + further steps (of a recurrent layer)
    compute = operations / (peak of the precision's path * efficiency * sustained share of the clock)
    limit   = operations / (half of that peak), on GeForce cards' tensor cores that accumulate in fp32
    memory  = bytes / (bandwidth * efficiency)

A log-efficiency is a sum of terms (parameter, value): one for the kernel class, then offsets for precision path,
layout, architecture, software and card, and slopes in the shape of the product. What has no parameter counts zero: a
card that nobody measured inherits its architecture, an architecture that nobody measured what all have in common.
`calibrate` fits the parameters to measurements; facts/calibration.json holds them.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fromzero.planner.operators import Cost
from fromzero.records import Card

Parameters = Mapping[str, float]
Terms = list[tuple[str, float]]

HALF = {"float16": "fp16", "bfloat16": "bf16"}
CONVOLUTIONS = ("conv1x1", "conv", "stem", "grouped")
PRODUCTS = ("gemm", "bmm", "attention", "rnn")
_TILE = 64  # a product narrower than this wastes part of a kernel's tile
_GROUPS = 32  # cuDNN's gradients of grouped convolutions in NHWC are fast from so many groups on (seen, not documented)
_BLOCK = 128  # the side of the piece of a product that one SM works on
HOST = 25e-6  # seconds that Python and the dispatcher take for an operator, unless measured


class Make(NamedTuple):
    """What of a card and its software the shared terms depend on: cards of one make differ only in size and clock."""

    architecture: str
    era: str
    rates: frozenset[str]
    halved: bool  # GeForce: tensor cores that accumulate in fp32 at half rate
    tf32: bool

    @property
    def is_cpu(self) -> bool:
        return self.architecture == "cpu"


@dataclass(frozen=True)
class Setting:
    """Where kernels run: the card, the release of torch ("" is the newest), whether fp32 products may take TF32 (as
    in NVIDIA's containers; convolutions always may)."""

    card: Card
    torch: str = ""
    tf32: bool = False

    @functools.cached_property
    def make(self) -> Make:
        card, rates = self.card, self.card.rates
        known = _ARCHITECTURES.get(card.compute_capability, card.architecture.lower())
        halved = rates.get("fp16", 0.0) < rates.get("fp16-acc16", 0.0)
        return Make("cpu" if card.is_cpu else known, era(self.torch), frozenset(rates), halved, self.tf32)


_ARCHITECTURES = {"8.0": "ga100"}  # the data-centre Ampere is another chip than GeForce's
_ERAS = ((1, 7), (1, 10), (1, 13), (2, 4))


def era(torch: str) -> str:
    """Which releases of torch a stack counts among: "0" is before 1.7, "4" is 2.4 and later."""
    numbers = torch.split("+")[0].split(".")[:2]
    if not all(each.isdigit() for each in numbers) or len(numbers) < 2:
        return str(len(_ERAS))
    return str(sum(tuple(map(int, numbers)) >= each for each in _ERAS))


# --- which path a kernel takes --------------------------------------------------------------------------------------


def base(kind: str) -> str:
    return kind.partition(".")[0]


def group(kind: str) -> str:
    """Kernel classes that share offsets: dense and grouped convolutions, matrix products, depthwise convolutions."""
    name = base(kind)
    return "conv" if name in CONVOLUTIONS else "product" if name in PRODUCTS else name


def path(kind: str, dtype: str, make: Make) -> tuple[str, str]:
    """The units that compute, and the name of their peak in `Card.rates`. Half precision without tensor cores gains
    nothing over fp32 (seen on Pascal, also on the P100), and depthwise convolutions do not use them."""
    half = HALF.get(dtype)
    if make.is_cpu:
        return "simt", half if half in make.rates else "fp32"
    if base(kind) != "depthwise":
        if half in make.rates:
            return "tensor", half
        if dtype == "float32" and "tf32" in make.rates and (make.tf32 or group(kind) == "conv"):
            return "tf32", "tf32"
    return "simt", "fp32"


# --- the terms of a log-efficiency ----------------------------------------------------------------------------------


def compute_terms(cost: Cost, way: str, make: Make) -> Terms:
    """What the arithmetic of `cost` depends on, on the path `way`."""
    kind, name, family = cost.kind, base(cost.kind), group(cost.kind)
    if make.is_cpu:
        return [(f"cpu.{kind}", 1.0), (f"cpu.{kind}.{cost.layout}", 1.0), *_cpu_shape(cost)]
    terms = [
        (f"compute.{kind}", 1.0),
        (f"compute.{name}.{way}", 1.0),
        (f"compute.{family}.{way}", 1.0),
        (f"architecture.{make.architecture}.{family}.{way}", 1.0),
        (f"era.{make.era}.{family}.{way}", 1.0),
    ]
    if cost.layout == "nhwc":
        terms += [(f"compute.{kind}.nhwc", 1.0), (f"compute.{family}.{way}.nhwc", 1.0)]
    return terms + _shape_terms(cost, way)


def memory_terms(cost: Cost, make: Make) -> Terms:
    """What the traffic of `cost` depends on."""
    if make.is_cpu:
        return [(f"cpu.memory.{cost.kind}", 1.0)]
    terms = [
        (f"memory.{cost.kind}", 1.0),
        (f"architecture.{make.architecture}.memory", 1.0),
        (f"era.{make.era}.memory", 1.0),
    ]
    if cost.layout == "nhwc":
        terms.append((f"memory.{cost.kind}.nhwc", 1.0))
    if cost.dtype in HALF:
        terms.append((f"memory.{cost.kind}.half", 1.0))
    return terms


def step_name(cost: Cost, make: Make) -> str:
    """The parameter with the log seconds of a further step of `cost`: a kernel of a recurrent layer, or a look into
    memory."""
    return "cpu.step" if make.is_cpu else "step.upsample" if cost.kind == "upsample" else "step"


def tiles(cost: Cost) -> float:
    """Into how many pieces a product falls: fewer than the card has SMs leave some idle. 0: not a product."""
    if not cost.dims or base(cost.kind) == "depthwise":
        return 0.0
    rows, columns, _, products = _roles(cost)
    return max(1.0, rows / _BLOCK) * max(1.0, columns / _BLOCK) * products


def filled(size: float, tile: float) -> float:
    """log of the share of a tile that `size` uses when it is small."""
    return math.log(size / (size + tile))


def resident(size: float, card: Card) -> float:
    """How far under the last cache level `size` bytes are, in e-folds up to two."""
    cache = card.l2_bytes or (_CPU_CACHE if card.is_cpu else _SMALL_L2)
    return min(2.0, max(0.0, math.log(2 * cache / max(size, 1.0))))


_MANY = 1e30
_SMALL_L2, _CPU_CACHE = 4 << 20, 8 << 20  # where the card's record has none


def _shape_terms(cost: Cost, way: str) -> Terms:
    kind, name, family = cost.kind, base(cost.kind), group(cost.kind)
    if not cost.dims:
        return []
    area, stride = cost.dims[4], cost.dims[5]
    if name == "depthwise":
        side = _side(cost)
        return [
            (f"side.{side}.{cost.layout}", 1.0),
            (f"side.{side}.{kind}", 1.0),
            (f"side.{side}.{kind}.{cost.layout}", 1.0),
            (f"stride.{kind}", float(stride > 1)),
            (f"stride.{name}.{cost.layout}", float(stride > 1)),
            (f"stride.{kind}.{cost.layout}", float(stride > 1)),
        ]
    rows, columns, depth, products = _roles(cost)
    terms = [
        (f"columns.{name}", filled(columns, _TILE)),
        (f"depth.{name}", filled(depth, _TILE)),
        (f"columns.{family}.{way}", filled(columns, _TILE)),
        (f"depth.{family}.{way}", filled(depth, _TILE)),
    ]
    if name == "grouped":
        terms.append((f"columns.{kind}.{cost.layout}", filled(columns, _TILE)))
        if cost.layout == "nhwc" and kind != name:
            terms.append((f"few.{kind}", float(products < _GROUPS)))
    if kind.endswith("wgrad") or name in ("gemm", "bmm"):
        terms.append((f"rows.{name}", filled(rows, _TILE)))
    if name == "conv" and area > 9:
        terms.append(("area.conv", math.log(area / 9)))
    if name in CONVOLUTIONS:
        terms.append((f"stride.{kind}", float(stride > 1)))
    if way == "tensor" and (cost.dims[1] % 8 or (cost.dims[2] / area) % 8):
        terms.append(("misaligned", 1.0))
    return terms


def _cpu_shape(cost: Cost) -> Terms:
    if not cost.dims:
        return []
    if base(cost.kind) == "depthwise":
        return [(f"cpu.side.{_side(cost)}.{cost.kind}.{cost.layout}", 1.0)]
    rows, columns, depth, _ = _roles(cost)
    return [("cpu.rows", filled(rows, 16)), ("cpu.columns", filled(columns, 16)), ("cpu.depth", filled(depth, 16))]


def _side(cost: Cost) -> int:
    """Of a depthwise kernel: they are written for one size each."""
    return min(round(cost.dims[4] ** 0.5), 9)


def _roles(cost: Cost) -> tuple[float, float, float, float]:
    """(rows, columns, depth, products) of the matrix product that a kernel does. The gradients of a convolution are
    the same product turned: the data gradient sums over the output channels, the weight gradient over the positions."""
    m, n, k, products = cost.dims[:4]
    turned = {"dgrad": (m, k, n), "wgrad": (n, k, m)}
    return (*turned.get(cost.kind.rpartition(".")[2], (m, n, k)), products)


# --- seconds --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kernels:
    """The operators of a trace, equal ones counted once, with the seconds of all of them, what their arithmetic and
    their traffic alone would take, and the path they take; arrays of one entry a kernel."""

    costs: tuple[Cost, ...]
    count: np.ndarray
    seconds: np.ndarray
    compute: np.ndarray
    memory: np.ndarray
    launch: float

    def share(self, wanted: Callable[[Cost], bool]) -> float:
        """The part of the time that goes to the kernels that are `wanted`."""
        chosen = np.array([wanted(each) for each in self.costs], dtype=bool)
        return float(self.seconds[chosen].sum() / self.seconds.sum()) if len(chosen) else 0.0


def timed(costs: tuple[Cost, ...], setting: Setting, known: Known) -> Kernels:
    """The kernels of a trace's `costs`, timed in `setting`."""
    card, parameters = setting.card, known.parameters
    shared = _shared(costs, setting.make, known)
    speed = np.array([_speed(way, rate, setting, parameters) for way, rate in shared.ways])[shared.way]
    room = np.array([headroom(way, setting.make) for way, _ in shared.ways])[shared.way]
    spread = parameters["tiles"] * np.log(shared.tiles / (shared.tiles + max(card.sms, 1)))
    gain = parameters.get(f"card.{card.title}.compute", 0.0) + (0.0 if card.is_cpu else spread)
    compute = np.exp(shared.compute - speed - room - gain)
    limit = np.where(room > 0, np.exp(shared.flops - speed), 0.0)
    own = "cpu." if card.is_cpu else ""
    near = parameters[f"{own}resident"] * np.array([resident(each, card) for each in shared.bytes])
    slack = parameters.get(f"card.{card.title}.memory", 0.0)
    memory = np.exp(shared.memory - near - slack) / card.bandwidth
    p, launch = (math.exp(parameters[f"{own}{name}"]) for name in ("p", "launch"))
    further = np.array([math.exp(parameters[step_name(each, setting.make)]) for each in shared.costs])
    waits = launch + further * (shared.launches - 1)
    compute = (compute**p + limit**p) ** (1 / p)
    seconds = ((compute**p + memory**p) ** (1 / p) + waits) * shared.count
    return Kernels(shared.costs, shared.count, seconds, compute * shared.count, memory * shared.count, launch)


@dataclass(frozen=True, eq=False)
class Known:
    """Fitted parameters, hashed by identity."""

    parameters: Parameters


@dataclass(frozen=True)
class _Shared:
    """What the cards of one make share: the operators, log operations and bytes over their efficiencies."""

    costs: tuple[Cost, ...]
    count: np.ndarray
    ways: tuple[tuple[str, str], ...]
    way: np.ndarray
    flops: np.ndarray
    compute: np.ndarray
    memory: np.ndarray
    tiles: np.ndarray
    launches: np.ndarray
    bytes: tuple[float, ...]


@functools.lru_cache(maxsize=64)
def _shared(costs: tuple[Cost, ...], make: Make, known: Known) -> _Shared:
    counted = Counter(costs)
    unique = tuple(counted)
    chosen = [path(each.kind, each.dtype, make) for each in unique]
    ways = tuple(dict.fromkeys(chosen))

    def compute(cost: Cost, way: str) -> float:
        if not cost.flops:
            return -math.inf
        return math.log(cost.flops) - _total(compute_terms(cost, way, make), known.parameters)

    def memory(cost: Cost) -> float:
        return math.log(max(cost.bytes, 1.0)) - _total(memory_terms(cost, make), known.parameters)

    return _Shared(
        costs=unique,
        count=np.array(list(counted.values()), dtype=float),
        ways=ways,
        way=np.array([ways.index(each) for each in chosen], dtype=int),
        flops=np.array([math.log(each.flops) if each.flops else -math.inf for each in unique]),
        compute=np.array([compute(cost, way) for cost, (way, _) in zip(unique, chosen, strict=True)]),
        memory=np.array([memory(each) for each in unique]),
        tiles=np.array([tiles(each) or _MANY for each in unique]),
        launches=np.array([each.launches for each in unique]),
        bytes=tuple(each.bytes for each in unique),
    )


def _total(terms: Terms, parameters: Parameters) -> float:
    return sum(parameters.get(name, 0.0) * value for name, value in terms)


def headroom(way: str, make: Make) -> float:
    """log of how much faster the rest of a GeForce card's tensor path is than its units that accumulate in fp32: a
    kernel that does not reach half of the chip's rate loses little by the halving."""
    return math.log(2.0) if make.halved and way != "simt" else 0.0


def _speed(way: str, rate: str, setting: Setting, parameters: Parameters) -> float:
    """log of the peak that a card holds on a path."""
    peak = setting.card.rates[rate]
    return math.log(peak) + sustained(way, peak, setting, parameters)


def sustained(way: str, peak: float, setting: Setting, parameters: Parameters) -> float:
    """log of the share of the clock that the power limit lets a card hold: T4, L4, Max-Q and laptop chips have far
    fewer watts for each TFLOP/s than the desktop cards of their architecture."""
    card = setting.card
    if not is_limited(card):
        return 0.0
    where = setting.make.architecture
    short = parameters.get(f"watts.{where}.{way}", prior_watts(where, way)) - math.log(card.tdp_watts / (peak / 1e12))
    return -math.exp(parameters["power"]) * math.log1p(math.exp(4 * short)) / 4


def is_limited(card: Card) -> bool:
    """Whether the power limit may hold less than the published clock. A laptop chip's clock is published for its
    limit."""
    return bool(card.tdp_watts) and not card.is_cpu and card.form != "laptop"


def prior_watts(architecture: str, way: str) -> float:
    """log of the watts for each TFLOP/s below which a chip of this make slows down, before any measurement."""
    return math.log(_WATTS.get(architecture, 1.0) * {"tensor": 1.0, "tf32": 2.0, "simt": 4.0}[way])


# By process: 16/12 nm, 8 nm, 7 nm, 5 nm. The desktop cards of each have about this or more.
_WATTS = {"pascal": 4.0, "volta": 2.2, "turing": 2.0, "ampere": 2.0, "ga100": 1.2, "hopper": 0.8, "ada": 1.0}
