"""Change a model for a new purpose: freeze what should not learn."""

from __future__ import annotations

from torch import nn

from fromzero.errors import UsageError


def freeze(model: nn.Module, what: str) -> None:
    """ "backbone" leaves only the last layer with weights trainable; "none" leaves everything."""
    if what == "none":
        return
    layers = [each for each in model.modules() if any(True for _ in each.parameters(recurse=False))]
    if len(layers) < 2:
        raise UsageError("nothing_to_freeze", layers=len(layers))
    model.requires_grad_(False)
    layers[-1].requires_grad_(True)
