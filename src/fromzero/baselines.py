"""What a network has to beat: gradient boosting for tables, words counted and weighed for texts. The same split, the
same measures, seconds of one core; run beside, never quoted.

What is free in a baseline is chosen on the validation part, as a network's best epoch is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fromzero.data import tabular
from fromzero.data.manifest import Manifest
from fromzero.data.rows.content import content, texts
from fromzero.errors import UsageError
from fromzero.metrics import cross_entropy, measures

LEAVES = (4, 8, 31)  # of a tree
ROUNDS, PATIENCE, RATE = 1000, 30, 0.05  # trees at most, and how many without gain end it
MOST_CATEGORIES = 254  # that the histogram trees take, beside "none of them"
STRENGTHS = (1.0, 10.0, 100.0)  # inverse regularisation of the linear classifier, as scikit-learn's C
MOST_TERMS = 300_000
SPACED = 0.2  # a script counts as one that writes no spaces from this share of its letters on
SAMPLE = 2000  # texts that are looked at for that
PARTS = ("val", "test")

Predict = Callable[[np.ndarray], np.ndarray]  # rows -> probabilities (N, classes)


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """`method` is "gradient-boosting", "words-linear" or "characters-linear", `chosen` what the validation part
    decided, `measures` those of `metrics.measures` by part, `seconds` what it took."""

    method: str
    chosen: Mapping[str, float]
    measures: Mapping[str, Mapping[str, float]]
    seconds: float


def baseline(manifest: Manifest) -> Baseline:
    """Train the baseline of a data set of classes on its training part and measure it on the others. Raises UsageError
    for data that have none: pictures, chats, texts without classes, a target that is a quantity."""
    made = _METHODS.get(manifest.kind)
    if made is None or not manifest.classes:
        raise UsageError("no_baseline", path=manifest.root)
    start = time.perf_counter()
    method, chosen, predict = made(manifest)
    found = {}
    for part in PARTS:
        rows = manifest.rows(part)
        if len(rows):
            found[part] = measures(predict(rows), manifest["label"][rows])
    return Baseline(method=method, chosen=chosen, measures=found, seconds=time.perf_counter() - start)


def boosted(manifest: Manifest) -> tuple[str, dict[str, float], Predict]:
    """Histogram gradient boosting with categories as they are and missing values as missing; the size of the trees and
    their number by the validation part's cross entropy."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    how = tabular.columns(manifest)
    numbers, codes = tabular.raw(content(manifest), how)
    codes[codes > MOST_CATEGORIES] = 0  # the rarest: words stand by how often they occur
    given, labels = np.concatenate([numbers, codes], axis=1), manifest["label"]
    categories = np.arange(given.shape[1]) >= numbers.shape[1]
    training, held = manifest.rows("train"), manifest.rows("val")
    held = held[np.isin(labels[held], labels[training])]  # of a class never seen nothing can be said

    def fitted(leaves: int) -> Any:
        return HistGradientBoostingClassifier(
            learning_rate=RATE,
            max_leaf_nodes=leaves,
            max_iter=ROUNDS,
            early_stopping=True,
            n_iter_no_change=PATIENCE,
            max_features=0.5,
            categorical_features=categories,
            random_state=0,
        ).fit(given[training], labels[training], X_val=given[held], y_val=labels[held])

    def predict(model: Any, rows: np.ndarray) -> np.ndarray:
        return _all_classes(model.predict_proba(given[rows]), model.classes_, len(manifest.classes))

    models = {leaves: fitted(leaves) for leaves in LEAVES}
    best = min(models, key=lambda leaves: cross_entropy(predict(models[leaves], held), labels[held]))
    chosen = {"leaves": float(best), "trees": float(models[best].n_iter_)}
    return "gradient-boosting", chosen, lambda rows: predict(models[best], rows)


def counted(manifest: Manifest) -> tuple[str, dict[str, float], Predict]:
    """TF-IDF and logistic regression: of words and pairs of words, or of one to three characters in a script that
    writes no spaces; how strongly it is regularised by the validation part's cross entropy."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    training, held, labels = manifest.rows("train"), manifest.rows("val"), manifest["label"]
    held = held[np.isin(labels[held], labels[training])]
    spaced = writes_spaces(manifest)
    units: dict[str, Any] = {"analyzer": "word", "ngram_range": (1, 2), "token_pattern": r"(?u)\b\w+\b"}
    if not spaced:
        units = {"analyzer": "char", "ngram_range": (1, 3)}
    counter = TfidfVectorizer(sublinear_tf=True, min_df=2, max_features=MOST_TERMS, dtype=np.float32, **units)
    known = counter.fit_transform(texts(manifest, training).to_pylist())
    unseen = counter.transform(texts(manifest, held).to_pylist())

    def predict(model: Any, given: Any) -> np.ndarray:
        return _all_classes(model.predict_proba(given), model.classes_, len(manifest.classes))

    models = {each: LogisticRegression(C=each, max_iter=1000).fit(known, labels[training]) for each in STRENGTHS}
    best = min(models, key=lambda each: cross_entropy(predict(models[each], unseen), labels[held]))
    return (
        "words-linear" if spaced else "characters-linear",
        {"strength": best, "terms": float(known.shape[1])},
        lambda rows: predict(models[best], counter.transform(texts(manifest, rows).to_pylist())),
    )


def writes_spaces(manifest: Manifest) -> bool:
    """Whether the training texts are in a script whose words stand apart: not Chinese or Japanese."""
    import re

    rows = manifest.rows("train")
    some = rows[np.linspace(0, len(rows) - 1, min(len(rows), SAMPLE)).astype(int)]
    together = " ".join(texts(manifest, some).to_pylist())
    letters = len(re.findall(r"\w", together))
    return len(re.findall(r"[\u3040-\u30ff\u3400-\u9fff]", together)) < SPACED * max(1, letters)


def _all_classes(scores: np.ndarray, present: np.ndarray, classes: int) -> np.ndarray:
    """Probabilities of the classes that training had, as columns of all."""
    made = np.zeros((len(scores), classes))
    made[:, present] = scores
    return made


_METHODS = {"table": boosted, "texts": counted}
KINDS = tuple(_METHODS)
