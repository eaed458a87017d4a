"""What `fromzero bench` measured of this machine, and where it is kept.

The record lies in the user's state folder as bench.json; the planner calibrates itself to it. A record of another
machine (a shared home directory) or of another number of cores is not this machine's.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fromzero.files import write_json
from fromzero.records import from_json, to_json

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class DeviceBench:
    """One device, measured. `rates` are FLOP/s of a large matrix product by the precisions of `Card.rates`;
    `bandwidth` is bytes read and written a second; `to_device` and `from_device` are copies from and to pinned host
    memory. `shares` are the rates and the bandwidth over the catalogue's, empty if the card is in no catalogue.
    `reasons` say what may hold it back: codes with figures ("power_limit", 120, 170)."""

    device: str
    card: str
    rates: Mapping[str, float] = field(default_factory=dict)
    bandwidth: float | None = None
    to_device: float | None = None
    from_device: float | None = None
    shares: Mapping[str, float] = field(default_factory=dict)
    reasons: tuple[tuple[str, ...], ...] = ()
    library: str = ""

    @property
    def is_cpu(self) -> bool:
        return self.device == "cpu"


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A machine, measured: the GPUs that PyTorch reaches, then the CPU. `disk_read` in bytes/s past the page cache,
    `decode_per_core` and `loader` in pictures/s (JPEG, 500 x 375, decoded; and decoded, resized to 224 and read from
    this disk on all cores). `notes` says why a figure is absent or doubtful."""

    when: str
    cpu: str
    cores: int
    driver: str = ""
    devices: tuple[DeviceBench, ...] = ()
    disk_read: float | None = None
    decode_per_core: float | None = None
    loader: float | None = None
    notes: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    format: int = FORMAT

    def of(self, device: str) -> DeviceBench | None:
        """The measured device called "cpu", "cuda:0" ..., or the first card of that title."""
        return next((each for each in self.devices if device in (each.device, each.card)), None)


def state_folder() -> Path:
    """Where fromzero keeps what it learnt of this machine: $FROMZERO_STATE, else the user's state folder."""
    if named := os.environ.get("FROMZERO_STATE"):
        return Path(named)
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    return base / "fromzero"


def store_bench(bench: Bench) -> Path:
    """Keep `bench` for `load_bench`. Raises DiskError."""
    path = state_folder() / "bench.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        from fromzero.files import disk_error

        raise disk_error(path, error) from error
    write_json(path, to_json(bench))
    return path


def load_bench() -> Bench | None:
    """The kept record, whatever machine it is of (compare `cpu` and `cores`); None if there is none that can be
    read."""
    try:
        return bench_from_json(json.loads((state_folder() / "bench.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None  # it can be measured again


def bench_from_json(values: Mapping[str, Any]) -> Bench:
    """The record that `to_json` wrote. Raises ValueError for one of another format."""
    if values.get("format") != FORMAT:
        raise ValueError("another format")
    devices = tuple(
        from_json(DeviceBench, {**each, "reasons": [tuple(reason) for reason in each.get("reasons", ())]})
        for each in values["devices"]
    )
    return from_json(Bench, {**values, "devices": devices})
