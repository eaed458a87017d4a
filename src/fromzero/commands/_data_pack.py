"""fromzero data pack"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from fromzero.commands._data_words import add_data, opened
from fromzero.language import say
from fromzero.terminal import Terminal

SHARD_MIB = 256


def arguments(parser: argparse.ArgumentParser) -> None:
    add_data(parser)
    parser.add_argument("--to", type=Path, required=True, help=say("flag.data.pack.to"))
    parser.add_argument(
        "--shard-size", type=int, default=SHARD_MIB, metavar="MIB", help=say("flag.data.shard", default=SHARD_MIB)
    )


def pack(options: argparse.Namespace) -> int:
    from fromzero.data.pack import pack, shards_of
    from fromzero.errors import UsageError

    if options.shard_size < 1:
        raise UsageError("not_positive", name="shard-size", value=options.shard_size)
    manifest = opened(options)
    if manifest.kind != "pictures":
        raise UsageError("kind_not_packed", path=options.folder, kind=say(f"kind.{manifest.kind}"))
    made = pack(manifest, options.to, options.shard_size << 20, Terminal())
    shards = int(shards_of(made).max()) + 1
    if options.json:
        print(json.dumps({"path": str(made.root), "images": len(made), "shards": shards}, ensure_ascii=False))
    else:
        print(say("data.packed", images=len(made), shards=shards, path=made.root))
    return 0
