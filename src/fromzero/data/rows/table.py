"""A table with a target as a manifest. The hash of a row is that of its features: neither the target nor a number of
the row belongs to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from fromzero.data.manifest import Manifest
from fromzero.data.rows.passing import (
    MOST_CLASSES,
    PROBLEMS,
    Seen,
    computing,
    hashes,
    made,
    mapped,
    mask,
    places,
    stored,
    text_of,
)  # fmt: skip
from fromzero.data.rows.reading import Rows
from fromzero.errors import DataError
from fromzero.terminal import Console

MISSING = ("", "NA", "N/A", "#N/A", "n/a", "nan", "NaN", "NAN", "null", "NULL", "?")
NO_NUMBER = (
    *MISSING,
    "None",
    "none",
    "-",
    "inf",
    "-inf",
    "Inf",
    "-Inf",
)  # missing in a column of numbers
REGRESSION = 20  # a target with more different numbers than this is a quantity, not a class
FEWEST = 20  # rows from which a column of all different values counts as the rows' number
_ROW_NUMBERS = {"", "id", "no", "no.", "number", "index", "key", "uuid", "guid", "rownames", "编号", "序号", "column 1"}


def of_table(rows: Rows, roles: dict[str, str], source: dict[str, Any], console: Console) -> Manifest:
    if "label" not in roles:
        raise DataError("no_target", path=rows.path, columns=", ".join(rows.columns))
    numeric = _numeric(rows)
    seen = Seen()
    size = rows.path.stat().st_size

    def passing() -> Iterator[Any]:
        for batch in rows.batches():
            columns = {
                name: _numbers(text_of(rows, batch, name))
                if name in numeric
                else _categories(text_of(rows, batch, name))
                for name in rows.columns
            }
            seen.given.append(places(seen, rows, batch, roles))
            seen.count += len(batch)
            yield computing().RecordBatch.from_pydict(columns)

    name = stored(rows.path, source, passing(), console, size)
    table = mapped(rows.path, name)
    target = roles["label"]
    numbers = sorted(each for each in rows.columns if _numbers_rows(table, each, numeric))
    apart = {target, roles.get("split"), roles.get("group"), *rows.extra, *numbers}
    features = [each for each in rows.columns if each not in apart]
    classes, labels, task, problems = _target(rows, table, target, numeric)
    for batch in table.to_batches():
        joined = _joined(batch, features)
        seen.hashes.append(hashes(joined))
        seen.sizes.append(computing().compute.binary_length(joined).to_numpy())
    about = {
        "source": source, "rows": name, "roles": roles, "features": features, "task": task, "row_numbers": numbers,
        "numeric": [each for each in features if each in numeric],
    }  # fmt: skip
    return made(rows.path, "table", seen, classes, labels, problems, about)


def _numeric(rows: Rows) -> set[str]:
    """Columns in which every value that is there is a number, and some are."""
    pyarrow = computing()
    candidates, filled = set(rows.columns), set()
    for batch in rows.batches():
        for name in sorted(candidates):
            try:
                numbers = _numbers(text_of(rows, batch, name))
                if numbers.null_count < len(numbers):
                    filled.add(name)
            except pyarrow.ArrowInvalid:
                candidates.discard(name)
    return candidates & filled


def _numbers(cells: Any) -> Any:
    pyarrow = computing()
    cells = pyarrow.compute.utf8_trim_whitespace(cells)
    missing = pyarrow.compute.is_in(cells, value_set=pyarrow.array(NO_NUMBER))
    return pyarrow.compute.if_else(missing, None, cells).cast(pyarrow.float64())


def _categories(cells: Any) -> Any:
    pyarrow = computing()
    cells = pyarrow.compute.utf8_trim_whitespace(cells)
    missing = pyarrow.compute.is_in(cells, value_set=pyarrow.array(MISSING))
    return pyarrow.compute.if_else(missing, None, cells)


def _numbers_rows(table: Any, name: str, numeric: set[str]) -> bool:
    """Whether a column is a name or a number of the row: all values different, words, or whole numbers that are
    called so or follow each other."""
    pyarrow, column = computing(), table.column(name)
    if len(column) < FEWEST or column.null_count or pyarrow.compute.count_distinct(column).as_py() < len(column):
        return False
    if name not in numeric:
        return True
    found = column.to_numpy()
    if (found != np.floor(found)).any():
        return False
    follow = found.max() - found.min() + 1 <= 2 * len(found)
    return bool(follow or name.strip().casefold() in _ROW_NUMBERS)


def _target(
    rows: Rows, table: Any, target: str, numeric: set[str]
) -> tuple[tuple[str, ...], np.ndarray, str, np.ndarray]:
    """Classes, labels, task and problems: a target of words or of few whole numbers names classes."""
    pyarrow, column = computing(), table.column(target)
    missing = mask(pyarrow.compute.is_null(column))
    problems = np.where(missing, PROBLEMS.index("target_missing"), 0)
    if missing.all():
        raise DataError("target_empty", path=rows.path, column=target)
    if target in numeric:
        found = column.to_numpy()
        different = np.unique(found[~missing])
        if len(different) > REGRESSION or (different != np.floor(different)).any():
            return (), np.full(len(found), -1), "regression", problems
        labels = np.where(missing, -1, np.searchsorted(different, np.where(missing, different[0], found)))
        return tuple(f"{each:g}" for each in different), labels, "classification", problems
    words = pyarrow.compute.unique(column.drop_null()).to_pylist()
    if len(words) > MOST_CLASSES:
        raise DataError("too_many_classes", path=rows.path, column=target, most=MOST_CLASSES)
    names = sorted(words)
    labels = pyarrow.compute.fill_null(pyarrow.compute.index_in(column, pyarrow.array(names)), -1).to_numpy()
    return tuple(names), labels, "classification", problems


def _joined(batch: Any, features: Sequence[str]) -> Any:
    """The features of each row as one string."""
    pyarrow = computing()
    cells = [pyarrow.compute.fill_null(batch.column(each).cast(pyarrow.string()), "\x00") for each in features] or [
        pyarrow.array([""] * len(batch))
    ]
    return pyarrow.compute.binary_join_element_wise(*cells, "\x1f")
