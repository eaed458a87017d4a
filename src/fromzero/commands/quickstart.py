"""fromzero quickstart"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from fromzero.commands import _words
from fromzero.language import say
from fromzero.terminal import Terminal


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, help=say("flag.quickstart.data"))
    parser.add_argument("--output", type=Path, help=say("flag.run_output"))
    parser.add_argument("--model", help=say("flag.model"))
    parser.add_argument("--imgsz", type=_words.within(int, 1), help=say("flag.imgsz"))
    parser.add_argument("--uploads", type=int, help=say("flag.quickstart.uploads"))
    parser.add_argument("--json", action="store_true", help=say("flag.json"))
    _words.add_recipe(parser)


def run(options: argparse.Namespace) -> int:
    from fromzero.quickstart import quickstart
    from fromzero.records import to_json

    words = _words.given(options, "model", "imgsz", "uploads")
    done = quickstart(options.data, options.output, console=Terminal(), **words)
    if options.json:
        plain = {**to_json(done), "run": str(done.run)}
        plain["artifact"]["path"] = str(done.artifact.path)
        print(json.dumps(plain, indent=1, ensure_ascii=False))
    return 0
