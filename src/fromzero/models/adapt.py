"""Change a model for a new purpose: leave blocks out or repeat them, give it another head, freeze what should not
learn, add adapters, and trade time for memory block by block. Planning and training call the same `adapt`.
"""

from __future__ import annotations

import copy
import functools
from collections import defaultdict
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from fromzero.errors import UnknownName, UsageError
from fromzero.models.adapters import add_lora
from fromzero.models.initialise import initialise
from fromzero.models.layers import MlpHead, block_range, blocks, depths, heads, predicts_tokens, replace
from fromzero.records import Recipe

_FIXED = "fixed_by_the_model"  # the parameters that never learn, whatever thaws
THAWED_BY = 0.5  # share of the epochs after which gradual unfreezing has reached the bottom
HEAD_DROPOUT = 0.1


def adapt(model: nn.Module, recipe: Recipe) -> None:
    """What the recipe changes in a model that has its weights, in place: blocks, head, dropout, freezing, LoRA,
    checkpointed blocks. Quantising the frozen base comes after the model has its precision: `adapters.quantise`."""
    if recipe.blocks != "all":
        choose_blocks(model, recipe.blocks)
    if recipe.head == "mlp":
        deepen_head(model, recipe)
    if recipe.dropout is not None:
        set_dropout(model, recipe.dropout)
    if recipe.freeze_norms:
        freeze_norms(model)
    freeze(model, recipe.freeze)
    if recipe.lora_rank:
        if recipe.freeze == "gradual":
            raise UsageError("gradual_with_lora")
        add_lora(model, recipe)
    if recipe.checkpointing != "none":
        checkpoint_blocks(model, recipe.checkpointing)


# --- what learns --------------------------------------------------------------------------------------------------


def freeze(model: nn.Module, what: str) -> None:
    """ "backbone" leaves only the classifier trainable; "1-6" freezes the first six blocks and what comes before them,
    "3-6" those four alone; "none" and "gradual" leave everything: `set_trainable` begins each epoch of the latter."""
    if what == "none":
        return
    if what == "gradual":
        setattr(model, _FIXED, frozenset(name for name, each in model.named_parameters() if not each.requires_grad))
        return
    if what == "backbone":
        layers = [each for each in model.modules() if any(True for _ in each.parameters(recurse=False))]
        if len(layers) < 2:
            raise UsageError("nothing_to_freeze", layers=len(layers))
        model.requires_grad_(False)
        for each in heads(model):
            each.requires_grad_(True)
        return
    if not what[:1].isdigit():
        raise UnknownName("choice", what, ("none", "backbone", "gradual", "1-6"))
    deep, head = depths(model)
    first, last = block_range(what, head - 1, "freeze")
    for name, each in model.named_parameters():
        if (0 if first == 1 else first) <= deep[name] <= last:
            each.requires_grad_(False)


def freeze_norms(model: nn.Module) -> None:
    """Batch norms keep their statistics and weights, as in detectors: those of a few pictures would be worse."""
    found = [each for each in model.modules() if isinstance(each, nn.modules.batchnorm._BatchNorm)]
    if not found:
        raise UsageError("no_batch_norms")
    for each in found:
        each.requires_grad_(False)


def set_trainable(model: nn.Module, recipe: Recipe, epoch: int, epochs: int) -> bool:
    """What learns in an epoch (counted from 0) of a run: with gradual unfreezing (Howard & Ruder 2018) first the head,
    then block by block downwards, all of them from the middle of the run on. Whether anything changed. The optimizer is
    made before, over all that will ever learn."""
    if recipe.freeze != "gradual":
        return False
    deep, head = depths(model)
    lowest = lowest_thawed(epoch, epochs, head)
    fixed: frozenset[str] = getattr(model, _FIXED, frozenset())
    changed = False
    for name, each in model.named_parameters():
        learns = deep[name] >= lowest and name not in fixed
        changed |= each.requires_grad != learns
        each.requires_grad_(learns)
    return changed


def lowest_thawed(epoch: int, epochs: int, head: int) -> int:
    """The least depth that learns in an epoch, where the head's is `head`."""
    half = int(epochs * THAWED_BY)
    return round(head * (1 - epoch / half)) if epoch < half else 0


def train_mode(model: nn.Module) -> None:
    """Train mode, but for batch norms that are frozen: their statistics belong to weights that do not move."""
    model.train()
    for each in model.modules():
        if isinstance(each, nn.modules.batchnorm._BatchNorm) and not any(p.requires_grad for p in each.parameters()):
            each.train(not list(each.parameters()))


# --- structure ----------------------------------------------------------------------------------------------------


