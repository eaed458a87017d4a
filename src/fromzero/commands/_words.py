"""The flags that come from the fields of Recipe: one place for `plan`, `train` and whoever follows."""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Callable
from typing import Any

from fromzero.language import say
from fromzero.records import Recipe

WORKLOAD = ("imgsz", "seq", "channels", "classes", "samples", "purpose")


def add_workload(parser: argparse.ArgumentParser, optional: bool = False) -> None:
    """The model, and the shape and length of what it works on."""
    parser.add_argument("model", nargs="?" if optional else None, help=say("flag.plan.model"))
    parser.add_argument("--imgsz", type=within(int, 1), help=say("flag.imgsz"))
    parser.add_argument("--seq", type=within(int, 1), help=say("flag.seq"))
    parser.add_argument("--channels", type=within(int, 1), help=say("flag.channels"))
    parser.add_argument("--classes", type=within(int, 1), help=say("flag.classes"))
    parser.add_argument("--samples", type=within(int, 1), help=say("flag.samples"))
    parser.add_argument("--purpose", choices=("train", "infer"), help=say("flag.purpose"))


def add_recipe(parser: argparse.ArgumentParser, planned: bool = False) -> None:
    """A flag for each field; nothing is set unless the user says so. `planned`: the rate is a number, since nothing
    is tried."""
    group = parser.add_argument_group(say("cli.recipe"))
    for each in dataclasses.fields(Recipe):
        flag, unit = "--" + each.name.replace("_", "-"), each.metadata["unit"]
        settings: dict[str, Any] = {"default": argparse.SUPPRESS, "dest": each.name}
        default = "" if each.default in (None, False) else f" ({each.default})"
        settings["help"] = say(f"recipe.{each.name}").replace("%", "%%") + default
        if each.name == "memory_format":
            group.add_argument("--channels-last", action="store_const", const="channels-last", **settings)
        elif each.name == "checkpointing":
            group.add_argument(flag, nargs="?", const="blocks", metavar="BLOCKS", **settings)
        elif unit is bool:
            group.add_argument(flag, action="store_true", **settings)
        elif each.name == "batch":
            group.add_argument(flag, type=batch, metavar="N|auto", **settings)
        elif each.name == "lr" and not planned:
            group.add_argument(flag, type=rate, metavar="N|find", **settings)
        elif each.name == "pretrained":
            group.add_argument(flag, nargs="?", const="auto", metavar="FILE", **settings)
        else:
            metavar = "NAMES" if unit is str else "N"
            settings |= {"choices": each.metadata["choices"]} if each.metadata["choices"] else {"metavar": metavar}
            limits = each.metadata["limits"]
            group.add_argument(flag, type=within(unit, *limits) if limits else unit, **settings)


def batch(text: str) -> int | str:
    """A number, or "auto"; argparse turns the ValueError of anything else into a wrong call."""
    return text if text == "auto" else int(text)


def rate(text: str) -> float | str:
    """A learning rate, or "find"."""
    return text if text == "find" else within(float, 0)(text)


def within(unit: Callable[[str], Any], low: float, high: float = math.inf) -> Callable[[str], Any]:
    """A reader of numbers from `low` to `high`, both included; what it refuses never reaches PyTorch's own errors."""

    def read(text: str) -> Any:
        value = unit(text)
        if not low <= value <= high or value == math.inf:
            key = "cli.at_least" if high == math.inf else "cli.between"
            raise argparse.ArgumentTypeError(say(key, value=text, low=low, high=high))
        return value

    read.__name__ = getattr(unit, "__name__", "number")  # argparse names it when the text is no number at all
    return read


def given(options: argparse.Namespace, *more: str) -> dict[str, Any]:
    """The recipe's words that the user gave, and those of `more` that are not None."""
    names = {each.name for each in dataclasses.fields(Recipe)}
    words = {name: value for name, value in vars(options).items() if name in names}
    return words | {name: getattr(options, name) for name in more if getattr(options, name) is not None}
