"""What this machine is: system, Python, driver and NVIDIA cards through NVML, and the CPU as a device.

Nothing here needs a driver, torch or NumPy: what cannot be found out is empty, and `Machine.nvml` says why. Files are
read below `root`, so that a test can play another machine.
"""

from __future__ import annotations

import functools
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from fromzero.machine import nvml

if TYPE_CHECKING:  # setup and doctor need no Card: its module takes as long to import as bare Python to start
    from fromzero.records import Card

NVIDIA_VENDOR = "0x10de"
_DISPLAY_CLASS = "0x03"  # PCI class of display controllers, 3D controllers included

# A CPU's power limit cannot be read everywhere; one assumption for all, stated in the card's notes.
ASSUMED_CPU_WATTS = 65.0
# Without NumPy nothing is measured: conservative figures of a core with AVX2.
_GUESSED_FLOPS_PER_CORE, _GUESSED_BANDWIDTH = 20e9, 10e9
_MATRIX_SIDE, _COPY_BYTES, _SECONDS_EACH = 1024, 64 << 20, 0.15


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One NVIDIA device. `name` is the driver's; memory in bytes; `capability` like "8.6". The power limit in force
    and the board's own in watts, the PCIe lanes in use and the most that card and slot could use: 0 if not known."""

    name: str
    memory_bytes: int
    capability: str
    power_limit: float = 0.0
    power_default: float = 0.0
    link_width: int = 0
    link_width_max: int = 0


@dataclass(frozen=True, kw_only=True)
class Machine:
    """`os` is linux, wsl, windows or macos. `glibc` is "" where there is none or it is not known, "musl" on musl.
    `driver` is "" without one. `nvml` is "" if NVML answered, else why not: "missing" (no library), "no driver",
    "mismatch" (library and kernel module differ), or its own words. `gpu_seen` is true if an NVIDIA card is on the
    bus, whether or not a driver answers for it; `lost` counts cards that the driver lists but that do not answer."""

    os: str
    processor: str = "x86_64"
    python: str
    glibc: str = ""
    driver: str = ""
    gpus: tuple[Gpu, ...] = field(default=())
    nvml: str = ""
    gpu_seen: bool = False
    lost: int = 0


def this_machine(root: Path = Path("/")) -> Machine:
    """This machine as it is now."""
    driver, gpus, lost, problem = _nvml()
    return Machine(
        os=system(root),
        processor=_processor(),
        python=f"{sys.version_info.major}.{sys.version_info.minor}",
        glibc=_glibc(),
        driver=driver,
        gpus=gpus,
        nvml=problem,
        gpu_seen=bool(gpus or lost) or _on_bus(root),
        lost=lost,
    )


def this_card() -> Card:
    """The first NVIDIA card of this machine, or its CPU if it has none. Raises UnknownName for a card that is not in
    the catalogue."""
    gpus = _nvml()[1]
    if not gpus:
        return this_cpu()
    from fromzero.facts.cards import card_of_device

    return card_of_device(gpus[0].name, gpus[0].memory_bytes)


def this_cpu(root: Path = Path("/")) -> Card:
    """This machine's CPU as a card, with the figures that `fromzero bench` kept of it; without them it is measured,
    which takes up to half a second the first time."""
    from fromzero.machine.process import usable_cores
    from fromzero.records import Card

    name, cores = cpu_name(root), usable_cores()
    total, available = _memory(root)
    flops, bandwidth, how = _kept(name, cores) or _quick(cores)
    return Card(
        name=name,
        series="cpu",
        form="cpu",
        architecture=_processor(),
        memory_bytes=total,
        usable_bytes=available,
        bandwidth=bandwidth,
        rates={"fp32": flops},
        sms=cores,
        tdp_watts=ASSUMED_CPU_WATTS,
        source=how,
        notes=f"power is an assumption: {ASSUMED_CPU_WATTS:.0f} W",
    )


# --- the system -----------------------------------------------------------------------------------------------------


def system(root: Path = Path("/")) -> str:
    """linux, wsl, windows or macos."""
    if sys.platform == "win32":
        return "windows"
    if sys.platform == "darwin":
        return "macos"
    return "wsl" if "microsoft" in _text(root / "proc/version").lower() else "linux"


def _processor() -> str:
    if hasattr(os, "uname"):
        name = os.uname().machine.lower()
    else:
        import platform

        name = platform.machine().lower()
    return {"amd64": "x86_64", "x64": "x86_64", "arm64": "aarch64"}.get(name, name)


def _glibc() -> str:
    if not sys.platform.startswith("linux"):
        return ""
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").removeprefix("glibc").strip() or "musl"
    except (ValueError, OSError):  # the name itself is unknown to musl
        return "musl"


def _on_bus(root: Path) -> bool:
    for device in sorted(root.glob("sys/bus/pci/devices/*")):
        if _text(device / "vendor").strip() == NVIDIA_VENDOR and _text(device / "class").startswith(_DISPLAY_CLASS):
            return True
    return False


