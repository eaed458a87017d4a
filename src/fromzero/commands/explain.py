"""fromzero explain RUN|ARTIFACT INPUT: why a model answers as it does."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from fromzero.language import say
from fromzero.terminal import Terminal, print_table

if TYPE_CHECKING:
    from fromzero.explaining.telling import Explanation

METHODS = ("auto", "occlusion", "grad-cam", "integrated-gradients")
SHOWN = 12  # words or columns on a terminal
SHADES = " ░▒▓█"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, metavar="RUN|ARTIFACT", help=say("flag.run_or_artifact"))
    parser.add_argument("input", metavar="INPUT", help=say("flag.explain.input"))
    parser.add_argument("--method", choices=METHODS, default="auto", help=say("flag.explain.method"))
    parser.add_argument("--label", help=say("flag.explain.label"))
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help=say("flag.explain.output"))
    parser.add_argument("--json", action="store_true", help=say("flag.json"))


def run(options: argparse.Namespace) -> int:
    from fromzero.explaining.telling import explain
    from fromzero.records import to_json

    found = explain(
        options.model,
        options.input,
        method=options.method,
        label=options.label,
        output=options.output,
        console=Terminal(),
    )
    if options.json:
        print(json.dumps(to_json(found), indent=1, ensure_ascii=False))
    else:
        _print(found)
    return 0


def _print(found: Explanation) -> None:
    from fromzero.explaining.drawing import caption, effect_text, speaks, title

    print(f"{title(found)}: {caption(found)}")
    for row in found.heat:
        print("  " + "".join(2 * SHADES[round(cell * (len(SHADES) - 1))] for cell in row))
    if found.parts:
        if found.task == "text":
            _print_text(found)
        strongest = sorted(found.parts, key=lambda part: -abs(part.effect))[:SHOWN]
        rows = [(each.name, each.value, effect_text(found, each.effect), speaks(each.effect)) for each in strongest]
        print()
        if found.task == "text":
            print_table([say("explain.word"), say("explain.effect"), ""], [(name, *rest) for name, _, *rest in rows])
        else:
            print_table([say("explain.column"), say("explain.value"), say("explain.effect"), ""], rows)
    if not (found.highest > 0 or any(each.effect > 0 for each in found.parts)):
        print(say("explain.nothing"))
    print(say("explain.written", path=found.file))


def _print_text(found: Explanation) -> None:
    """The text itself, its words on red where they speak for the class and on blue where against it."""
    if not sys.stdout.isatty():
        return
    from rich.console import Console
    from rich.text import Text

    highest = max(abs(each.effect) for each in found.parts) or 1.0
    line = Text()
    for number, each in enumerate(found.parts):
        if number and each.start > found.parts[number - 1].end:
            line.append(" ")
        shade = round(155 * abs(each.effect) / highest)
        colour = f"rgb({100 + shade},60,75)" if each.effect > 0 else f"rgb(20,80,{100 + shade})"
        line.append(each.name, f"on {colour}" if shade > 15 else "")
    Console().print(line)
