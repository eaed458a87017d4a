"""What a split goes by when it is grouped or by time: a column of the data, or what a folder of pictures knows."""

from __future__ import annotations

import numpy as np

from fromzero.data.manifest import Manifest
from fromzero.data.rows import content
from fromzero.errors import UnknownName, UsageError

FOLDER = {"grouped": "folder", "time": "modified"}  # what a folder of pictures can be split by


def values(manifest: Manifest, how: str, by: str = "") -> np.ndarray:
    """One value a sample, to be compared: the column `by` of a file of rows (by default one with a usual name); of a
    folder, the folder that a picture lies in ("grouped") or the time its file was written ("time").

    Raises UsageError or UnknownName for what the data do not have, DataError for a value that is missing."""
    if "rows" in manifest.about:
        return content.values(manifest, how, by)
    known = FOLDER.get(how)
    if known is None or "path" not in manifest.columns or "modified" not in manifest.columns:
        raise UsageError("split_by_what", how=how)
    if by not in ("", known):
        raise UnknownName("choice", by, [known])
    if known == "modified":
        return manifest["modified"]
    place: dict[str, int] = {}
    return np.array([place.setdefault(path.rpartition("/")[0], len(place)) for path in manifest["path"]], np.int64)
