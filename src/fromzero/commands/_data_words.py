"""What the words of `fromzero data` share: where the data are, and opening them."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from fromzero.language import say
from fromzero.terminal import Terminal

if TYPE_CHECKING:
    from fromzero.data.manifest import Manifest


def add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DATA", help=say("flag.data.any"))
    parser.add_argument("--label", metavar="COLUMN", help=say("flag.data.label"))
    parser.add_argument("--text", metavar="COLUMN", help=say("flag.data.text"))


def opened(options: argparse.Namespace) -> Manifest:
    from fromzero.data.opening import open_data

    return open_data(options.folder, Terminal(), label=options.label, text=options.text)
