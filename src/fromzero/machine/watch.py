"""What the machine does, sample by sample: every NVIDIA card through NVML and the CPU through psutil.

    Meter: one sample when asked, energy added up between them      (`fromzero watch`)
    Sampler: a meter in a thread, from start() to stop()            (`fromzero train` records its run with it)

A card that falls off the bus in mid-run is noted as lost; the others go on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fromzero.machine import nvml
from fromzero.machine.detect import ASSUMED_CPU_WATTS

JOULES_PER_KWH = 3.6e6
KEPT_SAMPLES = 4096


@dataclass(frozen=True, kw_only=True)
class Process:
    """A process that holds memory of a card; `memory` in bytes is None where the driver does not tell (WSL, WDDM)."""

    pid: int
    name: str
    memory: int | None = None


@dataclass(frozen=True, kw_only=True)
class GpuSample:
    """One card at one moment. Shares from 0 to 1, bytes, watts, hertz, degrees Celsius; None is what the card or its
    driver does not tell. `state` is "ok" or "lost". `throttle` says why its clocks are held down."""

    index: int
    name: str
    state: str = "ok"
    utilisation: float | None = None
    memory_used: int | None = None
    memory_total: int | None = None
    temperature: float | None = None
    power: float | None = None
    power_limit: float | None = None
    sm_clock: float | None = None
    memory_clock: float | None = None
    throttle: tuple[str, ...] = ()
    processes: tuple[Process, ...] = ()


@dataclass(frozen=True, kw_only=True)
class CpuSample:
    """The CPU and the memory of the whole machine. `power_assumed` is true where the power is not measured but the
    utilisation times an assumed limit."""

    utilisation: float
    memory_used: int
    memory_total: int
    clock: float | None = None
    temperature: float | None = None
    power: float | None = None
    power_assumed: bool = False


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The machine at one moment; `time` is seconds since 1970."""

    time: float
    cpu: CpuSample
    gpus: tuple[GpuSample, ...] = ()


@dataclass(frozen=True, kw_only=True)
class GpuUse:
    """One card over a recording."""

    index: int
    name: str
    memory_peak: int
    utilisation_mean: float | None
    power_mean: float | None
    temperature_peak: float | None
    throttle: tuple[str, ...]
    kwh: float
    lost: bool


@dataclass(frozen=True, kw_only=True)
class Recording:
    """What a meter saw. `kwh` is the cards' and the CPU's together; `cpu_power_assumed` as in CpuSample. `nvml` is ""
    or why no card was seen; `samples` are thinned out in a long recording, the sums are not."""

    seconds: float
    count: int
    kwh: float
    cpu_kwh: float
    cpu_power_assumed: bool
    cpu_utilisation_mean: float
    memory_peak: int
    gpus: tuple[GpuUse, ...] = ()
    nvml: str = ""
    samples: tuple[Sample, ...] = field(default=())


class Meter:
    """Takes samples while it is open (`with Meter() as meter`). `nvml` is "" or why no card is seen."""

    def __init__(self, root: Path = Path("/")) -> None:
        self.nvml = ""
        self.driver = ""
        self._root = root
        self._library: Any = None
        self._devices: list[nvml.Device] = []
        self._names: dict[int, str] = {}

    def __enter__(self) -> Meter:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self) -> None:
        import psutil

        psutil.cpu_percent()  # the next call tells of the time since this one
        self._sums = _Sums()
        self._rapl = _Rapl(self._root)
        try:
            self._library = nvml.start()
            self.driver = nvml.driver_version(self._library)
            self._devices = nvml.devices(self._library)
        except nvml.NoNvml as error:
            self.nvml = str(error)

    def close(self) -> None:
        if self._library is not None:
            nvml.stop(self._library)
            self._library = None

    def sample(self) -> Sample:
        """The machine now. Utilisation of the CPU is that since the last sample."""
        taken = Sample(time=time.time(), cpu=self._cpu(), gpus=tuple(map(self._gpu, self._devices)))
        self._sums.add(taken)
        return taken

    def recording(self, samples: tuple[Sample, ...] = ()) -> Recording:
        """What was seen so far."""
        return self._sums.recording(self.nvml, samples)

    def _cpu(self) -> CpuSample:
        import psutil

        busy, memory = psutil.cpu_percent() / 100, psutil.virtual_memory()
        watts = self._rapl.watts()
        return CpuSample(
            utilisation=busy,
            memory_used=int(memory.total - memory.available),
            memory_total=int(memory.total),
            clock=_clock(psutil),
            temperature=_temperature(psutil),
            power=busy * ASSUMED_CPU_WATTS if watts is None else watts,
            power_assumed=watts is None,
        )

    def _gpu(self, device: nvml.Device) -> GpuSample:
        try:
            return self._answering(device)
        except nvml.Lost:
            return GpuSample(index=device.index, name=self._names.get(device.index, "?"), state="lost")

    def _answering(self, device: nvml.Device) -> GpuSample:
        used, total = device.memory()
        name = self._names[device.index] = device.name()
        rates = device.ask("GetUtilizationRates")
        degrees = device.ask("GetTemperature", 0)  # 0: the sensor on the chip
        clocks = [device.ask("GetClockInfo", kind) for kind in (1, 2)]  # 1: SM, 2: memory
        return GpuSample(
            index=device.index,
            name=name,
            utilisation=None if rates is None else rates.gpu / 100,
            memory_used=used,
            memory_total=total,
            temperature=None if degrees is None else float(degrees),
            power=device.watts("GetPowerUsage"),
            power_limit=device.watts("GetEnforcedPowerLimit") or device.watts("GetPowerManagementLimit"),
            sm_clock=None if clocks[0] is None else clocks[0] * 1e6,
            memory_clock=None if clocks[1] is None else clocks[1] * 1e6,
            throttle=device.throttles(),
            processes=_processes(device),
        )


