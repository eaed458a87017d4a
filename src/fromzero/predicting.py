"""predict(): classes of pictures, texts or rows of a table, from a run or an artifact."""

from __future__ import annotations

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
from fromzero.errors import DataError, RunError, UsageError
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
    the file that holds it (.txt), or a file of rows with a column of texts; a row as a JSON object, or a file of rows.
    Files are read as training reads them. Raises UsageError, and DataError for a file that cannot be read."""
    if classifier.task == "text":
        yield from _texts(word)
    elif classifier.task == "table":
        yield from _rows(classifier, word)
    else:
        yield word, Path(word)


def _texts(word: str) -> Iterator[tuple[str, str]]:
    from fromzero.data.rows import reading

    path = _file(word, (*reading.SUFFIXES, *reading.RUNNING))
    if path is None:
        yield word, word
    elif path.suffix.lower() in reading.RUNNING:
        yield word, path.read_text(encoding=reading.encoding(path))
    else:
        from fromzero.data.rows.roles import roles_of

        rows = reading.opened(path)
        column = roles_of(rows, None, None).get("text") or (rows.columns[0] if len(rows.columns) == 1 else None)
        if column is None:
            raise UsageError("no_text_column", path=path, columns=", ".join(rows.columns))
        for number, row in _numbered(rows):
            yield f"{word}:{number}", str(row.get(column) or "")


def _rows(classifier: Classifier, word: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows by their columns. Those of a file may have columns beside the model's; a row that was typed may not: one
    that is spelt wrongly would go unnoticed."""
    from fromzero.data.rows import reading

    how = classifier.preprocessing
    known = {name for name, *_ in (*how.numbers, *how.words)}
    path = _file(word, reading.SUFFIXES)
    if path is None:
        found = _objects(word, word)
    elif path.suffix.lower() == ".json":  # it may have several lines
        found = _objects(word, path.read_text(encoding=reading.encoding(path)))
    else:
        found = _numbered(reading.opened(path))
    for number, row in found:
        kept = {name: value for name, value in row.items() if name in known}
        if not kept:
            raise UsageError("no_known_column", columns=", ".join(sorted(known)))
        typed = path is None and word.lstrip().startswith("{")
        yield word if typed else f"{word}:{number}", kept if path else row


def _file(word: str, suffixes: tuple[str, ...]) -> Path | None:
    """The file that a word names: one that is there, or a single word that ends as such files do. Raises UsageError for
    that if it is not there."""
    path = Path(word)
    if not word.lower().endswith(suffixes) or "\n" in word:
        return None
    if path.is_file():
        return path
    if len(word.split()) > 1:
        return None
    raise UsageError("no_text_file", path=path)


def _objects(word: str, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        found = json.loads(text)
        rows = found if isinstance(found, list) else [found]
        if not all(isinstance(each, dict) for each in rows):
            raise ValueError("no object")
    except ValueError as error:
        raise UsageError("not_a_row", word=word[:80], reason=error) from error
    return enumerate(rows, 1)


def _numbered(rows: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a file, from 1. Raises DataError for one without any."""
    number = 0
    for some in rows.objects():
        for _, row in some:
            number += 1
            yield number, row
    if not number:
        raise DataError("no_rows", path=rows.path)


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
