"""What a process holds on a card outside PyTorch's allocator: the CUDA context and loaded kernels (context.csv)."""

from __future__ import annotations

import csv
import functools
from dataclasses import dataclass
from pathlib import Path

from fromzero.facts.wheels import version
from fromzero.records import Card, Stack

MIB = 1 << 20

# What the desktop takes of a card that also drives the screen: Windows always draws through the card. An assumption,
# with nothing published behind it; a machine's own figure is what nvidia-smi shows before anything runs.
WINDOWS_DISPLAY = (300 * MIB, 1000 * MIB)
# NCCL's channels and buffers of a process that works with others: an assumption too.
NCCL = (60 * MIB, 250 * MIB, 600 * MIB)


@dataclass(frozen=True)
class Context:
    """Bytes a process holds outside the allocator: the least and the most seen, and what to expect; and what the
    desktop takes of the card (`display`, at worst `display_high`), which is no process of ours."""

    low: int
    expected: int
    high: int
    display: int = 0
    display_high: int = 0


@functools.lru_cache(maxsize=1024)
def _context(capability: str, form: str, torch: str, system: str, shared: bool) -> Context:
    release = version(torch) if torch else (98,)
    number = version(capability)
    found = next(
        figures
        for torch_range, capability_range, figures in _rows()
        if torch_range[0] <= release < torch_range[1] and capability_range[0] <= number < capability_range[1]
    )
    if shared:
        found = tuple(figure + more for figure, more in zip(found, NCCL, strict=True))
    display = WINDOWS_DISPLAY if system == "windows" and form in ("desktop", "laptop") else (0, 0)
    return Context(found[0], found[1], found[2], display[0], display[1])


def context(card: Card, stack: Stack, cards: int = 1) -> Context:
    """For `card` under `stack`, alone or with others; a stack without a version of torch counts as today's."""
    return _context(card.compute_capability, card.form, stack.torch, stack.os, cards > 1)


_Range = tuple[tuple[int, ...], tuple[int, ...]]


@functools.cache
def _rows() -> tuple[tuple[_Range, _Range, tuple[int, ...]], ...]:
    """(torch, compute capability, figures in bytes) of each row; ranges exclude their end."""
    with Path(__file__).with_name("context.csv").open(newline="", encoding="utf-8") as file:
        return tuple(
            (
                (version(row["torch_from"]), version(row["torch_before"])),
                (version(row["capability_from"]), version(row["capability_before"])),
                tuple(int(row[f"{name}_mib"]) * MIB for name in ("low", "expected", "high")),
            )
            for row in csv.DictReader(file)
        )
