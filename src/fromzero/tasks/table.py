"""Classification of a table's rows, one by one or as the newest of a sequence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fromzero.data import tabular
from fromzero.data.manifest import Manifest
from fromzero.errors import DataError, UsageError
from fromzero.records import Columns, Recipe, Workload
from fromzero.tasks._classes import answers, count, loading, loss_for, measures
from fromzero.terminal import Console

__all__ = ["answers", "count", "loading", "loss_for", "measures"]

KINDS = ("table",)
BEST = "val_auc"
MODEL = "mlp"
VARIATIONS: tuple[str, ...] = ()
FEW_ROWS = 10_000
SEQUENTIAL = ("table-rnn", "table-gru")  # models that can read the rows of an entity one after the other


def example(workload: Workload, batch: int, device: str) -> tuple[Tensor, Tensor]:
    """Rows (batch, numbers + words) or sequences (batch, window, numbers + words), and their classes (batch,)."""
    numbers, *window = workload.input_shape
    inputs = torch.zeros((batch, *window, numbers + len(workload.categories)), device=device)
    return inputs, torch.zeros(batch, dtype=torch.long, device=device)


def preprocessing(manifest: Manifest, model: str, words: Mapping[str, Any], console: Console | None = None) -> Columns:
    """Numbers in standard deviations and words by their place, by the training rows. A recurrent model reads the last
    `seq` rows of each group where the data have columns of group and time. Raises UsageError for a target that is a
    quantity, DataError for a validation part of one class."""
    if manifest.about["task"] != "classification":
        raise UsageError("target_is_quantity", path=manifest.root, column=manifest.about["roles"]["label"])
    if not manifest.about["features"]:
        raise DataError("no_features", path=manifest.root)
    if len(np.unique(manifest["label"][manifest.rows("val")])) < 2:
        raise DataError("one_class_held_out", path=manifest.root)
    wanted = words.get("seq")
    if wanted and model not in SEQUENTIAL:
        raise UsageError("reads_single_rows", model=model, models=", ".join(SEQUENTIAL))
    sequences = model in SEQUENTIAL and {"group", "time"} <= set(manifest.about["roles"])
    return tabular.columns(manifest, wanted or (tabular.WINDOW if sequences else 0))


def shape(how: Columns) -> dict[str, Any]:
    return {
        "features": tabular.width(how),
        "categories": tuple(len(each) for _, each in how.words),
        "window": how.window,
    }


def usual(manifest: Manifest, how: Columns) -> dict[str, Any]:
    """Few rows make few steps, each of which costs next to nothing (docs/tables.md)."""
    return {"augmentation": "none", "epochs": 30, "lr": 1e-3, "batch": 64 if count(manifest, how) < FEW_ROWS else None}


def samples(
    manifest: Manifest, how: Columns, recipe: Recipe | None = None, console: Console | None = None
) -> tabular.Table:
    return tabular.Table(manifest, how, recipe.seed if recipe else 0)


def entry(how: Columns) -> nn.Module:
    """Rows are loaded as the model takes them."""
    return nn.Identity()
