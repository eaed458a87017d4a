"""torchvision's classifiers: `torchvision:resnet50`."""

from __future__ import annotations

from typing import Any

from fromzero.errors import MissingPackage

PREFIX = "torchvision:"


def names() -> list[str]:
    models = _models()
    return [PREFIX + each for each in models.list_models(module=models)]


def takes(name: str) -> bool:
    return name.startswith(PREFIX) and name.removeprefix(PREFIX) in _models().list_models(module=_models())


def task(name: str) -> str:
    return "image"


def build(name: str, classes: int, channels: int, size: int) -> Any:
    import torch

    extra: dict[str, Any] = {}
    if name.endswith(("googlenet", "inception_v3")):
        extra = {"aux_logits": False, "init_weights": False}  # one head, as the other classifiers have
    if name.removeprefix(PREFIX).startswith("vit_"):
        extra = {"image_size": size}  # its position table has one row a patch
    model = _models().get_model(name.removeprefix(PREFIX), weights=None, num_classes=classes, **extra)
    if channels != 3:  # torchvision has no argument for it: replace the first convolution
        path, first = next((p, m) for p, m in model.named_modules() if isinstance(m, torch.nn.Conv2d))
        owner, _, attribute = path.rpartition(".")
        settings = {k: getattr(first, k) for k in ("kernel_size", "stride", "padding", "dilation")}
        new = torch.nn.Conv2d(channels, first.out_channels, bias=first.bias is not None, **settings)
        setattr(model.get_submodule(owner), attribute, new)
    return model


def normalisation(name: str) -> dict[str, Any] | None:
    return {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "crop": 0.875, "size": 224}


def _models() -> Any:
    try:
        from torchvision import models
    except (ImportError, RuntimeError) as error:  # a torchvision of another torch fails with a RuntimeError
        raise MissingPackage("torchvision", "train") from error
    return models
