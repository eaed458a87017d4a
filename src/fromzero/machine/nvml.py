"""NVML through nvidia-ml-py, read so that nothing a driver lacks stops the rest.

What a device does not tell is None; a device that fell off the bus raises Lost; a library that does not answer raises
NoNvml with the reason. nvidia-ml-py is imported only where its library can be there at all.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


class NoNvml(Exception):
    """NVML does not answer. The text is "missing" (no library), "no driver", "mismatch" (library and kernel module
    differ), or its own words."""


class Lost(Exception):
    """The driver lists this device, but it no longer answers."""


# The bits of nvmlDeviceGetCurrentClocksEventReasons that say "slower than it could be"; idle and the user's own clock
# settings are no such reasons.
THROTTLES = {
    0x4: "power",  # software power cap: the board's power limit
    0x8: "hardware",
    0x20: "temperature",  # software thermal slowdown
    0x40: "temperature",  # hardware thermal slowdown
    0x80: "power brake",
}


@dataclass(frozen=True)
class Device:
    """One device of an open session; `handle` is None if it could not be opened."""

    nvml: Any
    index: int
    handle: Any

    def ask(self, call: str, *arguments: Any) -> Any:
        """The answer of nvmlDevice<call>, or None if this device or driver has none. Raises Lost."""
        if self.handle is None:
            raise Lost
        return _ask(self.nvml, f"nvmlDevice{call}", self.handle, *arguments)

    def name(self) -> str:
        return text(self.ask("GetName") or "")

    def memory(self) -> tuple[int, int]:
        """Bytes in use and in total. Raises Lost if not even that is told."""
        memory = self.ask("GetMemoryInfo")
        if memory is None:
            raise Lost
        return int(memory.used), int(memory.total)

    def watts(self, call: str) -> float | None:
        """A power in watts."""
        milliwatts = self.ask(call)
        return None if milliwatts is None else milliwatts / 1000

    def throttles(self) -> tuple[str, ...]:
        """Why the clocks are lower than they could be, worst first; () if they are not."""
        reasons = self.ask("GetCurrentClocksEventReasons")
        if reasons is None:  # drivers before 535
            reasons = self.ask("GetCurrentClocksThrottleReasons") or 0
        return tuple(dict.fromkeys(word for bit, word in THROTTLES.items() if reasons & bit))


@contextlib.contextmanager
def session() -> Iterator[tuple[str, list[Device]]]:
    """The driver's version and its devices, while the block runs. Raises NoNvml."""
    nvml = start()
    try:
        yield driver_version(nvml), devices(nvml)
    finally:
        stop(nvml)


def start() -> Any:
    """The initialised library, for `devices`; give it back to `stop`. Raises NoNvml."""
    if not _library_is_there():
        raise NoNvml("missing")
    try:
        import pynvml
    except ImportError:
        raise NoNvml("nvidia-ml-py is not installed") from None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise NoNvml(_why(error, pynvml)) from None
    return pynvml


def stop(nvml: Any) -> None:
    with contextlib.suppress(nvml.NVMLError):
        nvml.nvmlShutdown()


def driver_version(nvml: Any) -> str:
    with contextlib.suppress(Lost):
        return text(_ask(nvml, "nvmlSystemGetDriverVersion") or "")
    return ""


def devices(nvml: Any) -> list[Device]:
    """Every device the driver lists, those that do not answer included."""
    try:
        count = nvml.nvmlDeviceGetCount()
    except nvml.NVMLError as error:
        raise NoNvml(_why(error, nvml)) from None
    return [Device(nvml, index, _handle(nvml, index)) for index in range(count)]


def text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value  # bytes before nvidia-ml-py 12


def _handle(nvml: Any, index: int) -> Any:
    try:
        return nvml.nvmlDeviceGetHandleByIndex(index)
    except nvml.NVMLError:
        return None


def _ask(nvml: Any, call: str, *arguments: Any) -> Any:
    try:
        return getattr(nvml, call)(*arguments)
    except AttributeError:  # an older nvidia-ml-py
        return None
    except nvml.NVMLError as error:
        if error.value in (nvml.NVML_ERROR_GPU_IS_LOST, nvml.NVML_ERROR_UNINITIALIZED):
            raise Lost from None
        return None


def _library_is_there() -> bool:
    """Importing nvidia-ml-py takes three times as long as bare Python: not where there is no driver."""
    if not sys.platform.startswith("linux"):
        return True
    import ctypes

    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return False
    return True


def _why(error: Any, nvml: Any) -> str:
    words = {
        nvml.NVML_ERROR_LIBRARY_NOT_FOUND: "missing",
        nvml.NVML_ERROR_DRIVER_NOT_LOADED: "no driver",
        nvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "mismatch",
    }
    return words.get(error.value, str(error))
