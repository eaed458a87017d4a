"""fromzero evaluate RUN"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from fromzero.language import say
from fromzero.terminal import Terminal, print_table


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, help=say("flag.run"))
    parser.add_argument("--split", choices=("train", "val", "test"), help=say("flag.split"))
    parser.add_argument("--json", action="store_true", help=say("flag.json"))


def run(options: argparse.Namespace) -> int:
    from fromzero.card import results
    from fromzero.evaluation import Evaluation
    from fromzero.records import to_json
    from fromzero.report import evaluate, summary

    result = evaluate(options.run, options.split, Terminal())
    if options.json:
        print(json.dumps(to_json(result), indent=1, ensure_ascii=False))
        return 0
    if isinstance(result, Evaluation):
        names = ("class", "samples", "precision", "recall")
        rows = [(e.label, e.samples, f"{e.precision:.3f}", f"{e.recall:.3f}", f"{e.f1:.3f}") for e in result.classes]
        print_table([*(say(f"report.{name}") for name in names), "F1"], rows)
        print()
    print_table([say("report.measure"), say(f"split.{result.split}")], results(result))
    print(summary(result, options.run))
    return 0
