"""The project's own transformers: an encoder that classifies text and a decoder that continues it.

Small enough for two CPU cores, right at any length: positions are computed, not looked up in a table.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

PADDING = 0  # the token that fills short texts up
VOCABULARY = 8192
DROPOUT = 0.1  # a recipe's `dropout` sets another


class Transformer(nn.Module):
    """Tokens (N, length) -> logits (N, classes): every token sees all that are not padding; their mean is classified.
    About 1.6 million parameters."""

    def __init__(self, classes: int, vocabulary: int = VOCABULARY, width: int = 128, layers: int = 3) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width, padding_idx=PADDING)
        self.dropout = nn.Dropout(DROPOUT)
        self.blocks = nn.ModuleList(Block(width) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def get_classifier(self) -> nn.Module:
        return self.head

    def forward(self, tokens: Tensor) -> Tensor:
        seen = tokens != PADDING
        x = self.dropout(with_positions(self.embedding(tokens)))
        for block in self.blocks:
            x = block(x, seen[:, None, None, :])
        return self.head(self.dropout(masked_mean(self.norm(x), seen)))


class Gpt(nn.Module):
    """Tokens (N, length) -> logits (N, length, vocabulary) of the token after each: a token sees those before it. The
    output layer is the embedding. About 1.8 million parameters."""

    def __init__(self, vocabulary: int = VOCABULARY, width: int = 128, layers: int = 4) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.embedding.weight, std=0.02)  # as an output layer it would start far too sure
        self.scale = math.sqrt(width)  # and as inputs, words would drown in their positions
        self.dropout = nn.Dropout(DROPOUT)
        self.blocks = nn.ModuleList(Block(width) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.embedding.weight

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.dropout(with_positions(self.embedding(tokens) * self.scale))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class Block(nn.Module):
    """Attention and two linear layers, each normed before and added to its input. Without a mask it is causal."""

    def __init__(self, width: int, heads: int = 4, dropout: float = DROPOUT) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = x + self.drop(self.attend(self.norm1(x), mask))
        return x + self.drop(self.mlp(self.norm2(x)))

    def attend(self, x: Tensor, mask: Tensor | None) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        x = scaled_dot_product_attention(q, k, v, mask, dropout, is_causal=mask is None)
        return self.proj(x.transpose(1, 2).flatten(2))


def with_positions(x: Tensor) -> Tensor:
    """`x` (N, length, width) plus the sines and cosines of each position (Vaswani et al. 2017)."""
    length, width = x.shape[1:]
    rates = torch.exp(torch.arange(0, width, 2, device=x.device) * (-math.log(10000.0) / width))
    angles = torch.arange(length, device=x.device)[:, None] * rates
    return x + torch.cat([angles.sin(), angles.cos()], -1).to(x.dtype)


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """The mean of `x` (N, length, width) over the positions where `mask` (N, length) is true; 0 where none is."""
    weights = mask[..., None].to(x.dtype)
    return (x * weights).sum(1) / weights.sum(1).clamp(min=1)
