"""Every model name of timm."""

from __future__ import annotations

from typing import Any

from fromzero.errors import MissingPackage

PREFIX = ""


def names() -> list[str]:
    return _timm().list_models()


def takes(name: str) -> bool:
    timm = _timm()
    if not timm.is_model(name.partition(".")[0]):
        return False
    try:
        timm.get_pretrained_cfg(name)
    except RuntimeError:  # the model is known, the tag behind its dot is not
        return False
    return True


def task(name: str) -> str:
    return "image"


def build(name: str, classes: int, channels: int, size: int) -> Any:
    timm = _timm()
    settings = timm.get_pretrained_cfg(name.partition(".")[0], allow_unregistered=True)
    fixed = settings is not None and settings.fixed_input_size and settings.input_size[-1] != size
    extra = {"img_size": size} if fixed else {}  # transformers derive their position table from it
    model = timm.create_model(name, num_classes=classes, in_chans=channels, **extra)
    if hasattr(model, "get_classifier"):
        return model
    from fromzero.models.calling import Pooled  # the vision half of a language model has no head of its own

    return Pooled(model, model.head_hidden_size, classes)


def normalisation(name: str) -> dict[str, Any] | None:
    settings = _timm().get_pretrained_cfg(name)
    if settings is None:
        return None
    return {
        "mean": settings.mean,
        "std": settings.std,
        "crop": settings.crop_pct or 0.875,
        "size": settings.input_size[-1],
    }


def _timm() -> Any:
    try:
        import timm
    except ImportError as error:
        raise MissingPackage("timm", "train") from error
    return timm
