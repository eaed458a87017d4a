"""How good a classifier is on labelled pictures: metrics, confusion, worst mistakes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fromzero.data.load import Pictures, Samples, ordered_batches, worker_count
from fromzero.language import say
from fromzero.runtimes import Classifier
from fromzero.terminal import Console

BATCH = 250
MISTAKES = 24


@dataclass(frozen=True)
class ClassScore:
    """One class: how many pictures, and precision, recall and F1 in 0..1."""

    label: str
    samples: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class Mistake:
    """A picture whose true class got the lowest probability of all; `row` of the manifest."""

    row: int
    path: str
    label: str
    predicted: str
    score: float


@dataclass(frozen=True)
class Evaluation:
    """`confusion[i][j]` counts pictures of class i that were called j; `loss` is the mean cross entropy;
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


def measure(
    classifier: Classifier, pictures: Pictures, rows: np.ndarray, split: str, console: Console | None = None
) -> Evaluation:
    """Run the classifier over `rows` of a data set and count."""
    scores, truth = scores_of(classifier, pictures, rows, console)
    return _evaluation(classifier.labels, scores, truth, rows, pictures, split)


def scores_of(
    classifier: Classifier, pictures: Samples, rows: np.ndarray, console: Console | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (N, classes) and true classes (N,) of `rows`, in their order."""
    console = console or Console()
    # Made once: small results kept between large temporaries would pin the heap open, 8 MB a batch.
    scores = np.empty((len(rows), len(classifier.labels)), dtype=np.float32)
    truth = np.empty(len(rows), dtype=np.int64)
    done = 0
    with console.progress(say("evaluate.running"), len(rows)) as advance:
        for images, labels in ordered_batches(pictures, rows, BATCH, worker_count(pictures)):
            end = done + len(labels)
            scores[done:end], truth[done:end] = classifier.scores(images.numpy()), labels.numpy()
            advance(len(labels))
            done = end
    return scores, truth


def cross_entropy(scores: np.ndarray, truth: np.ndarray) -> float:
    """Mean cross entropy of probabilities (N, classes)."""
    return float(-np.log(np.maximum(scores[np.arange(len(truth)), truth].astype(np.float64), 1e-12)).mean())


def _evaluation(
    labels: tuple[str, ...], scores: np.ndarray, truth: np.ndarray, rows: np.ndarray, pictures: Pictures, split: str
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
        mistakes=tuple(_mistakes(labels, scores, truth, rows, pictures)),
    )


def _mistakes(labels: Any, scores: np.ndarray, truth: np.ndarray, rows: np.ndarray, pictures: Pictures) -> Any:
    called = scores.argmax(axis=1)
    given = scores[np.arange(len(truth)), truth]
    for n in sorted(np.flatnonzero(called != truth), key=lambda each: given[each])[:MISTAKES]:
        row, score = int(rows[n]), float(scores[n, called[n]])
        yield Mistake(row, pictures.manifest.name(row), labels[truth[n]], labels[called[n]], score)


def wilson(right: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """The interval of a share `right / total` at `z` standard deviations (Wilson 1927)."""
    share, square = right / total, z * z / total
    middle = (share + square / 2) / (1 + square)
    half = z / (1 + square) * ((share * (1 - share) + square / 4) / total) ** 0.5
    return max(0.0, middle - half), min(1.0, middle + half)
