"""One file a system that runs an artifact for good, found by this folder. Each has:

UNUSED                                   fields of Service that this system has no use for
PACKAGED                                 whether the folder also gets `model/` (the artifact), fromzero's own wheel and
                                         `requirements.txt`
files(service) -> {path: text or Path}   what is written into the folder: a text, or the file that a Path names
after(service) -> [command, ...]         what a person types next, in that folder

Nothing here runs anything: what a target writes is a function of the record, and its checker is that system's own.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

MODEL = "model"  # the artifact's folder beside the files of a packaged target
REQUIREMENTS = "requirements.txt"
SPARE_MIB = 384  # Python, ONNX Runtime and the uploads in hand; the model's own memory comes on top


@dataclass(frozen=True)
class Tensor:
    """The input or output of the model file: `type` as NumPy names it, `shape` without the batch, -1 for any length."""

    name: str
    type: str
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Service:
    """What every target is told: one artifact and how it shall run."""

    name: str  # a DNS label: the name of containers, units and services
    model: Path  # the artifact's model file
    model_bytes: int
    labels: tuple[str, ...]
    input: Tensor
    output: Tensor
    python: str  # "3.11": what the requirements were resolved for
    onnxruntime: str  # "1.31": what the artifact was opened with
    gpu: bool = False
    port: int = 8000
    replicas: int = 1
    image: str = ""  # of a registry; "" for the one that the docker target builds here

    @property
    def tag(self) -> str:
        return self.image or f"{self.name}:latest"

    @property
    def memory_mib(self) -> int:
        """What one process is given: the model three times (file, weights, what it computes), in steps of 128 MiB."""
        wanted = SPARE_MIB + 3 * self.model_bytes / 2**20
        return -int(-wanted // 128) * 128


def known() -> list[str]:
    return sorted(each.name for each in pkgutil.iter_modules(__path__))


def target(name: str) -> ModuleType:
    return importlib.import_module(f"{__name__}.{name}")
