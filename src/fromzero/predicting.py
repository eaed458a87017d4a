"""predict(): classes of pictures, texts or rows of a table, from a run or an artifact."""

from __future__ import annotations

import csv
import heapq
import importlib
import json
import pkgutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from fromzero import runtimes
from fromzero.data.inputs import prepared
from fromzero.errors import RunError, UsageError
from fromzero.records import Prediction
from fromzero.runs import Run
from fromzero.runtimes import Classifier


def predict(path: Path | str, samples: Sequence[Any], top: int = 5) -> list[list[Prediction]]:
    """The `top` classes of each sample, most probable first: a picture's path, a text, a row by its columns. Raises
    UnreadableImage or UsageError for the first bad one."""
    classifier = open_classifier(path)
    pictures = classifier.task in ("image", "custom")
    return [classify(classifier, Path(each) if pictures else each, top) for each in samples]


def task_of(path: Path | str) -> str:
    """The task of a run; "image" for what is none, and said to be none when it is opened."""
    if not (Path(path) / "run.json").is_file():
        return "image"
    return Run(Path(path)).plan().workload.task


def given(classifier: Classifier, word: str) -> Iterator[tuple[str, Any]]:
    """The samples that a word of the command line stands for, with what a person calls each: a picture's path; a text,
    or the file that holds it (.txt); a row as a JSON object, or a file of rows (.csv, .json)."""
    if classifier.task == "text":
        path = Path(word)
        named = word.lower().endswith(".txt") and len(word.split()) == 1
        if named and not path.is_file():
            raise UsageError("no_text_file", path=path)
        yield word, path.read_text(encoding="utf-8", errors="replace") if named else word
    elif classifier.task == "table":
        how = classifier.preprocessing
        known = {name for name, *_ in (*how.numbers, *how.words)}
        for number, row in enumerate(_rows(word), 1):
            kept = {name: value for name, value in row.items() if name in known}
            if not kept:
                raise UsageError("no_known_column", columns=", ".join(sorted(known)))
            yield f"{word}:{number}" if not word.lstrip().startswith("{") else word, kept
    else:
        yield word, Path(word)


def _rows(word: str) -> list[dict[str, Any]]:
    """Rows by their columns."""
    try:
        if word.lower().endswith(".csv"):
            with Path(word).open(encoding="utf-8-sig", newline="") as file:
                return list(csv.DictReader(file))
        text = Path(word).read_text(encoding="utf-8") if word.lower().endswith(".json") else word
        found = json.loads(text)
        rows = found if isinstance(found, list) else [found]
        if not all(isinstance(each, dict) for each in rows):
            raise ValueError("no object")
        return rows
    except (OSError, ValueError) as error:
        raise UsageError("not_a_row", word=word[:80], reason=error) from error


def classify(classifier: Classifier, given: Any, top: int = 5) -> list[Prediction]:
    """The `top` classes of one sample: a picture's file or content, a text, a row of a table by its columns."""
    scores = classifier.scores(prepared(given, classifier.preprocessing)[None])[0]
    return ranked(classifier.labels, scores, top)


def ranked(labels: Sequence[str], scores: np.ndarray, top: int = 5) -> list[Prediction]:
    """Scores (classes,) as predictions, most probable first."""
    values = scores.tolist()  # numpy's sorting lets Python's lock go, which a busy service then waits for
    order = heapq.nlargest(top, range(len(values)), key=values.__getitem__)
    return [Prediction(label=labels[each], score=values[each]) for each in order]


def open_classifier(path: Path | str, device: str = "auto", threads: int | None = None) -> Classifier:
    """The model of a run or artifact folder, opened by the runtime that takes it.

    `device` is "auto" (a GPU where the runtime can use one), "cpu" or "cuda"; ONNX artifacts know "tensorrt" too.
    `threads` compute one batch: None for every core that may be used. Raises UsageError for a device that is not
    there, RunError for what is no model, is damaged, or is a language model, which has no classes."""
    found = opened(path, device, threads)
    if found.task == "lm":
        raise RunError("no_classifier", path=path)
    return found


def opened(path: Path | str, device: str = "auto", threads: int | None = None) -> Classifier:
    """The same for language models too: their `scores` are of the token after each."""
    path = Path(path)
    if not path.is_dir():
        raise UsageError("no_such_run", path=path)
    for runtime in _runtimes():
        if runtime.opens(path):
            return runtime.open_model(path, device, threads)
    raise RunError("not_a_model", path=path)


def _runtimes() -> list[ModuleType]:
    files = sorted(each.name for each in pkgutil.iter_modules(runtimes.__path__) if not each.name.startswith("_"))
    return [importlib.import_module(f"{runtimes.__name__}.{file}") for file in files]
