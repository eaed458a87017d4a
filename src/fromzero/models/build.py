"""From a model's name to a module: asks each family of `families/` in turn."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType
from typing import Any

from fromzero.errors import UnknownName
from fromzero.models import families

# Families that need an import to answer come last: "cnn" must not wait for timm.
_LAST = ("timm", "torchvision", "huggingface")


def family_of(name: str) -> ModuleType:
    """The family that builds `name`. Raises UnknownName with near matches."""
    found = _families()
    for family in found:
        if name.startswith(family.PREFIX) and family.takes(name):
            return family
    prefixed = [each for each in found if each.PREFIX and name.startswith(each.PREFIX)]
    known = [each for family in prefixed or found for each in family.names()]
    raise UnknownName("model", name, known)


def build(name: str, classes: int, channels: int, size: int) -> Any:
    """A freshly initialised module with logits of shape (N, classes) for (N, channels, size, size)."""
    return family_of(name).build(name, classes, channels, size)


def task_of(name: str) -> str:
    """The task a model is for: a file of `tasks/`."""
    return family_of(name).task(name)


def names() -> list[str]:
    """Every model name that is known without a path."""
    return [name for family in _families() for name in family.names()]


def _families() -> list[ModuleType]:
    files = sorted((each.name for each in pkgutil.iter_modules(families.__path__)), key=lambda n: (n in _LAST, n))
    return [importlib.import_module(f"{families.__name__}.{file}") for file in files]
