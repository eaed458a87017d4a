"""PyTorch's wheels: one row of wheels.csv for each release and CUDA variant, and the rules for reading a row.

Compiled kernels run on devices of the same major compute capability whose minor is at least theirs, never across
majors; PTX is compiled by the driver for any newer device. Versions are texts; `version` makes them comparable.
"""

from __future__ import annotations

import csv
import functools
import os
import re
from dataclasses import dataclass
from pathlib import Path

# PyTorch's own host of wheels; FROMZERO_WHEEL_INDEX names mirrors of it with the same folders (cu126, cpu ...), parted
# by spaces: the printed commands name the first, `setup --apply` tries each.
WHEEL_HOST = "https://download.pytorch.org/whl"

# From this compute capability on, a card needs a driver at least this new (cuDNN 9.10.2 support matrix).
BLACKWELL = "10.0"
FIRST_DRIVER = {"linux": "570.26", "windows": "570.65"}
# The last driver branch for cards below a compute capability (NVIDIA's driver release notes, nixos legacy_580).
LAST_BRANCH = (("5.0", 470), ("7.5", 580))
# Devices built into boards of their own need a kernel of exactly theirs (torch 2.14.1, DEVICE_REQUIREMENT).
OWN_KERNELS = ("5.3", "6.2", "7.2", "8.7", "10.1", "11.0")

NUMPY2_SINCE = "2.3"  # older releases were compiled against NumPy 1


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """One release in one CUDA variant. `verified` is False for announced ones that nobody has inspected."""

    torch: str
    cuda_tag: str
    cuda: str
    pypi_linux: bool
    kernels_linux: tuple[str, ...]
    kernels_windows: tuple[str, ...]
    ptx_linux: str
    driver_linux: str
    driver_windows: str
    python_first: str
    python_last: str
    glibc: str
    torchvision: str
    torchaudio: str
    cudnn: str
    evidence: str
    source: str
    notes: str

    @property
    def verified(self) -> bool:
        return self.evidence != "proposed"

    def kernels(self, os_name: str) -> tuple[str, ...]:
        """The compute capabilities compiled in. Inside WSL the wheel is the Linux one."""
        return self.kernels_windows if os_name == "windows" else self.kernels_linux

    def driver(self, os_name: str) -> str:
        """The oldest driver. Inside WSL the driver is the Windows one."""
        return self.driver_linux if os_name == "linux" else self.driver_windows

    def runs_on(self, capability: str, os_name: str) -> bool:
        """Whether a compiled kernel runs on a device of `capability`."""
        if capability in OWN_KERNELS:
            return capability in self.kernels(os_name)
        card = version(capability)
        return any(card[0] == each[0] and each <= card for each in map(version, self.kernels(os_name)))

    def compiles_for(self, capability: str, os_name: str) -> bool:
        """Whether the driver can compile the wheel's PTX for `capability`."""
        return bool(self.ptx_linux) and os_name != "windows" and version(self.ptx_linux) <= version(capability)


@functools.cache
def wheels() -> tuple[Wheel, ...]:
    """All rows, oldest release first."""
    with Path(__file__).with_name("wheels.csv").open(newline="", encoding="utf-8") as file:
        return tuple(_wheel(row) for row in csv.DictReader(file))


def newest(cuda_tag: str) -> Wheel:
    """The newest verified release of a CUDA variant ("cu126")."""
    return max((each for each in wheels() if each.verified and each.cuda_tag == cuda_tag), key=_age)


def find_wheel(torch: str, cuda_tag: str) -> Wheel | None:
    """The row of an installed version ("2.14.1", "cu130"), or None if the table does not know it."""
    release = minor(torch)
    return next((each for each in wheels() if (each.torch, each.cuda_tag) == (release, cuda_tag)), None)


def partner(torch: str) -> str:
    """The torchvision release that belongs to a torch version, or "" if it is not known."""
    release = minor(torch)
    return next((each.torchvision for each in wheels() if each.torch == release), "")


def index_url(cuda_tag: str) -> str:
    """Where the wheels of a variant ("cu126", "cpu") are."""
    first = next(iter(os.environ.get("FROMZERO_WHEEL_INDEX", "").split()), WHEEL_HOST)
    return f"{first.rstrip('/')}/{cuda_tag}"


def first_driver(capability: str, os_name: str) -> str:
    """The oldest driver that knows a device of `capability` at all, or "" where every driver of the table does."""
    if version(capability) < version(BLACKWELL):
        return ""
    return FIRST_DRIVER["linux" if os_name == "linux" else "windows"]


def last_branch(capability: str) -> int | None:
    """The last driver branch that still knows a device of `capability`, or None if today's does."""
    return next((branch for limit, branch in LAST_BRANCH if version(capability) < version(limit)), None)


@functools.cache
def version(text: str) -> tuple[int, ...]:
    """ "2.14.1+cu130" -> (2, 14, 1), to compare with. Raises ValueError if `text` begins with no number."""
    found = re.match(r"\d+(?:\.\d+)*", text.strip())
    if found is None:
        raise ValueError(f"{text!r} is no version")
    return tuple(int(part) for part in found[0].split("."))


def minor(text: str) -> str:
    """ "2.14.1+cu130" -> "2.14"."""
    return ".".join(str(part) for part in version(text)[:2])


def _age(wheel: Wheel) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return version(wheel.torch), version(wheel.cuda)


def _wheel(row: dict[str, str]) -> Wheel:
    return Wheel(
        torch=row["torch"],
        cuda_tag=row["cuda_tag"],
        cuda=row["cuda"],
        pypi_linux=row["pypi_linux"] == "1",
        kernels_linux=tuple(row["kernels_linux"].split()),
        kernels_windows=tuple(row["kernels_windows"].split()),
        ptx_linux=row["ptx_linux"],
        driver_linux=row["driver_linux"],
        driver_windows=row["driver_windows"],
        python_first=row["python_first"],
        python_last=row["python_last"],
        glibc=row["glibc"],
        torchvision=row["torchvision"],
        torchaudio=row["torchaudio"],
        cudnn=row["cudnn"],
        evidence=row["evidence"],
        source=row["source"],
        notes=row["notes"],
    )
