"""ONNX, with a dynamic batch, and a dynamic length for language models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fromzero.formats._graph import write_onnx

PACKAGES = ("torch", "onnx")
TASKS = ("image", "custom", "text", "table", "lm")
LIMITS = "float"
FILE = "model.onnx"


def write(module: Any, how: Any, labels: tuple[str, ...], folder: Path) -> str:
    """Input `pixels` uint8 (N, size, size, channels), `tokens` int64 (N, length) or `rows` float32 (N, values) or
    (N, window, values); output `scores` float32 (N, classes), or `logits` (N, length, vocabulary)."""
    write_onnx(module, how, labels, folder / FILE)
    return FILE
