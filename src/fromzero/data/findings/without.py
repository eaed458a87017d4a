"""A file of rows without some of them: a copy beside it, what stays as it was."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from fromzero.data.manifest import arrow
from fromzero.data.rows import reading
from fromzero.errors import DataError, UsageError
from fromzero.files import replacing

HEADINGS = {".tab": (1, 3)}  # lines before the first row; others have one


def copy_without(source: Path, rows: set[int], count: int) -> Path:
    """The path of the copy, written without `rows` (from 0, headings and blank lines not counted) of `count`.

    Raises UsageError for a form of file that is not known, DataError if the file does not hold `count` rows: they would
    not be those that were checked."""
    write = WITHOUT.get(source.suffix.lower())
    if write is None:
        raise UsageError("clean_form", path=source, forms=" ".join(WITHOUT))
    target = _free(source)
    with replacing(target) as beside:
        found = write(source, beside, rows, count)
        if found != count:
            raise DataError("clean_rows_differ", path=source, found=found, rows=count)
    return target


def _free(source: Path) -> Path:
    """reviews.csv -> reviews.cleaned.csv, or the first number that is free."""
    numbers = itertools.chain([""], (f"-{number}" for number in itertools.count(2)))
    paths = (source.with_name(f"{source.stem}.cleaned{number}{source.suffix}") for number in numbers)
    return next(path for path in paths if not path.exists())


def _delimited(source: Path, target: Path, rows: set[int], count: int) -> int:
    """Records that stay are copied with the lines they took: nothing is quoted anew."""
    name = reading.encoding(source)
    heading = sum(bool(record) for record, _ in _records(source, name)) - count
    if heading not in HEADINGS.get(source.suffix.lower(), (1,)):
        return count + heading - 1
    row = -heading
    with target.open("w", encoding=name, newline="") as out:
        for record, lines in _records(source, name):
            if not record or row not in rows:
                out.writelines(lines)
            row += bool(record)
    return row


def _records(source: Path, name: str) -> Iterator[tuple[list[str], list[str]]]:
    """Each record of a delimited file, with its lines as they are."""
    taken: list[str] = []
    with source.open(encoding=name, newline="") as file:

        def lines() -> Iterator[str]:
            for line in file:
                taken.append(line)
                yield line

        for record in reading._records(source, lines(), reading._delimiter(source, name)):
            yield record, taken
            taken.clear()


def _json(source: Path, target: Path, rows: set[int], count: int) -> int:
    """An object a line, or one list of them, which is written anew."""
    name = reading.encoding(source)
    row = 0
    with source.open(encoding=name, newline="") as file, target.open("w", encoding=name, newline="") as out:
        if file.read(64).lstrip("\ufeff \t\r\n").startswith("["):
            file.seek(0)
            listed = json.load(file)
            json.dump([each for row, each in enumerate(listed) if row not in rows], out, ensure_ascii=False, indent=1)
            return len(listed)
        file.seek(0)
        for line in file:
            if not line.strip() or row not in rows:
                out.write(line)
            row += bool(line.strip())
    return row


def _parquet(source: Path, target: Path, rows: set[int], count: int) -> int:
    pyarrow = arrow()
    from pyarrow import parquet

    row, gone = 0, np.array(sorted(rows), dtype=np.int64)
    with parquet.ParquetFile(source) as file, parquet.ParquetWriter(target, file.schema_arrow) as out:
        for batch in file.iter_batches():
            stays = ~np.isin(np.arange(row, row + len(batch)), gone)
            out.write_batch(batch.filter(pyarrow.array(stays)))
            row += len(batch)
    return row


# By suffix: writes the file without some of its `count` rows, returns how many it held.
WITHOUT: dict[str, Callable[[Path, Path, set[int], int], int]] = {
    **dict.fromkeys(reading.DELIMITED, _delimited),
    **dict.fromkeys((".jsonl", ".ndjson", ".json"), _json),
    ".parquet": _parquet,
}
