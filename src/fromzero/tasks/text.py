"""Text classification."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fromzero.data import texts
from fromzero.data.manifest import Manifest
from fromzero.records import Recipe, Tokens, Workload
from fromzero.tasks._classes import answers, count, loading, loss_for, measures, usual
from fromzero.tasks._tokens import entry, how_for, shape
from fromzero.terminal import Console

__all__ = ["answers", "count", "entry", "loading", "loss_for", "measures", "shape", "usual"]

KINDS = ("texts",)
BEST = "val_accuracy"
MODEL = "transformer"
VARIATIONS = ("erase",)

LEAST_VOCABULARY, MOST_VOCABULARY = 1024, 8192
BYTES_A_TOKEN = 500  # of training text: with fewer, words are remembered that occur a few times
LONGEST = 256  # tokens that are read, unless the user says more
READ_WHOLE = 0.98  # of the texts; the others lose their end


def example(workload: Workload, batch: int, device: str) -> tuple[Tensor, Tensor]:
    """Tokens (batch, length) and their classes (batch,)."""
    tokens = torch.zeros((batch, *workload.input_shape), dtype=torch.long, device=device)
    return tokens, torch.zeros(batch, dtype=torch.long, device=device)


def preprocessing(manifest: Manifest, model: str, words: Mapping[str, Any], console: Console | None = None) -> Tokens:
    """Long enough for nearly all texts; as many tokens as there is text to learn them from."""

    def length(lengths: np.ndarray) -> int:
        return min(int(np.quantile(lengths, READ_WHOLE)), LONGEST)

    size = int(manifest["bytes"][manifest.rows("train")].sum()) // BYTES_A_TOKEN
    vocabulary = words.get("vocabulary") or min(max(size, LEAST_VOCABULARY), MOST_VOCABULARY)
    return how_for(manifest, model, words, console, vocabulary=vocabulary, exact=False, length=length)


def samples(
    manifest: Manifest, how: Tokens, recipe: Recipe | None = None, console: Console | None = None
) -> texts.Labelled:
    """Texts of about the same length together, where a recipe says how many are asked for."""
    if recipe is None:
        return texts.labelled(manifest, how, console=console)
    together = (recipe.batch or 1) * recipe.cards
    return texts.labelled(manifest, how, recipe.seed, together, console, erase=recipe.augmentation == "erase")
