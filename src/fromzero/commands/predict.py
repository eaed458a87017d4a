"""fromzero predict RUN|ARTIFACT IMAGE..."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from fromzero.commands import _words
from fromzero.errors import UnreadableImage
from fromzero.language import say
from fromzero.terminal import Terminal


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, metavar="RUN|ARTIFACT", help=say("flag.run_or_artifact"))
    parser.add_argument("images", type=Path, nargs="+", help=say("flag.images"))
    parser.add_argument("--top", type=_words.within(int, 1), default=5, help=say("flag.top"))
    parser.add_argument("--json", action="store_true", help=say("flag.json"))


def run(options: argparse.Namespace) -> int:
    from fromzero.predicting import classify, open_classifier
    from fromzero.records import to_json

    classifier = open_classifier(options.model)
    answers, status = [], 0
    for image in options.images:
        try:
            predictions = classify(classifier, image, options.top)
        except UnreadableImage as error:  # the other pictures still get their answer
            status = 1
            answers.append({"file": str(image), "code": error.code, "message": f"{error.cause} {error.fix}"})
            Terminal().line(f"{image}: {error.cause} {error.fix}")
            continue
        answers.append({"file": str(image), "predictions": to_json(predictions)})
        if not options.json:
            print(f"{image}: " + ", ".join(f"{each.label} {each.score:.1%}" for each in predictions))
    if options.json:
        print(json.dumps(answers, indent=1, ensure_ascii=False))
    return status
