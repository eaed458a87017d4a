"""`fromzero serve RUN|ARTIFACT`: an HTTP API and an upload page for a trained model."""

from __future__ import annotations

import argparse

from fromzero.language import say


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="RUN|ARTIFACT", help=say("serve.flag.path"))
    parser.add_argument("--host", default="127.0.0.1", metavar="H", help=say("serve.flag.host"))
    parser.add_argument("--port", type=int, default=8000, metavar="P", help=say("serve.flag.port"))
    parser.add_argument("--quiet", action="store_true", help=say("serve.flag.quiet"))


def run(options: argparse.Namespace) -> int:
    from fromzero.serving.server import serve

    serve(options.path, host=options.host, port=options.port, quiet=options.quiet)
    return 0
