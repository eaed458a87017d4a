"""Samples that are rows of a file (or texts in a folder) into a manifest, and their content back by row.

The file is read once, as a stream of batches, into an Arrow file in the data set's state folder; from then on rows are
looked up there, mapped, whatever the encoding and the form of the file were. It is read again when its size or its
time changes.

Equal content is judged after NFKC normalisation (full-width letters and spaces become plain ones), with every run of
white space made one space and none at the ends; case counts. The hash of a table's row is that of its features:
neither the target nor a number of the row belongs to it.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import itertools
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fromzero.data.columns import Column, Texts, Words
from fromzero.data.images import SUFFIXES
from fromzero.data.manifest import SPLIT_NAMES, SPLIT_WORDS, Manifest, Rule, arrow, load, save, state_folder
from fromzero.data.rows.reading import EXCERPT, Rows, chat_keys, encoding, opened
from fromzero.errors import DataError, UsageError
from fromzero.files import replacing
from fromzero.language import say
from fromzero.terminal import Console

# What a column may be called, without regard to case. Others are named by the caller.
NAMES = {
    "image": ("image", "image_path", "img", "path", "file", "filename", "file_name", "图片", "图像", "文件", "文件名"),
    "text": ("text", "content", "sentence", "review", "comment", "文本", "内容", "正文", "句子", "评论", "评价"),
    "label": ("label", "target", "class", "y", "category", "标签", "类别", "分类", "标注", "目标"),
    "split": ("split", "划分", "数据划分"),
    "group": ("group", "groups", "分组", "组"),
    "time": ("time", "date", "timestamp", "时间", "日期"),
}
PLACES = {**SPLIT_NAMES, "": ""}
SPEAKERS = {
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "model", "bot", "chatgpt", "bard"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("tool", "function", "observation", "function_call", "tool_call", "tool_response"), "tool"),
}
PROBLEMS = ("", "text_empty", "label_missing", "target_missing", "chat_empty", "chat_no_answer")
MISSING = ("", "NA", "N/A", "#N/A", "n/a", "nan", "NaN", "NAN", "null", "NULL", "?")
NO_NUMBER = (*MISSING, "None", "none", "-", "inf", "-inf", "Inf", "-Inf")  # missing in a column of numbers
TEXTS = (".txt",)
REGRESSION = 20  # a target with more different numbers than this is a quantity, not a class
MOST_CLASSES = 10_000
FEWEST = 20  # rows from which a column of all different values counts as the rows' number
FILES = 512  # text files in a batch
_ROW_NUMBERS = {"", "id", "no", "no.", "number", "index", "key", "uuid", "guid", "rownames", "编号", "序号", "column 1"}


@dataclass
class _Seen:
    """What is kept of the rows while they pass: a few numbers each."""

    labels: list[np.ndarray] = field(default_factory=list)
    given: list[np.ndarray] = field(default_factory=list)
    hashes: list[np.ndarray] = field(default_factory=list)
    sizes: list[np.ndarray] = field(default_factory=list)
    problems: list[np.ndarray] = field(default_factory=list)
    words: dict[str, int] = field(default_factory=dict)
    count: int = 0


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
    if known is not None and known.about.get("source") == source and _kept(known) is not None:
        return known if known.kind != "pictures" or quick else _pictures_again(known, console)
    rows = opened(path)
    if chat_keys(rows.columns) and not text:
        return _carried(_chats(rows, source, console), known)
    roles = _roles(rows, label, text)
    if "image" in roles and _are_pictures(rows, roles["image"]):
        return _pictures(rows, roles, source, known, console)
    return _carried((_texts if "text" in roles else _table)(rows, roles, source, console), known)


def read_folder(root: Path | str, console: Console | None = None) -> Manifest:
    """The manifest of a folder of texts, `class/*.txt` or `{train,val,test}/class/*.txt`."""
    from fromzero.data.folder import Listing

    console = console or Console()
    root = Path(root)
    if not root.is_dir():
        raise UsageError("no_such_folder", path=root)
    state_folder(root)
    listing = Listing(root, TEXTS)
    if not listing.paths:
        raise DataError("no_texts", path=root)
    files = [root / each for each in listing.paths]
    states = [each.stat() for each in files]
    sums = zlib.crc32(repr([(each.st_size, each.st_mtime_ns) for each in states]).encode())
    source = {"files": zlib.crc32("\n".join(listing.paths).encode()), "states": sums}
    known = load(root)
    if known is not None and known.about.get("source") == source and _kept(known) is not None:
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
    manifest = _texts(rows, roles, source, console)
    return _carried(manifest.with_column("path", Texts.of(listing.paths)), known)


def _text_of(path: Path) -> str:
    return path.read_text(encoding=encoding(path)) if path.stat().st_size else ""


# ------------------------------------------------------------------------------------------------------ reading back


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
    blank = _mask(pyarrow.compute.equal(column, "") if is_text else pyarrow.compute.is_null(column))
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
    wrong = _mask(pyarrow.compute.is_null(found))
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
    table = _kept(manifest)
    if table is None:
        raise DataError("rows_gone", path=manifest.root)
    return table


def _kept(manifest: Manifest) -> Any:
    """The mapped Arrow file of a manifest's rows; None if it is not there or is not whole."""
    pyarrow = computing()
    try:
        with pyarrow.memory_map(str(state_folder(manifest.root) / manifest.about["rows"])) as file:
            table = pyarrow.ipc.open_file(file).read_all()
    except (OSError, KeyError, pyarrow.ArrowException):
        return None
    return table if len(table) == len(manifest) else None


