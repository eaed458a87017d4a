"""Change a model for a new purpose: freeze what should not learn."""

from __future__ import annotations

from torch import nn

from fromzero.errors import UsageError


def freeze(model: nn.Module, what: str) -> None:
    """ "backbone" leaves only the classifier trainable; "none" leaves everything."""
    if what == "none":
        return
    layers = [each for each in model.modules() if any(True for _ in each.parameters(recurse=False))]
    if len(layers) < 2:
        raise UsageError("nothing_to_freeze", layers=len(layers))
    model.requires_grad_(False)
    for each in _classifier(model) or layers[-1:]:
        each.requires_grad_(True)


def train_mode(model: nn.Module) -> None:
    """Train mode, but for batch norms that are frozen: their statistics belong to weights that do not move."""
    model.train()
    for each in model.modules():
        if isinstance(each, nn.modules.batchnorm._BatchNorm) and not any(p.requires_grad for p in each.parameters()):
            each.train(not list(each.parameters()))


def _classifier(model: nn.Module) -> list[nn.Module]:
    """What the model itself calls its classifier (timm; distilled models have two); empty if it does not say."""
    found = model.get_classifier() if hasattr(model, "get_classifier") else ()
    heads = found if isinstance(found, (tuple, list)) else (found,)
    return [each for each in heads if isinstance(each, nn.Module) and any(True for _ in each.parameters())]
