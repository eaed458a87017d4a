"""Change a model for a new purpose: freeze what should not learn, add low-rank adapters, quantise what is frozen, and
trade time for memory block by block. Planning and training call the same `adapt`.
"""

from __future__ import annotations

import functools
import logging
import re
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from fromzero.errors import MissingPackage, UsageError
from fromzero.records import Recipe

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
# What the projections of an attention are called in the model families of timm, torchvision and transformers.
_ATTENTION = re.compile(
    r"(^|\.)(q_proj|k_proj|v_proj|o_proj|out_proj|in_proj|qkv|qkv_proj|proj|query|key|value|query_key_value|"
    r"c_attn|Wqkv|Wo|q_lin|k_lin|v_lin|out_lin|q|k|v|o)$"
)


def adapt(model: nn.Module, recipe: Recipe) -> None:
    """What the recipe changes in a freshly built model, in place: freezing, LoRA, checkpointed blocks. Quantising the
    frozen base comes after the model has its precision: `quantise`."""
    freeze(model, recipe.freeze)
    if recipe.lora_rank:
        add_lora(model, recipe)
    if recipe.checkpointing != "none":
        checkpoint_blocks(model, recipe.checkpointing)


def freeze(model: nn.Module, what: str) -> None:
    """ "backbone" leaves only the classifier trainable; "none" leaves everything."""
    if what == "none":
        return
    layers = [each for each in model.modules() if any(True for _ in each.parameters(recurse=False))]
    if len(layers) < 2:
        raise UsageError("nothing_to_freeze", layers=len(layers))
    model.requires_grad_(False)
    for each in heads(model):
        each.requires_grad_(True)


def train_mode(model: nn.Module) -> None:
    """Train mode, but for batch norms that are frozen: their statistics belong to weights that do not move."""
    model.train()
    for each in model.modules():
        if isinstance(each, nn.modules.batchnorm._BatchNorm) and not any(p.requires_grad for p in each.parameters()):
            each.train(not list(each.parameters()))


# --- adapters -----------------------------------------------------------------------------------------------------


