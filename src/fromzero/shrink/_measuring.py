"""What is measured of a candidate: how long it takes for one sample, how large it is, how often it is right.

Every figure is taken beside the original's, in the same process and in turns: a machine that is busy is as busy for
both, and their ratio stands.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fromzero.runtimes._sessions import session

BLOCK = 8  # answers in a row: a service runs one model, whose weights stay in the cache
ROUNDS = 100  # of so many answers of both
LONGEST = 20.0  # seconds that a comparison may take, however slow the models are
LEAST_ROUNDS = 3


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Seconds of one sample at `threads` threads, and how many times as fast as the original, taken in turns."""

    threads: int
    p50: float
    p99: float
    faster: float


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A candidate: `size` of its model file and `compressed` what zlib makes of it, `memory` the most that a process
    of its own held for it, all in bytes; `accuracy` with its 95 % interval (Wilson), `drop` how much lower it is than
    the original's on the same samples, with the 95 % interval of that difference, and `agreement` the share of samples
    that both call the same. `predicted` are seconds of one sample by card: predicted, not measured. `seconds` is what
    making it took."""

    name: str
    size: int
    compressed: int
    memory: int
    latency: tuple[Latency, ...]
    accuracy: float
    interval: tuple[float, float]
    drop: float
    drop_interval: tuple[float, float]
    agreement: float
    samples: int
    split: str
    predicted: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def judged(self) -> Latency:
        """With as many threads as the budget has."""
        return self.latency[-1]


Shown = tuple[Path, np.ndarray]  # an ONNX file, and a sample (1, ...) as it takes them


def latencies(original: Shown, candidate: Shown, threads: int) -> tuple[Latency, ...]:
    """Of two models: with one thread, and with `threads`."""
    return tuple(_latency(original, candidate, each) for each in sorted({1, threads}))


def _latency(original: Shown, candidate: Shown, threads: int) -> Latency:
    shown = [(session(file, "cpu", threads), sample) for file, sample in (original, candidate)]
    rounds: list[list[list[float]]] = []  # of both models
    began = time.perf_counter()
    while len(rounds) < ROUNDS and (len(rounds) < LEAST_ROUNDS or time.perf_counter() - began < LONGEST):
        rounds.append([_answered(*each) for each in shown])
    mine = np.concatenate([each[1] for each in rounds])
    # What disturbs one answer disturbs neither model's fastest of a round; what lasts longer disturbs both models.
    faster = float(np.median([min(theirs) / min(ours) for theirs, ours in rounds]))
    return Latency(threads=threads, p50=float(np.median(mine)), p99=float(np.quantile(mine, 0.99)), faster=faster)


def _answered(opened: Any, sample: np.ndarray) -> list[float]:
    """Seconds of each of a few answers in a row."""
    answer(opened, sample)  # this one finds the other model's weights in the cache
    found = []
    for _ in range(BLOCK):
        started = time.perf_counter()
        answer(opened, sample)
        found.append(time.perf_counter() - started)
    return found


def answer(session: Any, batch: np.ndarray) -> np.ndarray:
    return session.run(None, {session.get_inputs()[0].name: batch})[0]


def scores(model: Path, batches: Sequence[np.ndarray]) -> np.ndarray:
    """What a model answers to samples, (N, classes)."""
    opened = session(model, "cpu")
    return np.concatenate([answer(opened, each) for each in batches])


def difference(one: np.ndarray, other: np.ndarray) -> tuple[float, tuple[float, float]]:
    """How much less often `other` (N,) is right than `one` (N,) on the same samples, with the 95 % interval of the
    difference of paired shares (Agresti and Min 2005, with their correction of half a sample for each cell)."""
    total = len(one)
    lost, won = int((one & ~other).sum()), int((other & ~one).sum())
    drop = (lost - won) / total
    b, c, n = lost + 0.5, won + 0.5, total + 2.0
    half = 1.96 * float(np.sqrt(b + c - (b - c) ** 2 / n)) / n
    middle = (b - c) / n
    return drop, (middle - half, middle + half)


def compressed(model: Path) -> int:
    """Bytes that zlib makes of a file."""
    squeezed, count = zlib.compressobj(6), 0
    with model.open("rb") as file:
        while block := file.read(1 << 20):
            count += len(squeezed.compress(block))
    return count + len(squeezed.flush())


def memory(model: Path, sample: np.ndarray) -> int:
    """The most that a process of its own holds for a model while it is loaded and answers, beyond what it held with
    ONNX Runtime alone."""
    with tempfile.TemporaryDirectory() as place:
        kept = Path(place) / "sample.npy"
        np.save(kept, sample)
        code = f"from {__name__} import _held; _held({str(model)!r}, {str(kept)!r})"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(json.loads(done.stdout))


def _held(model: str, sample: str) -> None:
    """Runs in that process."""
    import onnxruntime  # noqa: F401

    from fromzero.machine.process import PeakMemory, settled_bytes

    given, before = np.load(sample), settled_bytes()
    peak = PeakMemory(interval=0.002).start()
    opened = session(Path(model), "cpu")
    for _ in range(2 * BLOCK):
        answer(opened, given)
    print(max(0, peak.stop() - before))
