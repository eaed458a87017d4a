"""The flags that come from the fields of Recipe: one place for `plan`, `train` and whoever follows."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from fromzero.language import say
from fromzero.records import Recipe


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """A flag for each field; nothing is set unless the user says so."""
    group = parser.add_argument_group(say("cli.recipe"))
    for each in dataclasses.fields(Recipe):
        flag, unit = "--" + each.name.replace("_", "-"), each.metadata["unit"]
        settings: dict[str, Any] = {"default": argparse.SUPPRESS, "dest": each.name}
        default = "" if each.default in (None, False) else f" ({each.default})"
        settings["help"] = say(f"recipe.{each.name}").replace("%", "%%") + default
        if each.name == "memory_format":
            group.add_argument("--channels-last", action="store_const", const="channels-last", **settings)
        elif unit is bool:
            group.add_argument(flag, action="store_true", **settings)
        elif each.name == "batch":
            group.add_argument(flag, type=batch, metavar="N|auto", **settings)
        elif each.name == "pretrained":
            group.add_argument(flag, nargs="?", const="auto", metavar="FILE", **settings)
        else:
            settings |= {"choices": each.metadata["choices"]} if each.metadata["choices"] else {"metavar": "N"}
            group.add_argument(flag, type=unit, **settings)


def batch(text: str) -> int | str:
    """A number, or "auto"; argparse turns the ValueError of anything else into a wrong call."""
    return text if text == "auto" else int(text)


def given(options: argparse.Namespace, *more: str) -> dict[str, Any]:
    """The recipe's words that the user gave, and those of `more` that are not None."""
    names = {each.name for each in dataclasses.fields(Recipe)}
    words = {name: value for name, value in vars(options).items() if name in names}
    return words | {name: getattr(options, name) for name in more if getattr(options, name) is not None}
