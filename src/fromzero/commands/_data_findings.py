"""fromzero data check | clean"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fromzero.commands._data_words import add_data, opened
from fromzero.errors import UsageError
from fromzero.language import say
from fromzero.terminal import Terminal, print_table

if TYPE_CHECKING:
    from fromzero.data.check import DataReport
    from fromzero.data.findings.clean import Move
    from fromzero.data.manifest import Manifest

SHOWN = 5  # findings of a kind; --json and --html have more
FILES = 4  # of a finding
MOVES = 20


def check_arguments(parser: argparse.ArgumentParser) -> None:
    add_data(parser)
    _add_tokenizer(parser)
    parser.add_argument("--html", type=Path, metavar="PAGE", help=say("flag.data.html"))


def _add_tokenizer(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tokenizer", metavar="NAME", help=say("flag.data.tokenizer"))


def check(options: argparse.Namespace) -> int:
    from fromzero.records import to_json

    manifest = opened(options)
    report = _checked(options, manifest)
    if options.html:
        from fromzero.data.findings.page import page
        from fromzero.files import write_text

        write_text(options.html, page(report, manifest))
    if options.json:
        print(json.dumps(to_json(report), indent=1, ensure_ascii=False))
    else:
        _print_findings(report)
    if options.html:
        Terminal().line(say("findings.written", path=options.html))
    return 1 if report.blocked else 0


def _checked(options: argparse.Namespace, manifest: Manifest) -> DataReport:
    from fromzero.data.check import check

    if not options.tokenizer:
        return check(manifest, Terminal())
    if manifest.kind not in ("texts", "chats"):
        raise UsageError("tokenizer_for_what", path=options.folder)
    return check(manifest, Terminal(), tokenizer=options.tokenizer)


def _print_findings(report: DataReport) -> None:
    from fromzero.data.findings.telling import blocks, title

    print(say("data.table.title", images=report.images, classes=len(report.classes)))
    found = {kind: entries for kind, entries in report.findings.items() if entries}
    if found:
        rows = [
            (title(kind), len(entries), say("findings.yes") if blocks(kind, entries) else "")
            for kind, entries in found.items()
        ]
        print_table((say("findings.kind"), say("findings.count"), say("findings.blocks")), rows)
    for kind, entries in found.items():
        for entry in entries[:SHOWN]:
            print(f"- {title(kind)}: {_text(kind, entry)}")
        if len(entries) > SHOWN:
            print(f"- {title(kind)}: {say('data.more', count=len(entries) - SHOWN)}")
    if not found:
        print(say("findings.nothing"))
    if report.unchecked:
        print(say("data.unchecked", kinds=" / ".join(title(kind) for kind in report.unchecked)))
    print(say(report.verdict))


def _text(kind: str, entry: dict[str, Any]) -> str:
    """One finding on one line: the samples, and what it says of them."""
    from fromzero.data.findings.telling import names, shown, told

    all_names, rest = names(entry), told(kind, entry)
    listed = ", ".join(map(shown, all_names[:FILES]))
    if len(all_names) > FILES:
        listed += f" … (+{len(all_names) - FILES})"
    return f"{listed} ({rest})" if listed and rest else listed or rest


# --- clean --------------------------------------------------------------------------------------------------------


def clean_arguments(parser: argparse.ArgumentParser) -> None:
    add_data(parser)
    _add_tokenizer(parser)
    parser.add_argument("--kinds", nargs="+", metavar="KIND", help=say("flag.clean.kinds"))
    parser.add_argument("--keep", nargs="+", metavar="CLASS", default=[], help=say("flag.clean.keep"))
    doing = parser.add_mutually_exclusive_group()
    doing.add_argument("--apply", action="store_true", help=say("flag.clean.apply"))
    doing.add_argument("--undo", action="store_true", help=say("flag.clean.undo"))


def clean(options: argparse.Namespace) -> int:
    if options.undo:
        return _undo(options)
    from fromzero.data.findings.clean import apply, ask, propose
    from fromzero.records import to_json

    manifest = opened(options)
    ask(manifest, options.kinds, options.keep)
    report = _checked(options, manifest)
    moves = propose(manifest, report, options.kinds, options.keep)
    place = apply(manifest, moves) if options.apply and moves else None
    if options.json:
        answer = {"moves": to_json(moves), "applied": place is not None, "to": str(place) if place else None}
        print(json.dumps(answer, indent=1, ensure_ascii=False))
        return 0
    _print_moves(moves, report, done=place is not None)
    if place is not None:
        copied = manifest.root.is_file()
        print(say("clean.copied" if copied else "clean.moved", count=len(moves), path=place, root=options.folder))
    elif moves:
        print(say("clean.apply_it"))
    return 0


def _print_moves(moves: list[Move], report: DataReport, done: bool) -> None:
    from fromzero.data.findings.clean import RULES
    from fromzero.data.findings.telling import shown, title

    if not moves:
        print(say("clean.nothing"))
    elif not done:
        print(say("clean.would", count=len(moves)))
    for each in moves[:MOVES]:
        stays = each.why.get("stays")
        note = say("findings.comma") + say("clean.stays", file=shown(stays)) if stays else ""
        print(f"- {shown(each.file)} ({title(each.kind)}{note})")
    if len(moves) > MOVES:
        print(f"- {say('clean.more', count=len(moves) - MOVES)}")
    taken = {each.kind for each in moves}
    left = [kind for kind in RULES if report.findings.get(kind) and kind not in taken]
    if left:
        print(say("clean.left", kinds=" / ".join(f"{title(kind)} [{kind}]" for kind in left)))


def _undo(options: argparse.Namespace) -> int:
    from fromzero.data.findings.clean import undo
    from fromzero.data.findings.telling import shown
    from fromzero.records import to_json

    if not Path(options.folder).exists():
        raise UsageError("nothing_there", path=options.folder)
    restored = undo(Path(options.folder))
    if options.json:
        print(json.dumps(to_json(restored), indent=1, ensure_ascii=False))
        return 0
    print(say("clean.restored", count=len(restored.files)))
    if restored.lost:
        print(say("clean.lost", count=len(restored.lost), files=", ".join(map(shown, restored.lost[:MOVES]))))
    return 0