def choose_blocks(model: nn.Module, which: str) -> None:
    """Keep the blocks that `which` lists, in its order: "1-8" leaves the others out; "1-12,9-12" has the last four
    twice, the second time as copies (depth up-scaling, Kim et al. 2023). Whether they fit each other is seen when the
    step is traced."""
    found = blocks(model)
    if not found:
        raise UsageError("no_blocks")
    ranges = [block_range(each.strip(), len(found), "blocks") for each in which.split(",")]
    wanted = [number for first, last in ranges for number in range(first, last + 1)]
    owners: dict[str, list[int]] = defaultdict(list)  # container -> its blocks, by number
    for number, (path, _) in enumerate(found, 1):
        owners[path.rpartition(".")[0]].append(number)
    for path, mine in owners.items():
        listed = [number for number in wanted if number in mine]
        if listed != mine:
            _rebuild(model.get_submodule(path), found, mine, listed)
    _renumber(model, wanted)


def _rebuild(container: nn.Module, found: list[tuple[str, nn.Module]], mine: list[int], listed: list[int]) -> None:
    """Fill a container with the listed blocks; what stands before and after its blocks stays."""
    members = list(container.children())
    own = [members.index(found[number - 1][1]) for number in mine]
    if isinstance(container, nn.ModuleDict) or own != list(range(own[0], own[-1] + 1)):
        raise UsageError("blocks_not_in_line", container=type(container).__name__)
    taken: set[int] = set()
    chosen = []
    for number in listed:
        block = found[number - 1][1]
        chosen.append(copy.deepcopy(block) if number in taken else block)
        taken.add(number)
    container._modules.clear()
    for number, each in enumerate([*members[: own[0]], *chosen, *members[own[-1] + 1 :]]):
        container.add_module(str(number), each)


def _renumber(model: nn.Module, wanted: list[int]) -> None:
    """What transformers keeps about layers by their number: how many there are, the kind of each, and in each layer
    its own, by which the cache of keys and values knows it."""
    config: Any = getattr(model, "config", None)
    if hasattr(config, "num_hidden_layers"):
        config.num_hidden_layers = len(wanted)
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[number - 1] for number in wanted]
    for number, (_, block) in enumerate(blocks(model)):
        for each in block.modules():
            if hasattr(each, "layer_idx"):
                each.layer_idx = number


def deepen_head(model: nn.Module, recipe: Recipe) -> None:
    """Give each classifier a hidden layer of the width it reads, with dropout; both layers start anew."""
    if predicts_tokens(model):
        raise UsageError("head_of_tokens")
    for old in heads(model):
        if not isinstance(old, nn.Linear):
            raise UsageError("head_not_linear", kind=type(old).__name__)
        width, place = old.in_features, {"device": old.weight.device, "dtype": old.weight.dtype}
        new = MlpHead(
            nn.Linear(width, width, **place),
            nn.GELU(),
            nn.Dropout(HEAD_DROPOUT),
            nn.Linear(width, old.out_features, bias=old.bias is not None, **place),
        )
        initialise(new, recipe)
        replace(model, old, new)


# Rates that a module hands to a function itself: timm's, torchvision's attention, transformers' and our own blocks.
_RATES = ("drop_rate", "dropout", "attention_dropout", "dropout_p", "activation_dropout")


def set_dropout(model: nn.Module, rate: float) -> None:
    """Set every dropout's rate. Stochastic depth, which drops whole blocks, is only ever switched off (by 0): its rates
    rise with the depth, and are the model's own."""
    found = 0
    for each in model.modules():
        if isinstance(each, nn.modules.dropout._DropoutNd):
            each.p, found = rate, found + 1
        elif type(each).__name__ in ("DropPath", "StochasticDepth") and rate == 0:
            setattr(each, "drop_prob" if hasattr(each, "drop_prob") else "p", 0.0)
        for name in _RATES:
            if isinstance(getattr(each, name, None), float) and not (
                isinstance(each, nn.RNNBase) and each.num_layers < 2
            ):
                setattr(each, name, rate)
                found += 1
    if not found:
        raise UsageError("no_dropout")


# --- checkpointing ------------------------------------------------------------------------------------------------


def checkpoint_blocks(model: nn.Module, which: str) -> None:
    """Activation checkpointing (Chen et al. 2016): a block keeps its input only and runs again in the backward pass.
    `which` is "blocks" for all, or a range counted from 1 ("3-12")."""
    found = blocks(model)
    if not found:
        raise UsageError("no_blocks")
    first, last = (1, len(found)) if which == "blocks" else block_range(which, len(found), "checkpointing")
    config: Any = getattr(model, "config", None)
    if hasattr(config, "use_cache"):
        config.use_cache = False  # a second forward pass would append to the cache of keys and values
    for _, block in found[first - 1 : last]:
        block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)
