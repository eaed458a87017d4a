"""A frozen backbone's features: with nothing random before the head, every epoch would compute the very same ones."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn

from fromzero.models.layers import heads


def frozen_head(model: nn.Module) -> nn.Module | None:
    """The one layer of `model` that learns, if what comes before it gives the same features in every epoch: frozen,
    and without dropout. None otherwise."""
    found = heads(model)
    if len(found) != 1:
        return None
    inside = {id(each) for each in found[0].parameters()}
    if any(each.requires_grad and id(each) not in inside for each in model.parameters()):
        return None
    return None if any(_random(each) for each in model.modules()) else found[0]


def _random(module: nn.Module) -> bool:
    """Dropout of any kind that is switched on: a layer, the dropped paths of timm and torchvision, or a rate that the
    model passes to the function itself (timm's `drop_rate`)."""
    drops = "drop" in type(module).__name__.lower() or type(module).__name__ == "StochasticDepth"
    names = ("drop_rate", *(("p", "drop_prob") if drops else ()))
    chances = (getattr(module, name, 0.0) for name in names)
    return any(isinstance(chance, float) and chance > 0 for chance in chances)


class _Reached(Exception):
    """The forward pass came to the head."""

    def __init__(self, features: Tensor) -> None:
        self.features = features


def features_of(model: nn.Module, head: nn.Module, inputs: Tensor) -> Tensor:
    """What the head of `model` sees of `inputs`, in fp32."""

    def stop(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        raise _Reached(arguments[0])

    hook = head.register_forward_pre_hook(stop)
    try:
        with torch.no_grad():
            model(inputs)
    except _Reached as reached:
        return reached.features.float()
    finally:
        hook.remove()
    raise AssertionError("the forward pass does not come to the head")


def weights_digest(model: nn.Module, head: nn.Module) -> str:
    """Identifies the weights before the head."""
    seen = hashlib.blake2b(digest_size=8)
    inside = {id(each) for each in [*head.parameters(), *head.buffers()]}
    for name, each in [*model.named_parameters(), *model.named_buffers()]:
        if id(each) not in inside:
            seen.update(name.encode())
            seen.update(each.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return seen.hexdigest()
