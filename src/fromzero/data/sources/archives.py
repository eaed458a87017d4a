"""Unpacking an archive that somebody else made: whole, inside its folder and within bounds, or not at all.

Zip, and tar plain or compressed by gzip, bzip2 or xz, known by what they hold. Everything is written by us, under names
that were checked, so no member decides where it goes, what mode it has or what it links to.
"""

from __future__ import annotations

import bz2
import contextlib
import errno
import gzip
import json
import lzma
import os
import re
import shutil
import stat
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from fromzero.data.images import SUFFIXES
from fromzero.data.manifest import SPLIT_NAMES, STATE_FOLDER
from fromzero.data.sources.fetching import sha256_of
from fromzero.errors import DataError, DiskError, UsageError
from fromzero.files import disk_error, write_json
from fromzero.language import say
from fromzero.terminal import Console

ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tbz", ".tar.xz", ".txz")
OTHERS = (".rar", ".7z", ".tar.zst", ".tzst")  # known for archives, so that the error says what to do
PIECE = 1 << 20
MARK = ".fromzero-archive"  # a file, JSON: other tools would take a folder for a class
# What systems leave behind, and what we do: the state and marks of another's machine are not trusted.
JUNK = ("__macosx", ".ds_store", "thumbs.db", "desktop.ini", STATE_FOLDER, MARK, ".fromzero-source")
_RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?")


@dataclass(frozen=True)
class Limits:
    """What an archive may grow to. `ratio` is bytes written for one of the archive, judged once `floor` bytes are
    written; `reserve` bytes of the disk stay free. Pictures pack 1:1, tables and texts 3:1 to 30:1."""

    total: int = 2 << 40
    members: int = 5_000_000
    ratio: float = 200.0
    floor: int = 64 << 20
    reserve: int = 256 << 20
    depth: int = 32


LIMITS = Limits()


def is_archive(path: Path) -> bool:
    """Whether `path` names an archive (a spreadsheet or .npz is a zip file too, but none), or has no ending and is
    one."""
    name = path.name.lower()
    if name.endswith(ENDINGS + OTHERS):
        return True
    return not path.suffix and path.is_file() and (zipfile.is_zipfile(path) or tarfile.is_tarfile(path))


def unpacked(
    path: Path | str, to: Path | str | None = None, console: Console | None = None, *, limits: Limits = LIMITS
) -> Path:
    """The folder with what the archive holds; found again by the archive's size and time, or its SHA-256.

    Default: beside the archive, under its name without the ending; if something else lies there, with eight digits of
    the hash after it. A single folder at the top is stripped, again and again, unless it is a split (train, val, test)
    or holds pictures itself (it is a class). Nothing that exists is overwritten: `to` must be free, empty or ours.
    Raises DataError for an archive that is damaged, encrypted, of another kind or hostile; DiskError; UsageError."""
    path, console = Path(path), console or Console()
    if not path.is_file():
        raise UsageError("no_such_data", path=path)
    target = Path(to) if to else path.with_name(_stem(path))
    if _same_file(target, path):
        return target
    digest = sha256_of(path)
    places = [target] if to else [target, target.with_name(f"{target.name}-{digest[:8]}")]
    for place in places:
        if _mark(place).get("sha256") == digest:
            write_json(place / MARK, _mark(place) | _stated(path))  # the archive was copied or touched
            return place
    for place in places:
        if not place.exists() or (place.is_dir() and not any(place.iterdir())):
            return _unpack(path, place, digest, limits, console)
    raise UsageError("archive_place_taken", path=path, place=places[-1])


def _stem(path: Path) -> str:
    for ending in sorted(ENDINGS, key=len, reverse=True):
        if path.name.lower().endswith(ending) and len(path.name) > len(ending):
            return path.name[: -len(ending)]
    return f"{path.stem}-unpacked"


def _stated(path: Path) -> dict[str, Any]:
    found = path.stat()
    return {"archive": path.name, "size": found.st_size, "modified": found.st_mtime_ns}


