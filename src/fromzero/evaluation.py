"""How good a model is on held-out samples: metrics, confusion, worst mistakes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from fromzero import tasks
from fromzero.data.batches import Samples, ordered_batches
from fromzero.language import catalogue, say
from fromzero.metrics import cross_entropy
from fromzero.runtimes import Classifier
from fromzero.terminal import Console

BATCH = 250
MISTAKES = 24


@dataclass(frozen=True)
class ClassScore:
    """One class: how many samples, and precision, recall and F1 in 0..1."""

    label: str
    samples: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class Mistake:
    """A sample whose true class got the lowest probability of all; `row` of the manifest."""

    row: int
    path: str
    label: str
    predicted: str
    score: float


@dataclass(frozen=True)
class Evaluation:
    """`confusion[i][j]` counts samples of class i that were called j; `loss` is the mean cross entropy;
    `interval` is the 95 % interval of the accuracy (Wilson)."""

    split: str
    samples: int
    accuracy: float
    interval: tuple[float, float]
    loss: float
    macro_f1: float
    classes: tuple[ClassScore, ...]
    confusion: tuple[tuple[int, ...], ...]
    mistakes: tuple[Mistake, ...]
    measures: Mapping[str, float] = field(default_factory=dict)  # all that the task measures
    baseline: Mapping[str, float] = field(default_factory=dict)  # the same of the method to beat, on the same part
    baseline_method: str = ""  # as in `baselines.Baseline`


@dataclass(frozen=True)
class LanguageEvaluation:
    """A language model on held-out text: `loss` is the mean cross entropy of a token in nats, `perplexity` e to its
    power; `samples` blocks of text with `tokens` that were to be predicted."""

    split: str
    samples: int
    loss: float
    perplexity: float
    tokens: int


Answer = Callable[[np.ndarray, np.ndarray], np.ndarray]  # inputs and targets of a batch -> what is measured of them


def measure(
    classifier: Classifier, samples: Samples, rows: np.ndarray, split: str, console: Console | None = None
) -> Evaluation:
    """Run the classifier over `rows` of a data set and count."""
    scores, truth = answers_of(lambda inputs, _: classifier.scores(inputs), samples, rows, console)
    return counted(classifier, scores, truth, samples, rows, split)


def counted(
    classifier: Classifier, scores: np.ndarray, truth: np.ndarray, samples: Samples, rows: np.ndarray, split: str
) -> Evaluation:
    """The same of what it answered: `scores` (N, classes) and true classes (N,) of `rows`."""
    found = _evaluation(classifier.labels, scores, truth, rows, samples, split)
    return replace(found, measures=tasks.trained(classifier.task).measures(scores, truth))


def measure_language(
    answer: Answer, samples: Samples, rows: np.ndarray, split: str, console: Console | None = None
) -> LanguageEvaluation:
    """Run a language model over blocks of text; `answer` gives (N, 2): nats and tokens of each."""
    found, _ = answers_of(answer, samples, rows, console)
    nats, tokens = found.astype(np.float64).sum(axis=0)
    loss = float(nats / max(tokens, 1))
    return LanguageEvaluation(split, len(rows), loss, float(np.exp(min(loss, 700))), int(tokens))


def answers_of(
    answer: Answer, samples: Samples, rows: np.ndarray, console: Console | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Answers (N, ...) to `rows` in their order, and their true classes (N,); no classes where targets are none."""
    console = console or Console()
    # Made once: small results kept between large temporaries would pin the heap open, 8 MB a batch.
    found, truth = np.empty(0), np.empty(len(rows), dtype=np.int64)
    done = 0
    with console.progress(say("evaluate.running"), len(rows)) as advance:
        for inputs, targets in ordered_batches(samples, rows, min(BATCH, getattr(samples, "measured", BATCH))):
            answers = answer(inputs.numpy(), targets.numpy())
            if not done:
                found = np.empty((len(rows), *answers.shape[1:]), dtype=np.float32)
            end = done + len(answers)
            found[done:end] = answers
            if targets.dim() == 1:
                truth[done:end] = targets.numpy()
            advance(len(answers))
            done = end
    return found, truth


def _evaluation(
    labels: tuple[str, ...], scores: np.ndarray, truth: np.ndarray, rows: np.ndarray, samples: Samples, split: str
) -> Evaluation:
    import torch
    from torchmetrics.functional.classification import (
        multiclass_confusion_matrix,
        multiclass_f1_score,
        multiclass_precision,
        multiclass_recall,
    )

    predicted, target = torch.from_numpy(scores.argmax(axis=1)), torch.from_numpy(truth)
    settings: Any = {"num_classes": len(labels), "average": "none", "zero_division": 0}
    precision = multiclass_precision(predicted, target, **settings).tolist()
    recall = multiclass_recall(predicted, target, **settings).tolist()
    f1 = multiclass_f1_score(predicted, target, **settings).tolist()
    confusion = multiclass_confusion_matrix(predicted, target, len(labels)).tolist()
    right = int((predicted == target).sum())
    counts = np.bincount(truth, minlength=len(labels))
    return Evaluation(
        split=split,
        samples=len(truth),
        accuracy=right / len(truth),
        interval=wilson(right, len(truth)),
        loss=cross_entropy(scores, truth),
        macro_f1=float(np.mean([score for score, count in zip(f1, counts, strict=True) if count])),
        classes=tuple(
            ClassScore(label, int(counts[n]), precision[n], recall[n], f1[n]) for n, label in enumerate(labels)
        ),
        confusion=tuple(tuple(row) for row in confusion),
        mistakes=tuple(_mistakes(labels, scores, truth, rows, samples)),
    )


def _mistakes(labels: Any, scores: np.ndarray, truth: np.ndarray, rows: np.ndarray, samples: Samples) -> Any:
    called = scores.argmax(axis=1)
    given = scores[np.arange(len(truth)), truth]
    for n in sorted(np.flatnonzero(called != truth), key=lambda each: given[each])[:MISTAKES]:
        row, score = int(rows[n]), float(scores[n, called[n]])
        yield Mistake(row, samples.name(row), labels[truth[n]], labels[called[n]], score)


def measure_name(name: str) -> str:
    """What a person calls a measure."""
    key = f"measure.{name}"
    return say(key) if key in catalogue() else name


def measure_text(name: str, value: float) -> str:
    """Its value for a person."""
    return f"{value:.2%}" if name == "accuracy" else f"{value:.4g}"


def wilson(right: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """The interval of a share `right / total` at `z` standard deviations (Wilson 1927)."""
    share, square = right / total, z * z / total
    middle = (share + square / 2) / (1 + square)
    half = z / (1 + square) * ((share * (1 - share) + square / 4) / total) ** 0.5
    return max(0.0, middle - half), min(1.0, middle + half)
