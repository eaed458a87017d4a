"""fromzero predict RUN|ARTIFACT INPUT...: classes of pictures, texts or rows; what a language model writes."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from fromzero.commands import _words
from fromzero.errors import FromzeroError, UnreadableImage
from fromzero.language import say
from fromzero.terminal import Terminal


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, metavar="RUN|ARTIFACT", help=say("flag.run_or_artifact"))
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help=say("flag.inputs"))
    parser.add_argument("--top", type=_words.within(int, 1), default=5, help=say("flag.top"))
    parser.add_argument("--tokens", type=_words.within(int, 1), default=100, help=say("flag.tokens"))
    parser.add_argument("--temperature", type=_words.within(float, 0), default=0.0, help=say("flag.temperature"))
    parser.add_argument("--seed", type=_words.within(int, 0), default=0, help=say("flag.predict_seed"))
    parser.add_argument("--json", action="store_true", help=say("flag.json"))


def run(options: argparse.Namespace) -> int:
    from fromzero.predicting import task_of

    answers, status = (_written if task_of(options.model) == "lm" else _classified)(options)
    if options.json:
        print(json.dumps(answers, indent=1, ensure_ascii=False))
    return status


def _written(options: argparse.Namespace) -> tuple[list[dict[str, object]], int]:
    """What a language model writes after each text."""
    from fromzero.generating import generate

    answers: list[dict[str, object]] = []
    for prompt in options.inputs:
        text = generate(
            options.model, prompt, tokens=options.tokens, temperature=options.temperature, seed=options.seed
        )
        answers.append({"input": prompt, "text": text})
        if not options.json:
            print(prompt + text)
    return answers, 0


def _classified(options: argparse.Namespace) -> tuple[list[dict[str, object]], int]:
    from fromzero.predicting import classify, given, open_classifier
    from fromzero.records import to_json

    classifier = open_classifier(options.model)
    answers: list[dict[str, object]] = []
    status = 0
    for word in options.inputs:
        try:
            for name, sample in given(classifier, word):
                predictions = classify(classifier, sample, options.top)
                answers.append({"file": name, "predictions": to_json(predictions)})
                if not options.json:
                    print(f"{name}: " + ", ".join(f"{each.label} {each.score:.1%}" for each in predictions))
        except FromzeroError as error:  # the others still get their answer
            if not isinstance(error, UnreadableImage) and len(options.inputs) == 1:
                raise
            status = 1
            answers.append({"file": word, "code": error.code, "message": f"{error.cause} {error.fix}"})
            Terminal().line(f"{word}: {error.cause} {error.fix}")
    return answers, status
