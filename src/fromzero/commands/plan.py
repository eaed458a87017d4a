"""fromzero plan MODEL --card NAME ..."""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path
from typing import TYPE_CHECKING

from fromzero.commands import _words
from fromzero.errors import UsageError
from fromzero.language import say
from fromzero.terminal import bytes_text, print_table, seconds_text

if TYPE_CHECKING:
    from fromzero.records import Option, Plan


def arguments(parser: argparse.ArgumentParser) -> None:
    _words.add_workload(parser, optional=True)
    parser.add_argument("--ledger", action="store_true", help=say("flag.ledger"))
    parser.add_argument("--card", help=say("flag.card"))
    parser.add_argument("--steps", type=_words.within(int, 1), help=say("flag.steps"))
    parser.add_argument("--fit", action="store_true", help=say("flag.fit"))
    parser.add_argument("--picture", type=Path, metavar="FILE", help=say("flag.picture"))
    parser.add_argument("--cores", type=_words.within(int, 1), metavar="N", help=say("flag.plan.cores"))
    parser.add_argument("--network", type=_words.within(float, 0), metavar="GBIT", help=say("flag.plan.network"))
    parser.add_argument("--tariff", type=_words.within(float, 0), metavar="X", help=say("flag.choose.tariff"))
    parser.add_argument("--currency", help=say("flag.choose.currency"))
    parser.add_argument("--torch", help=say("flag.torch"))
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help=say("flag.plan_output"))
    parser.add_argument("--json", action="store_true", help=say("flag.json"))
    _words.add_recipe(parser, planned=True)


def run(options: argparse.Namespace) -> int:
    if options.ledger:
        return _ledger(options)
    if options.model is None:
        raise UsageError("no_model")
    from fromzero.planning import plan
    from fromzero.records import to_json

    if hasattr(options, "parallel") and getattr(options, "cards", 1) == 1:
        raise UsageError("one_card", cards=1)
    words = _words.given(options, *_words.WORKLOAD, "card", "steps", "torch", "tariff", "currency", "cores", "network")
    options_found: tuple[Option, ...] = ()
    if options.fit:
        from fromzero.fitting import fit

        made, options_found = fit(options.model, **words)
    else:
        made = plan(options.model, **words)
    text = json.dumps(to_json(made), indent=1, ensure_ascii=False)
    if options.output:
        from fromzero.files import write_text

        write_text(options.output, text + "\n")
    if options.picture:
        _draw(made, options.picture)
    if options.json:
        print(json.dumps({**to_json(made), "options": to_json(options_found)}, indent=1, ensure_ascii=False)
              if options.fit else text)  # fmt: skip
    else:
        show([made])
        _explain(made)
        if options.fit:
            _show_options(made, options_found)
        for each in made.advice:
            print("•", each.text)
        print("•", say("plan.intervals"))
    return 1 if made.verdict == "does_not_fit" and not options_found else 0


def _ledger(options: argparse.Namespace) -> int:
    """What was predicted and what was measured on this machine."""
    from fromzero.machine.ledger import correction, entries
    from fromzero.records import to_json

    found = entries()
    if options.picture:
        from fromzero.files import write_bytes
        from fromzero.pictures import predicted_and_measured

        write_bytes(options.picture, predicted_and_measured(found))
    if options.json:
        print(json.dumps(to_json(found), indent=1, ensure_ascii=False))
        return 0
    if not found:
        print(say("ledger.empty"))
        return 0
    names = ("when", "device", "model", "batch", "predicted", "measured", "ratio", "memory")
    rows = [
        (
            each.when,
            each.device,
            each.model,
            each.batch,
            seconds_text(each.predicted_step),
            seconds_text(each.measured_step),
            f"{each.ratio - 1:+.0%}",
            f"{each.measured_bytes / each.predicted_bytes - 1:+.0%}" if each.measured_bytes else "",
        )
        for each in found
    ]
    print_table([say(f"ledger.{name}") for name in names], rows)
    for device in sorted({each.device for each in found}):
        print("•", say("ledger.correction", device=device, factor=f"{correction(entries(device)):.2f}"))
    return 0


def _explain(made: Plan) -> None:
    """What holds the memory at the moment of the peak."""
    memory = made.memory
    print(say("plan.peak_at", moment=memory.peak_at))
    parts = [(say(f"part.{name}"), bytes_text(size)) for name, size in memory.parts.items() if size]
    modules = [(name, bytes_text(size)) for name, size in memory.modules.items()]
    rows = [(*left, *right) for left, right in itertools.zip_longest(parts, modules, fillvalue=("", ""))]
    print_table([say("plan.part"), say("plan.memory"), say("plan.module"), say("plan.memory")], rows)


def _show_options(made: Plan, found: tuple[Option, ...]) -> None:
    assert made.recipe.batch is not None
    if not found:
        print(say("fit.none", card=made.card.title))
        return
    effective = made.recipe.batch * made.recipe.accumulate
    print(say("fit.already") if made.verdict == "fits" else say("fit.title", card=made.card.title, batch=effective))
    rows = [
        (
            each.text,
            say(f"fit.{each.keeps}"),
            bytes_text(each.plan.memory.process_peak),
            seconds_text(each.plan.time.step),
        )
        for each in found
    ]
    print_table([say(f"fit.{name}") for name in ("change", "result", "peak", "price")], rows)


def _draw(made: Plan, path: Path) -> None:
    from fromzero.files import write_bytes
    from fromzero.pictures import memory_over_step
    from fromzero.planning import course_of

    title = say("course.title", model=made.workload.model, card=made.card.title, batch=made.recipe.batch)
    write_bytes(path, memory_over_step(course_of(made), title, made.card.usable_bytes))


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
