"""predict(): classes of pictures, from a run or an artifact."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from fromzero import runtimes
from fromzero.data.inputs import prepared
from fromzero.errors import RunError, UsageError
from fromzero.records import Prediction
from fromzero.runtimes import Classifier


def predict(path: Path | str, images: Sequence[Path | str], top: int = 5) -> list[list[Prediction]]:
    """The `top` classes of each picture, most probable first. Raises UnreadableImage for the first bad picture."""
    classifier = open_classifier(path)
    return [classify(classifier, Path(each), top) for each in images]


def classify(classifier: Classifier, given: Any, top: int = 5) -> list[Prediction]:
    """The `top` classes of one sample: a picture's file or content, a text, a row of a table by its columns."""
    scores = classifier.scores(prepared(given, classifier.preprocessing)[None])[0]
    return ranked(classifier.labels, scores, top)


def ranked(labels: Sequence[str], scores: np.ndarray, top: int = 5) -> list[Prediction]:
    """Scores (classes,) as predictions, most probable first."""
    order = np.argsort(-scores, kind="stable")[:top]
    return [Prediction(label=labels[each], score=float(scores[each])) for each in order]


def open_classifier(path: Path | str) -> Classifier:
    """The model of a run or artifact folder, opened by the runtime that takes it."""
    path = Path(path)
    if not path.is_dir():
        raise UsageError("no_such_run", path=path)
    for runtime in _runtimes():
        if runtime.opens(path):
            return runtime.open_model(path)
    raise RunError("not_a_model", path=path)


def _runtimes() -> list[ModuleType]:
    files = sorted(each.name for each in pkgutil.iter_modules(runtimes.__path__))
    return [importlib.import_module(f"{runtimes.__name__}.{file}") for file in files]
