"""explain(): one input, one class, one method -> an Explanation, and a picture of it."""

from __future__ import annotations

import hashlib
import importlib.util
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fromzero.data.inputs import prepared
from fromzero.errors import MissingPackage, UnknownName, UsageError
from fromzero.explaining import drawing
from fromzero.explaining.hiding import columns_of, hidden_columns, hidden_words, occlusion, scaled, words_of
from fromzero.files import disk_error, write_bytes
from fromzero.language import say
from fromzero.predicting import given, open_classifier
from fromzero.runtimes import Classifier
from fromzero.terminal import Console

METHODS = ("auto", "occlusion", "grad-cam", "integrated-gradients")


@dataclass(frozen=True, kw_only=True)
class Part:
    """A word of a text (its place in the text: `start` to `end`) or a column of a table with its `value`. `effect` is
    above 0 where it speaks for the class."""

    name: str
    effect: float
    value: str = ""
    start: int = 0
    end: int = 0


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """Why `score` is the probability of `label`. `heat` (rows of cells from 0 to 1) of a picture, `parts` of a text or
    a row. Effects are in `unit`: "probability" (how far it drops without the part), "log-probability" (what the part
    adds), or "relative" (to the highest: Grad-CAM has no unit). `highest` is the greatest."""

    model: str
    task: str
    method: str
    input: str
    label: str
    score: float
    unit: str
    heat: tuple[tuple[float, ...], ...] = ()
    highest: float = 0.0
    parts: tuple[Part, ...] = ()
    file: str = ""
    seconds: float = 0.0


def explain(
    path: Path | str,
    word: str,
    *,
    method: str = "auto",
    label: str | None = None,
    output: Path | None = None,
    console: Console | None = None,
) -> Explanation:
    """Why the model at `path`, a run or an artifact, answers as it does to `word`: a picture's path, a text, or a row
    as in `fromzero predict`. Of the class `label`, or of the most probable one. Written to `output` as a picture (a
    page for a text), by default into `explained/` of the model's folder.

    Raises UsageError for a method that this model or task does not have, and MissingPackage without captum."""
    console = console or Console()
    if method not in METHODS:
        raise UnknownName("method", method, METHODS)
    classifier = open_classifier(path)
    name, sample = next(iter(given(classifier, word)))
    if output is not None and output.exists() and Path(name).exists() and output.samefile(name):
        raise UsageError("explained_itself", path=output)
    task = "image" if classifier.task == "custom" else classifier.task
    inputs = prepared(sample, classifier.preprocessing)
    scores = classifier.scores(inputs[None])[0]
    if label is not None and label not in classifier.labels:
        raise UnknownName("label", label, classifier.labels)
    chosen = int(scores.argmax()) if label is None else classifier.labels.index(label)
    began = time.perf_counter()
    method, (unit, found) = _TASKS[task](classifier, sample, inputs, chosen, method, console)
    seconds = time.perf_counter() - began
    picture = isinstance(found, np.ndarray)
    explanation = Explanation(
        model=classifier.name,
        task=task,
        method=method,
        input=name,
        label=classifier.labels[chosen],
        score=float(scores[chosen]),
        unit=unit,
        heat=tuple(tuple(round(float(cell), 4) for cell in row) for row in scaled(found)) if picture else (),
        highest=max(0.0, float(found.max()) if picture else max((part.effect for part in found), default=0.0)),
        parts=() if picture else tuple(found),
        file=str(output or _beside(Path(path), task, sample, method)),
        seconds=seconds,
    )
    _write(Path(explanation.file), explanation, sample, classifier.preprocessing)
    return explanation


Found = tuple[str, tuple[str, Any]]  # the method; the unit, and a heat map (rows, columns) or Parts


