"""The other bound of a step: the CPU cores that read, decode and vary its pictures."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from fromzero.machine.detect import cpu_name
from fromzero.machine.measured import load_bench
from fromzero.records import Time

# Pictures/s of one core where none was measured: 500 x 375 JPEGs cropped to 224 by fromzero's loader took 1.4 to 1.7 ms
# (benchmarks/data.py, 2026-11-22, one core of a server).
TYPICAL = 650.0


@dataclass(frozen=True)
class Loader:
    """Pictures/s of a core, and whether this machine's own bench measured it."""

    per_core: float
    measured: bool


def loader() -> Loader:
    """What `fromzero bench` measured of this machine, else a typical core."""
    kept = load_bench()
    if kept is not None and kept.loader and kept.cores and kept.cpu == cpu_name():
        return Loader(kept.loader / kept.cores, True)
    return Loader(TYPICAL, False)


def workers_for(samples_per_second: float) -> int:
    """Cores that keep up with a device that takes so many pictures a second."""
    return max(1, math.ceil(samples_per_second / loader().per_core))


def bounded(time: Time, samples: int, cores: int, *, shared: bool) -> Time:
    """`time` of a step of `samples` pictures when `cores` cores load them. Loading runs beside the device's work and
    bounds it; on a CPU it takes from the same cores (`shared`) and adds to it."""
    load = samples / (loader().per_core * cores)

    def with_loading(seconds: float) -> float:
        return seconds + load if shared else max(seconds, load)

    step = with_loading(time.step)
    longer = step / time.step
    return dataclasses.replace(
        time,
        step=step,
        low=with_loading(time.low),
        high=with_loading(time.high),
        samples_per_second=time.samples_per_second / longer,
        epoch=time.epoch * longer,
        total=time.total * longer,
        parts={**time.parts, "loading": load},
    )
