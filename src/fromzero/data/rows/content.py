"""Rows back by their number: contents, texts, and the values that a split goes by."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from fromzero.data.manifest import Manifest
from fromzero.data.rows.passing import computing, mapped, mask
from fromzero.data.rows.reading import EXCERPT
from fromzero.errors import DataError, UsageError


def content(manifest: Manifest, rows: Sequence[int] | np.ndarray | None = None) -> Any:
    """Samples as a pyarrow Table, all or those of `rows`: the file's columns for "texts" and "pictures", numbers
    (missing: null) and words for "table", `turns` (a list of role and text) for "chats"."""
    table = _open(manifest)
    return table if rows is None else table.take(computing().array(np.asarray(rows, dtype=np.int64)))


def texts(manifest: Manifest, rows: Sequence[int] | np.ndarray | None = None) -> Any:
    """The texts of a manifest of texts as a pyarrow ChunkedArray, all (mapped, not copied) or those of `rows`."""
    column = _open(manifest).column(manifest.about["roles"]["text"])
    return column if rows is None else column.take(computing().array(np.asarray(rows, dtype=np.int64)))


def values(manifest: Manifest, how: str, by: str = "") -> np.ndarray:
    """The column that a split "grouped" or by "time" goes by, one value a row that can be compared: the column `by`,
    else the one called group or time. Raises UsageError for no such column, DataError for a value that is missing or
    no time."""
    pyarrow, table = computing(), _open(manifest)
    name = by or manifest.about["roles"].get({"grouped": "group"}.get(how, how), "")
    if name not in table.column_names:
        raise UsageError("no_such_column", name=name or how, columns=", ".join(table.column_names))
    column = table.column(name)
    if pyarrow.types.is_temporal(column.type):
        column = column.cast(pyarrow.timestamp("us")).cast(pyarrow.int64())
    is_text = pyarrow.types.is_string(column.type)
    blank = mask(pyarrow.compute.equal(column, "") if is_text else pyarrow.compute.is_null(column))
    if blank.any():
        raise DataError("split_value_missing", name=manifest.name(int(blank.argmax())), column=name)
    if how == "grouped":
        coded = column.dictionary_encode().combine_chunks()
        chunks = coded.chunks if isinstance(coded, pyarrow.ChunkedArray) else [coded]
        return np.concatenate([each.indices.to_numpy(zero_copy_only=False) for each in chunks])
    if not is_text:
        return column.to_numpy()
    with contextlib.suppress(pyarrow.ArrowInvalid):
        return column.cast(pyarrow.float64()).to_numpy()
    return _times(manifest, column, name)


def _times(manifest: Manifest, column: Any, name: str) -> np.ndarray:
    """Dates as numbers that sort like them: year, month and day in this order, then perhaps hour, minute, second."""
    pyarrow = computing()
    parts = ("year", "month", "day", "hour", "minute", "second")
    pattern = r"^\s*(?P<year>\d{4})\D{1,2}(?P<month>\d{1,2})\D{1,2}(?P<day>\d{1,2})"
    pattern += r"(?:\D+(?P<hour>\d{1,2})\D(?P<minute>\d{1,2})(?:\D(?P<second>\d{1,2}))?)?"
    found = pyarrow.compute.extract_regex(column, pattern)
    wrong = mask(pyarrow.compute.is_null(found))
    if wrong.any():
        row = int(wrong.argmax())
        raise DataError("no_time", name=manifest.name(row), column=name, text=column[row].as_py()[:EXCERPT])
    total = np.zeros(len(column), np.int64)
    for part in parts:
        digits = pyarrow.compute.struct_field(found, part)
        digits = pyarrow.compute.if_else(pyarrow.compute.equal(digits, ""), "0", digits)
        total = total * 100 + digits.cast(pyarrow.int64()).to_numpy()
    return total


def _open(manifest: Manifest) -> Any:
    table = kept(manifest)
    if table is None:
        raise DataError("rows_gone", path=manifest.root)
    return table


def kept(manifest: Manifest) -> Any:
    """The mapped Arrow file of a manifest's rows; None if it is not there or is not whole."""
    try:
        table = mapped(manifest.root, manifest.about["rows"])
    except (OSError, KeyError, computing().ArrowException):
        return None
    return table if len(table) == len(manifest) else None
