"""Which layer of a network is what: its repeated blocks, its head, and how deep each parameter lies."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from fromzero.errors import UsageError

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


class MlpHead(nn.Sequential):
    """A classifier with one hidden layer; a class of its own, so that it is found again."""


def blocks(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The repeated blocks of a network in order, with their paths: residual blocks, transformer layers."""
    return _blocks_in(model, "")


def _blocks_in(module: nn.Module, path: str) -> list[tuple[str, nn.Module]]:
    found = []
    for name, child in module.named_children():
        below = f"{path}.{name}" if path else name
        if isinstance(child, MlpHead):
            continue
        if isinstance(module, _CONTAINERS) and _composite(child) and not _is_stage(child):
            found.append((below, child))
        else:
            found += _blocks_in(child, below)
    return found


def _composite(module: nn.Module) -> bool:
    return sum(1 for each in module.modules() if _has_weights(each)) > 1


def _is_stage(module: nn.Module) -> bool:
    """Whether a module is itself a list of blocks, or holds one as its own child: the stage of a staged network."""
    lists = (
        [module] if isinstance(module, _CONTAINERS) else [c for c in module.children() if isinstance(c, _CONTAINERS)]
    )
    for each in lists:
        members = list(each.children())
        if members and all(_composite(m) for m in members) and len({type(m) for m in members}) == 1:
            return True
    return False


def units(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """What is frozen and thawed as one: the blocks, or every layer but the head in a network that has none."""
    head = {id(part) for each in heads(model) for part in each.modules()}
    return blocks(model) or [
        (path, each) for path, each in model.named_modules() if _has_weights(each) and id(each) not in head
    ]


def depths(model: nn.Module) -> tuple[dict[str, int], int]:
    """How deep each parameter lies, by name: 0 before the first unit, n in the n-th; what follows a unit counts with
    the next one. Second, the depth of the head: one more than there are units."""
    found = units(model)
    inside = {id(each): n for n, (_, unit) in enumerate(found, 1) for each in unit.parameters()}
    head = {id(each) for module in heads(model) for each in module.parameters()}
    deep, passed = {}, 0
    for name, each in model.named_parameters():  # in the order in which layers were registered
        passed = inside.get(id(each), passed)
        between = min(passed + 1, len(found) + 1) if passed else 0
        deep[name] = len(found) + 1 if id(each) in head - inside.keys() else inside.get(id(each), between)
    return deep, len(found) + 1


def block_range(which: str, count: int, flag: str) -> tuple[int, int]:
    """First and last of a range of blocks such as "3-12", counted from 1. `flag` is who asks."""
    match = re.fullmatch(r"(\d+)-(\d+)", which)
    if not match or not 1 <= int(match[1]) <= int(match[2]) <= count:
        raise UsageError("no_such_blocks", flag=flag, which=which, count=count)
    return int(match[1]), int(match[2])


def heads(model: nn.Module) -> list[nn.Module]:
    """What the model itself calls its classifier (timm; distilled models have two); the last layer if it says none."""
    found: Any = model.get_classifier() if hasattr(model, "get_classifier") else ()
    several = found if isinstance(found, (tuple, list)) else (found,)
    named = [each for each in several if isinstance(each, nn.Module) and any(True for _ in each.parameters())]
    made = [each for each in model.modules() if isinstance(each, MlpHead)]
    return named or made or [each for each in model.modules() if _has_weights(each)][-1:]


def output(model: nn.Module) -> list[nn.Module]:
    """The layer that gives a language model's logits."""
    found = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    return [found] if found is not None else []


def predicts_tokens(model: nn.Module) -> bool:
    """Whether the model's output is a vocabulary, not classes of its own."""
    return bool(output(model))


def is_linear(module: nn.Module) -> bool:
    """Linear, or transformers' name for the transposed one of GPT-2."""
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def replace(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put `new` wherever `old` stands in `model`."""
    for owner in list(model.modules()):
        for name, child in list(owner.named_children()):
            if child is old:
                setattr(owner, name, new)


def _has_weights(module: nn.Module) -> bool:
    return any(True for _ in module.parameters(recurse=False))
