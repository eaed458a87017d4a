"""Smaller pictures: the same network on fewer pixels, which a convolution's work is proportional to. The setting is the
side in pixels. Weights stay as they are; `recovered` may come next. What a picture shows in fine strokes
is lost, so that only measuring tells."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import torch

from fromzero.errors import FromzeroError
from fromzero.records import Preprocessing
from fromzero.runs import Run
from fromzero.runtimes.torch_runtime import open_module
from fromzero.shrink import NothingToGain, Source
from fromzero.shrink._runs import derived
from fromzero.terminal import Console

CHANGES = "run"
TRAINS = False
SETTINGS = ()  # see `sizes`
SHARES = (0.8, 0.7, 0.5)  # of the side
MULTIPLE = 32  # of pixels: what most networks divide a side by


def sizes(side: int) -> tuple[str, ...]:
    """The settings for pictures of a `side`, the mildest first; none for small ones."""
    found = {max(1, round(side * each / MULTIPLE)) * MULTIPLE for each in SHARES}
    return tuple(str(each) for each in sorted(found, reverse=True) if each < side)


def make(source: Source, setting: str, folder: Path, console: Console) -> None:
    run = Run(source.run)
    how = run.preprocessing()
    assert isinstance(how, Preprocessing)
    size, channels = int(setting), run.plan().workload.input_shape[0]
    derived(source.run, folder, open_module(source.run), how=dataclasses.replace(how, size=size))
    try:
        with torch.no_grad():
            open_module(folder).eval()(torch.zeros(1, channels, size, size))
    except (FromzeroError, RuntimeError, ValueError, AssertionError) as error:  # each in its own way
        shutil.rmtree(folder)
        raise NothingToGain("size_is_fixed") from error
