"""Train, validation and test: repeatable, and no sample in two of them.

A sample's place is decided by a hash of its content and the seed, so that samples added later hardly move the others.
Copies and near copies (a cluster) always stay together, as do the samples of a group where groups are named. Splits
that the data name are kept; what is missing is made.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from fromzero.data.columns import Words
from fromzero.data.manifest import SPLIT_WORDS, SPLITS, Manifest, Rule
from fromzero.errors import DataError, UnknownName, UsageError
from fromzero.records import SPLITTINGS

# Spreads the rounding over the classes: many small ones would else all round down, and leave a part empty.
GOLDEN = (5**0.5 - 1) / 2
NONE, TRAIN, VAL, TEST, AWAY = range(5)  # places in SPLIT_WORDS


def split(
    manifest: Manifest,
    shares: tuple[float, float, float] | None = None,
    seed: int | None = None,
    *,
    values: Any = None,
    **rule: Any,
) -> Manifest:
    """The manifest with its `split` column filled, by default by the rule of its last split. The words after `values`
    are the fields of `Rule`; `values` is the column that `by` names, one a row, for "grouped" and "time".

    Within one sample of the share in every class, unless copies must stay together. An official test set is never
    touched; a copy of its samples is in no split."""
    asked: Mapping[str, Any] = {**rule, "shares": shares, "seed": seed}
    last = manifest.rule
    if asked.get("how") not in (None, last.how):  # another way does not go by the same column
        last = dataclasses.replace(last, by="")
    made = dataclasses.replace(last, **{name: value for name, value in asked.items() if value is not None})
    _check(made, values)
    units = _units(manifest, values if made.how == "grouped" else None)
    given = _given(manifest)
    place = _placed(manifest, given, made, units, values)
    place = _together(place, units, manifest)
    if (given == TEST).any():
        place[(place == TEST) & (given != TEST)] = AWAY
    for name in ("train", "val"):
        if not ((place == SPLIT_WORDS.index(name)) & (manifest["problem"] == "")).any():
            raise DataError("empty_split", split=name, images=len(manifest.good()))
    return dataclasses.replace(manifest.with_column("split", Words(place, SPLIT_WORDS)), rule=made)


def _check(rule: Rule, values: Any) -> None:
    shares = rule.shares
    if not (min(shares) >= 0 and abs(sum(shares) - 1) <= 1e-6 and shares[0] > 0):  # written so that NaN fails
        raise UsageError("bad_shares", shares="/".join(f"{each:g}" for each in shares))
    if rule.how not in SPLITTINGS:
        raise UnknownName("choice", rule.how, SPLITTINGS)
    if rule.how in ("grouped", "time") and values is None:
        raise UsageError("split_by_what", how=rule.how)
    if (rule.how == "kfold" and not 0 <= rule.fold < rule.folds) or rule.folds < 2:
        raise UsageError("bad_fold", fold=rule.fold, folds=rule.folds)


def _given(manifest: Manifest) -> np.ndarray:
    """Places that the data name; nothing if all they name is train, which then has everything to give."""
    found = manifest["given"].codes
    return found if np.isin(found, (VAL, TEST)).any() else np.zeros_like(found)


def _placed(manifest: Manifest, given: np.ndarray, rule: Rule, units: np.ndarray, values: Any) -> np.ndarray:
    place = given.copy()
    good = manifest["problem"] == ""
    place[(place == NONE) & ~good] = TRAIN  # unusable rows are nobody's, but not missing
    train, val, test = rule.shares
    if (given == VAL).any() and (given == TEST).any():
        parts: dict[int, float] = {}
    elif (given == TEST).any():  # what is left of train and val is to be shared in their own ratio
        parts = {VAL: val / (train + val)}
    elif (given == VAL).any():
        parts = {}
    else:
        parts = {TEST: test, VAL: val}
    order = _order(manifest, units, rule, values)
    if rule.how == "kfold":
        if VAL not in parts:
            raise UsageError("kfold_given")
        free = good & (given != TEST)
        place[free] = np.where(_folds(manifest, free, order, units, rule) == rule.fold, VAL, TRAIN)[free]
        return place
    free = good & ((place == NONE) | ((place == TRAIN) & (TEST not in parts)))
    strata = [rows[np.argsort(order[rows], kind="stable")] for rows in _strata(manifest, free, rule)]
    upto = 0.0
    for part, share in parts.items():
        upto += share
        free &= ~np.isin(place, (TEST, VAL))
        taken = np.zeros(len(place), dtype=bool)
        for number, rows in enumerate(strata):
            count = math.floor(len(rows) * upto + (0.5 + number * GOLDEN) % 1)
            left = rows[free[rows]]
            taken[left[: max(0, count - (len(rows) - len(left)))]] = True
        place[free & _whole(taken, free, units)] = part
    place[place == NONE] = TRAIN
    return place


def _whole(taken: np.ndarray, free: np.ndarray, units: np.ndarray) -> np.ndarray:
    """`taken` with each unit that the cut went through wholly in if half of it was, else wholly out."""
    inside, size = (np.bincount(units, weights=each, minlength=int(units.max()) + 1) for each in (taken, free))
    return (2 * inside >= size)[units] & (inside > 0)[units]


def _strata(manifest: Manifest, free: np.ndarray, rule: Rule) -> list[np.ndarray]:
    """Rows that are shared out by themselves: those of a class, so that every class gets its share, or all."""
    if rule.how in ("stratified", "kfold") and manifest.classes:
        return [np.flatnonzero(free & (manifest["label"] == label)) for label in range(len(manifest.classes))]
    return [np.flatnonzero(free)]


def _folds(manifest: Manifest, free: np.ndarray, order: np.ndarray, units: np.ndarray, rule: Rule) -> np.ndarray:
    """The fold that each row validates in: every class dealt out evenly, a unit to one fold as a whole."""
    fold = np.full(len(manifest), rule.folds, dtype=np.int64)
    for rows in _strata(manifest, free, rule):
        ranked = rows[np.argsort(order[rows], kind="stable")]
        fold[ranked] = np.arange(len(ranked)) * rule.folds // max(1, len(ranked))
    first = np.full(int(units.max()) + 1, rule.folds, dtype=np.int64)
    np.minimum.at(first, units, fold)
    return first[units]


def _order(manifest: Manifest, units: np.ndarray, rule: Rule, values: Any) -> np.ndarray:
    """The order in which samples are given away: the newest first by time, else by the hash of their content (or of
    what must stay with it, so that it is given away at once)."""
    if rule.how == "time":
        ranks = np.argsort(np.argsort(np.asarray(values), kind="stable"), kind="stable")
        return len(ranks) - ranks
    first = np.full(int(units.max()) + 1, np.iinfo(np.uint64).max, dtype=np.uint64)
    np.minimum.at(first, units, manifest["hash"])
    return _mixed(first[units], rule.seed)


def _mixed(numbers: np.ndarray, seed: int) -> np.ndarray:
    """Numbers as if drawn by lot, the same for the same number and seed (the finaliser of MurmurHash3, Appleby)."""
    numbers = numbers ^ np.uint64((seed * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) % 2**64)
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        numbers = (numbers ^ (numbers >> np.uint64(33))) * np.uint64(factor)
    return numbers ^ (numbers >> np.uint64(33))


def _units(manifest: Manifest, groups: Any) -> np.ndarray:
    """A number a row, the same for what must stay together: equal content, a cluster of near copies, a group."""
    _, unit = np.unique(manifest["hash"], return_inverse=True)
    for ties in (
        manifest.columns.get("cluster"),
        None if groups is None else np.unique(groups, return_inverse=True)[1],
    ):
        if ties is not None:
            unit = _joined(unit, np.asarray(ties))
    return unit


def _joined(unit: np.ndarray, tie: np.ndarray) -> np.ndarray:
    """`unit` with the rows of equal `tie` (-1: none) joined, and so all of their units."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    tied = np.flatnonzero(tie >= 0)
    count = int(unit.max()) + 1
    size = count + (int(tie.max()) + 1 if len(tied) else 0)
    links = coo_matrix((np.ones(len(tied), np.int8), (unit[tied], count + tie[tied])), shape=(size, size))
    return connected_components(links, directed=False)[1][unit]


def _together(place: np.ndarray, units: np.ndarray, manifest: Manifest) -> np.ndarray:
    """All samples of a unit follow the one that is furthest from training."""
    furthest = np.zeros(int(units.max()) + 1, dtype=np.int8)
    good = manifest["problem"] == ""
    np.maximum.at(furthest, units[good], place[good])
    place = place.copy()
    place[good] = furthest[units[good]]
    return place


def divided(manifest: Manifest) -> bool:
    """Whether samples that must stay together are in two parts: the content of one has changed since the split."""
    good = manifest.good()
    units, place = _units(manifest, None)[good], manifest["split"].codes[good]
    inside = np.isin(place, (TRAIN, VAL, TEST))
    units, place = units[inside], place[inside]
    low = np.full(int(units.max(initial=0)) + 1, TEST)
    high = np.zeros_like(low)
    np.minimum.at(low, units, place)
    np.maximum.at(high, units, place)
    return bool((high > low).any())


def table(manifest: Manifest) -> dict[str, dict[str, int]]:
    """Samples by part and class."""
    return {
        part: dict(zip(manifest.classes, manifest.counts(manifest.rows(part)).tolist(), strict=True)) for part in SPLITS
    }
