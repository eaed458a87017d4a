"""fromzero data preview"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from fromzero.commands._data_words import add_data, opened
from fromzero.commands._words import within
from fromzero.language import say
from fromzero.records import POLICIES, RESIZES
from fromzero.terminal import Terminal


def arguments(parser: argparse.ArgumentParser) -> None:
    add_data(parser)
    parser.add_argument("--policy", nargs="+", choices=POLICIES, default=[], help=say("flag.preview.policy"))
    parser.add_argument("--classes", nargs="+", metavar="CLASS", default=[], help=say("flag.preview.classes"))
    parser.add_argument("--rows", type=within(int, 1, 64), default=8, metavar="N", help=say("flag.preview.rows"))
    parser.add_argument("--variants", type=within(int, 1, 32), metavar="N", help=say("flag.preview.variants"))
    parser.add_argument("--imgsz", type=within(int, 8, 512), metavar="N", help=say("flag.imgsz"))
    parser.add_argument("--resize", choices=RESIZES, default="crop", help=say("flag.resize"))
    parser.add_argument("--seed", type=within(int, 0), default=0, metavar="N", help=say("flag.preview.seed"))
    parser.add_argument("-o", "--output", type=Path, default=Path("sheet.png"), help=say("flag.preview.output"))


def preview(options: argparse.Namespace) -> int:
    from fromzero.data.findings.telling import shown
    from fromzero.data.preview import sheet
    from fromzero.files import write_bytes
    from fromzero.pictures import contact_sheet, missing_font

    made = sheet(
        opened(options),
        options.policy,
        classes=options.classes,
        rows=options.rows,
        variants=options.variants or (7 if len(options.policy) < 2 else 3),
        size=options.imgsz,
        resize=options.resize,
        seed=options.seed,
    )
    titles = [each or say("preview.original") for each in made.policies]
    write_bytes(options.output, contact_sheet([shown(each) for each in made.labels], titles, made.pictures))
    if missing_font([*made.labels, *titles]):
        Terminal().line(say("report.no_font"))
    if options.json:
        answer = {"path": str(options.output), "classes": made.labels, "policies": made.policies}
        print(json.dumps(answer, indent=1, ensure_ascii=False))
    else:
        print(options.output)
    return 0
