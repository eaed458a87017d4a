"""`fromzero serve RUN|ARTIFACT [NAME=PATH ...]`: an HTTP API and an upload page for trained models."""

from __future__ import annotations

import argparse
import math
import os
import re
from pathlib import Path
from typing import Any

from fromzero.commands import _words
from fromzero.errors import UsageError
from fromzero.language import say

LEAST_UPLOAD = 0.001  # MiB


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="RUN|ARTIFACT", help=say("serve.flag.path"))
    parser.add_argument("more", nargs="*", metavar="NAME=PATH", help=say("serve.flag.more"))
    parser.add_argument("--host", default="127.0.0.1", metavar="H", help=say("serve.flag.host"))
    parser.add_argument("--port", type=int, default=8000, metavar="P", help=say("serve.flag.port"))
    parser.add_argument("--p99", metavar="T", help=say("serve.flag.p99"))
    parser.add_argument("--max-batch", type=_words.within(int, 1), metavar="N", help=say("serve.flag.max_batch"))
    parser.add_argument("--workers", type=_words.within(int, 0), default=1, metavar="N", help=say("serve.flag.workers"))
    parser.add_argument("--api-key", action="append", default=[], metavar="KEY", help=say("serve.flag.api_key"))
    parser.add_argument("--api-keys-file", type=Path, metavar="FILE", help=say("serve.flag.api_keys_file"))
    parser.add_argument(
        "--cors", action="append", type=_origin, default=[], metavar="ORIGIN", help=say("serve.flag.cors")
    )
    parser.add_argument("--rate", metavar="N/s", help=say("serve.flag.rate"))
    parser.add_argument(
        "--max-upload", type=_words.within(float, LEAST_UPLOAD), metavar="MIB", help=say("serve.flag.max_upload")
    )
    parser.add_argument("--quiet", action="store_true", help=say("serve.flag.quiet"))


def run(options: argparse.Namespace) -> int:
    from fromzero.serving.server import serve

    return serve(
        options.path,
        host=options.host,
        port=options.port,
        quiet=options.quiet,
        more=_named(options.more),
        workers=options.workers,
        **_settings(options),
    )


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    """The flags that were given, as fields of `serving.app.Settings`."""
    from fromzero.serving.access import keys, rate

    given: dict[str, Any] = {
        "keys": keys(options.api_key, options.api_keys_file, os.environ),
        "origins": tuple(options.cors),
    }
    if options.p99 is not None:
        given["target"] = _seconds(options.p99)
    if options.max_batch is not None:
        given["max_batch"] = options.max_batch
    if options.rate is not None:
        given["rate"] = rate(options.rate)
    if options.max_upload is not None:
        given["max_bytes"] = int(options.max_upload * 2**20)
    return given


def _origin(word: str) -> str:
    """An origin as browsers send it, or "*"; anything else would match none."""
    if word != "*" and not re.fullmatch(r"https?://[^/\s]+", word):
        raise argparse.ArgumentTypeError(say("serve.no_origin", word=word))
    return word


def _seconds(word: str) -> float:
    """ "50ms" -> 0.05, "2s" or "2" -> 2.0."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|)", word.strip())
    seconds = float(found[1]) * (1e-3 if found[2] == "ms" else 1.0) if found else 0.0
    if not 0 < seconds < math.inf:
        raise UsageError("latency_invalid", word=word)
    return seconds


def _named(words: list[str]) -> dict[str, Path]:
    """NAME=PATH, each name once."""
    found: dict[str, Path] = {}
    for each in words:
        name, equals, path = each.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z0-9_.-]+", name) or not name.strip("."):
            raise UsageError("model_name", name=name)
        if name in found:
            raise UsageError("model_twice", name=name)
        found[name] = Path(path)
    return found