# ------------------------------------------------------------------------------------------------- roles of columns


def _roles(rows: Rows, label: str | None, text: str | None) -> dict[str, str]:
    """Which column is what: {"label": "类别", "text": "评论", ...}; the caller's word first, then the file's, then
    the usual names."""
    for asked in (label, text):
        if asked and asked not in rows.columns:
            raise UsageError("no_such_column", name=asked, columns=", ".join(rows.columns))
    folded = {each.strip().casefold(): each for each in reversed(rows.columns)}
    roles = {role: folded[name] for role, names in NAMES.items() for name in reversed(names) if name in folded}
    roles |= {role: name for role, name in (("label", rows.target), ("text", rows.text)) if name}
    roles |= {role: name for role, name in (("label", label), ("text", text)) if name}
    if rows.text or text:
        roles.pop("image", None)
    if roles.get("text") == roles.get("label"):
        roles.pop("text", None)
    return roles


def _are_pictures(rows: Rows, column: str) -> bool:
    """Whether the first rows of a column name pictures."""
    first = next(iter(rows.batches()), None)
    if first is None:
        raise DataError("no_rows", path=rows.path)
    cells = first.column(column)
    if computing().types.is_nested(cells.type):
        raise DataError("pictures_inside", path=rows.path, column=column)
    some = [str(each.as_py() or "") for each in cells[:20]]
    return sum(each.lower().endswith(SUFFIXES) for each in some) * 2 >= len(some)


def _text(rows: Rows, batch: Any, column: str) -> Any:
    """A column of a batch as strings, "" for what is missing."""
    pyarrow = computing()
    cells = batch.column(column)
    if isinstance(cells, pyarrow.DictionaryArray):
        cells = cells.dictionary_decode()
    if pyarrow.types.is_nested(cells.type) or pyarrow.types.is_binary(cells.type):
        raise DataError("column_nested", path=rows.path, column=column, kind=str(cells.type))
    return pyarrow.compute.fill_null(cells.cast(pyarrow.string()), "")


# ------------------------------------------------------------------------------------------- what passes, batch-wise


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


def _pass(seen: _Seen, rows: Rows, batch: Any, roles: dict[str, str]) -> None:
    """Labels and given places of a batch."""
    pyarrow = computing()
    if "label" in roles:
        cells = pyarrow.compute.utf8_trim_whitespace(_text(rows, batch, roles["label"])).dictionary_encode()
        words = cells.dictionary.to_pylist()
        codes = np.array([seen.words.setdefault(each, len(seen.words)) if each else -1 for each in words], np.int32)
        seen.labels.append(codes[cells.indices.to_numpy(zero_copy_only=False)])
        if len(seen.words) > MOST_CLASSES:
            raise DataError("too_many_classes", path=rows.path, column=roles["label"], most=MOST_CLASSES)
    else:
        seen.labels.append(np.full(len(batch), -1, np.int32))
    seen.given.append(_places(seen, rows, batch, roles))
    seen.count += len(batch)


