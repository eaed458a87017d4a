"""Public data sets by name: tried from the nearest source to the farthest, written as a folder of pictures.

Nothing is downloaded silently: each attempt and why it failed is said, and `offline` stops before the network.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from fromzero.attempts import first_of
from fromzero.data.manifest import STATE_FOLDER
from fromzero.errors import UnknownName
from fromzero.files import disk_error
from fromzero.language import say
from fromzero.terminal import Console


@dataclass(frozen=True)
class IdxSet:
    """A data set published as four IDX files (LeCun's format). `debian` is the package that carries it, `torchvision`
    the class that downloads it."""

    name: str
    classes: tuple[str, ...]
    debian: str
    installed: Path
    torchvision: str
    counts: tuple[int, int]


SETS = {
    "fashion-mnist": IdxSet(
        name="fashion-mnist",
        classes=(
            "T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle-boot",
        ),
        debian="dataset-fashion-mnist",
        installed=Path("/usr/share/datasets/fashion-mnist"),
        torchvision="FashionMNIST",
        counts=(60_000, 10_000),
    ),
}  # fmt: skip
Pairs = dict[str, tuple[np.ndarray, np.ndarray]]  # split -> pictures (N, height, width) and class numbers (N,)

_FILES = {"train": "train", "test": "t10k"}
_COMPLETE = "source.json"


def get(name: str, to: Path | str | None = None, *, offline: bool = False, console: Console | None = None) -> Path:
    """The folder of the data set `name`, fetched if it is not there. Default: `data/<name>`."""
    console = console or Console()
    if name not in SETS:
        raise UnknownName("data_set", name, SETS)
    wanted = SETS[name]
    target = Path(to) if to else Path("data") / name
    if _is_complete(target, wanted):
        console.line(say("data.have", name=name, path=target))
        return target
    with tempfile.TemporaryDirectory(prefix="fromzero-") as scratch:
        found, source = _fetch(wanted, target, Path(scratch), offline, console)
    try:
        _write_pictures(wanted, found, target, source, console)
    except OSError as error:
        raise disk_error(target, error) from error
    return target


def _fetch(wanted: IdxSet, target: Path, scratch: Path, offline: bool, console: Console) -> tuple[Pairs, str]:
    """The pictures and classes of each split, and the name of the source that had them."""
    sources: list[tuple[str, Callable[[], Path]]] = [
        (say("source.local", path=target), lambda: _with_files(target)),
        (say("source.local", path=wanted.installed), lambda: _with_files(wanted.installed)),
    ]
    if not offline:
        sources += [
            (say("source.debian", package=wanted.debian), lambda: _from_debian(wanted, scratch)),
            (say("source.torchvision", name=wanted.torchvision), lambda: _from_torchvision(wanted, scratch)),
        ]
    readers = [(title, lambda fetch=fetch: _read_files(wanted, fetch())) for title, fetch in sources]
    return first_of(readers, "no_source", wanted.name, console)


def _with_files(folder: Path) -> Path:
    for part in _FILES.values():
        for kind in ("images-idx3", "labels-idx1"):
            _idx_file(folder, f"{part}-{kind}-ubyte")
    return folder


def _read_files(wanted: IdxSet, folder: Path) -> Pairs:
    """All four files, checked: a copy that was cut off must not pass for the data set."""
    found = {}
    for (split, part), count in zip(_FILES.items(), wanted.counts, strict=True):
        images = _read_idx(_idx_file(folder, f"{part}-images-idx3-ubyte"), 3)
        labels = _read_idx(_idx_file(folder, f"{part}-labels-idx1-ubyte"), 1)
        if not len(images) == len(labels) == count or labels.max(initial=0) >= len(wanted.classes):
            raise ValueError(say("source.wrong_count", name=part, found=len(images), wanted=count))
        found[split] = images, labels
    return found


def _idx_file(folder: Path, stem: str) -> Path:
    for name in (stem, f"{stem}.gz"):
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(say("source.no_file", name=stem))


def _from_debian(wanted: IdxSet, scratch: Path) -> Path:
    """The package, unpacked without root and without installing it."""
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise FileNotFoundError(say("source.no_tool", tool=tool))
    _run(["apt-get", "download", wanted.debian], scratch)
    package = next(scratch.glob("*.deb"))
    _run(["dpkg-deb", "-x", package.name, "unpacked"], scratch)
    return _with_files(scratch / "unpacked" / wanted.installed.relative_to("/"))


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    if done.returncode:
        raise OSError(done.stderr.strip() or f"{command[0]}: {done.returncode}")


def _from_torchvision(wanted: IdxSet, scratch: Path) -> Path:
    import torchvision.datasets

    getattr(torchvision.datasets, wanted.torchvision)(str(scratch), download=True)
    return _with_files(scratch / wanted.torchvision / "raw")


def _write_pictures(wanted: IdxSet, found: Pairs, target: Path, source: str, console: Console) -> None:
    """PNG files, `{train,test}/class/00001.png`, written beside and renamed when complete."""
    beside = target.with_name(f"{target.name}.{os.getpid()}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        with console.progress(say("data.writing"), sum(wanted.counts)) as advance:
            for split, (images, labels) in found.items():
                for name in wanted.classes:
                    (beside / split / name).mkdir(parents=True)
                for number, (image, label) in enumerate(zip(images, labels, strict=True)):
                    path = beside / split / wanted.classes[label] / f"{number:05d}.png"
                    Image.fromarray(image).save(path, compress_level=1)
                    advance()
        state = beside / STATE_FOLDER
        state.mkdir()
        (state / _COMPLETE).write_text(json.dumps({"name": wanted.name, "source": source}), encoding="utf-8")
        _move(beside, target)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _move(beside: Path, target: Path) -> None:
    """Into place. What lay there is kept (IDX files, say) but for an incomplete copy; the mark of completeness goes
    last."""
    if not target.exists():
        os.replace(beside, target)
        return
    for each in sorted(beside.iterdir(), key=lambda path: path.name == STATE_FOLDER):
        shutil.rmtree(target / each.name, ignore_errors=True)
        os.replace(each, target / each.name)


def _read_idx(path: Path, dimensions: int) -> np.ndarray:
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    header = np.frombuffer(content, ">u4", 1 + dimensions)
    if header[0] != 0x0800 + dimensions:
        raise ValueError(say("source.not_idx", name=path.name))
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(header[1:].astype(int))


def _is_complete(target: Path, wanted: IdxSet) -> bool:
    """Whether a copy was finished there and its folders still are."""
    try:
        mark = json.loads((target / STATE_FOLDER / _COMPLETE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    folders = [target / split / name for split in _FILES for name in wanted.classes]
    return isinstance(mark, dict) and mark.get("name") == wanted.name and all(each.is_dir() for each in folders)
