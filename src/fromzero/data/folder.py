"""Scanning a folder of pictures into a manifest.

A folder is `class/*.jpg`, or `{train,val,test}/class/*.jpg`. Scanning decodes every picture once, so that nothing
downstream meets a file that cannot be read; a second scan looks only at what changed. What the checks need of a picture
is taken while it is decoded: a few numbers, and a look (32 x 32 grey values and 4 x 4 colours).
"""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fromzero.data.columns import Column, Texts, Words
from fromzero.data.images import SUFFIXES, decoded
from fromzero.data.manifest import (
    SPLIT_NAMES,
    SPLIT_WORDS,
    STATE_FOLDER,
    Manifest,
    Rule,
    content_hash,
    load,
    save,
    state_folder,
)
from fromzero.errors import DataError, UnreadableImage, UsageError
from fromzero.files import only, reserve
from fromzero.language import say
from fromzero.machine.process import usable_cores
from fromzero.terminal import Console

# A row as a scan fills it.
ROW = np.dtype(
    [
        ("label", np.int32), ("bytes", np.int64), ("modified", np.int64), ("hash", np.uint64), ("width", np.int32),
        ("height", np.int32), ("grey", np.bool_), ("spread", np.float32), ("bright", np.float32),
        ("sharp", np.float32), ("look", np.uint64), ("offset", np.int64), ("form", np.uint8),
    ]
)  # fmt: skip
FORMS = (
    ("", b""), ("jpeg", b"\xff\xd8"), ("png", b"\x89PNG"), ("bmp", b"BM"), ("gif", b"GIF8"), ("webp", b"RIFF"),
    ("tiff", b"II*\0"), ("tiff", b"MM\0*"),
)  # fmt: skip
SIDE, COLOURS = 32, 4
LOOK = SIDE * SIDE + COLOURS * COLOURS * 3  # bytes of a look
LEAST = 4 * SIDE  # the shorter side that a large JPEG is decoded to: what sharpness is judged at
CHUNK = 64
MANY = 100_000  # files whose times are compared in about a second
UNSEEN = -1
PROBLEMS = ("", "image_empty", "image_unknown", "image_damaged", "image_too_large", "image_not_read")


def scan(root: Path | str, console: Console | None = None, *, quick: bool = False) -> Manifest:
    """The manifest of a folder of pictures, made or brought up to date, and kept.

    Every file's size and time are compared with what the last scan saw. With `quick`, a set of more than MANY is only
    compared by its folders' times, a thousandth of the work: that sees what was added, removed, renamed or replaced,
    and leaves a file that was overwritten in place to the loader, which compares each file that it reads."""
    console = console or Console()
    root = Path(root)
    if not root.is_dir():
        raise UsageError("no_such_folder", path=root)
    known = load(root)
    if known is not None and known.about.get("packed"):  # its shards do not change
        return known
    if known is None or known.kind != "pictures" or not (state_folder(root) / known.about["looks"]).is_file():
        known = None
    elif quick and len(known) > MANY and _times(root, known.about["folders"]) == known.about["folders"]:
        return known
    listing = Listing(root)
    if not listing.paths:
        raise DataError("no_pictures", path=root, suffixes=" ".join(SUFFIXES))
    return looked_at(listing, known, console)


def looked_at(
    listing: Listing, known: Manifest | None, console: Console, about: Mapping[str, Any] | None = None
) -> Manifest:
    """The kept manifest of the pictures of a listing; only what changed since `known` is looked at."""
    old = _old_rows(listing, known)
    table, problems = _stated(listing, known, old)
    if known is not None and _unchanged(listing, known, table, problems, about or {}):
        return known
    looks = _look(listing, known, old, table, problems, console)
    columns: dict[str, Column] = {name: table[name].copy() for name in ROW.names or ()}
    columns |= {
        "path": Texts.of(listing.paths),
        "given": Words.of(listing.given, SPLIT_WORDS),
        "split": Words(_placed(known, old, table["hash"], listing.given), SPLIT_WORDS),
        "problem": Words(problems, PROBLEMS),
    }
    if known is not None and "cluster" in known.columns and _same(known, columns):
        columns["cluster"] = known["cluster"]
    rule = known.rule if known is not None else Rule()
    about = {**(about or {}), "folders": listing.times, "looks": looks}
    return save(Manifest(listing.home, listing.classes, columns, "pictures", rule, about))


def _unchanged(
    listing: Listing, known: Manifest, table: np.ndarray, problems: np.ndarray, about: Mapping[str, Any]
) -> bool:
    """Whether every file is the one that the last scan saw, under the same class and split."""
    if any(known.about.get(name) != value for name, value in about.items()):
        return False
    if len(known) != len(table) or (problems == UNSEEN).any() or known.classes != listing.classes:
        return False
    given = Words.of(listing.given, SPLIT_WORDS).codes
    paths = listing.paths == known["path"].tolist()
    return paths and np.array_equal(known["label"], table["label"]) and np.array_equal(known["given"].codes, given)


