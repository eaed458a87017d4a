"""fromzero cards: the catalogue of NVIDIA cards - list, filter, sort, compare."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from fromzero.errors import UsageError
from fromzero.facts.cards import GIB, catalogue, find_card
from fromzero.language import say
from fromzero.records import Card, to_json
from fromzero.terminal import print_plain, print_table

SERIES = ("10", "16", "20", "30", "40", "50", "titan", "workstation", "datacenter")

# What to sort by, largest or newest first; names from A to Z.
ORDERS: dict[str, Callable[[Card], float | str]] = {
    "name": lambda card: card.title,
    "memory": lambda card: card.memory_bytes,
    "bandwidth": lambda card: card.bandwidth,
    "fp32": lambda card: card.rates["fp32"],
    "fp16": lambda card: card.rates.get("fp16", 0.0),
    "power": lambda card: card.tdp_watts,
    "launch": lambda card: card.launch,
}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", metavar="NAME", help=say("flag.cards.names"))
    parser.add_argument("--series", choices=SERIES, action="append", help=say("flag.cards.series"))
    parser.add_argument("--min-memory", type=float, metavar="GB", help=say("flag.cards.min_memory"))
    parser.add_argument("--capability", metavar="C", help=say("flag.cards.capability"))
    parser.add_argument("--sort", choices=tuple(ORDERS), help=say("flag.cards.sort"))
    parser.add_argument("--compare", nargs="+", metavar="NAME", help=say("flag.cards.compare"))
    parser.add_argument("--picture", metavar="FILE", help=say("flag.cards.picture"))
    parser.add_argument("--json", action="store_true", help=say("flag.json"))


def run(options: argparse.Namespace) -> int:
    if options.compare and options.names:
        raise UsageError("compare_alone", name=options.names[0])
    if options.picture and not options.compare:
        raise UsageError("picture_of_compared")
    cards = _chosen(options)
    if options.picture and cards:
        from fromzero.commands._card_picture import draw

        draw(cards, Path(options.picture))
        print(say("cards.drawn", path=options.picture), file=sys.stderr)
    if options.json:
        print(json.dumps(to_json(cards), ensure_ascii=False, indent=2))
    elif options.compare:
        _print_side_by_side(cards)
    elif cards:
        _print_list(cards)
    if not cards:
        print(say("cards.none"), file=sys.stderr)
        return 1
    return 0


def _chosen(options: argparse.Namespace) -> list[Card]:
    named = options.compare or options.names
    cards = [find_card(name) for name in named] if named else list(catalogue())
    if options.series:
        cards = [card for card in cards if card.series in options.series]
    if options.min_memory is not None:
        cards = [card for card in cards if card.memory_bytes >= options.min_memory * GIB]
    if options.capability:
        cards = [card for card in cards if card.compute_capability == options.capability]
    if options.sort:
        cards.sort(key=ORDERS[options.sort], reverse=options.sort != "name")
    return cards


# --- printing -------------------------------------------------------------------------------------------------------

_LISTED = ("memory", "bandwidth", "fp32", "fp16", "capability", "power", "launch")
_RATES = ("fp32", "tf32", "fp16", "fp16_acc16", "bf16", "int8", "fp8", "fp4")
_REST = ("capability", "power", "launch", "price", "notes")
_COMPARED = ("series", "architecture", "memory", "usable", "bandwidth", "l2", "sms", "clock", *_RATES, *_REST)


def _print_list(cards: Sequence[Card]) -> None:
    headings = [say("cards.name"), *(say(f"cards.{column}") for column in _LISTED)]
    # plain even on a terminal: drawing a table takes longer than all else this command does
    print_plain(headings, [[_short(card), *(_cell(card, column) for column in _LISTED)] for card in cards])


def _print_side_by_side(cards: Sequence[Card]) -> None:
    rows = [[say(f"cards.{line}"), *(_cell(card, line) for card in cards)] for line in _COMPARED]
    print_table(["", *map(_short, cards)], [row for row in rows if any(cell != "-" for cell in row[1:])])


def _short(card: Card) -> str:
    return card.title.removeprefix("NVIDIA ").removeprefix("GeForce ")


def _cell(card: Card, what: str) -> str:
    """One figure as a person writes it; "-" for what the card lacks or nobody knows."""
    figures: dict[str, Callable[[], str]] = {
        "series": lambda: card.series,
        "architecture": lambda: card.architecture,
        "memory": lambda: f"{card.memory_bytes / GIB:g} GB",
        "usable": lambda: f"{card.usable_bytes / GIB:.2f} GiB",
        "bandwidth": lambda: f"{card.bandwidth / 1e9:.0f} GB/s",
        "l2": lambda: f"{card.l2_bytes / (1 << 20):g} MB",
        "sms": lambda: str(card.sms),
        "clock": lambda: f"{card.boost_clock / 1e6:.0f} MHz",
        "capability": lambda: card.compute_capability,
        "power": lambda: f"{card.tdp_watts:.0f} W" if card.tdp_watts else "-",
        "launch": lambda: card.launch or "-",
        "price": lambda: f"{card.msrp:.0f} USD" if card.msrp else "-",
        "notes": lambda: card.notes or "-",
    }
    if what in figures:
        return figures[what]()
    rate = card.rates.get(what.replace("_", "-"))
    return f"{rate / 1e12:.1f}" if rate else "-"
