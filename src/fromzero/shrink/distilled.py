"""Distillation: a student learns from the original's answers beside the truth (`models/teacher.py`). Without a setting
the student is the network so far, with its weights; else the setting is the name of another model, which starts
anew."""

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
    student = {"model": setting} if setting else {"pretrained": weights(source.run)}
    trained(source.run, folder, source.epochs, console, teacher=str(source.original), lr=recipe.lr, **student)