def looks_of(manifest: Manifest) -> np.ndarray:
    """What the scan saw of each picture, mapped: (rows, LOOK) uint8; `SIDE`*`SIDE` grey values, row by row, then
    `COLOURS`*`COLOURS` RGB values. Zeros for what could not be read."""
    packed = manifest.root / STATE_FOLDER / manifest.about["looks"]  # of a packed set, which may be read-only
    kept = state_folder(manifest.root) / manifest.about["looks"]
    return np.load(kept if kept.is_file() else packed, mmap_mode="r")


class Listing:
    """The files of a folder that claim to be pictures (or whatever has these suffixes), sorted by path.

    `root` is what the paths are relative to, `home` whose manifest it becomes: the same, but for a list in a file."""

    def __init__(self, root: Path, suffixes: tuple[str, ...] = SUFFIXES) -> None:
        self.root = self.home = root
        self.suffixes = suffixes
        self.paths: list[str] = []
        self.labels: list[str] = []
        self.given: list[str] = []
        self.times = {"": os.stat(root).st_mtime_ns}
        folders = [each for each in _entries(root) if each.is_dir()]
        names = {each.name.lower() for each in folders}
        # "train" alone may be a class of vehicles; beside "val" or "test" it is a split, whatever else lies there.
        called = {SPLIT_NAMES[each] for each in names & SPLIT_NAMES.keys()}
        nested = "train" in called and (names <= SPLIT_NAMES.keys() or len(called) > 1)
        for top in folders:
            given = SPLIT_NAMES.get(top.name.lower(), "") if nested else ""
            if nested and given:
                self.times[_text(top.name)] = os.stat(top.path).st_mtime_ns
                for each in _entries(top.path):
                    if each.is_dir():
                        self._add(each, f"{_text(top.name)}/{_text(each.name)}", each.name, given)
            elif not nested:
                self._add(top, _text(top.name), top.name, "")
        self.classes = tuple(sorted(set(self.labels)))

    def _add(self, folder: os.DirEntry[str], path: str, label: str, given: str) -> None:
        self.times[path] = os.stat(folder.path).st_mtime_ns
        for each in _entries(folder.path):
            if each.is_dir(follow_symlinks=False):
                self._add(each, f"{path}/{_text(each.name)}", label, given)
            elif each.name.lower().endswith(self.suffixes) and each.is_file():
                self.paths.append(f"{path}/{_text(each.name)}")
                self.labels.append(label)
                self.given.append(given)


def _entries(folder: Path | str) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as found:
        return sorted((each for each in found if not each.name.startswith(".")), key=lambda each: each.name)


def _text(name: str) -> str:
    """A name; raises DataError for one that is not text, as old archives unpack to."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError("name_not_utf8", path=name.encode("utf-8", "backslashreplace").decode()) from error
    return name


def _times(root: Path, folders: dict[str, int]) -> dict[str, int]:
    """The times of the folders that a scan saw; what is gone is left out."""
    found = {}
    for name in folders:
        with contextlib.suppress(OSError):
            found[name] = os.stat(root / name).st_mtime_ns
    return found


def _old_rows(listing: Listing, known: Manifest | None) -> np.ndarray:
    """The row of each listed file in the last scan's manifest; -1 for a new one."""
    before = {path: row for row, path in enumerate(known["path"])} if known is not None else {}
    return np.array([before.get(path, -1) for path in listing.paths])


def _placed(known: Manifest | None, old: np.ndarray, hashes: np.ndarray, given: list[str]) -> np.ndarray:
    """The splits that an earlier one assigned, of files that hold what they held and lie where they lay; another
    content under an old name starts anew, or it would bring its place into another's split."""
    place = np.zeros(len(old), np.int8)
    if known is None:
        return place
    here = np.flatnonzero(old >= 0)
    then = old[here]
    same = known["hash"][then] == hashes[here]
    same &= known["given"].codes[then] == Words.of(given, SPLIT_WORDS).codes[here]
    place[here[same]] = known["split"].codes[then[same]]
    return place


