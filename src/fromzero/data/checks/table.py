"""What is wrong with a table that something is to be predicted from."""

from __future__ import annotations

from typing import Any

import numpy as np

from fromzero.data.checks import copies
from fromzero.data.manifest import Manifest
from fromzero.data.rows import grams
from fromzero.data.rows.content import content
from fromzero.language import say
from fromzero.terminal import Console

FAR = 10.0  # robust standard deviations from the median
RARE = 0.01  # where more of a column is that far, it is how the column is spread, not a fault
SHOWN = 20  # rows of a column that are named
ALONE = 0.99  # one column that predicts this well (area under the curve, balanced accuracy, or R squared) is suspicious
DEPTH, FOLDS, SAMPLE = 3, 5, 20_000
LEVELS = 50  # categories of a column that become features of their own


def findings(
    manifest: Manifest, console: Console | None = None, *, suspects: bool = True
) -> dict[str, list[dict[str, Any]]]:
    """By kind. Entries about a column carry `column`, and `files` where rows stand out."""
    console = console or Console()
    found = copies.findings(manifest)
    found |= {"missing_values": [], "constant_columns": [], "leaking_columns": []}
    table, about, good = content(manifest), manifest.about, manifest.good()
    target = about["roles"]["label"]
    if about["task"] == "regression":
        _compare_targets(manifest, found, np.asarray(table.column(target).to_numpy()))
    else:
        found["exact_duplicates"] = [
            {"files": [manifest.name(row) for row in rows.tolist()]}
            for rows in copies.groups(_with_target(manifest), good)
        ]
    for name in about["row_numbers"]:
        if name != target:
            found["leaking_columns"].append({"column": name, "reason": "row_number"})
    wanted = _wanted(manifest, table, target)
    with console.progress(say("check.columns"), len(about["features"])) as advance:
        for name in about["features"]:
            values = _values(table, name, name in about["numeric"])
            missing = np.isnan(values[good]) if name in about["numeric"] else values[good] < 0
            if missing.any():
                entry = {"column": name, "count": int(missing.sum()), "share": round(float(missing.mean()), 4)}
                found["missing_values"].append(entry)
            there = values[good][~missing]
            if not len(there) or (there == there[0]).all():
                found["constant_columns"].append({"column": name})
            else:
                if name in about["numeric"]:
                    found["outliers"] += _outliers(manifest, name, good, values[good])
                reason, score = _leak(values[good], wanted[good], about["task"], name in about["numeric"])
                if reason:
                    found["leaking_columns"].append({"column": name, "reason": reason, "score": round(score, 4)})
            advance()
    if suspects and about["task"] == "classification":
        rows = copies.learnable(manifest, grams.unique_rows(manifest["hash"], good))
        if len(rows) and about["features"]:
            found["label_suspects"] = copies.suspects(manifest, rows, features(manifest, rows))
    return found


def features(manifest: Manifest, rows: np.ndarray) -> Any:
    """Sparse float32 (len(rows), columns): numbers by rank in [-1, 1] (0 for missing), which no outlier can bend, and a
    column for each of the LEVELS commonest categories."""
    from scipy.sparse import csr_matrix, hstack

    table, parts = content(manifest), []
    for name in manifest.about["features"]:
        if name in manifest.about["numeric"]:
            values = _values(table, name, True)[rows]
            there = ~np.isnan(values)
            different, place = np.unique(values[there], return_inverse=True)
            ranks = np.cumsum(np.bincount(place, minlength=len(different)))
            column = np.zeros(len(rows), np.float32)
            column[there] = 2 * ranks[place] / max(1, there.sum()) - 1
            parts.append(csr_matrix(column[:, None]))
            continue
        codes = _values(table, name, False)[rows]
        commonest = np.argsort(-np.bincount(codes[codes >= 0], minlength=1), kind="stable")[:LEVELS]
        parts.append(csr_matrix((codes[:, None] == commonest[None, :]).astype(np.float32)))
    return hstack(parts, format="csr")


def _values(table: Any, name: str, numeric: bool) -> np.ndarray:
    """A column as float64 with NaN for what is missing or infinite, or as codes of its categories with -1."""
    import pyarrow.compute as compute

    column = table.column(name)
    if numeric:
        values = np.asarray(column.to_numpy(), np.float64)
        return np.where(np.isfinite(values), values, np.nan)
    words = compute.unique(column.drop_null())
    return compute.fill_null(compute.index_in(column, words), -1).to_numpy()


def _wanted(manifest: Manifest, table: Any, target: str) -> np.ndarray:
    return _values(table, target, True) if manifest.about["task"] == "regression" else manifest["label"]


def _with_target(manifest: Manifest) -> np.ndarray:
    """A number a row that is the same where features and label are."""
    return manifest["hash"] ^ (manifest["label"].astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))


