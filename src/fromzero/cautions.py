"""Recipes that cost people weeks: said before the first step."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fromzero.errors import UsageError
from fromzero.language import say
from fromzero.records import Advice, Card, Recipe
from fromzero.schedules import PLATEAU_PATIENCE

HALVES = ("amp-fp16", "fp16")
BF16 = ("amp-bf16", "bf16")
# What PyTorch calls a CPU's bf16 arithmetic: x86 with AVX-512 or AMX, ARM.
_CPU_BF16 = ("avx512_bf16", "amx_bf16", "arm_bf16", "bf16")


def cautions(recipe: Recipe, card: Card) -> tuple[Advice, ...]:
    """What is known to go wrong, or to gain nothing, with this recipe on this card."""
    found = [code for code, holds in _RULES.items() if holds(recipe, card)]
    words = {"card": card.title, "patience": recipe.patience, "waits": PLATEAU_PATIENCE}
    return tuple(Advice(code=code, text=say(f"advice.{code}", **words)) for code in found)


def safe_precision(precision: str, card: Card) -> str:
    """The precision to train with where the one asked for gives NaN: fp32 for fp16 on a GTX 16xx."""
    return "fp32" if precision in HALVES and _gives_nan(card) else precision


def check_bf16(precision: str, on_cpu: bool, capabilities: Mapping[str, object] | None = None) -> None:
    """Refuse bf16 on a CPU without it."""
    if on_cpu and precision in BF16 and not cpu_computes_bf16(capabilities):
        raise UsageError("no_bf16_on_cpu")


def cpu_computes_bf16(capabilities: Mapping[str, object] | None = None) -> bool:
    """Whether this CPU has instructions for bf16; without them it is emulated, and slower than fp32. True where PyTorch
    cannot tell. `capabilities` are those of `torch.cpu.get_capabilities()`."""
    if capabilities is None:
        import torch

        if not hasattr(torch.cpu, "get_capabilities"):
            return True
        capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in _CPU_BF16)


def _gives_nan(card: Card) -> bool:
    """Turing without tensor cores: cuDNN's fp16 convolutions overflow (pytorch issues 58123, 69449, 77955)."""
    return card.series == "16"


_RULES: dict[str, Callable[[Recipe, Card], bool]] = {
    "fp16_gives_nan": lambda recipe, card: recipe.precision in HALVES and _gives_nan(card),
    "half_not_faster": lambda recipe, card: (
        recipe.precision in HALVES and not card.is_cpu and not _gives_nan(card) and "fp16" not in card.rates
    ),
    "bf16_emulated": lambda recipe, card: recipe.precision in BF16 and not card.is_cpu and "bf16" not in card.rates,
    "plateau_never_reached": lambda recipe, card: (
        recipe.schedule == "plateau" and recipe.patience <= PLATEAU_PATIENCE + 1
    ),
    "balanced_twice": lambda recipe, card: recipe.class_weights != "none" and recipe.sampling != "natural",
    "average_too_slow": lambda recipe, card: recipe.ema >= 0.9999,
    "decay_of_frozen": lambda recipe, card: recipe.layer_decay != 1 and recipe.freeze == "backbone",
}
