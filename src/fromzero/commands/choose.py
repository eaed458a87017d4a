"""fromzero choose MODEL ..."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

from fromzero.commands import _words
from fromzero.errors import UsageError
from fromzero.language import say
from fromzero.terminal import bytes_text, print_table, seconds_text

if TYPE_CHECKING:
    from fromzero.records import Candidate, Choice

GIB = 1 << 30


def arguments(parser: argparse.ArgumentParser) -> None:
    _words.add_workload(parser)
    positive = _words.within(float, 0)
    parser.add_argument("--hours", type=positive, metavar="H", help=say("flag.choose.hours"))
    parser.add_argument("--budget", type=positive, metavar="X", help=say("flag.choose.budget"))
    parser.add_argument("--watts", type=positive, metavar="W", help=say("flag.choose.watts"))
    parser.add_argument("--min-memory", type=positive, metavar="GIB", help=say("flag.choose.memory"))
    parser.add_argument("--own", action="append", metavar="CARD", help=say("flag.choose.own"))
    parser.add_argument("--series", help=say("flag.choose.series"))
    parser.add_argument("--form", choices=("desktop", "laptop", "server", "any"), help=say("flag.choose.form"))
    parser.add_argument("--price", action="append", metavar="CARD=X", help=say("flag.choose.price"))
    parser.add_argument("--rent", action="append", metavar="CARD=X", help=say("flag.choose.rent"))
    parser.add_argument("--tariff", type=positive, metavar="X", help=say("flag.choose.tariff"))
    parser.add_argument("--currency", help=say("flag.choose.currency"))
    parser.add_argument("--priced-on", metavar="DATE", help=say("flag.choose.priced_on"))
    parser.add_argument("--limit", type=_words.within(int, 1), default=12, help=say("flag.choose.limit"))
    parser.add_argument("--picture", type=Path, metavar="FILE", help=say("flag.choose.picture"))
    parser.add_argument("--json", action="store_true", help=say("flag.json"))
    _words.add_recipe(parser, planned=True)


def run(options: argparse.Namespace) -> int:
    from fromzero.choosing import choose
    from fromzero.records import to_json

    words = _words.given(
        options, *_words.WORKLOAD, "hours", "budget", "watts", "own", "form", "tariff", "currency", "priced_on"
    )
    if options.min_memory is not None:
        words["min_memory"] = round(options.min_memory * GIB)
    if options.series:
        words["series"] = tuple(each.strip() for each in options.series.split(","))
    found = choose(options.model, prices=_prices(options.price), rents=_prices(options.rent), **words)
    if options.picture:
        from fromzero.files import write_bytes
        from fromzero.pictures import cards_for_job

        write_bytes(options.picture, cards_for_job(found))
    if options.json:
        print(json.dumps(to_json(found), indent=1, ensure_ascii=False))
    else:
        show(found, options.limit)
    return 0 if found.candidates[0].meets else 1


def show(found: Choice, limit: int) -> None:
    """The answer, and the first rows as a table."""
    print(found.answer)
    names = ["rank", "card", "batch", "peak", "time", "energy", "cost", "reason"]
    rows = [_row(number, each, found.money.currency) for number, each in enumerate(found.candidates[:limit], 1)]
    empty = [at for at in range(len(names)) if all(row[at] == "" for row in rows)]
    kept = [at for at in range(len(names)) if at not in empty]
    print_table([say(f"choose.{names[at]}") for at in kept], [[row[at] for at in kept] for row in rows])
    if all(each.cost is None for each in found.candidates):
        print("•", say("choose.no_cost"))


def _row(number: int, each: Candidate, currency: str) -> tuple[object, ...]:
    made = each.plan
    count = f"{made.recipe.cards} x " if made.recipe.cards > 1 else ""
    return (
        number,
        count + made.card.title.removeprefix("NVIDIA "),
        f"{made.recipe.batch}" + (f" x {made.recipe.accumulate}" if made.recipe.accumulate > 1 else ""),
        f"{bytes_text(made.memory.process_peak)} / {bytes_text(made.card.usable_bytes)}",
        seconds_text(each.hours * 3600 or made.time.step),
        f"{each.kwh:.1f} kWh" if each.kwh else "",
        f"{each.cost:.2f} {currency}".strip() if each.cost is not None else "",
        each.reason,
    )


def _prices(said: list[str] | None) -> dict[str, float]:
    found = {}
    for text in said or ():
        card, _, price = text.rpartition("=")
        try:
            found[card.strip()] = float(price)
        except ValueError:
            raise UsageError("bad_price", text=text) from None
        if not card.strip() or not 0 <= found[card.strip()] < math.inf:
            raise UsageError("bad_price", text=text)
    return found
