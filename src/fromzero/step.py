"""One training step: forward, loss, backward, optimizer. The planner traces this function and training runs it.

The `engine` is an `accelerate.Accelerator`; for the planner it is `planner.trace.MetaEngine`, which has the same four
methods for tensors that hold no numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fromzero.errors import UsageError
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
        with engine.autocast():
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
    implementation is asked for (or the fused one), so that the planner and the card take the same path."""
    trainable = [each for each in model.parameters() if each.requires_grad]
    path: dict[str, Any] = {"fused": True} if recipe.fused else {"foreach": True}
    if recipe.fused and recipe.optimizer not in FUSED:
        raise UsageError("no_fused_optimizer", optimizer=recipe.optimizer, known=", ".join(FUSED))
    groups: list[dict[str, Any]] = [
        {"params": [each for each in trainable if each.dim() > 1], "weight_decay": recipe.weight_decay},
        {"params": [each for each in trainable if each.dim() <= 1], "weight_decay": 0.0},
    ]
    groups = [each for each in groups if each["params"]]
    lr = recipe.lr or DEFAULT_LR[recipe.optimizer]
    make: dict[str, Callable[[], torch.optim.Optimizer]] = {
        "sgd": lambda: torch.optim.SGD(groups, lr, **path),
        "sgd-momentum": lambda: torch.optim.SGD(groups, lr, momentum=0.9, **path),
        "adam": lambda: torch.optim.Adam(groups, lr, **path),
        "adamw": lambda: torch.optim.AdamW(groups, lr, **path),
        "adagrad": lambda: torch.optim.Adagrad(groups, lr, **path),
        "rmsprop": lambda: torch.optim.RMSprop(groups, lr, foreach=True),
        # PyTorch's own default, since people take Adafactor to save memory
        "adafactor": lambda: torch.optim.Adafactor(groups, lr, foreach=False),
        "adamw8bit": lambda: AdamW8bit(groups, lr),
    }
    return make[recipe.optimizer]()


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


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """The learning rate of optimizer step `step` of `steps`: a linear warm-up over the recipe's share of the run, then
    constant or a cosine to zero. A pure function of the step: a resumed run needs no scheduler state."""
    assert recipe.lr is not None
    warmup = max(1, round(recipe.warmup * steps))
    if step < warmup:
        return recipe.lr * (step + 1) / warmup
    if recipe.schedule == "constant":
        return recipe.lr
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
