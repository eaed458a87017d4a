"""fromzero profile RUN: where a step's time and memory go, and what holds it up."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from fromzero.commands import _words
from fromzero.language import say
from fromzero.terminal import Terminal, bytes_text, print_table, seconds_text

if TYPE_CHECKING:
    from fromzero.profiling.noted import Profile

SHOWN = 8  # operators, functions and deviations


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, help=say("flag.profile.run"))
    parser.add_argument("--seconds", type=_words.within(float, 0.1), default=4.0, help=say("flag.profile.seconds"))
    parser.add_argument("--under-nsight", action="store_true", help=say("flag.profile.nsight"))
    parser.add_argument("--json", action="store_true", help=say("flag.json"))


def run(options: argparse.Namespace) -> int:
    from fromzero.profiling.profiles import profile, under_nsight
    from fromzero.records import to_json

    if options.under_nsight:
        under_nsight(options.run, Terminal())
        return 0
    found = profile(options.run, options.seconds, Terminal())
    if options.json:
        print(json.dumps(to_json(found), indent=1, ensure_ascii=False))
    else:
        _print(found, options.run)
    return 0


def _print(found: Profile, path: Path) -> None:
    print(found.bottleneck.text)
    print(found.bottleneck.fix)
    if found.others:
        print(say("profile.also"))
        for each in found.others:
            print(f"- {each.text}")
    print()
    rate = f"{found.samples_per_second:.0f}"
    title = {"model": found.model, "batch": found.batch, "device": found.device, "rate": rate}
    parts = [(say(f"profile.part.{n}"), seconds_text(t), f"{t / found.step:.0%}") for n, t in found.parts.items()]
    print_table(
        [say("profile.part"), say("profile.time"), say("profile.share")],
        parts,
        say("profile.summary", step=seconds_text(found.step), **title),
    )
    way = found.loading
    told = {"batch": seconds_text(way.batch), "waiting": seconds_text(way.waiting)}
    print(say("profile.loading", threads=max(1, way.threads), cores=way.cores, **told))
    print(say("profile.memory", measured=bytes_text(found.peak), planned=bytes_text(found.planned_peak)))
    print()
    _print_operators(found)
    print()
    _print_beside(found)
    for note in found.notes:
        print(note)
    print(say("profile.nsight"))
    for command in found.nsight:
        print(f"  {command}")
    print(say("profile.files", folder=path / "profile"))


def _print_operators(found: Profile) -> None:
    print_table(
        [say("profile.operator"), say("profile.calls"), say("profile.time"), say("profile.share")],
        [(e.name, f"{e.calls:.0f}", seconds_text(e.seconds), f"{e.share:.0%}") for e in found.operators[:SHOWN]],
    )
    print()
    python = [each for each in found.functions if each.place][:SHOWN]
    print_table(
        [say("profile.function"), say("profile.place"), say("profile.calls"), say("profile.time")],
        [(each.name, each.place, f"{each.calls:.0f}", seconds_text(each.seconds)) for each in python],
    )


def _print_beside(found: Profile) -> None:
    rows = []
    for each in found.deviations[:SHOWN]:
        ratio = f"{each.measured / each.predicted:.2f}" if each.measured and each.predicted else "-"
        times = [seconds_text(value) if value is not None else "-" for value in (each.measured, each.predicted)]
        rows.append((each.operator, *times, ratio))
    print_table(
        [say("profile.operator"), say("profile.measured"), say("profile.predicted"), say("profile.ratio")],
        rows,
        say("profile.beside", planned=seconds_text(found.planned_step)),
    )
