"""Files of rows (CSV, TSV, Orange .tab, Parquet, JSONL, JSON) as a stream of Arrow batches, whatever their encoding;
running text (.txt) too, whose rows are its paragraphs.

Nothing is held but a batch. What cannot be read is an error that says in which line and why.
"""

from __future__ import annotations

import codecs
import csv
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fromzero.data.manifest import arrow
from fromzero.errors import DataError

DELIMITED = (".csv", ".tsv", ".tab")
SUFFIXES = (*DELIMITED, ".parquet", ".jsonl", ".ndjson", ".json")
RUNNING = (".txt",)  # a file beside data is often a README: it is data where it is named itself
BLOCK = 8 << 20  # bytes of a file read at a time
LINES = 4096  # lines of JSON in a batch
SNIFFED = 50  # records that the delimiter is guessed from
LONGEST = 1 << 27  # characters of one field
EXCERPT = 60  # characters of a wrong line that are shown
_BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_ORANGE_TYPES = {"d", "discrete", "c", "continuous", "s", "string", "t", "time", "basket"}


@dataclass(frozen=True)
class Rows:
    """A file of rows: its columns, and `batches()`, a fresh pass over it. Columns of a text file are all text, with ""
    for what is missing. `objects()` is the same pass as lists of (line, object), without pyarrow but for Parquet;
    running text has none. `target`, `text` and `extra` are what an Orange file says of its columns."""

    path: Path
    columns: tuple[str, ...]
    batches: Callable[[], Iterator[Any]]
    objects: Callable[[], Iterator[list[tuple[int, dict[str, Any]]]]] = lambda: iter(())
    target: str = ""
    text: str = ""
    extra: frozenset[str] = field(default_factory=frozenset)


def opened(path: Path) -> Rows:
    """A file of rows by its suffix. Raises DataError for one that cannot be read."""
    suffix = path.suffix.lower()
    if path.stat().st_size == 0:
        raise DataError("rows_empty", path=path)
    if suffix == ".parquet":
        return _parquet(path)
    if suffix in (".jsonl", ".ndjson", ".json"):
        return _json(path)
    return _paragraphs(path) if suffix in RUNNING else _delimited(path)


# ---------------------------------------------------------------------------------------------------- text encodings


def encoding(path: Path) -> str:
    """UTF-8 with or without a mark, UTF-16 with one, or GB18030 (and so GBK and GB2312), by reading all of it.

    Raises DataError with the line of the first byte that is neither."""
    with path.open("rb") as file:
        head = file.read(1 << 16)
    for mark, name in _BOMS:
        if head.startswith(mark):
            return name
    if b"\0" in head:
        raise DataError("rows_binary", path=path)
    first = _wrong_line(path, "utf-8")
    if first is None:
        return "utf-8"
    if _wrong_line(path, "gb18030") is None and _looks_chinese(path):
        return "gb18030"
    raise DataError("rows_encoding", path=path, line=first)


def _wrong_line(path: Path, name: str) -> int | None:
    """The line of the first bytes that are not in the encoding; None if all are."""
    decoder = codecs.getincrementaldecoder(name)()
    line = 1
    with path.open("rb") as file:
        while True:
            block = file.read(BLOCK)
            pending = decoder.getstate()[0]
            try:
                decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                return line + (pending + block)[: error.start].count(b"\n")
            if not block:
                return None
            line += block.count(b"\n")


def _looks_chinese(path: Path) -> bool:
    """Whether what is not ASCII is mostly the common characters of GB2312: by chance, Western text decodes as rare
    ones, an accented letter and the letter after it taken for a character."""
    common = pairs = 0
    with path.open("rb") as file:
        content = file.read(BLOCK)
    place = 0
    while place < len(content) - 1:
        if content[place] < 0x80:
            place += 1
            continue
        pairs += 1
        common += 0xA1 <= content[place] <= 0xF7 and content[place + 1] >= 0xA1
        place += 2
    return common > 0.8 * pairs


# ------------------------------------------------------------------------------------------------------ CSV and TSV


