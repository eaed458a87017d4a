"""fromzero diagnose RUN"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from fromzero.language import say
from fromzero.terminal import Terminal


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, help=say("flag.run"))
    parser.add_argument("--json", action="store_true", help=say("flag.json"))


def run(options: argparse.Namespace) -> int:
    from fromzero.diagnosing import as_json, diagnose, summary

    made = diagnose(options.run, Terminal())
    print(json.dumps(as_json(made), indent=1, ensure_ascii=False) if options.json else summary(made))
    return 1 if made.findings else 0
