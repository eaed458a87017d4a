"""What this process may use and what it uses: cores, memory, and the most it held."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import threading


def usable_cores() -> int:
    """Cores this process may run on: in a container or under taskset fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def process_bytes() -> int:
    """Bytes of this process's own memory: resident, less mapped files and libraries where the system tells."""
    import psutil

    status = psutil.Process().memory_info()
    return status.rss - getattr(status, "shared", 0)


def settled_bytes() -> int:
    """`process_bytes` after everything that is not in use was given back to the system."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError, TypeError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)
    return process_bytes()


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port nothing listens on now."""
    import socket

    with socket.socket() as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]


class PeakMemory:
    """The most this process held between `start` and `stop`, read every 20 ms by a thread of its own."""

    def __init__(self, interval: float = 0.02) -> None:
        self.peak = 0
        self._interval = interval
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def start(self) -> PeakMemory:
        self.peak = process_bytes()
        self._thread.start()
        return self

    def stop(self) -> int:
        self._over.set()
        self._thread.join()
        self.peak = max(self.peak, process_bytes())
        return self.peak

    def _watch(self) -> None:
        while not self._over.wait(self._interval):
            self.peak = max(self.peak, process_bytes())
