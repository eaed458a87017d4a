"""One training step: forward, loss, backward, optimizer. The planner traces this function and training runs it.

The `engine` is an `engine.Engine`; for the planner it is `planner.trace.MetaEngine`, which has the same methods for
tensors that hold no numbers.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fromzero.errors import UsageError
from fromzero.models.layers import depths
from fromzero.models.nf4 import bitsandbytes
from fromzero.planner.standins import AdamW8bit
from fromzero.records import Recipe

Batch = tuple[Tensor, Tensor]


def training_step(
    engine: Any,
    model: torch.nn.Module,
    loss_of: Callable[[Tensor, Tensor], Tensor],
    optimizer: Any,
    batches: Sequence[Batch],
    recipe: Recipe,
    keep: list[Any] | None = None,
) -> Tensor:
    """One optimizer step over `batches` (one, or one for each accumulated gradient); returns the mean loss, detached.
    `keep`, if given, holds the outputs and the loss until the next step replaces them."""
    if recipe.zero_grad == "start":
        optimizer.zero_grad(set_to_none=True)
    total = None
    for number, (inputs, targets) in enumerate(batches):
        last = number + 1 == len(batches)  # until then, several cards keep their gradients to themselves
        with contextlib.nullcontext() if last else engine.no_sync(model), engine.autocast():
            outputs = model(inputs)
            loss = loss_of(outputs, targets) / len(batches)
        if recipe.zero_grad == "before-backward" and number == 0:
            optimizer.zero_grad(set_to_none=True)
        if keep is not None:
            keep[:] = [outputs, loss]
        engine.backward(loss)
        total = loss.detach() if total is None else total + loss.detach()
        del outputs, loss
    if recipe.clip:
        engine.clip_grad_norm_([each for each in model.parameters() if each.requires_grad], recipe.clip)
    optimizer.step()
    if recipe.l1:
        _shrink(model, optimizer, recipe.l1)
    if recipe.zero_grad == "after-step":
        optimizer.zero_grad(set_to_none=True)
    assert total is not None
    return total


def inference_step(engine: Any, model: torch.nn.Module, inputs: Tensor) -> Tensor:
    """One forward pass without gradients."""
    with torch.no_grad(), engine.autocast():
        return model(inputs)


def make_optimizer(model: torch.nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimizer over what is trainable. Vectors (norms, biases) get no weight decay. The multi-tensor
    implementation is asked for (or the fused one), so that the planner and the card take the same path.

    With `layer_decay` each depth is a group of its own, whose "lr_scale" is layer_decay^(depths below the head);
    `set_rates` multiplies by it."""
    path: dict[str, Any] = {"fused": True} if recipe.fused else {"foreach": True}
    if recipe.fused and recipe.optimizer not in FUSED:
        raise UsageError("no_fused_optimizer", optimizer=recipe.optimizer, known=", ".join(FUSED))
    lr = recipe.lr or DEFAULT_LR[recipe.optimizer]
    groups = _groups(model, recipe, lr)
    make: dict[str, Callable[[], torch.optim.Optimizer]] = {
        "sgd": lambda: torch.optim.SGD(groups, lr, **path),
        "sgd-momentum": lambda: torch.optim.SGD(groups, lr, momentum=0.9, **path),
        "adam": lambda: torch.optim.Adam(groups, lr, **path),
        "adamw": lambda: torch.optim.AdamW(groups, lr, **path),
        "adagrad": lambda: torch.optim.Adagrad(groups, lr, **path),
        "rmsprop": lambda: torch.optim.RMSprop(groups, lr, foreach=True),
        # PyTorch's own default, since people take Adafactor to save memory
        "adafactor": lambda: torch.optim.Adafactor(groups, lr, foreach=False),
        "adamw8bit": lambda: _adamw8bit(groups, lr),
    }
    return make[recipe.optimizer]()


