"""The manifest: one row a sample of a data set, in an Arrow file that every process maps and none copies.

Two files in the data set's state folder: `manifest.json` names the Arrow file, whose name is its checksum; so replacing
the first replaces both. A damaged manifest is only a cache: the data are looked at again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import sys
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fromzero.data.columns import Column, Texts, Words
from fromzero.errors import MissingPackage
from fromzero.files import disk_error, only, replacing, write_json

SPLITS = ("train", "val", "test")
NOWHERE = "none"  # a copy of an official test sample: it must not train, and must not be counted twice
SPLIT_WORDS = ("", *SPLITS, NOWHERE)
# What folders and columns call the splits.
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training", "训练", "训练集"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "验证", "验证集"), "val"),
    **dict.fromkeys(("test", "testing", "测试", "测试集"), "test"),
}
STATE_FOLDER = ".fromzero"
PACKED = "packed"  # an empty file in the state folder of a packed set
LOCK_SECONDS = 60.0
FORMAT = 3


@dataclass(frozen=True, kw_only=True)
class Rule:
    """How a data set is split, kept for samples that come later. `how`: "stratified", "random", "grouped", "time" or
    "kfold"; `by` is the column of groups or of time; `fold` of `folds` validates in "kfold"."""

    how: str = "stratified"
    shares: tuple[float, float, float] = (0.70, 0.15, 0.15)
    seed: int = 0
    by: str = ""
    folds: int = 5
    fold: int = 0


@dataclass(frozen=True, eq=False)
class Manifest:
    """Columns of equal length, a row a sample in a fixed order. `root` is a folder of pictures or a file of texts or
    rows, `kind` is "pictures", "texts", "chats" or "table". Every kind has

    label     number in `classes`; -1 for none         given    the split that the data name ("" for none)
    hash      of the content, 64 bits                  split    the split assigned ("" for none yet, "none" for nowhere)
    bytes     size of the sample                       problem  an error code, "" for a good sample
    cluster   (once looked for) samples that are nearly the same share a number, others have -1

    and pictures also have `path` relative to the root, `offset` in it (-1: the whole file), `modified` (ns), `width`,
    `height`, `grey`, `spread` (standard deviation of the grey values), `bright` (their mean), `sharp` (variance of the
    Laplacian), `form` (a place in `folder.FORMS`) and `look`, a perceptual hash. `rule` is that of the last split,
    `about` what else the reader keeps."""

    root: Path
    classes: tuple[str, ...]
    columns: Mapping[str, Column]
    kind: str = "pictures"
    rule: Rule = field(default_factory=Rule)
    about: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.columns["label"])

    def __getitem__(self, column: str) -> Any:
        return self.columns[column]

    @property
    def folder(self) -> Path:
        """What the paths are relative to: the root, or where the file lies that lists them."""
        return self.root if self.root.is_dir() else self.root.parent

    def good(self) -> np.ndarray:
        """Rows that can be used."""
        return np.flatnonzero(self["problem"] == "")

    def rows(self, split: str) -> np.ndarray:
        """Good rows of a split."""
        return np.flatnonzero((self["problem"] == "") & (self["split"] == split))

    def counts(self, rows: np.ndarray) -> np.ndarray:
        """Samples of each class among `rows`."""
        labels = self["label"][rows]
        return np.bincount(labels[labels >= 0], minlength=len(self.classes))

    def with_column(self, name: str, values: Column) -> Manifest:
        return dataclasses.replace(self, columns={**self.columns, name: values})

    def name(self, row: int) -> str:
        """What a person calls a row: its path, or its number in the file."""
        kept = next((self[each] for each in ("name", "path") if each in self.columns), None)
        return f"{self.root.name}:{row + 1}" if kept is None else str(kept[row])


def digest(manifest: Manifest) -> str:
    """Identifies what a run learns from: samples, classes and splits."""
    seen = hashlib.blake2b(digest_size=16)
    for column in (manifest["label"], manifest["hash"], manifest["split"].codes):
        seen.update(column.tobytes())
    return seen.hexdigest()


def save(manifest: Manifest) -> Manifest:
    """Keep the manifest in the data set's state folder; returns it as it is mapped from there."""
    pyarrow = arrow()
    folder = state_folder(manifest.root)
    table = pyarrow.table({name: _to_arrow(each) for name, each in manifest.columns.items()})
    head = {
        "format": FORMAT,
        "kind": manifest.kind,
        "classes": manifest.classes,
        "rule": dataclasses.asdict(manifest.rule),
        "about": dict(manifest.about),
    }
    table = table.replace_schema_metadata({"fromzero": json.dumps(head)})
    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    content = sink.getvalue()
    name = f"manifest-{zlib.crc32(content):08x}.arrow"
    with locked(folder):
        with replacing(folder / name) as beside, beside.open("wb") as file:
            file.write(content)
        write_json(folder / "manifest.json", {"rows": name})
        only(folder / name, "manifest-*")
        return _mapped(manifest.root, folder) or manifest


