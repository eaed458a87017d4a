"""What is wrong with a data set: findings that name the files concerned."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from fromzero.data.manifest import Manifest
from fromzero.terminal import Console

# Findings that make training or its figures wrong; the others are only worth knowing. A near copy is judged by a
# likeness that can err, and the split keeps near copies together: only what is equal to the byte forbids training.
BLOCKERS = ("conflicting_labels", "leakage")


@dataclass(frozen=True)
class DataReport:
    """`findings` maps each kind to its entries; `unchecked` names the kinds that were not looked for, whose lists are
    empty for that reason alone."""

    images: int
    classes: dict[str, int]
    findings: dict[str, list[dict[str, Any]]]
    unchecked: tuple[str, ...] = ()

    @property
    def blocked(self) -> bool:
        """Whether the data should not be trained on as it is."""
        return self.verdict != "data.verdict.fit"

    @property
    def verdict(self) -> str:
        """The catalogue's row that says whether to train on this data."""
        if self.classes and sum(count > 0 for count in self.classes.values()) < 2:
            return "data.verdict.one_class"
        blocked = any(not entry.get("near") for name in BLOCKERS for entry in self.findings.get(name, ()))
        return "data.verdict.mend" if blocked else "data.verdict.fit"


def check(manifest: Manifest, console: Console | None = None, **options: Any) -> DataReport:
    """Look through a data set, by the module of `checks` that its kind names. `options` are what it takes besides:
    `tokenizer` for texts and chats."""
    kind = importlib.import_module(f"fromzero.data.checks.{manifest.kind}")
    findings = kind.findings(manifest, console, **options)
    unchecked = kind.unchecked(manifest) if hasattr(kind, "unchecked") else ()
    counts = manifest.counts(manifest.good())
    classes = {name: int(count) for name, count in zip(manifest.classes, counts, strict=True)}
    return DataReport(len(manifest), classes, findings, unchecked)
