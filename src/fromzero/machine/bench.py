"""What the device at hand really does, beside what the catalogue says of it.

    bench() -> Bench: every GPU that PyTorch reaches, the CPU, the disk, JPEG decoding, the loader's ceiling

Nothing is required: without NumPy and torch the CPU's rates are missing, without Pillow decoding is, and the record
says so. The GPU path follows PyTorch's documented calls; it was written without a GPU and never run on one.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

from fromzero.errors import UnknownName
from fromzero.facts.cards import card_of_device
from fromzero.language import say
from fromzero.machine import nvml
from fromzero.machine.detect import best_seconds, cpu_name, this_machine
from fromzero.machine.measured import Bench, DeviceBench, state_folder
from fromzero.machine.process import usable_cores
from fromzero.machine.watch import Sampler
from fromzero.records import Card
from fromzero.terminal import Console

CPU_SIDE, CPU_COPY = 1024, 64 << 20
GPU_SIDES, GPU_COPY = (8192, 4096, 2048), 256 << 20
WARM_UP = 0.5  # seconds until a GPU's clocks have settled
DISK_BYTES, DISK_BLOCK = 256 << 20, 4 << 20
PICTURE, QUALITY, RESIZED = (500, 375), 90, 224
# From this load on (processes that want to run, of the last minute, over cores) others take a share of the CPU.
BUSY = 0.5
# A power limit or link this far below what it could be is worth telling.
WORTH_TELLING = 0.97

# The precisions of Card.rates that PyTorch can be asked for: dtype, then switches of torch.backends.cuda.matmul. The
# plain ones accumulate in fp32.
GPU_PRECISIONS: dict[str, tuple[str, dict[str, bool]]] = {
    "fp32": ("float32", {"allow_tf32": False}),
    "tf32": ("float32", {"allow_tf32": True}),
    "fp16": ("float16", {"allow_fp16_accumulation": False}),
    "fp16-acc16": ("float16", {"allow_fp16_accumulation": True}),
    "bf16": ("bfloat16", {}),
}
CPU_PRECISIONS = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def bench(
    seconds: float = 0.3,
    folder: Path | None = None,
    console: Console | None = None,
    load: Callable[[bytes], object] | None = None,
) -> Bench:
    """Measure this machine, about `seconds` for each figure. The disk measured is that of `folder`, by default of the
    folder where the record is kept. `load` makes a training picture from the bytes of a JPEG (None: Pillow does)."""
    console = console or Console()
    torch, numpy, pillow = _module("torch"), _module("numpy"), _module("PIL")
    notes: dict[str, str] = {}
    devices = []
    if torch is not None and torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            console.line(say("bench.measuring", device=torch.cuda.get_device_name(index)))
            devices.append(gpu_bench(torch, index, seconds))
    elif machine_gpus := this_machine().gpus:
        notes["gpu"] = say("bench.no.gpu", cards=", ".join(gpu.name for gpu in machine_gpus))
    name = cpu_name()
    if hasattr(os, "getloadavg") and (wanting := os.getloadavg()[0]) > BUSY * usable_cores():
        notes["busy"] = say("bench.no.busy", load=f"{wanting:.1f}", cores=usable_cores())
    console.line(say("bench.measuring", device=name))
    devices.append(_cpu(torch, numpy, name, seconds, notes))
    disk = _disk(folder or state_folder(), notes)
    decode, rate = _pictures(pillow, seconds, disk, notes, load)
    return Bench(
        when=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        cpu=name,
        cores=usable_cores(),
        driver=_driver(),
        devices=tuple(devices),
        disk_read=disk,
        decode_per_core=decode,
        loader=rate,
        notes=notes,
        versions={"python": platform.python_version(), **_versions("torch", "numpy", "pillow")},
    )


# --- GPU ------------------------------------------------------------------------------------------------------------


def gpu_bench(torch: Any, index: int, seconds: float) -> DeviceBench:
    """One CUDA device through PyTorch, with what NVML saw meanwhile."""
    device = f"cuda:{index}"
    with Sampler(interval=0.1) as sampler:
        rates = {name: rate for name in GPU_PRECISIONS if (rate := _gpu_rate(torch, device, name, seconds))}
        bandwidth = _gpu_bandwidth(torch, device, seconds)
        to_device, from_device = _gpu_copies(torch, device, seconds)
    properties = torch.cuda.get_device_properties(index)
    number = _nvml_index(properties)
    throttle = [each.throttle for each in sampler.stop().gpus if each.index == number]
    card = _card(properties.name, int(properties.total_memory))
    return DeviceBench(
        device=device,
        card=card.title if card else properties.name,
        rates=rates,
        bandwidth=bandwidth,
        to_device=to_device,
        from_device=from_device,
        shares=_shares(rates, bandwidth, card) if card else {},
        reasons=(*_limits(number), *(("throttle", each) for each in (throttle[0] if throttle else ()))),
        library=f"torch {torch.__version__}",
    )


def _gpu_rate(torch: Any, device: str, precision: str, seconds: float) -> float | None:
    """FLOP/s of a square matrix product, or None where card or release has no such precision."""
    kind, switches = GPU_PRECISIONS[precision]
    if precision in ("tf32", "bf16") and torch.cuda.get_device_capability(device) < (8, 0):
        return None  # older cards emulate them
    if any(not hasattr(torch.backends.cuda.matmul, each) for each in switches):
        return None
    free, _ = torch.cuda.mem_get_info(device)
    dtype = getattr(torch, kind)
    side = next((each for each in GPU_SIDES if 4 * each * each * dtype.itemsize < free), GPU_SIDES[-1])
    with _switched(torch.backends.cuda.matmul, switches):
        left = torch.randn(side, side, device=device, dtype=dtype)
        right, product = torch.randn_like(left), torch.empty_like(left)
        took = _mean_seconds(torch, device, lambda: torch.mm(left, right, out=product), seconds)
    return 2 * side**3 / took


def _gpu_bandwidth(torch: Any, device: str, seconds: float) -> float:
    source = torch.ones(GPU_COPY // 4, device=device)
    target = torch.empty_like(source)
    return 2 * GPU_COPY / _mean_seconds(torch, device, lambda: target.copy_(source), seconds)


def _gpu_copies(torch: Any, device: str, seconds: float) -> tuple[float, float]:
    host = torch.ones(GPU_COPY // 4, pin_memory=True)
    there = torch.empty(GPU_COPY // 4, device=device)
    to_device = _mean_seconds(torch, device, lambda: there.copy_(host, non_blocking=True), seconds)
    from_device = _mean_seconds(torch, device, lambda: host.copy_(there, non_blocking=True), seconds)
    return GPU_COPY / to_device, GPU_COPY / from_device


def _mean_seconds(torch: Any, device: str, run: Callable[[], object], seconds: float) -> float:
    """Seconds of a run on a warm device: the mean, for a card under load gives what its power limit lets it."""
    for time_given in (min(WARM_UP, seconds), seconds):
        torch.cuda.synchronize(device)
        start, count = time.perf_counter(), 0
        while time.perf_counter() - start < time_given or not count:
            run()
            torch.cuda.synchronize(device)
            count += 1
        took = (time.perf_counter() - start) / count
    return took


@contextlib.contextmanager
def _switched(place: Any, switches: dict[str, bool]) -> Iterator[None]:
    before = {name: getattr(place, name) for name in switches}
    try:
        for name, value in switches.items():
            setattr(place, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(place, name, value)


def _nvml_index(properties: Any) -> int | None:
    """NVML's number of a CUDA device: the two count differently, its UUID is the same."""
    try:
        with nvml.session() as (_, devices):
            wanted = str(getattr(properties, "uuid", "")).removeprefix("GPU-")
            for each in devices:
                with contextlib.suppress(nvml.Lost):
                    if wanted and nvml.text(each.ask("GetUUID") or "").removeprefix("GPU-") == wanted:
                        return each.index
            return devices[0].index if len(devices) == 1 else None
    except nvml.NoNvml:
        return None


