"""The manifest: one row a picture of a data set folder, kept in a Parquet file beside the pictures.

A folder is `class/*.jpg`, or `{train,val,test}/class/*.jpg`. Scanning decodes every picture once, so that nothing
downstream meets a file that cannot be read; a second scan looks only at what changed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fromzero.data.images import SUFFIXES, decode
from fromzero.errors import DataError, MissingPackage, UnreadableImage, UsageError
from fromzero.files import disk_error, replacing
from fromzero.language import say
from fromzero.machine.process import usable_cores
from fromzero.terminal import Console

SPLITS = ("train", "val", "test")
SHARES = (0.70, 0.15, 0.15)  # of train, val and test, unless the user says otherwise
_SPLIT_FOLDERS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
STATE_FOLDER = ".fromzero"


class Facts(NamedTuple):
    """What is known of one file; see `Manifest`."""

    split: str = ""
    bytes: int = 0
    modified: int = 0
    hash: str = ""
    width: int = 0
    height: int = 0
    grey: bool = False
    spread: float = 0.0
    problem: str = ""


_COLUMNS = ("path", "label", "given", *Facts._fields)


@dataclass(frozen=True)
class Manifest:
    """Columns of equal length, a row a picture, sorted by path. `path` is relative to `root`; `label` numbers
    `classes`; `given` is the split its folder names and `split` the one assigned ("" for none); `hash` is of the file's
    bytes; `spread` is the standard deviation of the grey values; `problem` is an error code, "" for a good picture.
    `shares` and `seed` are those of the last split, for pictures that are added later."""

    root: Path
    classes: tuple[str, ...]
    columns: dict[str, np.ndarray]
    shares: tuple[float, float, float] = SHARES
    seed: int = 0

    def __len__(self) -> int:
        return len(self.columns["path"])

    def __getitem__(self, column: str) -> np.ndarray:
        return self.columns[column]

    def good(self) -> np.ndarray:
        """Rows that can be used."""
        return np.flatnonzero(self["problem"] == "")

    def rows(self, split: str) -> np.ndarray:
        """Good rows of a split."""
        return np.flatnonzero((self["problem"] == "") & (self["split"] == split))

    def with_column(self, name: str, values: np.ndarray) -> Manifest:
        return dataclasses.replace(self, columns={**self.columns, name: values})


def scan(root: Path | str, console: Console | None = None) -> Manifest:
    """Read the folder, reuse what an earlier scan knew of unchanged files, and keep the result."""
    console = console or Console()
    root = Path(root)
    if not root.is_dir():
        raise UsageError("no_such_folder", path=root)
    found = list(_files(root))
    classes = tuple(sorted({name for _, name, _ in found}))
    if not found or not classes:
        raise DataError("no_pictures", path=root, suffixes=" ".join(SUFFIXES))
    known, shares, seed = _known(root)
    paths = [path for path, _, _ in found]
    with (
        ThreadPoolExecutor(_readers(root, paths)) as pool,
        console.progress(say("data.scanning"), len(paths)) as advance,
    ):
        looked = []
        for facts in pool.map(lambda path: _look(root, path, known.get(path)), paths):
            looked.append(facts)
            advance()
    columns = {name: np.array([getattr(each, name) for each in looked]) for name in Facts._fields}
    columns["path"] = np.array(paths)
    columns["label"] = np.array([classes.index(name) for _, name, _ in found])
    columns["given"] = np.array([given for _, _, given in found])
    manifest = Manifest(root, classes, columns, shares, seed)
    save(manifest)
    return manifest


def save(manifest: Manifest) -> Path:
    """Write the manifest beside its pictures (or in the user's cache where that cannot be written)."""
    pyarrow, parquet = _parquet()
    path = state_folder(manifest.root) / "manifest.parquet"
    table = pyarrow.table({name: manifest[name] for name in _COLUMNS})
    rule = {"classes": manifest.classes, "shares": manifest.shares, "seed": manifest.seed}
    table = table.replace_schema_metadata({name: json.dumps(value) for name, value in rule.items()})
    with replacing(path) as beside:
        parquet.write_table(table, beside, write_page_checksum=True)
    return path


def state_folder(root: Path) -> Path:
    """Where what is derived from a data set is kept: in it, or in the user's cache if it is read-only. Raises
    DiskError if neither can be written."""
    inside = root / STATE_FOLDER
    try:
        inside.mkdir(exist_ok=True)
        if os.access(inside, os.W_OK):
            return inside
    except OSError:
        pass
    key = hashlib.blake2b(str(root.resolve()).encode(), digest_size=8).hexdigest()
    elsewhere = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fromzero" / "data" / key
    try:
        elsewhere.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(elsewhere, error) from error
    return elsewhere


def _files(root: Path) -> Iterator[tuple[str, str, str]]:
    """(relative path, class, split its folder names) of every file that claims to be a picture, sorted."""
    folders = [each for each in sorted(root.iterdir()) if each.is_dir() and not each.name.startswith(".")]
    names = {each.name.lower() for each in folders}
    # "train" alone may be a class of vehicles; beside "val" or "test" it is a split, whatever else lies there.
    nested = "train" in names and (names <= _SPLIT_FOLDERS.keys() or len(names & _SPLIT_FOLDERS.keys()) > 1)
    tops = [(each, _SPLIT_FOLDERS[each.name.lower()]) for each in folders if each.name.lower() in _SPLIT_FOLDERS]
    classes = [(sub, given) for top, given in tops for sub in sorted(top.iterdir())] if nested else []
    for folder, given in classes or [(each, "") for each in folders]:
        if not folder.is_dir() or folder.name.startswith("."):
            continue
        for path in sorted(folder.rglob("*")):
            inside = path.relative_to(folder).parts
            if path.suffix.lower() in SUFFIXES and not any(each.startswith(".") for each in inside) and path.is_file():
                yield _text(path.relative_to(root)), folder.name, given


def _text(path: Path) -> str:
    """A path with forward slashes; raises DataError for a name that is not text, as old archives unpack to."""
    text = path.as_posix()
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError("name_not_utf8", path=text.encode("utf-8", "backslashreplace").decode()) from error
    return text


def _readers(root: Path, paths: Sequence[str]) -> int:
    """Threads that pay: decoding a photo lets go of the interpreter, decoding an icon is mostly interpreter."""
    sizes = [(root / path).stat().st_size for path in paths[:: max(1, len(paths) // 50)]]
    return usable_cores() if sum(sizes) / len(sizes) > 16 << 10 else 1


def _look(root: Path, path: str, known: Facts | None) -> Facts:
    """What one file holds; `known` is what an earlier scan found there."""
    try:
        status = (root / path).stat()
        if known and (known.bytes, known.modified) == (status.st_size, status.st_mtime_ns):
            return known
        content = (root / path).read_bytes()
    except OSError:
        return Facts(problem="image_not_read")
    seen = Facts(bytes=status.st_size, modified=status.st_mtime_ns, split=known.split if known else "")
    seen = seen._replace(hash=hashlib.blake2b(content, digest_size=16).hexdigest())
    try:
        picture = decode(content, path)
    except UnreadableImage as error:
        return seen._replace(problem=error.code)
    small = picture.convert("L").reduce(max(1, min(picture.size) // 32))
    return seen._replace(
        width=picture.width,
        height=picture.height,
        grey=picture.mode == "L",
        spread=float(np.asarray(small, dtype=np.float32).std()),
    )


def _known(root: Path) -> tuple[dict[str, Facts], tuple[float, float, float], int]:
    """What the last scan found, by path, and the last split's shares and seed; nothing if there was none or it cannot
    be read."""
    path = state_folder(root) / "manifest.parquet"
    if not path.is_file():
        return {}, SHARES, 0
    pyarrow, parquet = _parquet()
    try:
        table = parquet.read_table(path, page_checksum_verification=True)
        kinds = {str: pyarrow.string(), int: pyarrow.int64(), bool: pyarrow.bool_(), float: pyarrow.float64()}
        if any(table.schema.field(name).type != kinds[type(value)] for name, value in Facts()._asdict().items()):
            return {}, SHARES, 0  # flipped bits can turn texts into bytes and still pass every checksum
        columns = [table.column(name).to_pylist() for name in Facts._fields]
        rows = dict(zip(table.column("path").to_pylist(), map(Facts, *columns), strict=True))
        train, val, test = json.loads(table.schema.metadata[b"shares"])
        return rows, (train, val, test), int(table.schema.metadata[b"seed"])
    except (OSError, KeyError, ValueError, TypeError, pyarrow.ArrowException):
        return {}, SHARES, 0  # a damaged manifest is only a cache: look at the pictures again


def _parquet() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingPackage("pyarrow", "train") from error
    return pyarrow, pyarrow.parquet