def _delimited(path: Path) -> Rows:
    name = encoding(path)
    delimiter = _delimiter(path, name)
    with path.open(encoding=name, newline="") as file:
        top = [[each.strip() for each in row] for row in itertools.islice(_records(path, file, delimiter), 3)]
    if not top or not any(top[0]):
        raise DataError("rows_empty", path=path)
    columns = tuple(each or f"column {number}" for number, each in enumerate(top[0], 1))
    twice = sorted({each for each in columns if columns.count(each) > 1})
    if twice:
        raise DataError("column_twice", path=path, columns=", ".join(twice))
    header, said = 1, {}
    if path.suffix.lower() == ".tab" and len(top) > 2 and set(top[1]) <= _ORANGE_TYPES:
        header, said = 3, _orange(columns, top[1], top[2])

    def batches() -> Iterator[Any]:
        return _csv_batches(path, name, delimiter, columns, header)

    def objects() -> Iterator[list[tuple[int, dict[str, Any]]]]:
        with path.open(encoding=name, newline="") as file:
            records = itertools.islice(enumerate(filter(None, _records(path, file, delimiter)), 1), header, None)
            while some := list(itertools.islice(records, LINES)):
                for number, row in some:
                    if len(row) != len(columns):
                        line, text = _line(path, name, delimiter, number), delimiter.join(row)[:EXCERPT]
                        raise DataError(
                            "row_width", path=path, line=line, wanted=len(columns), found=len(row), text=text
                        )
                yield [(number, dict(zip(columns, row, strict=True))) for number, row in some]

    return Rows(path, columns, batches, objects, **said)


def _orange(columns: tuple[str, ...], types: list[str], flags: list[str]) -> dict[str, Any]:
    """What the second and third line of an Orange file say: the class, the text, and columns that are no features."""
    flags = [*flags, *[""] * (len(columns) - len(flags))]
    strings = {name for name, kind in zip(columns, types, strict=False) if kind in ("s", "string")}
    included = [name for name, flag in zip(columns, flags, strict=False) if "include=True" in flag]
    target = [name for name, flag in zip(columns, flags, strict=False) if "class" in flag.split()]
    metas = {name for name, flag in zip(columns, flags, strict=False) if "meta" in flag.split()}
    texts = included or (sorted(strings - metas) if len(strings - metas) == 1 else [])
    extra = (metas | strings) - set(texts[:1])
    return {"target": "".join(target[:1]), "text": "".join(texts[:1]), "extra": frozenset(extra)}


def _delimiter(path: Path, name: str) -> str:
    """The one of comma, tab, semicolon and bar that cuts most of the first records into equally many parts."""
    with path.open(encoding=name, newline="") as file:
        lines = list(itertools.islice(file, SNIFFED))
    best, found = (0.0, 1), "\t" if path.suffix.lower() in (".tsv", ".tab") else ","
    for each in dict.fromkeys([found, ",", "\t", ";", "|"]):
        widths = [len(row) for row in _records(path, lines, each) if row]
        if widths and widths[0] > 1:
            fit = sum(width == widths[0] for width in widths) / len(widths), widths[0]
            if fit[0] > best[0] + 1e-9 or (abs(fit[0] - best[0]) < 1e-9 and fit[1] > best[1]):
                best, found = fit, each
    return found


def _records(path: Path, lines: Any, delimiter: str) -> Iterator[list[str]]:
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST))
    reader = csv.reader(lines, delimiter=delimiter)
    try:
        yield from reader
    except csv.Error as error:
        raise DataError("row_damaged", path=path, line=reader.line_num, reason=error) from error


def _csv_batches(path: Path, name: str, delimiter: str, columns: tuple[str, ...], header: int) -> Iterator[Any]:
    pyarrow = arrow()
    import pyarrow.csv as reader

    wrong: list[Any] = []

    def invalid(row: Any) -> str:
        wrong.append(row)
        return "error"

    texts = {each: pyarrow.string() for each in columns}
    reading = reader.ReadOptions(
        use_threads=False,  # only so are rows counted
        encoding={"utf-8-sig": "utf8", "utf-8": "utf8"}.get(name, name),
        column_names=list(columns),
        skip_rows_after_names=header,
        block_size=BLOCK,
    )
    parsing = reader.ParseOptions(delimiter=delimiter, newlines_in_values=True, invalid_row_handler=invalid)
    converting = reader.ConvertOptions(column_types=texts, strings_can_be_null=False)
    try:
        with reader.open_csv(path, reading, parsing, converting) as stream:
            for batch in stream:
                if batch.num_rows:
                    yield batch
    except pyarrow.ArrowInvalid as error:
        if not wrong:
            raise DataError("rows_damaged", path=path, reason=str(error)[:200]) from error
        row = wrong[0]
        code = "row_quote" if "\n" in row.text.strip() else "row_width"
        raise DataError(
            code,
            path=path,
            line=_line(path, name, delimiter, row.number),
            wanted=row.expected_columns,
            found=row.actual_columns,
            text=row.text[:EXCERPT],
        ) from error


