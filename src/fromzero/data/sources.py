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

from fromzero.data.manifest import state_folder
from fromzero.errors import SourceError, UnknownName
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
        folder, source = _fetch(wanted, target, Path(scratch), offline, console)
        _write_pictures(wanted, folder, target, source, console)
    return target


def _fetch(wanted: IdxSet, target: Path, scratch: Path, offline: bool, console: Console) -> tuple[Path, str]:
    """A folder with the four IDX files, and the name of the source that had them."""
    sources: list[tuple[str, Callable[[], Path]]] = [
        (say("source.local", path=target), lambda: _with_files(target)),
        (say("source.local", path=wanted.installed), lambda: _with_files(wanted.installed)),
    ]
    if not offline:
        sources += [
            (say("source.debian", package=wanted.debian), lambda: _from_debian(wanted, scratch)),
            (say("source.torchvision", name=wanted.torchvision), lambda: _from_torchvision(wanted, scratch)),
        ]
    attempts = []
    for title, fetch in sources:
        try:
            folder = fetch()
        except Exception as error:  # a source may fail in any way: say it, try the next
            reason = (str(error).strip() or type(error).__name__).splitlines()[-1][:300]
            attempts.append(f"{title}: {reason}")
            console.line(say("source.failed", source=title, reason=reason))
            continue
        console.line(say("source.used", source=title))
        return folder, title
    raise SourceError("no_source", attempts, name=wanted.name)


def _with_files(folder: Path) -> Path:
    for part in _FILES.values():
        for kind in ("images-idx3", "labels-idx1"):
            _idx_file(folder, f"{part}-{kind}-ubyte")
    return folder


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


def _write_pictures(wanted: IdxSet, folder: Path, target: Path, source: str, console: Console) -> None:
    """The IDX files as PNG files, `{train,test}/class/00001.png`, written beside and renamed when complete."""
    beside = target.with_name(f"{target.name}.{os.getpid()}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    with console.progress(say("data.writing"), sum(wanted.counts)) as advance:
        for split, part in _FILES.items():
            images = _read_idx(_idx_file(folder, f"{part}-images-idx3-ubyte"), 3)
            labels = _read_idx(_idx_file(folder, f"{part}-labels-idx1-ubyte"), 1)
            for name in wanted.classes:
                (beside / split / name).mkdir(parents=True)
            for number, (image, label) in enumerate(zip(images, labels, strict=True)):
                path = beside / split / wanted.classes[label] / f"{number:05d}.png"
                Image.fromarray(image).save(path, compress_level=1)
                advance()
    (beside / ".fromzero").mkdir()
    (beside / ".fromzero" / _COMPLETE).write_text(json.dumps({"name": wanted.name, "source": source}))
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_dir() and not any(target.iterdir()):
        target.rmdir()
    if target.exists():  # IDX files lay there, or a copy that was cut off by hand: keep them, move the pictures in
        for each in beside.iterdir():
            shutil.rmtree(target / each.name, ignore_errors=True)
            os.replace(each, target / each.name)
        beside.rmdir()
    else:
        os.replace(beside, target)


def _read_idx(path: Path, dimensions: int) -> np.ndarray:
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    header = np.frombuffer(content, ">u4", 1 + dimensions)
    if header[0] != 0x0800 + dimensions:
        raise ValueError(say("source.not_idx", name=path.name))
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(header[1:].astype(int))


def _is_complete(target: Path, wanted: IdxSet) -> bool:
    if not target.is_dir():
        return False
    marker = state_folder(target) / _COMPLETE
    return marker.is_file() and json.loads(marker.read_text()).get("name") == wanted.name
