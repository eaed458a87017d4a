"""What every kind of rows shares: copies, copies under several labels or in several given parts, class sizes."""

from __future__ import annotations

from typing import Any

import numpy as np

from fromzero.data.manifest import SPLIT_WORDS, Manifest

Entries = list[dict[str, Any]]
IMBALANCE = 5  # the largest class this many times the smallest is worth saying
RIDGE = 3.0
KINDS = (
    "corrupt", "exact_duplicates", "near_duplicates", "conflicting_labels", "leakage", "outliers", "label_suspects",
    "imbalance",
)  # fmt: skip


def findings(manifest: Manifest) -> dict[str, Entries]:
    """All of KINDS, with those filled that need no more than the manifest. Near copies count where `cluster` is
    known: in two given parts they leak too, and their entry is marked `near`."""
    found: dict[str, Entries] = {kind: [] for kind in KINDS}
    bad = np.flatnonzero(manifest["problem"] != "")
    found["corrupt"] = [{"file": manifest.name(row), "code": str(manifest["problem"][row])} for row in bad.tolist()]
    good = manifest.good()
    for rows in groups(manifest["hash"], good):
        entry = described(manifest, rows)
        found["exact_duplicates"].append({"files": entry["files"]})
        if "classes" in entry:
            found["conflicting_labels"].append({key: entry[key] for key in ("files", "classes")})
        if "splits" in entry:
            found["leakage"].append({key: entry[key] for key in ("files", "splits")})
    if "cluster" in manifest.columns:
        clustered = good[manifest["cluster"][good] >= 0]
        for rows in groups(manifest["cluster"], clustered):
            entry = described(manifest, rows[np.sort(np.unique(manifest["hash"][rows], return_index=True)[1])])
            found["near_duplicates"].append({key: entry[key] for key in ("files", "classes") if key in entry})
            if "splits" in entry:
                found["leakage"].append({"files": entry["files"], "splits": entry["splits"], "near": True})
    found["imbalance"] = imbalance(manifest, good)
    return found


def groups(column: np.ndarray, rows: np.ndarray) -> list[np.ndarray]:
    """Rows that share a value, two and more together, ordered by the first of each group."""
    order = rows[np.argsort(column[rows], kind="stable")]
    ends = np.flatnonzero(np.diff(column[order])) + 1
    sizes = np.diff(np.concatenate([[0], ends, [len(order)]]))
    several = [group for group, size in zip(np.split(order, ends), sizes.tolist(), strict=True) if size > 1]
    return sorted(several, key=lambda group: int(group[0]))


def described(manifest: Manifest, rows: np.ndarray) -> dict[str, Any]:
    """The names of rows, and their `classes` and given `splits` where there are several."""
    entry: dict[str, Any] = {"files": [manifest.name(row) for row in rows.tolist()]}
    labels = np.unique(manifest["label"][rows])
    if len(labels) > 1 and manifest.classes:
        entry["classes"] = [manifest.classes[each] for each in labels.tolist()]
    parts = np.unique(manifest["given"].codes[rows])
    if len(parts) > 1:
        entry["splits"] = sorted(SPLIT_WORDS[each] for each in parts.tolist())
    return entry


def imbalance(manifest: Manifest, rows: np.ndarray) -> Entries:
    counts = manifest.counts(rows)
    if not len(counts) or counts.min() * IMBALANCE >= counts.max():
        return []
    small, large = int(counts.argmin()), int(counts.argmax())
    return [
        {
            "smallest": manifest.classes[small],
            "count": int(counts[small]),
            "largest": manifest.classes[large],
            "largest_count": int(counts[large]),
        }
    ]


def suspects(manifest: Manifest, rows: np.ndarray, features: Any, seed: int = 0) -> Entries:
    """Rows whose label other samples contradict, worst first. `features` has a row each of `rows`, no two the same: a
    copy in another fold would vouch for a wrong label, and so would a near copy."""
    from fromzero.data import suspects as learning

    labels = manifest["label"][rows]
    groups = manifest["cluster"][rows] if "cluster" in manifest.columns else None
    found = learning.find(features, labels, seed, groups=groups, judge=linear)
    return [
        {
            "file": manifest.name(int(rows[place])),
            "label": manifest.classes[labels[place]],
            "suggested": manifest.classes[suggested],
            "score": round(float(score), 3),
        }
        for place, suggested, score in found
    ]


def linear(features: Any, target: np.ndarray, fold: np.ndarray, classes: int) -> np.ndarray:
    """Scores (samples, classes) by ridge regression on sparse features, each fold's taught by the others: for words and
    for the columns of a table a better judge than a kernel, and a faster."""
    from sklearn.linear_model import Ridge

    scores = np.zeros((len(target), classes), np.float32)
    wanted = np.eye(classes, dtype=np.float32)
    for number in np.unique(fold):
        others = fold != number
        model = Ridge(RIDGE, solver="sparse_cg", max_iter=50, tol=1e-3)
        scores[~others] = model.fit(features[others], wanted[target[others]]).predict(features[~others])
    return scores


def learnable(manifest: Manifest, rows: np.ndarray, least: int = 10) -> np.ndarray:
    """The rows of classes that have enough of them to be learnt; none if fewer than two have."""
    counts = manifest.counts(rows)
    enough = np.flatnonzero(counts >= least)
    return rows[np.isin(manifest["label"][rows], enough)] if len(enough) > 1 else rows[:0]
