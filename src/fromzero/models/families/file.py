"""A model of the user's own: `path/to/file.py:function`, a function of (classes, channels, size) or of nothing."""

from __future__ import annotations

import importlib.util
import inspect
import traceback
from pathlib import Path
from typing import Any

from fromzero.errors import UnknownName, UsageError

PREFIX = ""


def names() -> list[str]:
    return []


def takes(name: str) -> bool:
    return ".py:" in name


def task(name: str) -> str:
    return "image"


def build(name: str, classes: int, channels: int, size: int) -> Any:
    import torch

    file, _, function = name.rpartition(":")
    path = Path(file).expanduser()
    if not path.is_file():
        raise UsageError("model_file_missing", path=path)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise _failed(path, name, error) from error
    functions = [each for each, value in vars(module).items() if callable(value) and not each.startswith("_")]
    if function not in functions:
        raise UnknownName("function", function, functions)
    make = getattr(module, function)
    offered = {"classes": classes, "channels": channels, "size": size}
    wanted = inspect.signature(make).parameters
    try:
        model = make(**{key: value for key, value in offered.items() if key in wanted})
    except Exception as error:
        raise _failed(path, name, error) from error
    if not isinstance(model, torch.nn.Module):
        raise UsageError("model_file_no_module", name=name, kind=type(model).__name__)
    return model


def normalisation(name: str) -> dict[str, Any] | None:
    return None


def _failed(path: Path, name: str, error: Exception) -> UsageError:
    """The user's own error, with the last line of the user's file that led to it."""
    frames = traceback.extract_tb(error.__traceback__)  # Python writes the file's whole path into them
    lines = [each.lineno for each in frames if Path(each.filename).resolve() == path.resolve()]
    line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else "?"
    return UsageError("model_file_failed", name=name, line=line, reason=f"{type(error).__name__}: {error}")
