"""From a model's name to a module: asks each family of `families/` in turn."""

from __future__ import annotations

import contextlib
import functools
import importlib
import pkgutil
from collections.abc import Iterator
from types import ModuleType
from typing import Any
from unittest import mock

from fromzero.errors import UnknownName
from fromzero.models import families
from fromzero.records import Workload

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


def build(name: str, classes: int, channels: int, size: int, **more: Any) -> Any:
    """A freshly initialised module with logits of shape (N, classes) for (N, channels, size, size); `channels` is the
    length of texts and the count of a table's numbers. `more`: `vocabulary` and `categories` as in Workload."""
    return family_of(name).build(name, classes, channels, size, **more)


def built(workload: Workload) -> Any:
    """The module of a workload, freshly initialised."""
    return build(workload.model, *_sizes(workload), **_more(workload))


def built_on_meta(workload: Workload) -> Any:
    """The module of a workload, without numbers."""
    return build_on_meta(workload.model, *_sizes(workload), **_more(workload))


def _sizes(workload: Workload) -> tuple[int, int, int]:
    channels, size = (*workload.input_shape, 0)[:2]
    return workload.classes, channels, size


def _more(workload: Workload) -> dict[str, Any]:
    """What texts and tables need, and only where they have it."""
    given = {"vocabulary": workload.vocabulary, "categories": workload.categories}
    return {name: value for name, value in given.items() if value}


def task_of(name: str) -> str:
    """The task a model is for: a file of `tasks/`."""
    return family_of(name).task(name)


def build_on_meta(name: str, classes: int, channels: int, size: int, **more: Any) -> Any:
    """The module without numbers. Some models read numbers while they are built (`.item()` of a table of widths): those
    are built with real tables, and only their parameters lose their numbers, each as soon as it is made; the few that
    read their parameters too are built for real."""
    import torch

    failed: Exception | None = None
    for without_numbers in (lambda: torch.device("meta"), _parameters_on_meta, contextlib.nullcontext):
        try:
            with without_numbers():
                model = build(name, classes, channels, size, **more)
            return model.to("meta")  # old constructors (torch.FloatTensor) and tables from numpy hear of no device
        except Exception as error:  # "Tensor.item() cannot be called on meta tensors", in many ways
            failed = error
    assert failed is not None
    raise failed


@contextlib.contextmanager
def _parameters_on_meta() -> Iterator[None]:
    from torch import nn

    register = nn.Module.register_parameter

    def registered(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        register(module, name, parameter)
        if parameter is not None and not parameter.is_meta and not isinstance(parameter, nn.UninitializedParameter):
            empty = nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)
            module._parameters[name] = empty

    with mock.patch.object(nn.Module, "register_parameter", registered):
        yield


@functools.lru_cache(maxsize=64)  # asked for every card of a choice
def usual_size(name: str, wanted: int = 224) -> int:
    """The side of pictures to plan with when none was asked for: `wanted`, or the model's own where it cannot take
    that. Tried on one picture without numbers, and only for models that were made for another size."""
    import torch

    own = (family_of(name).normalisation(name) or {}).get("size", wanted)
    if own == wanted:
        return wanted
    try:
        with torch.device("meta"), torch.no_grad():
            build_on_meta(name, 2, 3, wanted).eval()(torch.empty(1, 3, wanted, wanted))
    except Exception:  # each model says no in its own way
        return own
    return wanted


def names() -> list[str]:
    """Every model name that is known without a path."""
    return [name for family in _families() for name in family.names()]


def _families() -> list[ModuleType]:
    files = sorted((each.name for each in pkgutil.iter_modules(families.__path__)), key=lambda n: (n in _LAST, n))
    return [importlib.import_module(f"{families.__name__}.{file}") for file in files]
