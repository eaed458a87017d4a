"""A linear classifier of single tokens and pairs of neighbours, to stand beside a network that reads ("Wide & Deep",
Cheng et al. 2016): rare pairs of words tell much about a class, and no small network learns them by reading."""

from __future__ import annotations

import torch
from torch import Tensor, nn

BUCKETS = 2**18  # rows that tokens and pairs share by hashing (Weinberger et al. 2009)
SCALE = 3.0  # how much faster these rows learn than the rest of a network: each is seen a few times only


class Wide(nn.Module):
    """Tokens (N, length) -> what the tokens and pairs that are in each text add to its logits (N, classes); nothing at
    the start. Padding, and a pair with it, count nothing; a text counts the same at any length."""

    def __init__(self, classes: int, padding: int) -> None:
        super().__init__()
        self.padding = padding
        self.rows = nn.Embedding(BUCKETS, classes)
        nn.init.zeros_(self.rows.weight)

    def forward(self, tokens: Tensor) -> Tensor:
        seen = tokens != self.padding
        before, after = tokens[:, :-1], tokens[:, 1:]
        pairs = (before * 1_000_003 + after * 7919 + before * after) % BUCKETS
        places = torch.cat([tokens % BUCKETS, pairs], 1)
        there = torch.cat([seen, seen[:, :-1] & seen[:, 1:]], 1).to(self.rows.weight.dtype)
        weights = there * (SCALE / there.sum(1, keepdim=True).clamp(min=1).sqrt())
        return (self.rows(places) * weights[..., None]).sum(1)