def _limits(number: int | None) -> tuple[tuple[str, ...], ...]:
    """What holds a card back that can be read: its power limit, its PCIe link."""
    if number is None:
        return ()
    reasons: list[tuple[str, ...]] = []
    with contextlib.suppress(nvml.NoNvml, nvml.Lost), nvml.session() as (_, devices):
        gpu = devices[number]
        limit, full = gpu.watts("GetPowerManagementLimit"), gpu.watts("GetPowerManagementDefaultLimit")
        if limit and full and limit < WORTH_TELLING * full:
            reasons.append(("power_limit", f"{limit:.0f}", f"{full:.0f}"))
        width, widest = gpu.ask("GetCurrPcieLinkWidth") or 0, gpu.ask("GetMaxPcieLinkWidth") or 0
        if 0 < width < widest:
            reasons.append(("link_width", str(width), str(widest)))
    return tuple(reasons)


def _card(name: str, memory_bytes: int) -> Card | None:
    try:
        return card_of_device(name, memory_bytes)
    except UnknownName:
        return None


def _shares(rates: dict[str, float], bandwidth: float | None, card: Card) -> dict[str, float]:
    shares = {name: rate / card.rates[name] for name, rate in rates.items() if card.rates.get(name)}
    if bandwidth and card.bandwidth:
        shares["bandwidth"] = bandwidth / card.bandwidth
    return shares


# --- CPU ------------------------------------------------------------------------------------------------------------