def _places(seen: _Seen, rows: Rows, batch: Any, roles: dict[str, str]) -> np.ndarray:
    if "split" not in roles:
        return np.zeros(len(batch), np.int8)
    cells = _text(rows, batch, roles["split"]).dictionary_encode()
    words = cells.dictionary.to_pylist()
    codes = []
    for number, each in enumerate(words):
        place = PLACES.get(each.strip().casefold())
        if place is None:
            row = seen.count + int((cells.indices.to_numpy(zero_copy_only=False) == number).argmax())
            raise DataError("split_unknown", path=rows.path, row=row + 1, column=roles["split"], text=each[:EXCERPT])
        codes.append(SPLIT_WORDS.index(place))
    return np.array(codes, np.int8)[cells.indices.to_numpy(zero_copy_only=False)]


def _stored(home: Path, source: dict[str, Any], batches: Iterator[Any], console: Console, total: int) -> str:
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
    for old in folder.glob("rows-*.arrow"):
        if old.name != name:
            with contextlib.suppress(OSError):  # Windows keeps a file that another process has mapped
                old.unlink()
    return name


def _made(
    home: Path,
    kind: str,
    seen: _Seen,
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
    return Manifest(home, classes, columns, kind, Rule(), about)


def _classes(seen: _Seen) -> tuple[tuple[str, ...], np.ndarray]:
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


def _carried(manifest: Manifest, known: Manifest | None) -> Manifest:
    """Keep the manifest, with the split that the last one gave to samples of the same content, and its rule."""
    if known is not None and known.kind == manifest.kind and len(known):
        order = np.argsort(known["hash"], kind="stable")
        there = np.searchsorted(known["hash"][order], manifest["hash"]).clip(max=len(known) - 1)
        rows = order[there]
        same = (known["hash"][rows] == manifest["hash"]) & (known["given"].codes[rows] == manifest["given"].codes)
        codes = np.where(same, known["split"].codes[rows], 0).astype(np.int8)
        manifest = manifest.with_column("split", Words(codes, SPLIT_WORDS))
        manifest = Manifest(
            manifest.root, manifest.classes, manifest.columns, manifest.kind, known.rule, manifest.about
        )
    return save(manifest)


# ------------------------------------------------------------------------------------------------------------- texts


def _texts(rows: Rows, roles: dict[str, str], source: dict[str, Any], console: Console) -> Manifest:
    pyarrow = computing()
    seen = _Seen()

    def passing() -> Iterator[Any]:
        for batch in rows.batches():
            cells = _text(rows, batch, roles["text"])
            plain = normalised(cells)
            seen.hashes.append(hashes(plain))
            seen.sizes.append(pyarrow.compute.binary_length(cells).to_numpy())
            seen.problems.append(_mask(pyarrow.compute.equal(plain, "")))
            _pass(seen, rows, batch, roles)
            place = batch.schema.get_field_index(roles["text"])
            yield batch.set_column(place, roles["text"], cells)

    size = rows.path.stat().st_size if rows.path.is_file() else 0
    name = _stored(rows.path, source, passing(), console, size)
    classes, labels = _classes(seen)
    problems = np.concatenate(seen.problems).astype(np.int8)
    if "label" in roles:
        problems[(labels < 0) & (problems == 0)] = PROBLEMS.index("label_missing")
    about = {"source": source, "rows": name, "roles": roles}
    return _made(rows.path, "texts", seen, classes, labels, problems, about)


# ---------------------------------------------------------------------------------------------------------- pictures


def _pictures(
    rows: Rows, roles: dict[str, str], source: dict[str, Any], known: Manifest | None, console: Console
) -> Manifest:
    if "label" not in roles:
        raise DataError("no_label_column", path=rows.path, columns=", ".join(rows.columns))
    seen = _Seen()

    def passing() -> Iterator[Any]:
        for batch in rows.batches():
            for role, code in (("image", "row_no_picture"), ("label", "row_no_label")):
                blank = _mask(
                    computing().compute.equal(
                        computing().compute.utf8_trim_whitespace(_text(rows, batch, roles[role])), ""
                    )
                )
                if blank.any():
                    raise DataError(code, path=rows.path, row=seen.count + int(blank.argmax()) + 1, column=roles[role])
            _pass(seen, rows, batch, roles)
            yield batch

    name = _stored(rows.path, source, passing(), console, rows.path.stat().st_size)
    classes, labels = _classes(seen)
    about = {
        "source": source, "rows": name, "roles": roles, "given": np.concatenate(seen.given).tolist(),
    }  # fmt: skip
    return _looked_at(rows.path, classes, labels, about, known, console)


def _pictures_again(known: Manifest, console: Console) -> Manifest:
    return _looked_at(known.root, known.classes, known["label"], dict(known.about), known, console)


def _looked_at(
    home: Path,
    classes: tuple[str, ...],
    labels: np.ndarray,
    about: dict[str, Any],
    known: Manifest | None,
    console: Console,
) -> Manifest:
    from fromzero.data.folder import Listing, looked_at

    class Listed(Listing):
        """The pictures that a file lists, in its order."""

        def __init__(self) -> None:
            table = (
                computing().ipc.open_file(computing().memory_map(str(state_folder(home) / about["rows"]))).read_all()
            )
            cells = table.column(about["roles"]["image"]).to_pylist()
            self.root, self.home, self.times, self.classes = home.parent, home, {}, classes
            self.paths = [each.strip().replace("\\", "/") for each in cells]
            self.labels = [classes[each] for each in labels]
            self.given = [SPLIT_WORDS[each] for each in given]

    given = about.pop("given", None)
    if given is None:
        assert known is not None
        given = known["given"].codes.tolist()
    usable = known is not None and known.kind == "pictures" and "looks" in known.about
    if usable and known is not None:
        usable = (state_folder(home) / known.about["looks"]).is_file()
    return looked_at(Listed(), known if usable else None, console, about)


# ------------------------------------------------------------------------------------------------------------- table


def _table(rows: Rows, roles: dict[str, str], source: dict[str, Any], console: Console) -> Manifest:
    if "label" not in roles:
        raise DataError("no_target", path=rows.path, columns=", ".join(rows.columns))
    numeric = _numeric(rows)
    seen = _Seen()
    size = rows.path.stat().st_size

    def passing() -> Iterator[Any]:
        for batch in rows.batches():
            columns = {
                name: _numbers(_text(rows, batch, name)) if name in numeric else _categories(_text(rows, batch, name))
                for name in rows.columns
            }
            seen.given.append(_places(seen, rows, batch, roles))
            seen.count += len(batch)
            yield computing().RecordBatch.from_pydict(columns)

    name = _stored(rows.path, source, passing(), console, size)
    table = computing().ipc.open_file(computing().memory_map(str(state_folder(rows.path) / name))).read_all()
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
    return _made(rows.path, "table", seen, classes, labels, problems, about)


def _numeric(rows: Rows) -> set[str]:
    """Columns in which every value that is there is a number, and some are."""
    pyarrow = computing()
    candidates, filled = set(rows.columns), set()
    for batch in rows.batches():
        for name in sorted(candidates):
            try:
                numbers = _numbers(_text(rows, batch, name))
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
    missing = _mask(pyarrow.compute.is_null(column))
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


# ------------------------------------------------------------------------------------------------------------- chats


def _chats(rows: Rows, source: dict[str, Any], console: Console) -> Manifest:
    pyarrow = computing()
    form = chat_keys(rows.columns)
    turns_of: Callable[[dict[str, Any]], list[tuple[str, str]]] = _sharegpt if form == "sharegpt" else _alpaca
    turn = pyarrow.struct([("role", pyarrow.string()), ("text", pyarrow.string())])
    roles = {"turns": "turns"}
    for role in ("split", "group", "time"):
        for each in rows.columns:
            if each.strip().casefold() in NAMES[role]:
                roles.setdefault(role, each)
    extra = [roles[role] for role in ("split", "group", "time") if role in roles]
    seen = _Seen()

    def passing() -> Iterator[Any]:
        for some in rows.objects():
            chats, problems = [], []
            for line, each in some:
                try:
                    chat = turns_of(each)
                except (KeyError, TypeError, ValueError, AttributeError) as error:
                    raise DataError("chat_form", path=rows.path, line=line, form=form, reason=_reason(error)) from error
                answered = any(who == "assistant" and said.strip() for who, said in chat)
                problems.append("chat_empty" if not chat else "" if answered else "chat_no_answer")
                chats.append(chat)
            flat = ["\x1e".join(f"{who}\x1f{said}" for who, said in chat) for chat in chats]
            seen.hashes.append(hashes(normalised(pyarrow.array(flat, pyarrow.string()))))
            seen.sizes.append(np.array([sum(len(said.encode()) for _, said in chat) for chat in chats]))
            seen.problems.append(np.array([PROBLEMS.index(each) for each in problems]))
            seen.labels.append(np.full(len(some), -1, np.int32))
            listed = [[{"role": who, "text": said} for who, said in chat] for chat in chats]
            cells = {"turns": pyarrow.array(listed, pyarrow.list_(turn))}
            cells |= {name: pyarrow.array([_word(each.get(name)) for _, each in some]) for name in extra}
            batch = pyarrow.RecordBatch.from_pydict(cells)
            seen.given.append(_places(seen, rows, batch, roles))
            seen.count += len(some)
            yield batch

    name = _stored(rows.path, source, passing(), console, rows.path.stat().st_size)
    about = {"source": source, "rows": name, "roles": roles, "form": form}
    return _made(
        rows.path, "chats", seen, (), np.full(seen.count, -1), np.concatenate(seen.problems), about
    )  # fmt: skip


def _alpaca(each: dict[str, Any]) -> list[tuple[str, str]]:
    """{instruction, input, output, and perhaps system and history} as turns."""
    turns = [("system", _said(each["system"]))] if each.get("system") else []
    for question, answer in each.get("history") or []:
        turns += [("user", _said(question)), ("assistant", _said(answer))]
    asked = "\n".join(filter(None, (_said(each["instruction"]), _said(each.get("input")))))
    turns += [("user", asked), ("assistant", _said(each["output"]))]
    return turns if any(said.strip() for _, said in turns) else []


def _sharegpt(each: dict[str, Any]) -> list[tuple[str, str]]:
    """{conversations: [{from, value}]} or {messages: [{role, content}]} as turns."""
    found = each["conversations"] if each.get("conversations") is not None else each["messages"]
    if isinstance(found, str):
        found = json.loads(found)
    turns = [("system", _said(each["system"]))] if each.get("system") else []
    for turn in found:
        who = turn["from"] if turn.get("from") is not None else turn["role"]
        said = turn["value"] if turn.get("value") is not None else turn.get("content")
        if said is None and turn.get("tool_calls"):
            said = json.dumps(turn["tool_calls"], ensure_ascii=False)
        turns.append((SPEAKERS.get(str(who).strip().lower(), str(who)), _said(said)))
    return turns


def _said(value: Any) -> str:
    """A turn's text; of a list of parts, those that are text."""
    if value is None:
        return ""
    if isinstance(value, list):
        return "\n".join(part if isinstance(part, str) else str(part.get("text", "")) for part in value)
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40}")
    return value


def _word(value: Any) -> str:
    return "" if value is None else str(value)


def _reason(error: Exception) -> str:
    """What is missing or wrong in an object, for a person."""
    return say("chat.no_key", key=error.args[0]) if isinstance(error, KeyError) else str(error)[:EXCERPT]


def _mask(cells: Any) -> np.ndarray:
    return np.asarray(cells.to_numpy(zero_copy_only=False) if not hasattr(cells, "chunks") else cells.to_numpy(), bool)


def computing() -> Any:
    """pyarrow with its functions on columns."""
    pyarrow = arrow()
    importlib.import_module("pyarrow.compute")  # which hangs itself onto the package
    return pyarrow
