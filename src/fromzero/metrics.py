"""How good the probabilities of a classifier are: what it ranks, what it calls, and whether it is as sure as it should
be. Everywhere `scores` are probabilities (N, classes) and `truth` the true classes (N,).

The positive class of two is the one that is rarer in `truth` (the last of equals): the disease, the default, the fraud.
A class that does not occur in `truth` counts in no average over classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

BINS = 15  # of confidence, as Guo et al. (2017) have them
LEAST = 1e-12  # a probability below this counts as this


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """From which probability on a sample is called positive, and what comes of it: `value` is what was made greatest
    (F1, Youden's J) or least (the mean cost)."""

    threshold: float
    by: str
    value: float
    recall: float
    precision: float
    false_alarms: float  # the share of the negatives that are called positive


@dataclass(frozen=True, kw_only=True)
class Bin:
    """Samples of about the same confidence: how many, how sure the model was of them and how often it was right."""

    low: float
    high: float
    samples: int
    confidence: float
    accuracy: float


def measures(scores: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """loss (mean cross entropy, nats), accuracy, macro F1, AUC, PR-AUC, expected calibration error and Brier score;
    without the areas where only one class occurs, and nothing can be ranked."""
    found = {
        "loss": cross_entropy(scores, truth),
        "accuracy": accuracy(scores, truth),
        "macro_f1": macro_f1(scores, truth),
        "auc": auc(scores, truth),
        "pr_auc": pr_auc(scores, truth),
        "ece": calibration_error(scores, truth),
        "brier": brier(scores, truth),
    }
    return {name: value for name, value in found.items() if not np.isnan(value)}


def accuracy(scores: np.ndarray, truth: np.ndarray) -> float:
    """The share that is called what it is."""
    return float((scores.argmax(axis=1) == truth).mean())


def cross_entropy(scores: np.ndarray, truth: np.ndarray) -> float:
    """Mean cross entropy in nats."""
    return float(-np.log(np.maximum(scores[np.arange(len(truth)), truth].astype(np.float64), LEAST)).mean())


def macro_f1(scores: np.ndarray, truth: np.ndarray) -> float:
    """The mean of the F1 of each class that occurs."""
    called, classes = scores.argmax(axis=1), scores.shape[1]
    right = np.bincount(truth[called == truth], minlength=classes)
    there, named = np.bincount(truth, minlength=classes), np.bincount(called, minlength=classes)
    return float((2 * right / np.maximum(there + named, 1))[there > 0].mean())


def auc(scores: np.ndarray, truth: np.ndarray) -> float:
    """Area under the ROC curve: of the positive class, or the mean of each of several classes against the rest. NaN
    where only one class occurs."""
    from sklearn.metrics import roc_auc_score

    return _over_classes(scores, truth, roc_auc_score)


def pr_auc(scores: np.ndarray, truth: np.ndarray) -> float:
    """Average precision: the area under precision over recall, which shows more than the ROC where positives are rare.
    Classes as in `auc`."""
    from sklearn.metrics import average_precision_score

    return _over_classes(scores, truth, average_precision_score)


def positive(truth: np.ndarray, classes: int = 2) -> int:
    """The positive class: the rarest that occurs, the last of equals."""
    counts = np.bincount(truth, minlength=classes)
    return int(max(np.flatnonzero(counts == counts[counts > 0].min())))


def brier(scores: np.ndarray, truth: np.ndarray) -> float:
    """The mean squared error of the probabilities: of the positive class for two (0.25 is a coin), summed over the
    classes for more, as Brier (1950) wrote it."""
    wanted = np.zeros(scores.shape, np.float64)
    wanted[np.arange(len(truth)), truth] = 1
    return float(((scores - wanted) ** 2).sum(axis=1).mean() / (2 if scores.shape[1] == 2 else 1))


def calibration(scores: np.ndarray, truth: np.ndarray, bins: int = BINS) -> tuple[Bin, ...]:
    """Samples by their confidence (the probability of the class they are called) in `bins` of equal width, empty ones
    left out: what a reliability diagram shows."""
    confidence, right = scores.max(axis=1), scores.argmax(axis=1) == truth
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    return tuple(
        Bin(
            low=each / bins,
            high=(each + 1) / bins,
            samples=int((place == each).sum()),
            confidence=float(confidence[place == each].mean()),
            accuracy=float(right[place == each].mean()),
        )
        for each in np.unique(place)
    )


def calibration_error(scores: np.ndarray, truth: np.ndarray, bins: int = BINS) -> float:
    """Expected calibration error: how far confidence and accuracy are apart, on average over the samples."""
    return sum(each.samples * abs(each.confidence - each.accuracy) for each in calibration(scores, truth, bins)) / len(
        truth
    )


# --- what is decided on validation data -------------------------------------------------------------------------------


def threshold(scores: np.ndarray, truth: np.ndarray, by: str | float = "f1") -> Threshold:
    """The threshold for the positive class of two that validation data suggest. `by` "f1" makes F1 greatest, "youden"
    recall minus false alarms (Youden 1950), a number is what a missed positive costs where a false alarm costs 1: then
    the mean cost is made least. Raises ValueError where only one class occurs, or for another word."""
    if scores.shape[1] != 2 or len(np.unique(truth)) != 2:
        raise ValueError("a threshold needs samples of two classes")
    if by not in ("f1", "youden") and not (isinstance(by, (int, float)) and by > 0):
        raise ValueError(f"by {by!r}: f1, youden or a cost above 0")
    which = positive(truth)
    given, wanted = scores[:, which].astype(np.float64), truth == which
    order = np.argsort(-given, kind="stable")
    last = np.flatnonzero(np.append(np.diff(given[order]) != 0, True))  # equal scores fall on one side together
    hits = np.cumsum(wanted[order])[last]
    named = last + 1
    positives, negatives = int(wanted.sum()), int((~wanted).sum())
    alarms = named - hits
    if by == "f1":
        value = 2 * hits / (named + positives)
    elif by == "youden":
        value = hits / positives - alarms / negatives
    else:
        value = -(float(by) * (positives - hits) + alarms) / len(truth)
    best = int(value.argmax())
    above = given[order[last[best]]]
    below = given[order[last[best] + 1]] if last[best] + 1 < len(given) else 0.0
    return Threshold(
        threshold=float((above + below) / 2),  # halfway to the next sample: as far from both as can be
        by=by if isinstance(by, str) else f"cost {by:g}",
        value=float(value[best] if isinstance(by, str) else -value[best]),
        recall=float(hits[best] / positives),
        precision=float(hits[best] / named[best]),
        false_alarms=float(alarms[best] / negatives),
    )


def temperature(scores: np.ndarray, truth: np.ndarray) -> float:
    """What to divide the logits by so that validation data are least surprised (Guo et al. 2017): above 1 for a model
    that is too sure. The order of the classes stays. The targets are not quite 0 and 1 but as sure as their number
    allows (Platt 1999): else a small part without a mistake would ask for no doubt at all."""
    from scipy.optimize import minimize_scalar

    classes = scores.shape[1]
    counts = np.bincount(truth, minlength=classes)[truth][:, None]
    wanted = (np.eye(classes)[truth] * counts + 1) / (counts + classes)

    def surprise(power: float) -> float:
        return float(-(wanted * np.log(np.maximum(tempered(scores, float(np.exp(power))), LEAST))).sum(axis=1).mean())

    return float(np.exp(minimize_scalar(surprise, bounds=(-3.0, 3.0), method="bounded").x))


def tempered(scores: np.ndarray, temperature: float) -> np.ndarray:
    """The probabilities of logits that are divided by `temperature`."""
    logits = np.log(np.maximum(scores.astype(np.float64), LEAST)) / temperature
    made = np.exp(logits - logits.max(axis=1, keepdims=True))
    return made / made.sum(axis=1, keepdims=True)


# --- over folds -------------------------------------------------------------------------------------------------------


def interval(values: Sequence[float], test_share: float, level: float = 0.95) -> tuple[float, float, float]:
    """Mean, low and high of a figure (or of a paired difference) over the folds of a cross-validation, repeated or not:
    Student's t with the variance that Nadeau and Bengio (2003) correct for training sets that overlap. `test_share` is
    the share of the samples that one fold tests."""
    from scipy.stats import t

    found = np.asarray(values, np.float64)
    if len(found) < 2:
        raise ValueError("an interval needs two values")
    spread = np.sqrt(found.var(ddof=1) * (1 / len(found) + test_share / (1 - test_share)))
    half = float(t.ppf(0.5 + level / 2, len(found) - 1) * spread)
    return float(found.mean()), float(found.mean()) - half, float(found.mean()) + half


def _over_classes(scores: np.ndarray, truth: np.ndarray, measure: object) -> float:
    assert callable(measure)
    counts = np.bincount(truth, minlength=scores.shape[1])
    some = np.flatnonzero((counts > 0) & (counts < len(truth)))
    if not len(some):
        return float("nan")
    which = [positive(truth)] if scores.shape[1] == 2 else some
    return float(np.mean([measure(truth == each, scores[:, each]) for each in which]))