def load(root: Path) -> Manifest | None:
    """The kept manifest of a data set, mapped; None if there is none that can be trusted."""
    packed = root / STATE_FOLDER  # of a packed set that may not be written
    for folder in dict.fromkeys((state_folder(root), packed)):
        if (folder / "manifest.json").is_file():
            with locked(folder):
                return _mapped(root, folder)
    return None


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Two processes may look at one data set: what one replaces, the other must not be about to open."""
    from filelock import FileLock

    try:
        lock = FileLock(folder / ".lock", timeout=LOCK_SECONDS)
        lock.acquire()
    except (OSError, TimeoutError):  # a folder that cannot be written is not written by another either
        yield
        return
    try:
        yield
    finally:
        lock.release()


def _mapped(root: Path, folder: Path) -> Manifest | None:
    pyarrow = arrow()
    try:
        name = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["rows"]
        with pyarrow.memory_map(str(folder / name)) as file:
            if name != f"manifest-{zlib.crc32(file.read_buffer()):08x}.arrow":
                return None
            file.seek(0)
            table = pyarrow.ipc.open_file(file).read_all()
        head = json.loads(table.schema.metadata[b"fromzero"])
        if head["format"] != FORMAT:
            return None
        columns = {name: _from_arrow(table.column(name)) for name in table.column_names}
        rule = Rule(**{**head["rule"], "shares": tuple(head["rule"]["shares"])})
        return Manifest(root, tuple(head["classes"]), columns, head["kind"], rule, head["about"])
    except (OSError, KeyError, ValueError, TypeError, AttributeError, pyarrow.ArrowException):
        return None


def _to_arrow(column: Column) -> Any:
    pyarrow = arrow()
    if isinstance(column, Texts):
        return column.array
    if isinstance(column, Words):
        return pyarrow.DictionaryArray.from_arrays(pyarrow.array(column.codes, pyarrow.int8()), list(column.words))
    return pyarrow.array(column)


def _from_arrow(column: Any) -> Column:
    array = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    kind = str(array.type)
    if kind == "string":
        return Texts(array)
    if kind.startswith("dictionary"):
        return Words(array.indices.to_numpy(), array.dictionary.to_pylist())
    return array.to_numpy(zero_copy_only=kind != "bool")


def state_folder(root: Path) -> Path:
    """Where what is derived from a data set is kept: in `.fromzero/NAME` beside it (in it, other tools would take the
    folder for a class), or in the user's cache if that is read-only; in a packed set itself, which is copied with it.
    Raises DiskError if neither can be written."""
    root = root.resolve()
    if (root / STATE_FOLDER / PACKED).is_file() and os.access(root / STATE_FOLDER, os.W_OK):
        return root / STATE_FOLDER
    beside = root.parent / STATE_FOLDER / root.name
    try:
        beside.mkdir(parents=True, exist_ok=True)
        if os.access(beside, os.W_OK):
            return beside
    except OSError:
        pass
    key = hashlib.blake2b(str(root).encode(), digest_size=8).hexdigest()
    elsewhere = cache_folder() / "data" / key
    try:
        elsewhere.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(elsewhere, error) from error
    return elsewhere


def cache_folder() -> Path:
    """The user's cache: what can be made or fetched again."""
    if named := os.environ.get("XDG_CACHE_HOME"):
        return Path(named) / "fromzero"
    if sys.platform == "win32" and (local := os.environ.get("LOCALAPPDATA")):
        return Path(local) / "fromzero" / "cache"
    return Path.home() / ".cache" / "fromzero"


def content_hash(content: bytes) -> int:
    """64 bits that stand for a content: among a million samples, two differ and collide with a chance of 3e-8."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def arrow() -> Any:
    """pyarrow, or the error that says how to get it."""
    try:
        import pyarrow
        import pyarrow.ipc
    except ImportError as error:
        raise MissingPackage("pyarrow", "train") from error
    return pyarrow