def _mark(place: Path) -> dict[str, Any]:
    try:
        mark = json.loads((place / MARK).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return mark if isinstance(mark, dict) else {}


def _same_file(place: Path, path: Path) -> bool:
    mark, stated = _mark(place), _stated(path)
    return all(mark.get(key) == value for key, value in stated.items())


def _unpack(path: Path, target: Path, digest: str, limits: Limits, console: Console) -> Path:
    beside = target.with_name(f"{target.name}.{os.getpid()}.partial")
    _sweep(target)
    try:
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        budget = _Budget(path, beside, limits)
        bar = console.progress(say("archive.unpacking", name=path.name), max(1, budget.packed >> 20))
        with bar as advance, _errors_named(path):
            for name, read in _members(path, budget):
                _write(beside, name, read, budget, path)
                advance(budget.passed())
        if not budget.files:
            raise DataError("archive_empty", path=path)
        root = _inner(beside)
        mark = _stated(path) | {"sha256": digest, "files": budget.files, "bytes": budget.written}
        write_json(root / MARK, mark)
        if target.is_dir():
            with contextlib.suppress(OSError):
                target.rmdir()  # it was empty; Windows does not replace it
        try:
            os.replace(root, target)
        except OSError:
            if _mark(target).get("sha256") != digest:  # another process was faster with the same
                raise
    except OSError as error:
        raise disk_error(target, error) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    console.line(say("archive.unpacked", files=budget.files, place=target))
    return target


def _sweep(target: Path) -> None:
    """Remove what processes that are gone left behind."""
    import psutil

    for left in target.parent.glob(f"{target.name}.*.partial"):
        number = left.name.removesuffix(".partial").rpartition(".")[2]
        if number.isdigit() and not psutil.pid_exists(int(number)):
            shutil.rmtree(left, ignore_errors=True)


def _inner(folder: Path) -> Path:
    """`folder`, or the single folder in it that only wraps what matters."""
    while True:
        held = list(folder.iterdir())
        if len(held) != 1 or not held[0].is_dir() or held[0].name.lower() in SPLIT_NAMES:
            return folder
        if any(each.suffix.lower() in SUFFIXES for each in held[0].iterdir() if each.is_file()):
            return folder
        folder = held[0]


# --- bounds ---------------------------------------------------------------------------------------------------------


class _Budget:
    """Counts what is read and written, and stops at the limits: an archive's own sizes may lie."""

    def __init__(self, path: Path, folder: Path, limits: Limits) -> None:
        self.path, self.limits = path, limits
        self.packed = path.stat().st_size
        self.free = shutil.disk_usage(folder).free - limits.reserve
        self.written = self.files = self.seen = self.unpacked = 0
        self.told = 0.0

    def member(self) -> None:
        self.seen += 1
        if self.seen > self.limits.members:
            raise self._bomb("members", self.limits.members)

    def write(self, count: int) -> None:
        self.written += count
        self._judge(self.written)

    def inflate(self, count: int) -> None:
        """Bytes that came out of a compressed tar, headers too: those are kept in memory before anything is written."""
        self.unpacked += count
        self._judge(self.unpacked)

    def claim(self, total: int) -> None:
        """What the archive says it will grow to."""
        if total > self.limits.total:
            raise self._bomb("total", self.limits.total)
        if total > self.free:
            raise self._full(total)

    def passed(self) -> float:
        """Mebibytes since the last call, for a bar."""
        now = min(self.written, self.packed) / 2**20
        step, self.told = now - self.told, now
        return step

    def _judge(self, count: int) -> None:
        if count > self.limits.total:
            raise self._bomb("total", self.limits.total)
        if count > self.limits.floor and count > self.limits.ratio * self.packed:
            raise self._bomb("ratio", round(self.limits.ratio))
        if count > self.free:
            raise self._full(count)

    def _bomb(self, kind: str, limit: int) -> DataError:
        key = f"archive.too_much.{kind}"
        return DataError("archive_bomb", path=self.path, reason=say(key, limit=f"{limit:,}"))

    def _full(self, needed: int) -> DiskError:
        gib = f"{needed / 2**30:.2f} GiB"
        return DiskError("archive_disk", path=self.path, needed=gib, free=f"{max(0, self.free) / 2**30:.2f} GiB")


@contextlib.contextmanager
def _errors_named(path: Path) -> Iterator[None]:
    """What the readers of the formats raise for a file that is cut off or altered, as one error of ours."""
    try:
        yield
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, gzip.BadGzipFile) as error:
        raise DataError("archive_damaged", path=path, reason=str(error) or type(error).__name__) from error
    except (struct.error, ValueError, OverflowError, RecursionError) as error:  # headers that make no sense
        raise DataError("archive_damaged", path=path, reason=str(error) or type(error).__name__) from error
    except NotImplementedError as error:
        raise DataError("archive_method", path=path, reason=str(error)) from error
    except OSError as error:
        if error.errno is None:  # bz2 says "Invalid data stream" so; the disk has numbers
            raise DataError("archive_damaged", path=path, reason=str(error)) from error
        raise


