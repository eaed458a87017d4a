"""A model of the user's own: `path/to/file.py:function`, a function of (classes, channels, size) or of nothing.

It makes any `nn.Module`. One that takes something else than pictures shows what: the function returns
(model, example inputs), or the file has `example_inputs`, a function of any of (batch, classes, channels, size). A
tensor is the one argument of the model, a tuple its positional arguments, a dict its named ones. The first dimension
of what the function returns beside the model is the batch.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from fromzero.errors import UnknownName, UsageError

PREFIX = ""


def names() -> list[str]:
    return []


def takes(name: str) -> bool:
    return ".py:" in name


def task(name: str) -> str:
    return "custom"


def build(name: str, classes: int, channels: int, size: int) -> Any:
    from fromzero.models.calling import Spread

    model, shown = _made(name, classes, channels, size)
    path = _path(name)
    _SHOWN[path, _changed(path), name, classes, channels, size] = shown
    if shown is None:
        shown = example(name, 1, classes, channels, size)
    return Spread(model) if isinstance(shown, (tuple, dict)) else model


def normalisation(name: str) -> dict[str, Any] | None:
    return None


def example(name: str, batch: int, classes: int, channels: int, size: int) -> Any:
    """Inputs for `batch` samples as the file gives them; None if it shows none, which means pictures."""
    path = _path(name)
    found = getattr(_load(path, name), "example_inputs", None)
    if found is not None:
        return _call(found, path, name, batch=batch, classes=classes, channels=channels, size=size)
    key = (path, _changed(path), name, classes, channels, size)
    if key not in _SHOWN:
        build(name, classes, channels, size)
    return _of_batch(_SHOWN[key], batch)


def loss(name: str) -> Callable[[Any, Any], Any] | None:
    """The file's own `loss(outputs, inputs)`, None without one."""
    return getattr(_load(_path(name), name), "loss", None)


# What a function gave beside its model when it was last built. Inputs are asked for at every step of a trace, where
# building the model again would count as memory.
_SHOWN: dict[tuple[Any, ...], Any] = {}


def _of_batch(shown: Any, batch: int) -> Any:
    """`shown` with another batch: every tensor that is as long as the first one changes its first dimension."""
    import torch
    from torch.utils import _pytree as pytree

    tensors = [each for each in pytree.tree_leaves(shown) if isinstance(each, torch.Tensor) and each.dim()]
    if not tensors:
        return shown
    length = tensors[0].size(0)

    def resized(each: Any) -> Any:
        if not isinstance(each, torch.Tensor) or not each.dim() or each.size(0) != length:
            return each
        return each.new_empty((batch, *each.shape[1:]))

    return pytree.tree_map(resized, shown)


def _made(name: str, classes: int, channels: int, size: int) -> tuple[Any, Any]:
    """The model, and the example inputs where the function gave both."""
    import torch

    path = _path(name)
    module = _load(path, name)
    function = name.rpartition(":")[2]
    functions = [each for each, value in vars(module).items() if callable(value) and not each.startswith("_")]
    if function not in functions:
        raise UnknownName("function", function, functions)
    made = _call(getattr(module, function), path, name, classes=classes, channels=channels, size=size)
    model, shown = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(model, torch.nn.Module):
        raise UsageError("model_file_no_module", name=name, kind=type(model).__name__)
    return model, shown


def _path(name: str) -> Path:
    path = Path(name.rpartition(":")[0]).expanduser()
    if not path.is_file():
        raise UsageError("model_file_missing", path=path)
    return path.resolve()


def _changed(path: Path) -> int:
    return path.stat().st_mtime_ns


def _load(path: Path, name: str) -> ModuleType:
    return _executed(path, name, _changed(path))


@functools.lru_cache(maxsize=8)
def _executed(path: Path, name: str, changed: int) -> ModuleType:
    """The file as a module. It is run again when it changes, not for every question about it."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise _failed(path, name, error) from error
    return module


def _call(function: Callable[..., Any], path: Path, name: str, **offered: int) -> Any:
    """Call a function of the file with those of `offered` that it names."""
    wanted = inspect.signature(function).parameters
    try:
        return function(**{key: value for key, value in offered.items() if key in wanted})
    except Exception as error:
        raise _failed(path, name, error) from error


def _failed(path: Path, name: str, error: Exception) -> UsageError:
    """The user's own error, with the last line of the user's file that led to it."""
    frames = traceback.extract_tb(error.__traceback__)  # Python writes the file's whole path into them
    lines = [each.lineno for each in frames if Path(each.filename).resolve() == path.resolve()]
    line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else "?"
    return UsageError("model_file_failed", name=name, line=line, reason=f"{type(error).__name__}: {error}")