class Sampler:
    """A meter in a thread: `with Sampler() as sampler: ...; sampler.recording`. It never disturbs what it records: a
    fault of its own ends the sampling and is told in `problem`."""

    def __init__(self, interval: float = 1.0, each: Callable[[Sample], None] | None = None, keep: int = KEPT_SAMPLES):
        self.recording: Recording | None = None
        self.problem = ""
        self._interval, self._each, self._keep = interval, each, keep
        self._stride = 1
        self._samples: list[Sample] = []
        self._meter = Meter()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fromzero-sampler", daemon=True)

    def __enter__(self) -> Sampler:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> Sampler:
        self._meter.open()
        self._thread.start()
        return self

    def so_far(self) -> Recording:
        """What was seen until now."""
        return self.recording or self._meter.recording()

    def stop(self) -> Recording:
        """End the sampling with a last sample; calling it again gives the same recording."""
        if self.recording is None:
            self._over.set()
            self._thread.join()
            self.recording = self._meter.recording(tuple(self._samples))
            self._meter.close()
        return self.recording

    def _run(self) -> None:
        try:
            number = 0
            while True:
                over = self._over.wait(self._interval)
                self._take(number, last=over)
                number += 1
                if over:
                    return
        except Exception as error:
            self.problem = repr(error)

    def _take(self, number: int, last: bool) -> None:
        sample = self._meter.sample()
        if number % self._stride == 0 or last:
            self._samples.append(sample)
        if len(self._samples) >= self._keep:  # a long run keeps every second, then every fourth ...
            self._samples = self._samples[::2]
            self._stride *= 2
        if self._each is not None:
            self._each(sample)


def samples(meter: Meter, interval: float, seconds: float | None) -> Iterator[Sample]:
    """A sample every `interval` seconds for `seconds`, or until the caller ends it; the first comes soon."""
    start = due = time.monotonic()
    due += min(interval, 0.2)
    while True:
        time.sleep(max(0.0, due - time.monotonic()))
        yield meter.sample()
        now = time.monotonic()
        if seconds is not None and now - start >= seconds:
            return
        due = max(now, due + interval) if seconds is None else min(max(now, due + interval), start + seconds)


# --- adding up ------------------------------------------------------------------------------------------------------


class _Sums:
    """Sums over all samples, so that a recording is exact however few of them are kept."""

    def __init__(self) -> None:
        self.started = self.last = time.monotonic()
        self.count = 0
        self.cpu_joules = self.busy = 0.0
        self.assumed = False
        self.memory_peak = 0
        self.cards: dict[int, _CardSums] = {}

    def add(self, sample: Sample) -> None:
        now = time.monotonic()
        elapsed, self.last = now - self.last, now
        self.count += 1
        self.busy += sample.cpu.utilisation * elapsed
        self.cpu_joules += (sample.cpu.power or 0.0) * elapsed  # both kinds are means since the last sample
        self.assumed = self.assumed or sample.cpu.power_assumed
        self.memory_peak = max(self.memory_peak, sample.cpu.memory_used)
        for each in sample.gpus:
            self.cards.setdefault(each.index, _CardSums(each.name)).add(each, elapsed)

    def recording(self, problem: str, kept: tuple[Sample, ...]) -> Recording:
        cards = tuple(sums.use(index) for index, sums in sorted(self.cards.items()))
        cpu_kwh, seconds = self.cpu_joules / JOULES_PER_KWH, self.last - self.started
        return Recording(
            seconds=seconds,
            count=self.count,
            kwh=cpu_kwh + sum(each.kwh for each in cards),
            cpu_kwh=cpu_kwh,
            cpu_power_assumed=self.assumed,
            cpu_utilisation_mean=self.busy / seconds if seconds else 0.0,
            memory_peak=self.memory_peak,
            gpus=cards,
            nvml=problem,
            samples=kept,
        )