# --- members --------------------------------------------------------------------------------------------------------

Read = Callable[[], IO[bytes]]


def _members(path: Path, budget: _Budget) -> Iterator[tuple[str, Read]]:
    """Name (decoded, not yet checked) of every file, and what opens it, in the order they lie in the archive."""
    with path.open("rb") as file:
        start = file.read(262 + 6)
        opener = next((each for magic, each in _COMPRESSED.items() if start.startswith(magic)), None)
        file.seek(0)
        if zipfile.is_zipfile(file) and not opener:
            file.seek(0)
            yield from _zip_members(path, file, budget)
        elif opener or start[257:262] == b"ustar" or path.name.lower().endswith(".tar"):
            file.seek(0)
            yield from _tar_members(path, opener(file) if opener else file, budget)
        else:
            damaged = start.startswith(b"PK\3\4")
            raise DataError("archive_cut_off" if damaged else "archive_unknown", path=path)


_COMPRESSED: dict[bytes, Callable[[IO[bytes]], Any]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\x00": lzma.LZMAFile,
}


def _zip_members(path: Path, file: IO[bytes], budget: _Budget) -> Iterator[tuple[str, Read]]:
    with zipfile.ZipFile(file) as packed:
        infos = packed.infolist()
        if sum(each.compress_size for each in infos) > budget.packed:
            raise DataError("archive_bomb", path=path, reason=say("archive.overlap"))
        budget.claim(sum(each.file_size for each in infos))
        names = _zip_names(infos)
        for info, name in zip(infos, names, strict=True):
            budget.member()
            kind = stat.S_IFMT(info.external_attr >> 16)  # 0 from systems without modes
            if kind and not stat.S_ISREG(kind) and not stat.S_ISDIR(kind):
                raise DataError("archive_link", path=path, member=_shown(name))
            if info.flag_bits & 0x1:
                raise DataError("archive_encrypted", path=path, member=_shown(name))
            if name.endswith("/"):
                _parts(name, path, budget)
                continue
            yield name, lambda info=info: packed.open(info)  # type: ignore[misc]


def _zip_names(infos: Iterable[zipfile.ZipInfo]) -> list[str]:
    """Names as they were meant. A zip made on a Chinese Windows holds GBK and says nothing of it; Python then reads
    cp437, from which the bytes come back unchanged."""
    names = [each.orig_filename for each in infos]  # up to a NUL in it: cut off there, it would name another file
    raw = {}
    for number, info in enumerate(infos):
        given = _unicode_path(info)
        if given is not None:
            names[number] = given
        elif not info.flag_bits & 0x800 and not names[number].isascii():
            raw[number] = names[number].encode("cp437")
    encoding = _encoding_of(list(raw.values()))
    for number, content in raw.items():
        names[number] = content.decode(encoding)
    return names


def _unicode_path(info: zipfile.ZipInfo) -> str | None:
    """The UTF-8 name of Info-ZIP's extra field 0x7075, if it is that of this very name."""
    extra, flag = info.extra, info.flag_bits & 0x800
    while len(extra) >= 4 and not flag:
        kind, size = struct.unpack("<HH", extra[:4])
        body, extra = extra[4 : 4 + size], extra[4 + size :]
        if kind == 0x7075 and len(body) > 5 and body[0] == 1:
            try:
                same = struct.unpack("<L", body[1:5])[0] == zlib.crc32(info.orig_filename.encode("cp437"))
                return body[5:].decode("utf-8") if same else None
            except UnicodeError:
                return None
    return None


def _encoding_of(names: list[bytes]) -> str:
    """What all of these were written in: UTF-8 if they could be; GB 18030 if they could be and most characters are
    common Chinese ones (the 6763 of GB 2312), which Western names by chance are not; else cp437."""
    for encoding in ("utf-8", "gb18030"):
        try:
            text = "".join(each.decode(encoding) for each in names)
        except UnicodeDecodeError:
            continue
        if encoding == "utf-8":
            return encoding
        foreign = [each for each in text if not each.isascii()]
        common = sum(_is_common(each) for each in foreign)
        if foreign and common >= 0.6 * len(foreign):
            return encoding
    return "cp437"


