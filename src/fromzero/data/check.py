"""What is wrong with a data set: findings that name the files concerned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fromzero.data.manifest import Manifest

IMBALANCE = 5  # the largest class this many times the smallest is worth saying
FLAT = 1.0  # standard deviation of grey values below which a picture shows nothing
# Findings that make training or its figures wrong; the others are only worth knowing.
BLOCKERS = ("conflicting_labels", "leakage")


@dataclass(frozen=True)
class DataReport:
    """`findings` maps each kind to its entries; `unchecked` names the kinds this version does not look for, whose
    lists are empty for that reason alone."""

    images: int
    classes: dict[str, int]
    findings: dict[str, list[dict[str, Any]]]
    unchecked: tuple[str, ...] = ("near_duplicates", "label_suspects")

    @property
    def blocked(self) -> bool:
        """Whether the data should not be trained on as it is."""
        return self.verdict != "data.verdict.fit"

    @property
    def verdict(self) -> str:
        """The catalogue's row that says whether to train on this data."""
        if sum(count > 0 for count in self.classes.values()) < 2:
            return "data.verdict.one_class"
        return "data.verdict.mend" if any(self.findings[name] for name in BLOCKERS) else "data.verdict.fit"


def check(manifest: Manifest) -> DataReport:
    """Look through a scanned data set."""
    good = manifest.good()
    counts = np.bincount(manifest["label"][good], minlength=len(manifest.classes))
    same = _same_bytes(manifest, good)
    findings: dict[str, list[dict[str, Any]]] = {
        "corrupt": [
            {"file": str(manifest["path"][row]), "code": str(manifest["problem"][row])}
            for row in np.flatnonzero(manifest["problem"] != "")
        ],
        "exact_duplicates": [{"files": _paths(manifest, rows)} for rows in same],
        "near_duplicates": [],
        "conflicting_labels": [
            {"files": _paths(manifest, rows), "classes": sorted({manifest.classes[manifest["label"][r]] for r in rows})}
            for rows in same
            if len({int(manifest["label"][row]) for row in rows}) > 1
        ],
        "leakage": [
            {"files": _paths(manifest, rows), "splits": sorted({str(manifest["given"][row]) for row in rows})}
            for rows in same
            if len({str(manifest["given"][row]) for row in rows}) > 1
        ],
        "outliers": [
            {"file": str(manifest["path"][row]), "reason": "flat", "spread": round(float(manifest["spread"][row]), 3)}
            for row in good[manifest["spread"][good] < FLAT]
        ],
        "label_suspects": [],
        "imbalance": [],
    }
    if counts.min() * IMBALANCE < counts.max():
        smallest, largest = manifest.classes[int(counts.argmin())], manifest.classes[int(counts.argmax())]
        entry = {
            "smallest": smallest,
            "count": int(counts.min()),
            "largest": largest,
            "largest_count": int(counts.max()),
        }
        findings["imbalance"] = [entry]
    classes = {name: int(count) for name, count in zip(manifest.classes, counts, strict=True)}
    return DataReport(len(manifest), classes, findings)


def _same_bytes(manifest: Manifest, rows: np.ndarray) -> list[list[int]]:
    """Groups of rows whose files are the same to the byte."""
    order = rows[np.argsort(manifest["hash"][rows], kind="stable")]
    ends = np.flatnonzero(np.diff(manifest["hash"][order])) + 1
    return sorted(sorted(group.tolist()) for group in np.split(order, ends) if len(group) > 1)


def _paths(manifest: Manifest, rows: list[int]) -> list[str]:
    return [str(manifest["path"][row]) for row in rows]