def _text(path: Path) -> str:
    """The text of a small file, or "" if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


# --- NVIDIA ---------------------------------------------------------------------------------------------------------


def _nvml() -> tuple[str, tuple[Gpu, ...], int, str]:
    """Driver version, devices that answer, the number of those that do not, and "" or why NVML does not answer."""
    try:
        with nvml.session() as (driver, devices):
            found = [_gpu(each) for each in devices]
            answering = tuple(each for each in found if each)
            return driver, answering, len(found) - len(answering), ""
    except nvml.NoNvml as error:
        return "", (), 0, str(error)


def _gpu(device: nvml.Device) -> Gpu | None:
    try:
        major, minor = device.ask("GetCudaComputeCapability") or (0, 0)
        return Gpu(
            name=device.name(),
            memory_bytes=device.memory()[1],
            capability=f"{major}.{minor}",
            power_limit=device.watts("GetPowerManagementLimit") or 0.0,
            power_default=device.watts("GetPowerManagementDefaultLimit") or 0.0,
            link_width=device.ask("GetCurrPcieLinkWidth") or 0,
            link_width_max=device.ask("GetMaxPcieLinkWidth") or 0,
        )
    except nvml.Lost:
        return None


# --- the CPU --------------------------------------------------------------------------------------------------------


def cpu_name(root: Path = Path("/")) -> str:
    """What the CPU calls itself."""
    for line in _text(root / "proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Hardware") and value.strip():
            return " ".join(value.split())
    import platform

    return platform.processor() or platform.machine() or "CPU"


def _memory(root: Path) -> tuple[int, int]:
    """Bytes of RAM, and what a process can still get of them, a container's limit included."""
    import psutil

    ram = psutil.virtual_memory()
    left = _container_memory_left(root)
    return int(ram.total), int(ram.available if left is None else min(ram.available, left))


def _container_memory_left(root: Path) -> int | None:
    """Bytes until the tightest limit of this process's control groups, or None if there is none. The file cache counts
    as free: the kernel gives it back."""
    left = []
    for folder, limit, used, cache in _cgroups(root):
        bound, now = _text(folder / limit).strip(), _text(folder / used).strip()
        if bound.isdigit() and now.isdigit() and int(bound) < 1 << 62:  # "max" and a huge number mean no limit
            kept = _fields(_text(folder / "memory.stat")).get(cache, 0)
            left.append(max(0, int(bound) - max(0, int(now) - kept)))
    return min(left, default=None)


def _cgroups(root: Path) -> list[tuple[Path, str, str, str]]:
    """Where the memory limit of this process may be (version 2 of control groups, then 1)."""
    own = {line.split(":")[1]: line.split(":", 2)[2].strip("/\n") for line in _lines(root / "proc/self/cgroup")}
    top2, top1 = root / "sys/fs/cgroup", root / "sys/fs/cgroup/memory"
    version2 = ("memory.max", "memory.current", "inactive_file")
    version1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    nearest2 = [top2 / own.get("", ""), *(top2 / own.get("", "")).relative_to(top2).parents]
    return [
        *((top2 / folder, *version2) for folder in nearest2),
        (top1 / own.get("memory", ""), *version1),
        (top1, *version1),
    ]


def _lines(path: Path) -> list[str]:
    return [line for line in _text(path).splitlines() if line.count(":") >= 2]


def _fields(text: str) -> Mapping[str, int]:
    pairs = (line.split() for line in text.splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def _kept(name: str, cores: int) -> tuple[float, float, str] | None:
    """What `fromzero bench` measured of this very CPU and number of cores."""
    from fromzero.machine.measured import load_bench

    kept = load_bench()
    if kept is None or (kept.cpu, kept.cores) != (name, cores):
        return None
    cpu = kept.of("cpu")
    if cpu is None or not cpu.bandwidth or "fp32" not in cpu.rates:
        return None
    return cpu.rates["fp32"], cpu.bandwidth, f"measured on this machine by fromzero bench, {kept.when}"


def _quick(cores: int) -> tuple[float, float, str]:
    measured = _measured(cores)
    if measured:
        return (*measured, "measured on this machine")
    guessed = "estimated from the number of cores: NumPy is not installed"
    return _GUESSED_FLOPS_PER_CORE * cores, _GUESSED_BANDWIDTH, guessed


@functools.cache
def _measured(cores: int) -> tuple[float, float] | None:
    """FLOP/s of an fp32 matrix product and bytes/s of a copy (read and written), or None without NumPy. Measured once
    a process; `cores` is part of the key."""
    try:
        import numpy as np
    except ImportError:
        return None
    matrix = np.ones((_MATRIX_SIDE, _MATRIX_SIDE), np.float32)
    product = np.empty_like(matrix)
    source = np.ones(_COPY_BYTES // 4, np.float32)
    target = np.zeros_like(source)
    multiply = best_seconds(lambda: np.matmul(matrix, matrix, out=product))
    copy = best_seconds(lambda: np.copyto(target, source))
    return 2 * _MATRIX_SIDE**3 / multiply, 2 * _COPY_BYTES / copy


def best_seconds(run: Callable[[], object], seconds: float = _SECONDS_EACH) -> float:
    """The fastest of the runs that fit into the time; the first warms up unless it is the only one."""
    end = time.perf_counter() + seconds
    best = float("inf")
    while True:
        start = time.perf_counter()
        run()
        now = time.perf_counter()
        best = min(best, now - start)
        if now >= end:
            return best
