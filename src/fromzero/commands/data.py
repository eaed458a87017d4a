"""fromzero data get | check | clean | split | preview | pack"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

from fromzero.commands import _data_findings, _data_pack, _data_preview, _data_split
from fromzero.language import say
from fromzero.terminal import Terminal


def arguments(parser: argparse.ArgumentParser) -> None:
    words = parser.add_subparsers(dest="word", required=True, metavar="|".join(WORDS), parser_class=type(parser))
    for word, (describe, _) in WORDS.items():
        text = say(f"data.{word}.help")
        each = words.add_parser(word, help=text, description=text)
        describe(each)
        each.add_argument("--json", action="store_true", help=say("flag.json"))


def run(options: argparse.Namespace) -> int:
    return WORDS[options.word][1](options)


def _get_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help=say("flag.data.name"))
    parser.add_argument("--to", type=Path, help=say("flag.data.to"))
    parser.add_argument("--sha256", metavar="HEX", help=say("flag.data.sha256"))
    parser.add_argument("--offline", action="store_true", help=say("flag.offline"))


def _get(options: argparse.Namespace) -> int:
    from fromzero.data.sources.get import get

    path = get(options.name, options.to, offline=options.offline, console=Terminal(), sha256=options.sha256)
    print(json.dumps({"path": str(path)}, ensure_ascii=False) if options.json else path)
    return 0


# word: its arguments, and what it does
WORDS: dict[str, tuple[Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], int]]] = {
    "get": (_get_arguments, _get),
    "check": (_data_findings.check_arguments, _data_findings.check),
    "clean": (_data_findings.clean_arguments, _data_findings.clean),
    "split": (_data_split.arguments, _data_split.split),
    "preview": (_data_preview.arguments, _data_preview.preview),
    "pack": (_data_pack.arguments, _data_pack.pack),
}
