"""Fine-tune a large model by little: low-rank adapters beside frozen layers, which may lie there in four bits."""

from __future__ import annotations

import logging
import re

from torch import nn

from fromzero.errors import MissingPackage, UsageError
from fromzero.models.layers import heads, is_linear, output, predicts_tokens, replace
from fromzero.models.nf4 import Nf4Layer
from fromzero.planner.standins import Nf4Linear
from fromzero.records import Recipe

# What the projections of an attention are called in the model families of timm, torchvision and transformers.
_ATTENTION = re.compile(
    r"(^|\.)(q_proj|k_proj|v_proj|o_proj|out_proj|in_proj|qkv|qkv_proj|proj|query|key|value|query_key_value|"
    r"c_attn|Wqkv|Wo|q_lin|k_lin|v_lin|out_lin|q|k|v|o)$"
)


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
    head = {id(part) for each in [*heads(model), *output(model)] for part in each.modules()}
    found = {path: module for path, module in model.named_modules() if id(module) not in head}
    linear = [path for path, module in found.items() if is_linear(module)]
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
    """Replace the frozen linear layers (but the output layer) by 4-bit ones, in place, from the weights they hold. A
    model without numbers gets the stand-in that the planner traces."""
    if recipe.dora:  # its norm needs the full weight at every step
        raise UsageError("dora_not_quantised")
    skip = {id(part) for each in [*heads(model), *output(model)] for part in each.modules()}
    frozen = [
        each for each in model.modules() if is_linear(each) and id(each) not in skip and not each.weight.requires_grad
    ]
    if not frozen:
        raise UsageError("nothing_to_quantise")
    for layer in frozen:
        outputs, inputs = layer.weight.shape if isinstance(layer, nn.Linear) else layer.weight.shape[::-1]
        kind = Nf4Linear if layer.weight.is_meta else Nf4Layer
        replace(model, layer, kind(layer, inputs, outputs))


def merge_adapters(model: nn.Module) -> nn.Module:
    """The model without adapters: what they learnt is added to the layers they stood beside, and four-bit layers have
    their full weights again. In place; for export and serving. A model that has neither is returned as it is."""
    for each in [each for each in model.modules() if isinstance(each, Nf4Layer)]:
        replace(model, each, each.full())
    for each in [each for each in model.modules() if hasattr(each, "lora_A") and hasattr(each, "merge")]:
        each.merge()
        replace(model, each, each.get_base_layer())
    return model