def _line(path: Path, name: str, delimiter: str, number: int) -> int:
    """The line in which record `number` begins: a record may have several."""
    with path.open(encoding=name, newline="") as file:
        reader = csv.reader(file, delimiter=delimiter)
        before = 0
        try:
            for row in reader:
                number -= bool(row)
                if number <= 0:
                    return before + 1
                before = reader.line_num
        except csv.Error:
            pass
        return before + 1


# ------------------------------------------------------------------------------------------------------ running text


def _paragraphs(path: Path) -> Rows:
    """A row a paragraph, which an empty line ends; a row a line where there is no empty line."""
    name = encoding(path)
    with path.open(encoding=name) as file:
        inside = itertools.dropwhile(lambda line: not line.strip(), file)
        parted = any(not line.strip() for line in inside)

    def paragraphs() -> Iterator[str]:
        with path.open(encoding=name) as file:
            kept: list[str] = []
            for line in file:
                if line.strip():
                    kept.append(line)
                if kept and not (parted and line.strip()):
                    yield "".join(kept).rstrip()
                    kept = []
            if kept:
                yield "".join(kept).rstrip()

    def batches() -> Iterator[Any]:
        pyarrow, found = arrow(), paragraphs()
        while some := list(itertools.islice(found, LINES)):
            yield pyarrow.RecordBatch.from_pydict({"text": pyarrow.array(some, pyarrow.string())})

    return Rows(path, ("text",), batches)


# ----------------------------------------------------------------------------------------------------------- Parquet


def _parquet(path: Path) -> Rows:
    pyarrow = arrow()
    import pyarrow.parquet as reader

    try:
        with reader.ParquetFile(path) as file:
            schema = file.schema_arrow
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError("rows_damaged", path=path, reason=str(error)[:200]) from error
    if not schema.names:
        raise DataError("rows_empty", path=path)

    def batches() -> Iterator[Any]:
        try:
            with reader.ParquetFile(path) as file:
                yield from file.iter_batches(batch_size=8192)
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError("rows_damaged", path=path, reason=str(error)[:200]) from error

    def objects() -> Iterator[list[tuple[int, dict[str, Any]]]]:
        row = 0
        for batch in batches():
            yield list(enumerate(batch.to_pylist(), row + 1))
            row += len(batch)

    return Rows(path, tuple(schema.names), batches, objects)


# -------------------------------------------------------------------------------------------------------------- JSON


def _json(path: Path) -> Rows:
    name = encoding(path)
    first = next(_objects(path, name), None)
    if first is None:
        raise DataError("rows_empty", path=path)
    columns = tuple(first[1])

    def objects() -> Iterator[list[tuple[int, dict[str, Any]]]]:
        found = _objects(path, name)
        while some := list(itertools.islice(found, LINES)):
            yield some

    def batches() -> Iterator[Any]:
        """Objects as texts; a list or an object inside one as JSON again, what is missing as ""."""
        pyarrow = arrow()
        for some in objects():
            for line, each in some:
                if unknown := each.keys() - set(columns):
                    raise DataError("json_keys", path=path, line=line, keys=", ".join(sorted(unknown)))
            cells = {key: [_cell(each.get(key)) for _, each in some] for key in columns}
            yield pyarrow.RecordBatch.from_pydict(
                {key: pyarrow.array(texts, pyarrow.string()) for key, texts in cells.items()}
            )

    return Rows(path, columns, batches, objects)


def chat_keys(columns: tuple[str, ...]) -> str:
    """Which form of chats the columns are: "sharegpt", "alpaca", or "" for none."""
    if {"conversations", "messages"} & set(columns):
        return "sharegpt"
    return "alpaca" if {"instruction", "output"} <= set(columns) else ""


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value, ensure_ascii=False)


def _objects(path: Path, name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line, object): one a line, or those of one list, which is then read as a whole (line is its place)."""
    with path.open(encoding=name) as file:
        head = file.read(64).lstrip("\ufeff \t\r\n")
        file.seek(0)
        if head.startswith("["):
            try:
                numbered = enumerate(json.load(file), 1)
            except (ValueError, RecursionError) as error:
                raise DataError("json_line", path=path, line=getattr(error, "lineno", 1), reason=error) from error
            for number, each in numbered:
                yield number, _object(path, number, each)
            return
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    value = json.loads(line.lstrip("\ufeff"))
                    if "\\ud" in line.lower():  # half a surrogate pair is no text
                        value = json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
                    yield number, _object(path, number, value)
                except (ValueError, RecursionError) as error:
                    raise DataError("json_line", path=path, line=number, reason=error) from error


def _object(path: Path, line: int, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError("json_not_object", path=path, line=line, text=json.dumps(value, ensure_ascii=False)[:EXCERPT])
    return value