def _stated(listing: Listing, known: Manifest | None, old: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A row a file with its size and time, and all that the last scan saw of it if they are the same; the problems
    (codes of PROBLEMS), UNSEEN for a file that must be looked at."""
    place = {name: number for number, name in enumerate(listing.classes)}
    sizes, times = np.zeros(len(old), np.int64), np.full(len(old), -1, np.int64)
    for row, path in enumerate(listing.paths):
        with contextlib.suppress(OSError):
            status = os.stat(os.path.join(listing.root, path))
            sizes[row], times[row] = status.st_size, status.st_mtime_ns
    table, problems = np.zeros(len(old), ROW), np.full(len(old), UNSEEN, np.int8)
    if known is not None:
        same = np.flatnonzero(old >= 0)
        then = old[same]
        same = same[(known["bytes"][then] == sizes[same]) & (known["modified"][then] == times[same])]
        for name in ROW.names or ():
            table[name][same] = known[name][old[same]]
        problems[same] = known["problem"].codes[old[same]]
    table["bytes"], table["modified"], table["offset"] = sizes, times, -1
    table["label"] = [place[each] for each in listing.labels]
    return table, problems


def _look(
    listing: Listing,
    known: Manifest | None,
    old: np.ndarray,
    table: np.ndarray,
    problems: np.ndarray,
    console: Console,
) -> str:
    """Fill what must be looked at, and write the looks of all; returns the name of their file."""
    beside = state_folder(listing.home) / f"looks.{os.getpid()}.tmp"
    # On disk from the start: for a million pictures the looks are a gigabyte.
    looks = np.lib.format.open_memmap(beside, "w+", np.uint8, (len(table), LOOK))
    reserve(beside)
    seen = np.flatnonzero(problems != UNSEEN)
    if known is not None and len(seen):
        before = looks_of(known)
        for rows in np.array_split(seen, len(seen) // 4096 + 1):
            looks[rows] = before[old[rows]]
    _fill(listing, np.flatnonzero(problems == UNSEEN), table, problems, looks, console)
    looks.flush()
    del looks  # Windows renames no file that is mapped
    return _keep(beside, f"looks-{zlib.crc32(table['hash'].tobytes()):08x}.npy")


def _fill(
    listing: Listing, new: np.ndarray, table: np.ndarray, problems: np.ndarray, looks: np.ndarray, console: Console
) -> None:
    def look(rows: np.ndarray) -> int:
        for row in rows.tolist():
            problems[row] = PROBLEMS.index(_see(listing.root / listing.paths[row], table[row], looks[row]))
        return len(rows)

    chunks = [new[start : start + CHUNK] for start in range(0, len(new), CHUNK)]
    with ThreadPoolExecutor(_readers(listing)) as pool, console.progress(say("data.scanning"), len(table)) as advance:
        advance(len(table) - len(new))
        for done in pool.map(look, chunks):
            advance(done)


def _readers(listing: Listing) -> int:
    """Threads that pay: decoding a photo lets go of the interpreter, decoding an icon is mostly interpreter."""
    some = listing.paths[:: max(1, len(listing.paths) // 50)]
    sizes = [os.path.getsize(listing.root / path) if os.path.exists(listing.root / path) else 0 for path in some]
    return usable_cores() if sum(sizes) / len(sizes) > 16 << 10 else 1


def _see(path: Path, row: np.void, look: np.ndarray) -> str:
    """Fill a row and a look from one file; its problem, "" if there is none."""
    try:
        content = path.read_bytes()
    except OSError:
        return "image_not_read"
    row["hash"] = content_hash(content)
    try:
        picture, (width, height) = decoded(content, path.name, LEAST)
    except UnreadableImage as error:
        return error.code
    describe(picture, row, look)
    row["width"], row["height"] = width, height
    row["form"] = form_of(content)
    return ""


def form_of(content: bytes) -> int:
    """The place in FORMS of what a file is by its first bytes, whatever it is called; 0 for none of them."""
    return next((n for n, (_, start) in enumerate(FORMS) if start and content.startswith(start)), 0)


def describe(picture: Image.Image, row: np.void, look: np.ndarray) -> None:
    """What is kept of a decoded picture besides its size."""
    row["grey"] = picture.mode == "L"
    grey = picture.convert("L")
    if max(grey.size) > 4 * LEAST:  # sharpness is that of the picture at one size, whatever it was scanned at
        scale = LEAST / min(grey.size)
        size = max(1, min(4 * LEAST, round(grey.width * scale))), max(1, min(4 * LEAST, round(grey.height * scale)))
        grey = grey.resize(size, Image.Resampling.BOX, reducing_gap=2.0)
    values = np.asarray(grey, dtype=np.float32)
    row["spread"], row["bright"] = values.std(), values.mean()
    if min(values.shape) > 2:
        centre = values[1:-1, 1:-1]
        laplacian = values[:-2, 1:-1] + values[2:, 1:-1] + values[1:-1, :-2] + values[1:-1, 2:] - 4 * centre
        row["sharp"] = laplacian.var()
    # Means of whole pixels shift what is hardly larger than the look by up to half a pixel: that is interpolated.
    how = Image.Resampling.BILINEAR if min(grey.size) < 2 * SIDE else Image.Resampling.BOX
    small = np.asarray(grey.resize((SIDE, SIDE), how))
    colours = picture.resize((COLOURS, COLOURS), Image.Resampling.BOX, reducing_gap=2.0).convert("RGB")
    look[: SIDE * SIDE] = small.reshape(-1)
    look[SIDE * SIDE :] = np.asarray(colours).reshape(-1)
    cells = np.asarray(grey.resize((9, 8), Image.Resampling.BOX)).astype(np.int16)  # difference hash (Krawetz 2013)
    row["look"] = np.packbits((cells[:, 1:] > cells[:, :-1]).reshape(-1)).view(np.uint64)[0]


def _keep(beside: Path, name: str) -> str:
    os.replace(beside, beside.with_name(name))
    only(beside.with_name(name), "looks*")
    return name


def _same(known: Manifest, columns: Mapping[str, Column]) -> bool:
    """Whether the very same pictures lie at the same places."""
    return np.array_equal(known["hash"], np.asarray(columns["hash"]))