@dataclasses.dataclass
class _CardSums:
    name: str
    memory_peak: int = 0
    busy: list[float] = field(default_factory=lambda: [0.0, 0.0])  # sum and count
    watts: list[float] = field(default_factory=lambda: [0.0, 0.0])
    joules: float = 0.0
    power: float | None = None
    hottest: float | None = None
    throttle: dict[str, None] = field(default_factory=dict)
    lost: bool = False

    def add(self, sample: GpuSample, elapsed: float) -> None:
        self.lost = sample.state == "lost"
        if sample.name != "?":
            self.name = sample.name
        if sample.power is not None:
            before = sample.power if self.power is None else self.power
            self.joules += (before + sample.power) / 2 * elapsed  # momentary figures: the trapezium between two
            _count(self.watts, sample.power)
        self.power = sample.power
        if sample.utilisation is not None:
            _count(self.busy, sample.utilisation)
        self.memory_peak = max(self.memory_peak, sample.memory_used or 0)
        if sample.temperature is not None:
            self.hottest = max(self.hottest or 0.0, sample.temperature)
        self.throttle.update(dict.fromkeys(sample.throttle))

    def use(self, index: int) -> GpuUse:
        return GpuUse(
            index=index,
            name=self.name,
            memory_peak=self.memory_peak,
            utilisation_mean=self.busy[0] / self.busy[1] if self.busy[1] else None,
            power_mean=self.watts[0] / self.watts[1] if self.watts[1] else None,
            temperature_peak=self.hottest,
            throttle=tuple(self.throttle),
            kwh=self.joules / JOULES_PER_KWH,
            lost=self.lost,
        )


def _count(mean: list[float], value: float) -> None:
    mean[0] += value
    mean[1] += 1


# --- reading --------------------------------------------------------------------------------------------------------


def _processes(device: nvml.Device) -> tuple[Process, ...]:
    found: dict[int, int | None] = {}
    for call in ("GetComputeRunningProcesses", "GetGraphicsRunningProcesses"):
        for each in device.ask(call) or ():
            found.setdefault(int(each.pid), None if each.usedGpuMemory is None else int(each.usedGpuMemory))
    return tuple(Process(pid=pid, name=_process_name(pid), memory=memory) for pid, memory in found.items())


def _process_name(pid: int) -> str:
    """The program's name, never its arguments: those hold user names and keys."""
    import psutil

    try:
        return psutil.Process(pid).name()
    except psutil.Error:
        return "?"


def _clock(psutil: Any) -> float | None:
    with contextlib.suppress(Exception):  # psutil raises a dozen kinds where /sys holds something unexpected
        frequency = psutil.cpu_freq()
        return frequency.current * 1e6 if frequency and frequency.current else None
    return None


def _temperature(psutil: Any) -> float | None:
    """The hottest sensor of the CPU package."""
    with contextlib.suppress(Exception):
        sensors = psutil.sensors_temperatures() if hasattr(psutil, "sensors_temperatures") else {}
        for chip in ("coretemp", "k10temp", "zenpower", "cpu_thermal"):
            if sensors.get(chip):
                return max(each.current for each in sensors[chip])
    return None


class _Rapl:
    """The CPU packages' own energy counters, where the kernel shows them to this user."""

    def __init__(self, root: Path) -> None:
        packages = sorted(root.glob("sys/class/powercap/intel-rapl:[0-9]*"))
        self._packages = [each for each in packages if each.name.count(":") == 1]
        self._last = self._read()

    def watts(self) -> float | None:
        """The mean power since the last call, or None."""
        before, self._last = self._last, self._read()
        if before is None or self._last is None or self._last[0] <= before[0]:
            return None
        joules = 0.0
        for package, old, new in zip(self._packages, before[1], self._last[1], strict=True):
            turn = _number(package / "max_energy_range_uj") or 0  # the counter starts again from there
            joules += ((new - old) if new >= old else (new - old + turn)) / 1e6
        return joules / (self._last[0] - before[0])

    def _read(self) -> tuple[float, list[int]] | None:
        counts = [_number(each / "energy_uj") for each in self._packages]
        if not counts or None in counts:
            return None
        return time.monotonic(), [each for each in counts if each is not None]


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def own_memory(sample: GpuSample, pid: int | None = None) -> int | None:
    """Bytes of a card that one process (this one) holds, or None if the driver does not tell."""
    wanted = os.getpid() if pid is None else pid
    return next((each.memory for each in sample.processes if each.pid == wanted), None)