def _is_common(character: str) -> bool:
    try:
        return len(character.encode("gb2312")) == 2
    except UnicodeEncodeError:
        return False


class _Counted:
    """A stream that tells the budget what was read from it."""

    def __init__(self, stream: Any, budget: _Budget) -> None:
        self.stream, self.budget = stream, budget

    def read(self, size: int) -> bytes:
        piece = self.stream.read(size)
        self.budget.inflate(len(piece))
        return piece


def _tar_members(path: Path, stream: Any, budget: _Budget) -> Iterator[tuple[str, Read]]:
    counted = _Counted(stream, budget)
    with tarfile.open(fileobj=counted, mode="r|", encoding="utf-8", errors="surrogateescape") as packed:  # type: ignore[call-overload]
        for info in packed:
            packed.members = []  # a million of them would be kept
            budget.member()
            name = _tar_name(info.name)
            if not (info.isreg() or info.isdir()) or info.issparse():
                raise DataError("archive_link", path=path, member=_shown(name))
            if info.size < 0:
                raise EOFError(say("archive.size"))
            if info.isdir():
                _parts(name, path, budget)
                continue
            budget.claim(info.size)
            yield name, lambda info=info: packed.extractfile(info)  # type: ignore[misc]
        if budget.unpacked % tarfile.BLOCKSIZE or packed.offset + tarfile.BLOCKSIZE > budget.unpacked:
            raise EOFError(say("archive.no_end"))
    while counted.read(PIECE):  # the checksum of the compression stands at its end
        pass


def _tar_name(name: str) -> str:
    try:
        name.encode("utf-8")
        return name
    except UnicodeEncodeError:
        raw = name.encode("utf-8", "surrogateescape")
        return raw.decode(_encoding_of([raw]))


# --- names ----------------------------------------------------------------------------------------------------------


def _shown(name: str) -> str:
    """A name that can be printed: an archive's may hold what moves a terminal's cursor."""
    shown = "".join(each if each.isprintable() else "?" for each in name)
    return shown if len(shown) <= 120 else f"{shown[:117]}..."


def _parts(name: str, path: Path, budget: _Budget) -> tuple[str, ...]:
    """The folders and the file of a name, every one harmless. Raises DataError; gives nothing for what only some
    system left there."""
    parts = tuple(each for each in name.split("/") if each not in ("", "."))
    problem = next((kind for kind, found in _PROBLEMS.items() if found(name, parts)), "")
    if not problem and len(parts) > budget.limits.depth:
        problem = "deep"
    if problem:
        key = f"archive.name.{problem}"
        raise DataError("archive_name", path=path, member=_shown(name), reason=say(key))
    if any(each.casefold() in JUNK or each.startswith("._") for each in parts):
        return ()
    return parts


def _windows_minds(part: str) -> bool:
    return part[-1] in ". " or any(each in '<>:"|?*' for each in part) or bool(_RESERVED.fullmatch(part))


_PROBLEMS: dict[str, Callable[[str, tuple[str, ...]], bool]] = {
    "absolute": lambda name, parts: name.startswith("/"),
    "drive": lambda name, parts: any(re.match(r"[A-Za-z]:", each) for each in parts),
    "parent": lambda name, parts: ".." in parts,
    "backslash": lambda name, parts: "\\" in name,
    "control": lambda name, parts: any(unicodedata.category(each) in ("Cc", "Cs") for each in name),
    "long": lambda name, parts: any(len(each.encode("utf-8", "replace")) > 255 for each in parts),
    "windows": lambda name, parts: os.name == "nt" and any(map(_windows_minds, parts)),
}


def _write(folder: Path, name: str, read: Read, budget: _Budget, path: Path) -> None:
    """One file, made anew: a name that comes twice, or differs only in case where that is the same, is refused."""
    parts = _parts(name, path, budget)
    if not parts:
        return
    target = folder.joinpath(*parts)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        file = target.open("xb")
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        key = "archive.name.twice"
        raise DataError("archive_name", path=path, member=_shown(name), reason=say(key)) from error
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        key = "archive.name.long"
        raise DataError("archive_name", path=path, member=_shown(name), reason=say(key)) from error
    with file, read() as source:
        while piece := source.read(PIECE):
            budget.write(len(piece))
            file.write(piece)
    budget.files += 1
