"""Whatever lies at a path as a manifest: pictures, texts, rows, or an archive of one of these."""

from __future__ import annotations

import os
from pathlib import Path

from fromzero.data import folder
from fromzero.data.manifest import Manifest, state_folder
from fromzero.data.pack import open_remote
from fromzero.data.rows import files, reading
from fromzero.data.sources.archives import ENDINGS, is_archive, unpacked
from fromzero.errors import DataError, UsageError
from fromzero.terminal import Console

LOOKED_AT = 2000  # files of a folder that are looked at to tell what it holds


def whereabouts(data: Path | str) -> str:
    """Where data lies, said so that it is found from any folder: an address as it is, a path from the root."""
    return str(data) if "://" in str(data) else str(Path(data).resolve())


def open_data(
    path: Path | str,
    console: Console | None = None,
    *,
    quick: bool = False,
    label: str | None = None,
    text: str | None = None,
) -> Manifest:
    """The manifest of what lies at a path, made or brought up to date, and kept.

    A folder of pictures or of texts, a file of rows (`label` and `text` name its columns) or of running text, an
    archive, which is unpacked first, or the address of a packed set ("s3://..."). A folder that holds none of these,
    but one file of rows or one folder, stands for it. `quick` trusts the folders' times of a large set. Raises
    UsageError for no such path, DataError for what is not understood."""
    if "://" in str(path):
        return open_remote(str(path))
    path = Path(path)
    if path.is_dir():
        return _folder(path, console, quick, label, text)
    if not path.is_file():
        raise UsageError("nothing_there", path=path)
    if path.name.lower().endswith((*reading.SUFFIXES, *reading.RUNNING)):
        return files.read(path, console, quick=quick, label=label, text=text)
    if is_archive(path):
        return open_data(unpacked(path, console=console), console, quick=quick, label=label, text=text)
    raise DataError("unknown_data_form", path=path, suffixes=" ".join(reading.SUFFIXES), archives=" ".join(ENDINGS))


def _folder(path: Path, console: Console | None, quick: bool, label: str | None, text: str | None) -> Manifest:
    if any(state_folder(path).glob("looks-*.npy")):  # pictures, as an earlier scan saw
        return folder.scan(path, console, quick=quick)
    found = _suffixes(path)
    if any(found.get(each) for each in folder.SUFFIXES):
        return folder.scan(path, console, quick=quick)
    if found.get(".txt"):
        return files.read_folder(path, console)
    inside = [each for each in sorted(path.iterdir()) if not each.name.startswith((".", "__MACOSX"))]
    lists = [each for each in inside if each.is_file() and each.name.lower().endswith(reading.SUFFIXES)]
    folders = [each for each in inside if each.is_dir()]
    if len(lists) == 1:
        return files.read(lists[0], console, quick=quick, label=label, text=text)
    if not lists and len(folders) == 1:
        return _folder(folders[0], console, quick, label, text)
    if not lists:
        return folder.scan(path, console, quick=quick)  # which says what it looked for
    raise DataError("several_files", path=path, files=", ".join(each.name for each in lists[:5]))


def _suffixes(root: Path) -> dict[str, int]:
    """How many of the first files in class folders have each suffix."""
    counts: dict[str, int] = {}
    seen = 0
    for top, folders, names in os.walk(root):
        folders[:] = sorted(each for each in folders if not each.startswith((".", "__MACOSX")))
        if Path(top) == root:
            continue  # what lies beside the class folders is no sample
        for name in names:
            if not name.startswith("."):
                suffix = os.path.splitext(name)[1].lower()
                counts[suffix] = counts.get(suffix, 0) + 1
        seen += len(names)
        if seen >= LOOKED_AT:
            break
    return counts
