"""Image classification."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fromzero.data import load
from fromzero.data.augment import choose
from fromzero.data.draft import LEAST_SIDE, draft, shorter_side
from fromzero.data.manifest import Manifest, digest, state_folder
from fromzero.errors import UsageError
from fromzero.files import write_json
from fromzero.machine.process import usable_cores
from fromzero.models.build import family_of
from fromzero.models.deploy import Normalise
from fromzero.records import POLICIES, Preprocessing, Recipe, Workload
from fromzero.tasks._classes import answers, count, loss_for, measures
from fromzero.terminal import Console

__all__ = ["answers", "count", "loss_for", "measures"]

KINDS = ("pictures",)
BEST = "val_accuracy"
MODEL = "cnn"
VARIATIONS = POLICIES[1:]


def example(workload: Workload, batch: int, device: str) -> tuple[Tensor, Tensor]:
    """Pictures (batch, channels, height, width) and their classes (batch,)."""
    inputs = torch.empty((batch, *workload.input_shape), device=device)
    return inputs, torch.zeros(batch, dtype=torch.long, device=device)


def preprocessing(
    manifest: Manifest, model: str, words: Mapping[str, Any], console: Console | None = None
) -> Preprocessing:
    """Trained weights want what they were trained with; a fresh model takes the data's own size, channels and
    statistics."""
    published = family_of(model).normalisation(model)
    own = draft(
        manifest, words.get("imgsz") or (published["size"] if published else None), words.get("resize") or "crop"
    )
    if own.size < LEAST_SIDE:
        raise UsageError("picture_too_small", size=own.size)
    if words.get("pretrained") and published:
        crop = own.crop if own.resize == "pad" else published["crop"]
        return dataclasses.replace(own, channels=3, crop=crop, mean=published["mean"], std=published["std"])
    small = choose(shorter_side(manifest), own.size) in load.ON_ARRAYS
    mean, std = _statistics(manifest, own, console, small=small)
    return dataclasses.replace(own, mean=mean, std=std)


def _statistics(
    manifest: Manifest, own: Preprocessing, console: Console | None, *, small: bool
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of the training pictures' channels: computed once, and kept beside the manifest."""
    key = f"{own.size}/{own.channels}/{own.crop:g}/{own.resize}/{digest(manifest)}"
    path = state_folder(manifest.root) / "statistics.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        mean, std = json.loads(path.read_text(encoding="utf-8"))[key]
        return tuple(mean), tuple(std)
    found = load.statistics(manifest, own, load.keep_decoded(manifest, own, console) if small else None)
    write_json(path, {key: found})
    return found


def shape(how: Preprocessing) -> dict[str, Any]:
    return {"imgsz": how.size, "channels": how.channels}


def usual(manifest: Manifest, how: Preprocessing) -> dict[str, Any]:
    """The recipe's words that these pictures ask for."""
    return {"augmentation": choose(shorter_side(manifest), how.size)}


def loading(manifest: Manifest, how: Preprocessing, augmentation: str) -> int | None:
    """The cores that decode; None for pictures that are kept decoded."""
    return None if augmentation in load.ON_ARRAYS and load.can_keep(manifest, how) else usable_cores()


def samples(
    manifest: Manifest, how: Preprocessing, recipe: Recipe | None = None, console: Console | None = None
) -> load.Pictures:
    """Varied and mixed as `recipe` says; as they are without one."""
    if recipe is None:
        kept = load.keep_decoded(manifest, how, console) if how.crop == 1.0 else None
        return load.Pictures(manifest, how, kept=kept)
    kept = load.keep_decoded(manifest, how, console) if recipe.augmentation in load.ON_ARRAYS else None
    return load.Pictures(manifest, how, recipe.augmentation, recipe.seed, kept, recipe.mix)


def entry(how: Preprocessing) -> nn.Module:
    """uint8 (N, size, size, channels) -> float32 (N, channels, size, size)."""
    return Normalise(how)
