"""What a profile holds; times in seconds of one optimizer step, memory in bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Operator:
    """An operator of a step: its calls, the time in it alone (on the card where there is one), and its share of the
    time of all; `group` is what it does: see `judging.GROUPS`."""

    name: str
    group: str
    calls: float
    seconds: float
    share: float


@dataclass(frozen=True, kw_only=True)
class Function:
    """A Python function, with the time in it alone, of a step and of making a batch; cProfile makes small functions
    look slower than they are."""

    name: str
    place: str
    calls: float
    seconds: float
    own: bool  # the user's code: not a library's, and not fromzero's


@dataclass(frozen=True, kw_only=True)
class Loading:
    """The way of a batch: the seconds that one thread takes to make it, the threads that do, the cores there are, and
    how long a step waits for it."""

    batch: float
    threads: int
    cores: int
    waiting: float


@dataclass(frozen=True, kw_only=True)
class Bottleneck:
    """What holds a step up: its share of the step's time, and how many times as fast steps would be without it."""

    code: str
    share: float
    gain: float
    text: str
    fix: str


@dataclass(frozen=True, kw_only=True)
class Deviation:
    """An operator beside its prediction, seconds of a step; None for what the plan did not expect, or expected and the
    step did not do."""

    operator: str
    measured: float | None
    predicted: float | None


@dataclass(frozen=True, kw_only=True)
class Profile:
    """`step` is how long a step takes as training runs it, without what other programs took, `resident` with its batch
    already there. `parts` are waiting, entering (onto the device, normalised), forward (with the loss), backward,
    clipping and optimizer.
    `between` is the share of the resident step in which no operator runs: Python, or a card that has nothing to do;
    `tiny` the share in operators too short to be worth their call. `peak` are the tensors' most bytes at once."""

    run: str
    model: str
    device: str
    batch: int
    steps: int
    step: float
    resident: float
    samples_per_second: float
    parts: Mapping[str, float]
    loading: Loading
    between: float
    tiny: float
    operators: tuple[Operator, ...]
    functions: tuple[Function, ...]
    peak: int
    planned_step: float
    planned_peak: int
    deviations: tuple[Deviation, ...]
    bottleneck: Bottleneck
    others: tuple[Bottleneck, ...]
    notes: tuple[str, ...]
    nsight: tuple[str, ...]
    files: tuple[str, ...]
