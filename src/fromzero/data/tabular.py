"""Rows of a table as the network's numbers: how a data set's columns become inputs, and the samples of a table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fromzero.data.batches import Item, loader_threads
from fromzero.data.load import Rows
from fromzero.data.manifest import Manifest
from fromzero.data.rows.content import content, values
from fromzero.data.rows.passing import computing
from fromzero.data.rows.scaling import statistics
from fromzero.data.rows.table import MISSING, NO_NUMBER
from fromzero.errors import UnknownName, UsageError
from fromzero.records import Columns

MOST_WORDS = 1000  # of a column: of more, the rarest count as not seen
RARE = 2  # a word in fewer training rows is as good as not seen; so the network also learns what to do with those
KEPT_BYTES = 1 << 30  # inputs are kept in memory up to this size
WINDOW = 16  # rows of an entity that are read, if nothing else was said


def columns(manifest: Manifest, window: int = 0) -> Columns:
    """How a table's rows become inputs, by its training rows. With a `window`, a sample is the row and those of its
    group before it in time. Raises UsageError for a window without columns of group and time."""
    roles = manifest.about["roles"]
    if window and not {"group", "time"} <= set(roles):
        raise UsageError("no_sequences", path=manifest.root)
    group, time = (roles["group"], roles["time"]) if window else ("", "")
    rows = _training_rows(manifest)
    found, table = statistics(manifest), content(manifest)
    numbers, flagged = [], []
    for name, each in found["numbers"].items():
        if name == time:  # later rows have times that training never saw
            continue
        numbers.append((name, each["mean"], each["std"]))
        if not np.isfinite(table.column(name).to_numpy()[rows]).all():
            flagged.append(name)
    words = tuple(
        (name, _words(table.column(name), each, rows))
        for name, each in found["categories"].items()
        if name != roles.get("time")  # a date is the order of the rows; as a word, no later row has it
    )
    return Columns(numbers=tuple(numbers), flagged=tuple(flagged), words=words, window=window, group=group, time=time)


def width(how: Columns) -> int:
    """How many of an input's values are numbers; those of the columns of words follow. In a sequence one of them says
    whether there is a row."""
    return len(how.numbers) + len(how.flagged) + bool(how.window)


def raw(table: Any, how: Columns) -> tuple[np.ndarray, np.ndarray]:
    """Of a pyarrow Table: numbers as they are, float64 (N, numbers), NaN where missing, and words as their places,
    int64 (N, words), 0 for none."""
    pyarrow = computing()
    numbers = np.empty((len(table), len(how.numbers)))
    for place, (name, _, _) in enumerate(how.numbers):
        numbers[:, place] = table.column(name).to_numpy()
    codes = np.zeros((len(table), len(how.words)), np.int64)
    for place, (name, known) in enumerate(how.words):
        found = pyarrow.compute.index_in(table.column(name), pyarrow.array(known, pyarrow.string()))
        codes[:, place] = pyarrow.compute.fill_null(found, -1).to_numpy() + 1
    return numbers, codes


def encoded(numbers: np.ndarray, codes: np.ndarray, how: Columns) -> np.ndarray:
    """What `raw` gave as inputs: float32 (N, numbers + flagged + words)."""
    names = [name for name, _, _ in how.numbers]
    missing = ~np.isfinite(numbers)
    mean, std = (np.array([each[place] for each in how.numbers]) for place in (1, 2))
    scaled = np.where(missing, 0.0, (numbers - mean) / std) if names else numbers
    flags = missing[:, [names.index(each) for each in how.flagged]]
    return np.concatenate([scaled, flags, codes], axis=1).astype(np.float32)


def prepared(given: Any, how: Columns) -> np.ndarray:
    """What a user hands in, as the network's input: a row as column -> value, or with a window several, the oldest
    first. Columns may be missing. Raises UnknownName for a column that training did not have, UsageError for what is
    no number where one belongs."""
    if not how.window:
        return _row(given, how)
    rows = [given] if isinstance(given, Mapping) else list(given)
    if not rows:
        raise UsageError("no_row", kind=type(given).__name__)
    made = np.stack([_row(each, how) for each in rows[-how.window :]])
    there = np.arange(how.window) < len(made)
    return _sequences(np.pad(made, ((0, how.window - len(made)), (0, 0)))[None], there[None], how)[0]


class Table(Rows):
    """The rows of a manifest of kind "table" as float32 arrays with their class, addressed by row. With a window
    (window, values): the rows of the group up to this one in time, the oldest first, then zeros."""

    def __init__(self, manifest: Manifest, how: Columns, seed: int = 0) -> None:
        self.manifest, self.how, self.seed = manifest, how, seed
        self.changed: set[int] = set()
        self._table = content(manifest)
        self._kept: np.ndarray | None = None
        if how.window:
            self._chains = chains(manifest, how)
        if len(manifest) * (width(how) + len(how.words)) * 4 <= KEPT_BYTES:
            self._kept = encoded(*raw(self._table, how), how)

    @property
    def workers(self) -> int:
        """None for rows that are kept: a thread costs more than it saves."""
        return 0 if self._kept is not None else loader_threads()

    def batch(self, items: Sequence[Item]) -> tuple[np.ndarray, np.ndarray]:
        """float32 (N, values) or (N, window, values), and classes (N,)."""
        rows = np.array([row for row, _ in items], np.int64)
        if not self.how.window:
            return self._inputs(rows), self.labels(rows)
        order, place, first = self._chains
        newest = place[rows][:, None]
        at = np.maximum(first[rows][:, None], newest - self.how.window + 1) + np.arange(self.how.window)
        found = self._inputs(order[np.minimum(at, newest)].ravel())
        return _sequences(found.reshape(*at.shape, -1), at <= newest, self.how), self.labels(rows)

    def _inputs(self, rows: np.ndarray) -> np.ndarray:
        if self._kept is not None:
            return self._kept[rows]
        return encoded(*raw(self._table.take(computing().array(rows)), self.how), self.how)


def chains(manifest: Manifest, how: Columns) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The rows of each group in the order of time: all rows in that order, each row's place in it, and the place where
    its group begins."""
    group = values(manifest, "grouped", how.group)
    order = np.lexsort((values(manifest, "time", how.time), group))
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    sorted_groups = group[order]
    return order, place, np.searchsorted(sorted_groups, sorted_groups)[place]


