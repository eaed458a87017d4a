"""Pictures that a file lists, as a manifest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fromzero.data.folder import Listing, looked_at
from fromzero.data.manifest import SPLIT_WORDS, Manifest, state_folder
from fromzero.data.rows.passing import Seen, classes_of, computing, mapped, mask, note, stored, text_of
from fromzero.data.rows.reading import Rows
from fromzero.errors import DataError
from fromzero.terminal import Console


class _Listed(Listing):
    """The pictures that a file lists, in its order. `given` are places in SPLIT_WORDS."""

    def __init__(self, home: Path, classes: tuple[str, ...], labels: np.ndarray, given: np.ndarray, about: Any) -> None:
        cells = mapped(home, about["rows"]).column(about["roles"]["image"]).to_pylist()
        self.root, self.home, self.times, self.classes = home.parent, home, {}, classes
        self.paths = [each.strip().replace("\\", "/") for each in cells]
        self.labels = [classes[each] for each in labels]
        self.given = [SPLIT_WORDS[each] for each in given]


def of_pictures(
    rows: Rows, roles: dict[str, str], source: dict[str, Any], known: Manifest | None, console: Console
) -> Manifest:
    if "label" not in roles:
        raise DataError("no_label_column", path=rows.path, columns=", ".join(rows.columns))
    seen = Seen()

    def passing() -> Iterator[Any]:
        for batch in rows.batches():
            for role, code in (("image", "row_no_picture"), ("label", "row_no_label")):
                cells = computing().compute.utf8_trim_whitespace(text_of(rows, batch, roles[role]))
                blank = mask(computing().compute.equal(cells, ""))
                if blank.any():
                    raise DataError(code, path=rows.path, row=seen.count + int(blank.argmax()) + 1, column=roles[role])
            note(seen, rows, batch, roles)
            yield batch

    name = stored(rows.path, source, passing(), console, rows.path.stat().st_size)
    classes, labels = classes_of(seen)
    about = {"source": source, "rows": name, "roles": roles}
    listed = _Listed(rows.path, classes, labels, np.concatenate(seen.given), about)
    usable = known is not None and known.kind == "pictures" and _has_looks(known)
    return looked_at(listed, known if usable else None, console, about)


def again(known: Manifest, console: Console) -> Manifest:
    """The manifest of an unchanged list, with what changed of its pictures."""
    about = {name: known.about[name] for name in ("source", "rows", "roles")}
    listed = _Listed(known.root, known.classes, known["label"], known["given"].codes, about)
    return looked_at(listed, known if _has_looks(known) else None, console, about)


def _has_looks(known: Manifest) -> bool:
    return (state_folder(known.root) / known.about["looks"]).is_file()
