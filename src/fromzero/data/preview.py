"""What a network will be shown: samples of the classes, as evaluation sees them and varied by a policy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from fromzero.data.augment import choose, varied
from fromzero.data.draft import draft, shorter_side
from fromzero.data.images import prepared
from fromzero.data.manifest import Manifest
from fromzero.data.mix import mixed
from fromzero.data.pack import read
from fromzero.errors import DataError, UnknownName, UsageError
from fromzero.records import MIXES, POLICIES, Preprocessing

ROWS, VARIANTS = 8, 7


@dataclass(frozen=True, eq=False)
class Sheet:
    """`pictures` is (rows, columns, size, size, channels) uint8; the first column is the picture as it is evaluated.
    `labels` names the class of each row, `policies` the policy of each column, "" for the first."""

    labels: list[str]
    policies: list[str]
    pictures: np.ndarray


def sheet(
    manifest: Manifest,
    policies: Sequence[str] = (),
    *,
    classes: Iterable[str] = (),
    rows: int = ROWS,
    variants: int = VARIANTS,
    size: int | None = None,
    resize: str = "crop",
    seed: int = 0,
) -> Sheet:
    """Samples of the classes in turn (of `classes`, if any are named), `variants` of each under each policy; without
    policies the one that training would choose. The same for the same data and seed.

    Raises UnknownName for a class or a policy that is none, UsageError if the data are no pictures, DataError if there
    is nothing to show."""
    if manifest.kind != "pictures":
        raise UsageError("preview_no_pictures", path=manifest.root)
    good = manifest.good()
    chosen = _chosen(manifest, good, list(classes), rows, seed)
    if not len(chosen):
        raise DataError("preview_nothing", path=manifest.root)
    how = draft(manifest, size, resize)
    names = list(policies) or [choose(shorter_side(manifest), how.size)]
    for each in names:
        if each not in POLICIES:
            raise UnknownName("choice", each, POLICIES)
    contents = [read(manifest, int(row)) for row in chosen]
    plain = np.stack([prepared(content, how) for content in contents])
    columns = [plain]
    for name in names:
        for number in range(variants):
            columns.append(_column(name, number, contents, plain, how, seed))
    labels = [manifest.classes[manifest["label"][row]] if manifest["label"][row] >= 0 else "" for row in chosen]
    return Sheet(labels, ["", *(name for name in names for _ in range(variants))], np.stack(columns, axis=1))


def _chosen(manifest: Manifest, good: np.ndarray, classes: list[str], count: int, seed: int) -> np.ndarray:
    """Rows to show: one of each class, then a second of each, until there are enough; then class by class."""
    for each in classes:
        if each not in manifest.classes:
            raise UnknownName("class", each, manifest.classes)
    train = manifest.rows("train")
    rows = train if len(train) else good
    labels = manifest["label"][rows]
    if classes:
        rows = rows[np.isin(labels, [manifest.classes.index(each) for each in classes])]
    rows = rows[np.random.default_rng(seed).permutation(len(rows))]
    labels = manifest["label"][rows]
    turn = np.zeros(len(rows), dtype=np.int64)  # the how-manieth of its class each row is
    order = np.argsort(labels, kind="stable")
    _, first, length = np.unique(labels[order], return_index=True, return_counts=True)
    turn[order] = np.arange(len(rows)) - np.repeat(first, length)
    some = rows[np.lexsort((labels, turn))[:count]]
    return some[np.argsort(manifest["label"][some], kind="stable")]


def _column(
    name: str, number: int, contents: list[bytes], plain: np.ndarray, how: Preprocessing, seed: int
) -> np.ndarray:
    if name in MIXES:  # the share often lies near 0 or 1: in the middle it can be seen
        rng = np.random.default_rng((seed, number))
        return mixed(plain, np.zeros(len(plain), dtype=np.int64), 1, rng, name, alpha=2.0)[0]
    return np.stack(
        [varied(each, how, name, np.random.default_rng((seed, number, row))) for row, each in enumerate(contents)]
    )
