"""Samples that are probably in the wrong class: confident learning (Northcutt et al. 2021) on cheap features.

Each fifth of the samples is judged by a classifier that never saw it: least squares on random cosines of the features
(Rahimi and Recht 2007), which is a kernel machine in closed form. A logistic regression turns its scores into
probabilities, and a sample is suspect whose label has hardly any: the self-confidence that cleanlab ranks by. Its
confident joint as a further condition costs more recall than it brings precision (docs/log.md).
"""

from __future__ import annotations

from typing import Any

import numpy as np

FOLDS = 5
COSINES = 1024
RIDGE = 1e-3  # of the mean variance of a cosine; FEW / samples where that is more, as few samples say little
PULL = 10.0
FEW = 20
LEAST = 10  # samples of a class below which it is not judged
MOST = 400_000  # samples beyond which a random part of them teaches
BETTER = 0.3  # how far the judge must be from guessing (Cohen's kappa) to be heard
HARDLY = 0.35  # the share of a guess's probability below which a sample's label is suspect
CHUNK = 4096
Suspect = tuple[int, int, float]  # row, the class it looks like, and how sure that is (0 to 1)


def find(
    features: Any, labels: np.ndarray, seed: int = 0, *, groups: np.ndarray | None = None, judge: Any = None
) -> list[Suspect]:
    """Rows of `features` (samples, numbers; an array or a sparse matrix) whose label is probably wrong, the surest
    first. Labels below 0 are not judged. Samples of one of `groups` (-1: none), such as near copies, do not judge each
    other. Nothing is returned where the features do not tell the classes apart. `judge(features, target, fold,
    classes)` gives the scores (samples, classes) in place of `out_of_fold`."""
    labels = np.asarray(labels)
    counts = np.bincount(labels[labels >= 0], minlength=1)
    classes = np.flatnonzero(counts >= LEAST)
    rows = np.flatnonzero(np.isin(labels, classes))
    if len(classes) < 2 or features.shape[1] == 0:
        return []
    target = np.searchsorted(classes, labels[rows])
    fold = _folds(rows, groups, seed)
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, user_api="blas"):  # threads that wait for each other burn the time of a busy machine
        if judge is None:
            scores = out_of_fold(_dense(features, rows, seed), target, fold, len(classes), seed)
        else:
            scores = judge(features[rows], target, fold, len(classes))
        chance = _chances(scores, target)
    agree, guess = float((chance.argmax(1) == target).mean()), float(counts[classes].max() / len(rows))
    if agree - guess < BETTER * (1 - guess):
        return []
    given = chance[np.arange(len(target)), target]
    wrong = np.flatnonzero((chance.argmax(1) != target) & (given < HARDLY / len(classes)))
    return [
        (int(rows[at]), int(classes[chance[at].argmax()]), round(1 - float(given[at]), 4))
        for at in wrong[np.argsort(given[wrong], kind="stable")]
    ]


def _chances(scores: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(samples, classes): scores as probabilities."""
    from sklearn.linear_model import LogisticRegression

    some = slice(None, None, len(target) // MOST + 1)
    return LogisticRegression(C=PULL, max_iter=300).fit(scores[some], target[some]).predict_proba(scores)


def _folds(rows: np.ndarray, groups: np.ndarray | None, seed: int) -> np.ndarray:
    """(rows,): a fold a row, the same for the rows of a group."""
    fold = np.random.default_rng(seed).permutation(len(rows)) % FOLDS
    if groups is not None:
        mine = np.asarray(groups)[rows]
        fold = np.where(mine >= 0, mine % FOLDS, fold)
    return fold


def _dense(features: Any, rows: np.ndarray, seed: int) -> np.ndarray:
    """Features of the rows, a sparse matrix as its strongest directions."""
    chosen = features[rows]
    if hasattr(chosen, "tocsr"):
        from sklearn.decomposition import TruncatedSVD

        width = min(256, min(chosen.shape) - 1)
        return TruncatedSVD(width, n_iter=2, random_state=seed).fit_transform(chosen.astype(np.float32))
    return np.asarray(chosen, dtype=np.float32)


def out_of_fold(features: np.ndarray, target: np.ndarray, fold: np.ndarray, classes: int, seed: int = 0) -> np.ndarray:
    """(samples, classes): a score of each class by a judge that was taught without the sample's fold."""
    from scipy.linalg import solve

    draw = np.random.default_rng(seed)
    centre, scale = features.mean(0), features.std(0)
    scale[scale < 1e-6] = 1
    width = min(COSINES, max(64, len(features) // 4))
    some = (features[draw.choice(len(features), min(1000, len(features)), replace=False)] - centre) / scale
    apart = np.median(np.linalg.norm(some[: len(some) // 2] - some[-(len(some) // 2) :], axis=1)) or 1.0
    weights = (draw.normal(0, 1 / apart, (features.shape[1], width)) / scale[:, None]).astype(np.float32)
    turn = (draw.uniform(0, 2 * np.pi, width) - centre @ weights).astype(np.float32)

    def cosines(part: np.ndarray) -> np.ndarray:
        made = part @ weights
        made += turn
        np.cos(made, out=made)
        return np.concatenate([made, np.ones((len(made), 1), np.float32)], axis=1)

    grams = np.zeros((FOLDS, width + 1, width + 1), np.float32)
    sums = np.zeros((FOLDS, width + 1, classes), np.float32)
    which = np.arange(len(target))
    if len(which) > MOST:
        which = np.sort(draw.choice(which, MOST, replace=False))
    for number in range(FOLDS):
        mine = which[fold[which] == number]
        for start in range(0, len(mine), CHUNK):
            part = mine[start : start + CHUNK]
            made = cosines(features[part])
            grams[number] += made.T @ made
            sums[number] += made.T @ np.eye(classes, dtype=np.float32)[target[part]]
    gram, total = grams.sum(0), sums.sum(0)
    scores = np.empty((len(target), classes), np.float32)
    for number in range(FOLDS):
        left = (gram - grams[number]).astype(np.float64)
        left[np.diag_indices_from(left)] += max(RIDGE, FEW / len(target)) * np.trace(left) / len(left) + 1e-9
        taught = solve(left, total - sums[number], assume_a="pos", check_finite=False).astype(np.float32)
        mine = np.flatnonzero(fold == number)
        for start in range(0, len(mine), CHUNK):
            part = mine[start : start + CHUNK]
            scores[part] = cosines(features[part]) @ taught
    return scores
