"""fromzero shrink RUN --latency 10ms --on cpu --max-drop 1%"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from fromzero.commands import _words
from fromzero.language import say
from fromzero.terminal import Terminal, print_table


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, help=say("flag.run"))
    parser.add_argument("--latency", metavar="10ms|2x", help=say("flag.shrink.latency"))
    parser.add_argument("--on", default="cpu", metavar="cpu|CARD", help=say("flag.shrink.on") + " (cpu)")
    parser.add_argument("--threads", type=_words.within(int, 1), metavar="N", help=say("flag.shrink.threads"))
    parser.add_argument("--max-drop", default="1%", metavar="SHARE", help=say("flag.shrink.max_drop") + " (1%%)")
    parser.add_argument("--ratios", nargs="+", type=_words.within(float, 0.01, 0.95), help=say("flag.shrink.ratios"))
    parser.add_argument("--epochs", type=_words.within(int, 1), metavar="N", help=say("flag.shrink.epochs"))
    parser.add_argument("--student", metavar="MODEL", help=say("flag.shrink.student"))
    parser.add_argument("-o", "--output", type=Path, help=say("flag.shrink.output"))
    parser.add_argument("--json", action="store_true", help=say("flag.json"))


def run(options: argparse.Namespace) -> int:
    from fromzero.records import to_json
    from fromzero.shrinking import share, shrink, summary, table

    found = shrink(
        options.run,
        latency=options.latency,
        on=options.on,
        threads=options.threads,
        max_drop=share(options.max_drop),
        ratios=[f"{each:g}" for each in sorted(options.ratios or ())],
        epochs=options.epochs,
        student=options.student,
        output=options.output,
        console=Terminal(),
    )
    if options.json:
        print(json.dumps({**to_json(found), "path": str(found.path)}, indent=1, ensure_ascii=False))
    else:
        print_table(*table(found))
        print(summary(found))
    return 0 if found.best else 1
