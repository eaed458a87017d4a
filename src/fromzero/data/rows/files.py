"""Samples that are rows of a file (or texts in a folder) into a manifest.

The file is read once, as a stream of batches, into an Arrow file in the data set's state folder; from then on rows are
looked up there, mapped, whatever the encoding and the form of the file were. It is read again when its size or its
time changes.

    read -> roles of the columns -> of_texts | of_pictures | of_table | of_chats -> manifest
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fromzero.data.columns import Texts, Words
from fromzero.data.folder import Listing
from fromzero.data.manifest import SPLIT_WORDS, Manifest, load, save
from fromzero.data.rows.chats import of_chats
from fromzero.data.rows.content import kept
from fromzero.data.rows.passing import computing
from fromzero.data.rows.pictures import again, of_pictures
from fromzero.data.rows.reading import Rows, chat_keys, encoding, opened
from fromzero.data.rows.roles import are_pictures, roles_of
from fromzero.data.rows.table import of_table
from fromzero.data.rows.texts import of_texts
from fromzero.errors import DataError, UsageError
from fromzero.terminal import Console

TEXTS = (".txt",)
FILES = 512  # text files in a batch


def read(
    path: Path | str,
    console: Console | None = None,
    *,
    quick: bool = False,
    label: str | None = None,
    text: str | None = None,
) -> Manifest:
    """The manifest of a file of rows, made or (while the file's size and time are what they were) kept.

    Kind "chats" for alpaca and sharegpt, "texts" for a column of texts, "pictures" for a column of files, else "table".
    `label` and `text` name their columns. Raises DataError with the line of what cannot be understood."""
    console = console or Console()
    path = Path(path)
    if not path.is_file():
        raise UsageError("nothing_there", path=path)
    status = path.stat()
    source = {"size": status.st_size, "modified": status.st_mtime_ns, "label": label, "text": text}
    known = load(path)
    if known is not None and known.about.get("source") == source and kept(known) is not None:
        return known if known.kind != "pictures" or quick else again(known, console)
    rows = opened(path)
    if chat_keys(rows.columns) and not text:
        return _carried(of_chats(rows, source, console), known)
    roles = roles_of(rows, label, text)
    if "image" in roles and are_pictures(rows, roles["image"]):
        return of_pictures(rows, roles, source, known, console)
    return _carried((of_texts if "text" in roles else of_table)(rows, roles, source, console), known)


def read_folder(root: Path | str, console: Console | None = None) -> Manifest:
    """The manifest of a folder of texts, `class/*.txt` or `{train,val,test}/class/*.txt`."""
    console = console or Console()
    root = Path(root)
    if not root.is_dir():
        raise UsageError("no_such_folder", path=root)
    listing = Listing(root, TEXTS)
    if not listing.paths:
        raise DataError("no_texts", path=root)
    files = [root / each for each in listing.paths]
    states = [each.stat() for each in files]
    sums = zlib.crc32(repr([(each.st_size, each.st_mtime_ns) for each in states]).encode())
    source = {"files": zlib.crc32("\n".join(listing.paths).encode()), "states": sums}
    known = load(root)
    if known is not None and known.about.get("source") == source and kept(known) is not None:
        return known

    def batches() -> Iterator[Any]:
        for start in range(0, len(files), FILES):
            some = range(start, min(start + FILES, len(files)))
            yield computing().RecordBatch.from_pydict(
                {
                    "path": [listing.paths[row] for row in some],
                    "text": [_text_of(files[row]) for row in some],
                    "label": [listing.labels[row] for row in some],
                    "split": [listing.given[row] for row in some],
                }
            )

    rows = Rows(root, ("path", "text", "label", "split"), batches)
    roles = {"text": "text", "label": "label", "split": "split"}
    manifest = of_texts(rows, roles, source, console)
    return _carried(manifest.with_column("path", Texts.of(listing.paths)), known)


def _text_of(path: Path) -> str:
    return path.read_text(encoding=encoding(path)) if path.stat().st_size else ""


def _carried(manifest: Manifest, known: Manifest | None) -> Manifest:
    """Keep the manifest, with the split that the last one gave to samples of the same content, and its rule."""
    if known is not None and known.kind == manifest.kind and len(known):
        order = np.argsort(known["hash"], kind="stable")
        there = np.searchsorted(known["hash"][order], manifest["hash"]).clip(max=len(known) - 1)
        rows = order[there]
        same = (known["hash"][rows] == manifest["hash"]) & (known["given"].codes[rows] == manifest["given"].codes)
        codes = np.where(same, known["split"].codes[rows], 0).astype(np.int8)
        manifest = dataclasses.replace(manifest.with_column("split", Words(codes, SPLIT_WORDS)), rule=known.rule)
    return save(manifest)
