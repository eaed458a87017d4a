"""Language modelling: predict each next token."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fromzero.data import texts
from fromzero.data.manifest import Manifest
from fromzero.records import Recipe, Tokens, Workload
from fromzero.tasks._classes import loading, usual
from fromzero.tasks._tokens import entry, how_for, shape
from fromzero.terminal import Console

__all__ = ["entry", "loading", "shape", "usual"]

KINDS = ("texts", "chats")
BEST = "-val_loss"
MODEL = "gpt"
VARIATIONS: tuple[str, ...] = ()

LEAST_VOCABULARY, MOST_VOCABULARY = 512, 8192
BYTES_A_TOKEN = 300  # of training text, to learn what a token means
BLOCK = 256  # tokens of running text
LONGEST_DIALOGUE = 512  # tokens, unless the user says more
READ_WHOLE = 0.95  # of the dialogues; the others lose their end


def example(workload: Workload, batch: int, device: str) -> tuple[Tensor, Tensor]:
    """Tokens (batch, length), and the same tokens as targets."""
    tokens = torch.zeros((batch, *workload.input_shape), dtype=torch.long, device=device)
    return tokens, tokens


def loss_for(recipe: Recipe, weights: Tensor | None = None) -> Callable[[Any, Tensor], Tensor]:
    """Cross entropy of the logits (N, length, vocabulary), which are the outputs or their `logits`, in fp32; targets
    are shifted by one, as transformers does, and count for nothing where they are texts.IGNORED."""

    def loss(outputs: Any, targets: Tensor) -> Tensor:
        logits = getattr(outputs, "logits", outputs).float()
        return functional.cross_entropy(
            logits.view(-1, logits.size(-1)), _next(targets).view(-1), label_smoothing=recipe.label_smoothing
        )

    return loss


def _next(targets: Tensor) -> Tensor:
    """The token after each; texts.IGNORED after the last."""
    return functional.pad(targets, (0, 1), value=texts.IGNORED)[..., 1:].contiguous()


def preprocessing(manifest: Manifest, model: str, words: Mapping[str, Any], console: Console | None = None) -> Tokens:
    """Running text is cut into blocks, whatever its length; a block of dialogues is as long as nearly all of them."""

    def length(lengths: np.ndarray) -> int:
        return min(int(np.quantile(lengths, READ_WHOLE)), LONGEST_DIALOGUE) if manifest.kind == "chats" else BLOCK

    size = int(manifest["bytes"][manifest.rows("train")].sum()) // BYTES_A_TOKEN
    vocabulary = words.get("vocabulary") or min(max(size, LEAST_VOCABULARY), MOST_VOCABULARY)
    return how_for(manifest, model, words, console, vocabulary=vocabulary, exact=True, length=length)


def count(manifest: Manifest, how: Tokens, console: Console | None = None) -> int:
    """Blocks of the training part."""
    return len(texts.blocks(manifest, how, console=console).rows("train"))


def samples(
    manifest: Manifest, how: Tokens, recipe: Recipe | None = None, console: Console | None = None
) -> texts.Blocks:
    return texts.blocks(manifest, how, recipe.seed if recipe else 0, console)


def answers(outputs: Any, targets: Tensor) -> Tensor:
    """Nats and tokens of each block, float32 (N, 2)."""
    logits, wanted = getattr(outputs, "logits", outputs).float(), _next(targets)
    nats = functional.cross_entropy(logits.transpose(1, 2), wanted, reduction="none").sum(1)
    return torch.stack([nats, (wanted != texts.IGNORED).sum(1).to(nats.dtype)], 1)


def measures(found: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Nats a token, and e to that: between how many tokens, all equally probable, the model is in doubt."""
    loss = float(found[:, 0].sum(dtype=np.float64) / max(1.0, found[:, 1].sum(dtype=np.float64)))
    return {"loss": loss, "perplexity": math.exp(min(loss, 700.0))}