def set_rates(optimizer: Any, lr: float, momentum: float | None = None) -> None:
    """The rate of the next step for every group, and the momentum (Adam's first beta) of those that have one; None
    leaves it."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)
        if momentum is not None and "betas" in group:
            group["betas"] = (momentum, group["betas"][1])
        elif momentum is not None and group.get("momentum"):
            group["momentum"] = momentum


def _groups(model: torch.nn.Module, recipe: Recipe, lr: float) -> list[dict[str, Any]]:
    """Parameters by weight decay, and by depth where the rate depends on it."""
    found: dict[tuple[int, bool], list[Tensor]] = {}
    deep, head = depths(model) if recipe.layer_decay != 1 else ({}, 0)
    for name, each in model.named_parameters():
        if each.requires_grad:
            found.setdefault((head - deep.get(name, head), each.dim() > 1), []).append(each)
    groups = []
    for below, decays in sorted(found, key=lambda kind: (kind[0], not kind[1])):
        group: dict[str, Any] = {"params": found[below, decays], "weight_decay": recipe.weight_decay if decays else 0.0}
        if recipe.layer_decay != 1:
            scale = recipe.layer_decay**below
            group |= {"lr": lr * scale, "lr_scale": scale}
        groups.append(group)
    return groups


def _adamw8bit(groups: list[dict[str, Any]], lr: float) -> torch.optim.Optimizer:
    """bitsandbytes' optimizer, on cards and CPUs alike; for tensors without numbers, what it holds."""
    if groups[0]["params"][0].is_meta:
        return AdamW8bit(groups, lr)

    class Plain(bitsandbytes().optim.AdamW8bit):  # type: ignore[misc]
        """With a state like that of PyTorch's own optimizers: tensors, and none inside another dict."""

        def state_dict(self) -> dict[str, Any]:
            found = torch.optim.Optimizer.state_dict(self)
            flat = {n: {k: torch.as_tensor(v) for k, v in each.items()} for n, each in found["state"].items()}
            return {**found, "state": flat}

        def load_state_dict(self, state_dict: dict[str, Any], move_to_device: bool = True) -> None:
            counted = {
                n: {k: int(v) if k == "step" else v for k, v in each.items()} for n, each in state_dict["state"].items()
            }
            super().load_state_dict({**state_dict, "state": counted}, move_to_device)

    return Plain(groups, lr)


@torch.no_grad()
def _shrink(model: torch.nn.Module, optimizer: Any, l1: float) -> None:
    """L1: move each weight of a matrix towards 0 by rate x l1, and not past it (the proximal step of ISTA, decoupled
    from the gradient as AdamW's weight decay is): weights that nothing holds become exactly 0, which a penalty in the
    loss never gives, and a loss scaler need not know."""
    rates = {id(each): group["lr"] for group in getattr(optimizer, "param_groups", ()) for each in group["params"]}
    for each in model.parameters():
        if each.grad is not None and each.dim() > 1:
            least = float(rates.get(id(each), 0.0)) * l1
            each.sub_(each.clamp(-least, least))


FUSED = ("sgd", "sgd-momentum", "adam", "adamw", "adagrad")  # those PyTorch has a fused kernel for

# Starting points for a batch of REFERENCE_BATCH; see `scaled_lr`.
DEFAULT_LR = {
    "sgd": 0.1,
    "sgd-momentum": 0.05,
    "adam": 1e-3,
    "adamw": 2e-3,
    "adagrad": 1e-2,
    "rmsprop": 1e-3,
    "adafactor": 1e-2,
    "adamw8bit": 2e-3,
}
REFERENCE_BATCH = 128


def scaled_lr(optimizer: str, batch: int) -> float:
    """The learning rate for an effective batch: linear in the batch for plain SGD (Goyal et al. 2017), by its square
    root for optimizers that scale each weight by its gradient (Malladi et al. 2022)."""
    ratio = batch / REFERENCE_BATCH
    return DEFAULT_LR[optimizer] * (ratio if optimizer.startswith("sgd") else math.sqrt(ratio))
