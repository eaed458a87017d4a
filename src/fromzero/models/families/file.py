"""A model of the user's own: `path/to/file.py:function`, a function of (classes, channels, size) or of nothing."""

from __future__ import annotations

import importlib.util
import inspect
from pathlib import Path
from typing import Any

from fromzero.errors import UnknownName, UsageError

PREFIX = ""


def names() -> list[str]:
    return []


def takes(name: str) -> bool:
    return ".py:" in name


def build(name: str, classes: int, channels: int, size: int) -> Any:
    import torch

    file, _, function = name.rpartition(":")
    path = Path(file).expanduser()
    if not path.is_file():
        raise UsageError("model_file_missing", path=path)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, function):
        raise UnknownName("function", function, [each for each in vars(module) if not each.startswith("_")])
    make = getattr(module, function)
    offered = {"classes": classes, "channels": channels, "size": size}
    wanted = inspect.signature(make).parameters
    model = make(**{key: value for key, value in offered.items() if key in wanted})
    if not isinstance(model, torch.nn.Module):
        raise UsageError("model_file_no_module", name=name, kind=type(model).__name__)
    return model


def normalisation(name: str) -> dict[str, Any] | None:
    return None