def _picture(
    classifier: Classifier, sample: Any, inputs: np.ndarray, chosen: int, method: str, console: Console
) -> Found:
    """Grad-CAM where the network has a feature map, integrated gradients where it has none, and occlusion where the
    model is not a run's."""
    inside = method in ("grad-cam", "integrated-gradients") or (method == "auto" and _opens(classifier, console))
    if not inside:
        return "occlusion", ("probability", occlusion(classifier, inputs, chosen))
    from fromzero.explaining import gradients

    network = _network(classifier, method)
    if method != "integrated-gradients":
        try:
            return "grad-cam", ("relative", scaled(gradients.grad_cam(network, inputs, chosen)))
        except UsageError:
            if method == "grad-cam":
                raise
    heat = np.maximum(gradients.integrated_pixels(network, inputs, chosen), 0)
    return "integrated-gradients", ("log-probability", heat)


def _text(classifier: Classifier, sample: Any, inputs: np.ndarray, chosen: int, method: str, console: Console) -> Found:
    words = words_of(sample, classifier.preprocessing)
    method, unit, effects = _effects(
        classifier,
        method,
        lambda: hidden_words(classifier, inputs, chosen, words),
        lambda gradients, network: gradients.integrated_words(network, inputs, chosen, words),
    )
    made = [
        Part(name=sample[word.start : word.end], effect=float(effect), start=word.start, end=word.end)
        for word, effect in zip(words, effects, strict=True)
    ]
    return method, (unit, made)


def _table(
    classifier: Classifier, sample: Any, inputs: np.ndarray, chosen: int, method: str, console: Console
) -> Found:
    method, unit, effects = _effects(
        classifier,
        method,
        lambda: hidden_columns(classifier, inputs, chosen),
        lambda gradients, network: gradients.integrated_columns(network, inputs, chosen),
    )
    columns = columns_of(classifier.preprocessing)
    made = [
        Part(name=name, effect=float(effect), value=str(sample.get(name, "")))
        for (name, _), effect in zip(columns, effects, strict=True)
    ]
    return method, (unit, sorted(made, key=lambda part: -abs(part.effect)))


_TASKS: dict[str, Callable[..., Found]] = {"image": _picture, "text": _text, "table": _table}


def _effects(
    classifier: Classifier, method: str, hidden: Callable[[], np.ndarray], inside: Callable[[Any, Any], np.ndarray]
) -> tuple[str, str, np.ndarray]:
    """The method, its unit and the effects of words or columns. What a probability loses is what people understand, so
    that comes first."""
    if method == "grad-cam":
        raise UsageError("method_not_for_model", method=method, model=classifier.name)
    if method != "integrated-gradients":
        return "occlusion", "probability", hidden()
    from fromzero.explaining import gradients

    return method, "log-probability", inside(gradients, _network(classifier, method))


def _opens(classifier: Classifier, console: Console) -> bool:
    """Whether gradients can be asked for: a run's network, and captum."""
    if not hasattr(classifier, "module"):
        return False
    if importlib.util.find_spec("captum") is None:
        console.line(say("explain.no_captum", reason=MissingPackage("captum", "explain").fix))
        return False
    return True


def _network(classifier: Classifier, method: str) -> Any:
    if not hasattr(classifier, "module"):
        raise UsageError("method_needs_run", method=method)
    return classifier


def _beside(path: Path, task: str, sample: Any, method: str) -> Path:
    """Not beside the picture: there it would be taken for one more sample of the data set. A file a method."""
    mark = hashlib.blake2b(repr(sample).encode(), digest_size=4).hexdigest()
    stem = Path(sample).stem if task == "image" else f"{'text' if task == 'text' else 'row'}-{mark}"
    return path / "explained" / f"{stem}-{method}{'.html' if task == 'text' else '.png'}"


def _write(path: Path, explanation: Explanation, sample: Any, how: Any) -> None:
    kind, draw = {
        "image": (".png", lambda: drawing.heat_map(explanation, sample, how)),
        "text": (".html", lambda: drawing.page(explanation, sample)),
        "table": (".png", lambda: drawing.bars(explanation)),
    }[explanation.task]
    if path.suffix.lower() != kind:
        raise UsageError("explained_kind", path=path, kind=kind)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(path, error) from error
    write_bytes(path, draw())
