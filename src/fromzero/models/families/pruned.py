"""A network whose channels were thinned out: `pruned:<file>`, where the file says what was taken from which network.

The file is JSON: `model` is the network it was, `blocks` and `head` what its recipe had made of it, and `history` the
groups of channels that were taken, in their order, as torch-pruning keeps them: (layer, whether its outputs, their
numbers). Doing the same again to a fresh network gives the same shapes, with as many classes and channels as asked for.
"""

from __future__ import annotations

import functools
import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fromzero.errors import MissingPackage, UsageError

PREFIX = "pruned:"


@dataclass(frozen=True)
class Structure:
    """What a file says."""

    model: str
    history: tuple[tuple[str, bool, tuple[int, ...]], ...]
    blocks: str = "all"
    head: str = "linear"


def names() -> list[str]:
    return []


def takes(name: str) -> bool:
    return name.startswith(PREFIX)


def task(name: str) -> str:
    return _family(name).task(read(name).model)


def build(name: str, classes: int, channels: int, size: int, **more: Any) -> Any:
    import torch

    from fromzero.models.adapt import adapt
    from fromzero.records import Recipe

    structure = read(name)
    model = _family(name).build(structure.model, classes, channels, size, **more)
    adapt(model, Recipe(blocks=structure.blocks, head=structure.head))
    shown = example(task(name), channels, size, len(more.get("categories", ())))
    with torch.enable_grad(), warnings.catch_warnings():  # the graph of layers is read from autograd's
        warnings.simplefilter("ignore")  # it tells which parameters belong to no layer
        graph = pruning().DependencyGraph().build_dependency(model, example_inputs=shown)
        graph.load_pruning_history([[layer, out, list(numbers)] for layer, out, numbers in structure.history])
    return model.train()


def normalisation(name: str) -> dict[str, Any] | None:
    return _family(name).normalisation(read(name).model)


def read(name: str) -> Structure:
    """The structure a name stands for. Raises UsageError where the file is missing or is none."""
    path = path_of(name)
    try:
        return _read(path, path.stat().st_mtime_ns)
    except OSError as error:
        raise UsageError("structure_missing", path=path) from error
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError("structure_damaged", path=path, reason=error) from error


def path_of(name: str) -> Path:
    """The file of a name of this family."""
    return Path(name.removeprefix(PREFIX)).expanduser()


def example(task: str, channels: int, size: int, categories: int = 0) -> Any:
    """One sample of what a network of a task takes, with the words of `build`."""
    import torch

    if task == "table":
        return torch.zeros((1, *([size] if size else []), channels + categories))
    if task in ("text", "lm"):
        return torch.zeros((1, channels), dtype=torch.long)
    return torch.zeros((1, channels, size, size))


def pruning() -> Any:
    """The library, or the word to install it."""
    try:
        import torch_pruning
    except ImportError as error:
        raise MissingPackage("torch-pruning", "shrink") from error
    return torch_pruning


@functools.lru_cache(maxsize=8)  # each question about a model would read it again
def _read(path: Path, changed: int) -> Structure:
    values = json.loads(path.read_text(encoding="utf-8"))
    history = tuple((layer, bool(out), tuple(numbers)) for layer, out, numbers in values["history"])
    return Structure(values["model"], history, values["blocks"], values["head"])


def _family(name: str) -> Any:
    """The family of the network it was."""
    from fromzero.models.build import family_of

    return family_of(read(name).model)
