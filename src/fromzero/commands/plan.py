"""fromzero plan MODEL --card NAME ..."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from fromzero.commands import _words
from fromzero.language import say
from fromzero.terminal import bytes_text, print_table, seconds_text

if TYPE_CHECKING:
    from fromzero.records import Plan


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help=say("flag.plan.model"))
    parser.add_argument("--card", help=say("flag.card"))
    parser.add_argument("--imgsz", type=_words.within(int, 1), help=say("flag.imgsz"))
    parser.add_argument("--seq", type=_words.within(int, 1), help=say("flag.seq"))
    parser.add_argument("--channels", type=_words.within(int, 1), help=say("flag.channels"))
    parser.add_argument("--classes", type=_words.within(int, 1), help=say("flag.classes"))
    parser.add_argument("--samples", type=_words.within(int, 1), help=say("flag.samples"))
    parser.add_argument("--purpose", choices=("train", "infer"), help=say("flag.purpose"))
    parser.add_argument("--steps", type=_words.within(int, 1), help=say("flag.steps"))
    parser.add_argument("--torch", help=say("flag.torch"))
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help=say("flag.plan_output"))
    parser.add_argument("--json", action="store_true", help=say("flag.json"))
    _words.add_recipe(parser)


def run(options: argparse.Namespace) -> int:
    from fromzero.planning import plan
    from fromzero.records import to_json

    more = ("card", "imgsz", "seq", "channels", "classes", "samples", "purpose", "steps", "torch")
    made = plan(options.model, **_words.given(options, *more))
    text = json.dumps(to_json(made), indent=1, ensure_ascii=False)
    if options.output:
        from fromzero.files import write_text

        write_text(options.output, text + "\n")
    if options.json:
        print(text)
    else:
        show([made])
        for each in made.advice:
            print("•", each.text)
    return 1 if made.verdict == "does_not_fit" else 0


def show(plans: list[Plan]) -> None:
    """Plans as a table, a row each."""
    rows: list[tuple[object, ...]] = []
    for each in plans:
        memory, time = each.memory, each.time
        rows.append(
            (
                each.card.title,
                each.recipe.batch,
                f"{bytes_text(memory.process_peak)} ({bytes_text(memory.low)} – {bytes_text(memory.high)})",
                bytes_text(each.card.usable_bytes),
                f"{seconds_text(time.step)} ({seconds_text(time.low)} – {seconds_text(time.high)})",
                each.max_batch if each.max_batch is not None else "",
                say(f"verdict.{each.verdict}"),
            )
        )
    names = ["card", "batch", "peak", "usable", "step", "max_batch", "verdict"]
    if all(each.max_batch is None for each in plans):  # nobody asked
        names.remove("max_batch")
        rows = [(*row[:5], row[6]) for row in rows]
    print_table([say(f"plan.{name}") for name in names], rows)
