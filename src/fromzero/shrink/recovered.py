"""Recovering: a network that was cut learns again what it knew, by its own recipe, from the weights it has left."""

from __future__ import annotations

from pathlib import Path

from fromzero.runs import Run
from fromzero.shrink import Source
from fromzero.shrink._runs import trained, weights
from fromzero.terminal import Console

CHANGES = "run"
TRAINS = True
SETTINGS = ("",)


def make(source: Source, setting: str, folder: Path, console: Console) -> None:
    recipe = Run(source.run).plan().recipe
    trained(source.run, folder, source.epochs, console, pretrained=weights(source.run), lr=recipe.lr)