def _sequences(rows: np.ndarray, there: np.ndarray, how: Columns) -> np.ndarray:
    """Inputs (N, window, values) with the word that a row is `there` (N, window) behind their numbers; zeros else."""
    place = width(how) - 1
    made = np.concatenate([rows[..., :place], there[..., None], rows[..., place:]], axis=-1, dtype=np.float32)
    return made * there[..., None].astype(np.float32)


def _row(given: Any, how: Columns) -> np.ndarray:
    if not isinstance(given, Mapping):
        raise UsageError("no_row", kind=type(given).__name__)
    known = [*(name for name, _, _ in how.numbers), *(name for name, _ in how.words)]
    for name in given:
        if name not in known and name not in (how.group, how.time):
            raise UnknownName("column", str(name), known)
    numbers = np.array([[_number(given.get(name), name) for name, _, _ in how.numbers]])
    codes = [[_place(given.get(name), words) for name, words in how.words]]
    return encoded(numbers.reshape(1, -1), np.array(codes, np.int64).reshape(1, -1), how)[0]


def _number(value: Any, name: str) -> float:
    if value is None or (isinstance(value, str) and value.strip() in NO_NUMBER):
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError):
        raise UsageError("no_number", column=name, value=str(value)[:40]) from None


def _place(value: Any, words: tuple[str, ...]) -> int:
    """A word's place, counted from 1; 0 for one that is not in the list, or none."""
    word = str(value).strip() if value is not None else ""
    return words.index(word) + 1 if word not in MISSING and word in words else 0


def _words(column: Any, known: Sequence[str], rows: np.ndarray) -> tuple[str, ...]:
    """The words of a column that enough training rows have, the commonest first."""
    pyarrow = computing()
    found = pyarrow.compute.index_in(column.take(pyarrow.array(rows)), pyarrow.array(known, pyarrow.string()))
    counts = np.bincount(pyarrow.compute.fill_null(found, len(known)).to_numpy(), minlength=len(known) + 1)[
        : len(known)
    ]
    order = [int(each) for each in np.argsort(-counts, kind="stable")[:MOST_WORDS] if counts[each] >= RARE]
    return tuple(known[each] for each in order)


def _training_rows(manifest: Manifest) -> np.ndarray:
    rows = manifest.rows("train")
    return rows if len(rows) else manifest.good()
