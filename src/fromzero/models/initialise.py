"""How weights start, and a look at the scale of activations and gradients before the first step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fromzero.language import say
from fromzero.records import Recipe


@dataclass(frozen=True, kw_only=True)
class LayerScale:
    """One layer at the start: the standard deviation of what it gives, the norm of the loss's gradient by that, and the
    share of its outputs (channels) that no sample of the batch teaches anything."""

    path: str
    activation: float
    gradient: float
    dead: float


@dataclass(frozen=True, kw_only=True)
class Scales:
    """Layers in the order of the forward pass; `findings` are codes with a row `scales.<code>` in the catalogue:
    activations_vanish, activations_explode, gradients_vanish, gradients_explode, not_finite, dead."""

    layers: tuple[LayerScale, ...]
    findings: tuple[str, ...]


GAUSSIAN_STD, UNIFORM_BOUND = 0.02, 0.05  # of BERT and GPT-2; Keras' RandomUniform

_FILL: dict[str, Callable[[Tensor], object]] = {
    "gaussian": lambda weight: nn.init.normal_(weight, std=GAUSSIAN_STD),
    "uniform": lambda weight: nn.init.uniform_(weight, -UNIFORM_BOUND, UNIFORM_BOUND),
    "xavier": nn.init.xavier_uniform_,
    "he": lambda weight: nn.init.kaiming_normal_(weight, nonlinearity="relu"),
    "orthogonal": nn.init.orthogonal_,
}


def initialise(model: nn.Module, recipe: Recipe) -> None:
    """Fill linear, convolutional and recurrent weights by `recipe.init`, biases with 0; in place, from torch's current
    seed. Norms, embeddings (and layers that share theirs) and single parameters keep what the model's author chose,
    "default" and "cooccurrence" (see `vectors`) all. To be called before trained weights are loaded: these then replace
    all but a new head."""
    if recipe.init not in _FILL:
        return
    fill = _FILL[recipe.init]
    shared = {id(each.weight) for each in model.modules() if isinstance(each, nn.Embedding)}
    for module in model.modules():
        for weight in _weights(module):
            if id(weight) not in shared:
                with torch.no_grad():
                    fill(weight)
        if isinstance(module, _LAYERS):
            for name, each in module.named_parameters(recurse=False):
                if "bias" in name:
                    nn.init.zeros_(each)


def _weights(module: nn.Module) -> list[Tensor]:
    """The matrices of a layer, each gate and each projection for itself: its fan-in is its own."""
    if isinstance(module, nn.RNNBase):
        found = [each for name, each in module.named_parameters(recurse=False) if name.startswith("weight_")]
        return [part for each in found for part in each.detach().split(module.hidden_size)]
    if isinstance(module, nn.MultiheadAttention):
        packed = module.in_proj_weight
        return [] if packed is None else list(packed.detach().chunk(3))
    if isinstance(module, _LINEAR):
        return [module.weight]
    if _is_conv1d(module):
        return [module.weight.detach().T]
    return []


_LINEAR = (nn.Linear, nn.modules.conv._ConvNd)
_LAYERS = (*_LINEAR, nn.RNNBase, nn.MultiheadAttention)


# --- the scale of things at the start -----------------------------------------------------------------------------

VANISHED, EXPLODED = 1e-3, 1e3  # from one end of the network to the other; usual networks stay within 0.01 to 100
DEAD = 0.9  # share of a layer's outputs


def scales(model: nn.Module, inputs: Any, targets: Any, loss_of: Callable[[Any, Any], Tensor]) -> Scales:
    """One forward and backward pass in training mode; leaves weights, statistics, gradients, modes and the random state
    as they were."""
    layers = {path: each for path, each in model.named_modules() if isinstance(each, _LAYERS) or _is_conv1d(each)}
    seen: dict[str, dict[str, float]] = {}

    def watch(path: str) -> Callable[..., None]:
        def forward(_: nn.Module, __: Any, result: Any) -> None:
            result = result[0] if isinstance(result, tuple) else result
            if path in seen or not result.requires_grad:  # once, and not in checkpointing's first pass
                return
            seen[path] = {"activation": _spread(result.detach())}
            channels = 1 if isinstance(layers[path], nn.modules.conv._ConvNd) else -1
            result.register_hook(lambda slope: seen[path].update(_of_gradient(slope, channels)))

        return forward

    kept = {name: each.clone() for name, each in model.named_buffers()}
    modes = [(each, each.training) for each in model.modules()]
    gradients = [(each, each.grad) for each in model.parameters()]
    hooks = [each.register_forward_hook(watch(path)) for path, each in layers.items()]
    try:
        with torch.random.fork_rng(), torch.enable_grad():
            model.train()
            for each, _ in gradients:
                each.grad = None
            loss_of(model(inputs), targets).backward()
    finally:
        for hook in hooks:
            hook.remove()
        for each, gradient in gradients:
            each.grad = gradient
        for name, buffer in model.named_buffers():
            buffer.copy_(kept[name])
        for module, mode in modes:
            module.training = mode
    # A layer that the loss never asked is no part of what learns, as the pooler of a BERT that is averaged.
    found = tuple(LayerScale(path=path, **values) for path, values in seen.items() if "gradient" in values)
    weights = [each for name, each in model.named_parameters() if name.endswith("weight")]
    return Scales(layers=found, findings=_findings(found, any(not each.any() for each in weights)) if found else ())


def sentences(found: Scales) -> list[str]:
    """What is wrong at the start, in words; none where nothing is."""
    if not found.findings:
        return []
    first, last = found.layers[0], found.layers[-1]
    moving = [each.gradient for each in found.layers if each.gradient] or [1.0]
    worst = max(found.layers, key=lambda each: each.dead)
    words = {
        "activation": last.activation / first.activation if first.activation else 0.0,
        "gradient": moving[0] / moving[-1],
        "dead": worst.dead,
        "path": worst.path,
    }
    return [say(f"scales.{each}", **words) for each in found.findings]


def _of_gradient(slope: Tensor, channels: int) -> dict[str, float]:
    by_channel = slope.detach().movedim(channels, 0).flatten(1)
    return {"gradient": _norm(slope.detach()), "dead": float((by_channel == 0).all(1).float().mean())}


def _spread(each: Tensor) -> float:
    return float(each.float().std())


def _norm(each: Tensor) -> float:
    return float(torch.linalg.vector_norm(each.float()))


def _findings(layers: tuple[LayerScale, ...], starts_at_zero: bool) -> tuple[str, ...]:
    """What is wrong, by the ratio of the far end to the near one: of the last activation to the first, of the first
    gradient to the last. A network with weights that start at zero, as many residual ones are made, passes no gradient
    to some layers, and that is meant."""
    activations = [each.activation for each in layers]
    gradients = [each.gradient for each in layers]
    if not all(map(math.isfinite, [*activations, *gradients])):
        return ("not_finite",)
    found = []
    given, moving = ([each for each in values if each] or [1.0] for values in (activations, gradients))
    for word, ratio in (("activations", given[-1] / given[0]), ("gradients", moving[0] / moving[-1])):
        if ratio < VANISHED:
            found.append(f"{word}_vanish")
        elif ratio > EXPLODED:
            found.append(f"{word}_explode")
    if any(each.dead > DEAD and not (starts_at_zero and each.gradient == 0) for each in layers):
        found.append("dead")
    return tuple(found)


def _is_conv1d(module: nn.Module) -> bool:
    """transformers' transposed linear layer."""
    return type(module).__name__ == "Conv1D"
