"""fromzero export RUN"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from fromzero.language import say

FORMATS = ("onnx", "tensorrt", "tflite", "torch-export")  # as the files of formats/, which --help must not import


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, help=say("flag.run"))
    parser.add_argument("--format", default="onnx", help=say("flag.format", formats=", ".join(FORMATS)) + " (onnx)")
    parser.add_argument("-o", "--output", type=Path, help=say("flag.output"))
    parser.add_argument("--json", action="store_true", help=say("flag.json"))


def run(options: argparse.Namespace) -> int:
    from fromzero.exporting import export, summary
    from fromzero.records import to_json

    artifact = export(options.run, options.format, options.output)
    if options.json:
        print(json.dumps({**to_json(artifact), "path": str(artifact.path)}, indent=1, ensure_ascii=False))
    else:
        print(summary(artifact))
    return 0
