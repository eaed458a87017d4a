"""Rows of a file while they pass, batch by batch: the numbers that are kept of each, and the Arrow file they go to.

Equal content is judged after NFKC normalisation (full-width letters and spaces become plain ones), with every run of
white space made one space and none at the ends; case counts.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import itertools
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fromzero.data.columns import Column, Words
from fromzero.data.manifest import SPLIT_NAMES, SPLIT_WORDS, Manifest, arrow, state_folder
from fromzero.data.rows.reading import EXCERPT, Rows
from fromzero.errors import DataError
from fromzero.files import only, replacing
from fromzero.language import say
from fromzero.terminal import Console

PLACES = {**SPLIT_NAMES, "": ""}
PROBLEMS = ("", "text_empty", "label_missing", "target_missing", "chat_empty", "chat_no_answer")
MOST_CLASSES = 10_000


@dataclass
class Seen:
    """What is kept of the rows while they pass: a few numbers each."""

    labels: list[np.ndarray] = field(default_factory=list)
    given: list[np.ndarray] = field(default_factory=list)
    hashes: list[np.ndarray] = field(default_factory=list)
    sizes: list[np.ndarray] = field(default_factory=list)
    problems: list[np.ndarray] = field(default_factory=list)
    words: dict[str, int] = field(default_factory=dict)
    count: int = 0


def text_of(rows: Rows, batch: Any, column: str) -> Any:
    """A column of a batch as strings, "" for what is missing."""
    pyarrow = computing()
    cells = batch.column(column)
    if isinstance(cells, pyarrow.DictionaryArray):
        cells = cells.dictionary_decode()
    if pyarrow.types.is_nested(cells.type) or pyarrow.types.is_binary(cells.type):
        raise DataError("column_nested", path=rows.path, column=column, kind=str(cells.type))
    return pyarrow.compute.fill_null(cells.cast(pyarrow.string()), "")


def normalised(cells: Any) -> Any:
    """Strings (pyarrow) as they are compared: NFKC, white space collapsed and trimmed."""
    pyarrow = computing()
    cells = pyarrow.compute.utf8_normalize(cells, form="NFKC")
    cells = pyarrow.compute.replace_substring_regex(cells, pattern=r"[\s\p{Z}]+", replacement=" ")
    return pyarrow.compute.utf8_trim(cells, characters=" ")


def hashes(cells: Any) -> np.ndarray:
    """64 bits a string, as `content_hash` of its UTF-8."""
    if not len(cells):
        return np.zeros(0, np.uint64)
    digest = hashlib.blake2b
    offsets = np.frombuffer(cells.buffers()[1], np.int32)[cells.offset : cells.offset + len(cells) + 1].tolist()
    data = memoryview(cells.buffers()[2] or b"")
    ends = itertools.pairwise(offsets)
    return np.frombuffer(b"".join(digest(data[start:end], digest_size=8).digest() for start, end in ends), "<u8")


def note(seen: Seen, rows: Rows, batch: Any, roles: dict[str, str]) -> None:
    """Labels and given places of a batch."""
    pyarrow = computing()
    if "label" in roles:
        cells = pyarrow.compute.utf8_trim_whitespace(text_of(rows, batch, roles["label"])).dictionary_encode()
        words = cells.dictionary.to_pylist()
        codes = np.array([seen.words.setdefault(each, len(seen.words)) if each else -1 for each in words], np.int32)
        seen.labels.append(codes[cells.indices.to_numpy(zero_copy_only=False)])
        if len(seen.words) > MOST_CLASSES:
            raise DataError("too_many_classes", path=rows.path, column=roles["label"], most=MOST_CLASSES)
    else:
        seen.labels.append(np.full(len(batch), -1, np.int32))
    seen.given.append(places(seen, rows, batch, roles))
    seen.count += len(batch)


def places(seen: Seen, rows: Rows, batch: Any, roles: dict[str, str]) -> np.ndarray:
    if "split" not in roles:
        return np.zeros(len(batch), np.int8)
    cells = text_of(rows, batch, roles["split"]).dictionary_encode()
    words = cells.dictionary.to_pylist()
    codes = []
    for number, each in enumerate(words):
        place = PLACES.get(each.strip().casefold())
        if place is None:
            row = seen.count + int((cells.indices.to_numpy(zero_copy_only=False) == number).argmax())
            raise DataError("split_unknown", path=rows.path, row=row + 1, column=roles["split"], text=each[:EXCERPT])
        codes.append(SPLIT_WORDS.index(place))
    return np.array(codes, np.int8)[cells.indices.to_numpy(zero_copy_only=False)]


def stored(home: Path, source: dict[str, Any], batches: Iterator[Any], console: Console, total: int) -> str:
    """Write batches into an Arrow file of the state folder; returns its name."""
    pyarrow = computing()
    folder = state_folder(home)
    name = f"rows-{zlib.crc32(json.dumps(source).encode()):08x}.arrow"
    written = 0
    with (
        replacing(folder / name) as beside,
        beside.open("wb") as file,
        contextlib.ExitStack() as stack,
        console.progress(say("rows.reading"), total) as advance,
    ):
        writer = None
        for batch in batches:
            if writer is None:
                writer = stack.enter_context(pyarrow.ipc.new_file(file, batch.schema))
            writer.write_batch(batch)
            written += len(batch)
            advance(batch.nbytes)
        if not written:
            raise DataError("no_rows", path=home)
        stack.close()
    only(folder / name, "rows-*")
    return name


def mapped(home: Path, name: str) -> Any:
    """The table in an Arrow file of a data set's state folder, mapped."""
    pyarrow = computing()
    with pyarrow.memory_map(str(state_folder(home) / name)) as file:
        return pyarrow.ipc.open_file(file).read_all()


def made(
    home: Path,
    kind: str,
    seen: Seen,
    classes: tuple[str, ...],
    labels: np.ndarray,
    problems: np.ndarray,
    about: dict[str, Any],
) -> Manifest:
    columns: dict[str, Column] = {
        "label": labels.astype(np.int32),
        "given": Words(np.concatenate(seen.given), SPLIT_WORDS),
        "split": Words(np.zeros(seen.count, np.int8), SPLIT_WORDS),
        "problem": Words(problems.astype(np.int8), PROBLEMS),
        "hash": np.concatenate(seen.hashes).astype(np.uint64),
        "bytes": np.concatenate(seen.sizes).astype(np.int64),
    }
    return Manifest(home, classes, columns, kind, about=about)


def classes_of(seen: Seen) -> tuple[tuple[str, ...], np.ndarray]:
    """The classes in order (as numbers, if all are) and the labels in it."""
    found = np.concatenate(seen.labels)
    try:
        names = sorted(seen.words, key=float)
    except ValueError:
        names = sorted(seen.words)
    place = np.zeros(len(names) + 1, np.int32)
    place[[seen.words[each] for each in names]] = np.arange(len(names))
    place[-1] = -1
    return tuple(names), place[found]


def mask(cells: Any) -> np.ndarray:
    return np.asarray(cells.to_numpy(zero_copy_only=False) if not hasattr(cells, "chunks") else cells.to_numpy(), bool)


def computing() -> Any:
    """pyarrow with its functions on columns."""
    pyarrow = arrow()
    importlib.import_module("pyarrow.compute")  # which hangs itself onto the package
    return pyarrow
