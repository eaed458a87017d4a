"""fromzero data get | check | split"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from fromzero.language import say
from fromzero.terminal import Terminal, print_table

SHOWN = 50  # findings of a kind; --json lists all


def arguments(parser: argparse.ArgumentParser) -> None:
    words = parser.add_subparsers(dest="word", required=True, metavar="get|check|split", parser_class=type(parser))
    get = words.add_parser("get", help=say("data.get.help"), description=say("data.get.help"))
    get.add_argument("name", help=say("flag.data.name"))
    get.add_argument("--to", type=Path, help=say("flag.data.to"))
    get.add_argument("--offline", action="store_true", help=say("flag.offline"))
    check = words.add_parser("check", help=say("data.check.help"), description=say("data.check.help"))
    split = words.add_parser("split", help=say("data.split.help"), description=say("data.split.help"))
    split.add_argument("--shares", nargs=3, type=float, metavar=("TRAIN", "VAL", "TEST"), help=say("flag.shares"))
    split.add_argument("--seed", type=int, help=say("flag.seed"))
    for each in (check, split):
        each.add_argument("folder", type=Path, help=say("flag.data"))
    for each in (get, check, split):
        each.add_argument("--json", action="store_true", help=say("flag.json"))


def run(options: argparse.Namespace) -> int:
    return {"get": _get, "check": _check, "split": _split}[options.word](options)


def _get(options: argparse.Namespace) -> int:
    from fromzero.data.sources import get

    path = get(options.name, options.to, offline=options.offline, console=Terminal())
    print(json.dumps({"path": str(path)}, ensure_ascii=False) if options.json else path)
    return 0


def _check(options: argparse.Namespace) -> int:
    from fromzero.data.check import check
    from fromzero.data.manifest import scan
    from fromzero.records import to_json

    report = check(scan(options.folder, Terminal()))
    if options.json:
        print(json.dumps(to_json(report), indent=1, ensure_ascii=False))
    else:
        print(say("data.table.title", images=report.images, classes=len(report.classes)))
        for kind, entries in report.findings.items():
            for entry in entries[:SHOWN]:
                print(f"- {_text(kind, entry)}")
            if len(entries) > SHOWN:
                print(f"- {say(f'finding.{kind}')}: {say('data.more', count=len(entries) - SHOWN)}")
        print(say("data.unchecked", kinds=" / ".join(say(f"finding.{kind}") for kind in report.unchecked)))
        print(say(report.verdict))
    return 1 if report.blocked else 0


def _text(kind: str, entry: dict[str, Any]) -> str:
    """One finding as a sentence: what it is, the files, and the reason or the classes concerned."""
    name = say(f"finding.{kind}")
    if kind == "imbalance":
        return f"{name}: {say('data.imbalance', **entry)}"
    text = f"{name}: {', '.join(entry.get('files', [entry.get('file')]))}"
    if "code" in entry:
        key = f"reason.{entry['code']}"
        return f"{text} ({say(key)})"
    if kind == "outliers":
        return f"{text} ({say('reason.flat')})"
    groups = entry.get("classes") or [say(f"split.{each}") for each in entry.get("splits", ())]
    return f"{text} ({' / '.join(groups)})" if groups else text


def _split(options: argparse.Namespace) -> int:
    from fromzero.data.manifest import save, scan
    from fromzero.data.split import split

    manifest = split(scan(options.folder, Terminal()), options.shares and tuple(options.shares), options.seed)
    save(manifest)
    counts = {
        part: {
            name: int((manifest["label"][manifest.rows(part)] == n).sum()) for n, name in enumerate(manifest.classes)
        }
        for part in ("train", "val", "test")
    }
    if options.json:
        print(json.dumps(counts, indent=1, ensure_ascii=False))
    else:
        rows = [(name, *(counts[part][name] for part in counts)) for name in manifest.classes]
        print_table((say("data.class"), *counts), rows)
    return 0