def _compare_targets(manifest: Manifest, found: dict[str, list[dict[str, Any]]], wanted: np.ndarray) -> None:
    """Copies of a table whose target is a quantity: those with one value, and those with several."""
    found["exact_duplicates"], found["conflicting_labels"] = [], []
    for rows in copies.groups(manifest["hash"], manifest.good()):
        values = np.unique(wanted[rows])
        entry: dict[str, Any] = {"files": [manifest.name(row) for row in rows.tolist()]}
        if len(values) > 1:
            found["conflicting_labels"].append({**entry, "values": values[:SHOWN].tolist()})
        else:
            found["exact_duplicates"].append(entry)


def _outliers(manifest: Manifest, name: str, rows: np.ndarray, values: np.ndarray) -> list[dict[str, Any]]:
    """Values far from the median, in robust standard deviations (Iglewicz and Hoaglin 1993)."""
    there = values[~np.isnan(values)]
    centre = np.median(there)
    spread = 1.4826 * np.median(np.abs(there - centre))
    if not spread:
        return []
    far = np.nan_to_num(np.abs(values - centre) / spread)
    places = np.flatnonzero(far > FAR)
    if not 0 < len(places) <= max(1, RARE * len(there)):
        return []
    worst = places[np.argsort(-far[places], kind="stable")][:SHOWN]
    return [
        {
            "column": name,
            "reason": "far",
            "count": len(places),
            "files": [manifest.name(int(rows[each])) for each in worst],
            "values": values[worst].tolist(),
            "score": round(float(far[worst[0]]), 1),
        }
    ]


def _leak(values: np.ndarray, wanted: np.ndarray, task: str, numeric: bool) -> tuple[str, float]:
    """Why a column by itself gives the target away ("" if it does not), and how well it predicts."""
    there = ~np.isnan(wanted) if task == "regression" else wanted >= 0
    values, wanted = values[there], wanted[there]
    if len(values) > SAMPLE:
        some = np.random.default_rng(0).choice(len(values), SAMPLE, replace=False)
        values, wanted = values[some], wanted[some]
    if len(np.unique(wanted)) < 2 or len(values) < 2 * FOLDS:
        return "", 0.0
    _, place = np.unique(values, return_inverse=True)
    _, kinds = np.unique(wanted, return_inverse=True)
    pairs = len(np.unique(place.astype(np.int64) * (kinds.max() + 1) + kinds))
    if pairs == place.max() + 1 == kinds.max() + 1:
        return "same_as_target", 1.0
    score = _alone(values if numeric else place, kinds if task != "regression" else wanted, task, numeric)
    return ("predicts_target", score) if score >= ALONE else ("", score)


def _alone(values: np.ndarray, wanted: np.ndarray, task: str, numeric: bool) -> float:
    """How well one column predicts in cross-validation: area under the curve for two classes, balanced accuracy for
    more, R squared for a quantity. Numbers by a tree of depth DEPTH, categories by what their rows are elsewhere."""
    from sklearn.metrics import balanced_accuracy_score, r2_score, roc_auc_score
    from sklearn.model_selection import KFold, StratifiedKFold
    from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

    classes = int(wanted.max()) + 1 if task != "regression" else 0
    if classes and np.bincount(wanted).min() < FOLDS:
        enough = np.isin(wanted, np.flatnonzero(np.bincount(wanted) >= FOLDS))
        values, wanted = values[enough], wanted[enough]
        present, wanted = np.unique(wanted, return_inverse=True)
        classes = len(present)
        if classes < 2:
            return 0.0
    folds = (StratifiedKFold if classes else KFold)(FOLDS, shuffle=True, random_state=0)
    found = np.zeros((len(values), max(1, classes)))
    for train, test in folds.split(values, wanted):
        if not numeric:
            found[test] = _by_category(values, wanted, classes, train)[values[test]]
        elif classes:
            tree = DecisionTreeClassifier(max_depth=DEPTH, max_leaf_nodes=2 * classes + 8, random_state=0)
            if classes > 2:  # a tree of depth 3 cannot tell more than eight
                tree.set_params(max_depth=None, min_samples_leaf=2)
            found[test] = tree.fit(values[train, None], wanted[train]).predict_proba(values[test, None])
        else:
            model = DecisionTreeRegressor(max_leaf_nodes=256, random_state=0)
            found[test, 0] = model.fit(values[train, None], wanted[train]).predict(values[test, None])
    if not classes:
        return float(r2_score(wanted, found[:, 0]))
    if classes == 2:
        return float(roc_auc_score(wanted, found[:, 1]))
    return float(balanced_accuracy_score(wanted, found.argmax(axis=1)))


def _by_category(values: np.ndarray, wanted: np.ndarray, classes: int, train: np.ndarray) -> np.ndarray:
    """For each category the shares of the classes among its training rows (or their mean), drawn towards the whole's by
    one row, so that a category seen once proves nothing."""
    count = int(values.max()) + 1
    seen = np.bincount(values[train], minlength=count)[:, None]
    if not classes:
        mean = wanted[train].mean()
        return (np.bincount(values[train], wanted[train], count)[:, None] + mean) / (seen + 1)
    prior = np.bincount(wanted[train], minlength=classes) / len(train)
    cells = np.bincount(values[train] * classes + wanted[train], minlength=count * classes)
    return (cells.reshape(count, classes) + prior) / (seen + 1)
