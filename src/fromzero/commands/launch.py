"""fromzero launch --to slurm --nodes 2 --cards 8 -- train DATA ..."""

from __future__ import annotations

import argparse
from pathlib import Path

from fromzero.commands import _words
from fromzero.commands._parsing import parser_of
from fromzero.language import say
from fromzero.launching import FORMATS, Job, check_shape, words_of


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--to", choices=tuple(FORMATS), required=True, help=say("flag.launch.to"))
    parser.add_argument("--nodes", type=_words.within(int, 1), default=1, help=say("flag.launch.nodes") + " (1)")
    parser.add_argument("--cards", type=_words.within(int, 1), default=1, help=say("flag.launch.cards") + " (1)")
    parser.add_argument("--name", default="fromzero", help=say("flag.launch.name") + " (fromzero)")
    parser.add_argument("--run", help=say("flag.launch.run"))
    parser.add_argument("--hours", type=_words.within(float, 0), metavar="H", help=say("flag.launch.hours"))
    parser.add_argument("--partition", default="", help=say("flag.launch.partition"))
    parser.add_argument("--image", default="", help=say("flag.launch.image"))
    parser.add_argument("--claim", default="", help=say("flag.launch.claim"))
    parser.add_argument("--mount", default="/work", metavar="DIR", help=say("flag.launch.mount") + " (/work)")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help=say("flag.launch.output"))
    parser.add_argument("words", nargs=argparse.REMAINDER, metavar="-- train ...", help=say("flag.launch.words"))


def run(options: argparse.Namespace) -> int:
    check_shape(options.cards, options.nodes)
    given = {
        name: getattr(options, name) for name in ("name", "nodes", "cards", "hours", "partition", "image", "claim")
    }
    run_folder = options.run or f"runs/{options.name}"
    words = words_of(options.words)
    parser_of("train").parse_args(list(words))  # what it cannot read must not wait in a queue to be refused
    job = Job(words=words, run=run_folder, mount=options.mount, **given)
    text = FORMATS[options.to](job)
    if options.output is None:
        print(text, end="")
        return 0
    from fromzero.files import write_text

    write_text(options.output, text)
    print(options.output)
    return 0
