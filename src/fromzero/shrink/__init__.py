"""One file a way to make a trained model smaller or faster, found by this folder. Each has:

CHANGES                          "run": it makes a network that can be trained on; "artifact": an exported file
TRAINS                           whether it takes training, which costs more than all else
SETTINGS                         what it is tried with, the mildest first: ("0.25", "0.5"); ("",) with nothing to set,
                                 () where that follows from the model
make(source, setting, folder, console)
                                 writes the run, or the artifact, into `folder`, which is not there yet. Raises
                                 NothingToGain where this model offers it nothing to work on

A candidate is a sequence of steps "way" or "way-setting", joined by "+": "structured-0.5+recovered+int8". A step starts
from what the step before it made.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

JOINT = "+"


@dataclass(frozen=True)
class Source:
    """What a way starts from."""

    original: Path  # the run as it was trained
    run: Path  # the network so far, as a run
    artifact: Path  # the same, exported
    epochs: int  # of training that a way may take


class NothingToGain(Exception):
    """Why a way does not apply to a model, as the name of a sentence: `shrink.reason.<name>`."""


def names() -> list[str]:
    """The ways there are."""
    return sorted(each.name for each in pkgutil.iter_modules(__path__) if not each.name.startswith("_"))


def way(name: str) -> ModuleType:
    """The file of a way."""
    return importlib.import_module(f"{__name__}.{name}")


def step(name: str, setting: str = "") -> str:
    """A step as it stands in the name of a candidate."""
    return f"{name}-{setting}" if setting else name


def parts(step: str) -> tuple[str, str]:
    """The way and the setting of a step."""
    name, _, setting = step.partition("-")
    return name, setting