def _cpu(torch: Any, numpy: Any, name: str, seconds: float, notes: dict[str, str]) -> DeviceBench:
    if torch is None and numpy is None:
        notes["cpu"] = say("bench.no.cpu")
        return DeviceBench(device="cpu", card=name)
    if torch is None:
        rates, bandwidth, library = *_by_numpy(numpy, seconds), f"numpy {numpy.__version__}"
    else:
        rates, bandwidth, library = *_by_torch(torch, seconds), f"torch {torch.__version__}"
    return DeviceBench(device="cpu", card=name, rates=rates, bandwidth=bandwidth, library=library)


def _by_numpy(np: Any, seconds: float) -> tuple[dict[str, float], float]:
    matrix = np.ones((CPU_SIDE, CPU_SIDE), np.float32)
    product = np.empty_like(matrix)
    multiply = best_seconds(lambda: np.matmul(matrix, matrix, out=product), seconds)
    source = np.ones(CPU_COPY // 4, np.float32)
    target = np.zeros_like(source)
    copy = best_seconds(lambda: np.copyto(target, source), seconds)
    return {"fp32": 2 * CPU_SIDE**3 / multiply}, 2 * CPU_COPY / copy


def _by_torch(torch: Any, seconds: float) -> tuple[dict[str, float], float]:
    rates = {}
    for precision, kind in CPU_PRECISIONS.items():
        dtype = getattr(torch, kind)
        for side in (CPU_SIDE // 4, CPU_SIDE):  # a CPU without the precision is a hundred times slower: look first
            matrix = torch.ones(side, side, dtype=dtype)
            product = torch.empty_like(matrix)
            multiply = functools.partial(torch.mm, matrix, matrix, out=product)
            took = best_seconds(multiply, seconds if side == CPU_SIDE else seconds / 4)
            rates[precision] = 2 * side**3 / took
            if 2 * CPU_SIDE**3 / rates[precision] > 3 * seconds:
                break
    source = torch.ones(CPU_COPY // 4)
    target = torch.zeros_like(source)
    return rates, 2 * CPU_COPY / best_seconds(lambda: target.copy_(source), seconds)


# --- disk and pictures ----------------------------------------------------------------------------------------------


def _disk(folder: Path, notes: dict[str, str]) -> float | None:
    """Bytes/s of reading a file that is not in the page cache."""
    if not hasattr(os, "posix_fadvise"):
        notes["disk"] = say("bench.no.cache_control")
        return None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix="bench-") as file:
            block = os.urandom(DISK_BLOCK)  # a disk that compresses must not gain by it
            for _ in range(DISK_BYTES // DISK_BLOCK):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            file.seek(0)
            start = time.perf_counter()
            while os.read(file.fileno(), DISK_BLOCK):
                pass
            return DISK_BYTES / (time.perf_counter() - start)
    except OSError as error:
        notes["disk"] = say("bench.no.disk", folder=folder, reason=error.strerror or error)
        return None


def _pictures(
    pillow: ModuleType | None,
    seconds: float,
    disk: float | None,
    notes: dict[str, str],
    load: Callable[[bytes], object] | None,
) -> tuple[float | None, float | None]:
    """Pictures/s: decoded on one core; and as a loader on all cores, from this disk."""
    if pillow is None:
        notes["decode"] = say("bench.no.pillow")
        return None, None
    Image = importlib.import_module("PIL.Image")  # noqa: N806
    jpeg = _photo(Image)

    def decode() -> Any:
        return Image.open(io.BytesIO(jpeg)).convert("RGB")

    def by_pillow(content: bytes) -> object:
        return decode().resize((RESIZED, RESIZED), Image.Resampling.BILINEAR).tobytes()

    make = load or by_pillow

    def loaded(until: float) -> int:
        count = 0
        while time.perf_counter() < until:
            make(jpeg)
            count += 1
        return count

    one = 1 / best_seconds(decode, seconds)
    cores = usable_cores()
    start = time.perf_counter()
    with ThreadPoolExecutor(cores) as pool:  # decoders release the interpreter
        counts = list(pool.map(loaded, [start + seconds] * cores))
    rate = sum(counts) / (time.perf_counter() - start)
    return one, min(rate, disk / len(jpeg)) if disk else rate


def _photo(Image: Any) -> bytes:  # noqa: N803
    """A JPEG as heavy as a photograph of its size: large soft shapes with a little grain, 0.3 to 0.6 bytes a pixel."""
    soft = [Image.effect_noise((25, 19), 120).resize(PICTURE, Image.Resampling.BICUBIC) for _ in range(3)]
    grain = Image.effect_noise(PICTURE, 24)
    picture = Image.merge("RGB", [Image.blend(each, grain, 0.35) for each in soft])
    target = io.BytesIO()
    picture.save(target, "JPEG", quality=QUALITY)
    return target.getvalue()


# --- the rest -------------------------------------------------------------------------------------------------------


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except (ImportError, OSError):  # OSError: a wheel whose libraries do not load
        return None


def _versions(*names: str) -> dict[str, str]:
    found = {}
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _driver() -> str:
    try:
        with nvml.session() as (driver, _):
            return driver
    except nvml.NoNvml:
        return ""
