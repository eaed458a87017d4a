"""fromzero data split"""

from __future__ import annotations

import argparse
import json

from fromzero.commands._data_words import add_data, opened
from fromzero.language import say
from fromzero.records import SPLITTINGS
from fromzero.terminal import Terminal, print_table


def arguments(parser: argparse.ArgumentParser) -> None:
    add_data(parser)
    parser.add_argument("--how", choices=SPLITTINGS, help=say("flag.split.how"))
    parser.add_argument("--by", metavar="COLUMN", help=say("flag.split.by"))
    parser.add_argument("--folds", type=int, metavar="K", help=say("flag.split.folds"))
    parser.add_argument("--fold", type=int, metavar="N", help=say("flag.split.fold"))
    parser.add_argument("--shares", nargs=3, type=float, metavar=("TRAIN", "VAL", "TEST"), help=say("flag.shares"))
    parser.add_argument("--seed", type=int, help=say("flag.seed"))


def split(options: argparse.Namespace) -> int:
    from fromzero.data.alike import marked
    from fromzero.data.by import values
    from fromzero.data.findings.telling import shown
    from fromzero.data.manifest import save
    from fromzero.data.rows.scaling import kept
    from fromzero.data.split import split, table

    manifest = marked(opened(options), Terminal())
    shares = tuple(options.shares) if options.shares else None
    how = options.how or manifest.rule.how
    by = options.by or manifest.rule.by
    rule = {"how": options.how, "by": options.by, "folds": options.folds, "fold": options.fold}
    column = values(manifest, how, by) if how in ("grouped", "time") else None
    manifest = split(manifest, shares, options.seed, values=column, **rule)
    manifest = save(manifest if manifest.kind == "pictures" else kept(manifest))
    counts = table(manifest)
    if options.json:
        print(json.dumps(counts, indent=1, ensure_ascii=False))
        return 0
    names = manifest.classes or [say("data.all")]
    totals = {part: len(manifest.rows(part)) for part in counts}
    rows = [(shown(name), *(counts[part].get(name, totals[part]) for part in counts)) for name in names]
    rows += [(say("data.all"), *totals.values())] if len(names) > 1 else []
    print_table((say("data.class"), *(say(f"split.{part}") for part in counts)), rows)
    apart = int((manifest["split"] == "none").sum())
    if apart:
        Terminal().line(say("data.split_apart", count=apart))
    return 0