def add_lora(model: nn.Module, recipe: Recipe) -> None:
    """Low-rank adapters (Hu et al. 2021; DoRA: Liu et al. 2024) beside the layers that `lora_targets` names:
    "all-linear", "attention", or names with commas. Everything else is frozen but a classifier's head, which is new."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # peft loads it where it is installed, and it talks
    try:
        import peft
    except ImportError as error:
        raise MissingPackage("peft", "text") from error
    new = [] if predicts_tokens(model) else heads(model)
    targets = lora_targets(model, recipe.lora_targets)
    settings = peft.LoraConfig(
        r=recipe.lora_rank,
        lora_alpha=2 * recipe.lora_rank,
        target_modules=targets,
        use_dora=recipe.dora,
        fan_in_fan_out=any(type(each).__name__ == "Conv1D" for each in model.modules()),
    )
    without_numbers = next(model.parameters()).is_meta  # else adapters are filled with numbers first
    peft.inject_adapter_in_model(settings, model, low_cpu_mem_usage=without_numbers)
    for each in new:
        each.requires_grad_(True)


def lora_targets(model: nn.Module, wanted: str) -> list[str]:
    """Paths of the layers that get an adapter: linear ones, or convolutions in a network that has no linear layer but
    its head."""
    head = {id(each) for each in [*heads(model), *_output(model)]}
    found = {path: module for path, module in model.named_modules() if id(module) not in head}
    linear = [path for path, module in found.items() if _is_linear(module)]
    convolutions = [path for path, module in found.items() if isinstance(module, nn.Conv2d) and module.groups == 1]
    every = linear or convolutions
    if wanted == "all-linear":
        targets = every
    elif wanted == "attention":
        targets = [path for path in linear if _ATTENTION.search(path)]
    else:
        names = [each.strip() for each in wanted.split(",") if each.strip()]
        targets = [p for p in [*linear, *convolutions] if any(p == n or p.endswith("." + n) for n in names)]
    if not targets:
        known = sorted({path.rpartition(".")[2] for path in every})
        raise UsageError("no_lora_targets", wanted=wanted, known=", ".join(known[:20]) or "-")
    return targets


def quantise(model: nn.Module, recipe: Recipe) -> None:
    """Replace the frozen linear layers (but the output layer) by 4-bit ones, in place. Here only the stand-in for
    tensors without numbers; see `planner.standins`."""
    from fromzero.planner.standins import Nf4Linear

    if recipe.dora:  # its norm needs the full weight at every step
        raise UsageError("dora_not_quantised")
    skip = {id(each) for each in [*heads(model), *_output(model)]}
    frozen = [
        (path, module)
        for path, module in model.named_modules()
        if _is_linear(module) and id(module) not in skip and not module.weight.requires_grad
    ]
    if not frozen:
        raise UsageError("nothing_to_quantise")
    for path, module in frozen:
        owner, _, name = path.rpartition(".")
        outputs, inputs = module.weight.shape if isinstance(module, nn.Linear) else module.weight.shape[::-1]
        setattr(model.get_submodule(owner), name, Nf4Linear(module, inputs, outputs))


# --- checkpointing ------------------------------------------------------------------------------------------------


def checkpoint_blocks(model: nn.Module, which: str) -> None:
    """Activation checkpointing (Chen et al. 2016): a block keeps its input only and runs again in the backward pass.
    `which` is "blocks" for all, or a range counted from 1 ("3-12")."""
    found = blocks(model)
    if not found:
        raise UsageError("no_blocks")
    first, last = _range(which, len(found))
    config: Any = getattr(model, "config", None)
    if hasattr(config, "use_cache"):
        config.use_cache = False  # a second forward pass would append to the cache of keys and values
    for _, block in found[first - 1 : last]:
        block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)


def blocks(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The repeated blocks of a network in order, with their paths: residual blocks, transformer layers."""
    return _blocks_in(model, "")


def _blocks_in(module: nn.Module, path: str) -> list[tuple[str, nn.Module]]:
    found = []
    for name, child in module.named_children():
        below = f"{path}.{name}" if path else name
        if isinstance(module, _CONTAINERS) and _composite(child) and not _is_stage(child):
            found.append((below, child))
        else:
            found += _blocks_in(child, below)
    return found


def _composite(module: nn.Module) -> bool:
    return sum(1 for each in module.modules() if any(True for _ in each.parameters(recurse=False))) > 1


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


def _range(which: str, count: int) -> tuple[int, int]:
    if which == "blocks":
        return 1, count
    match = re.fullmatch(r"(\d+)-(\d+)", which)
    if not match or not 1 <= int(match[1]) <= int(match[2]) <= count:
        raise UsageError("no_such_blocks", which=which, count=count)
    return int(match[1]), int(match[2])


# --- which layer is what ------------------------------------------------------------------------------------------


def heads(model: nn.Module) -> list[nn.Module]:
    """What the model itself calls its classifier (timm; distilled models have two); the last layer if it says none."""
    found: Any = model.get_classifier() if hasattr(model, "get_classifier") else ()
    several = found if isinstance(found, (tuple, list)) else (found,)
    named = [each for each in several if isinstance(each, nn.Module) and any(True for _ in each.parameters())]
    layers = [each for each in model.modules() if any(True for _ in each.parameters(recurse=False))]
    return named or layers[-1:]


def _output(model: nn.Module) -> list[nn.Module]:
    """The layer that gives a language model's logits."""
    found = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    return [found] if found is not None else []


def predicts_tokens(model: nn.Module) -> bool:
    """Whether the model's output is a vocabulary, not classes of its own."""
    return bool(_output(model))


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"  # transformers' name for GPT-2's
