"""From whatever holds data to what a run needs: a scanned and split manifest."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fromzero.data.alike import marked
from fromzero.data.by import values
from fromzero.data.checks.copies import groups
from fromzero.data.columns import Words
from fromzero.data.manifest import NOWHERE, SPLIT_WORDS, Manifest, Rule, save
from fromzero.data.opening import open_data
from fromzero.data.split import divided, split
from fromzero.errors import DataError, UsageError
from fromzero.language import say
from fromzero.terminal import Console

Fold = tuple[int, int]  # (number from 0, folds)


def prepare(
    data: Path | str, console: Console | None = None, fold: Fold | None = None, without: Sequence[int | str] = ()
) -> Manifest:
    """The samples at a path or address, scanned, with near copies found and a split; assigns the last split's rule (or
    the default one) where a split is missing. `fold`: that part of a cross-validation, which is not kept; `without`:
    rows that belong to no part and columns that are no features, which is not kept either."""
    manifest = open_data(data, console, quick=True)
    if len(manifest.classes) == 1:
        raise DataError("one_class", path=data, name=manifest.classes[0])
    if console is not None and len(manifest.good()) < len(manifest):
        console.line(say("data.left_out", count=len(manifest) - len(manifest.good()), images=len(manifest)))
    if console is not None and (wrong := _contradicting(manifest)):
        console.line(say("data.contradicting", count=wrong, path=data))
    manifest = marked(manifest, console)
    if (manifest["split"][manifest.good()] == "").any() or divided(manifest):
        rule = manifest.rule
        groups = values(manifest, rule.how, rule.by) if rule.how in ("grouped", "time") else None
        manifest = save(split(manifest, values=groups))
    if console is not None and (names := _untrained(manifest)):
        console.line(say("data.untrained", names=", ".join(names)))
    manifest = manifest if fold is None else _folded(manifest, fold)
    return _reduced(manifest, without) if len(without) else manifest


def _untrained(manifest: Manifest) -> list[str]:
    """Classes that only held-out parts have."""
    trained, held = (set(manifest["label"][manifest.rows(part)].tolist()) for part in ("train", "test"))
    return [manifest.classes[each] for each in sorted(held - trained) if 0 <= each < len(manifest.classes)]


def _reduced(manifest: Manifest, without: Sequence[int | str]) -> Manifest:
    codes = manifest["split"].codes.copy()
    codes[[each for each in without if isinstance(each, int)]] = SPLIT_WORDS.index(NOWHERE)
    manifest = manifest.with_column("split", Words(codes, SPLIT_WORDS))
    about = dict(manifest.about)
    if "features" in about:
        about["features"] = [each for each in about["features"] if each not in without]
    return dataclasses.replace(manifest, about=about)


def _folded(manifest: Manifest, fold: Fold) -> Manifest:
    """The fold as the test part, and a validation part from the rest: early stopping must not see what is measured. An
    official test part stays out of it."""
    good = manifest.good()
    counts = manifest.counts(good[manifest["given"][good] != "test"])
    if len(counts) and counts.min() < fold[1]:
        rarest = manifest.classes[int(counts.argmin())]
        raise UsageError("too_many_folds", folds=fold[1], name=rarest, count=int(counts.min()))
    rule = Rule(how="kfold", fold=fold[0], folds=fold[1], seed=manifest.rule.seed)
    dealt = split(manifest, **dataclasses.asdict(rule))["split"].codes
    becomes = {"train": "", "val": "test", "test": NOWHERE, NOWHERE: NOWHERE, "": ""}
    table = np.array([SPLIT_WORDS.index(becomes[word]) for word in SPLIT_WORDS], np.int8)
    held = manifest.with_column("given", Words(table[dealt], SPLIT_WORDS))
    return split(held, how="stratified", seed=rule.seed)


def _contradicting(manifest: Manifest) -> int:
    """Contents that stand in several classes: whatever is learnt of them, some of it is wrong."""
    labels = manifest["label"]
    return sum(len(np.unique(labels[rows])) > 1 for rows in groups(manifest["hash"], manifest.good()))
