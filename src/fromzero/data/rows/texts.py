"""A column of texts as a manifest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from fromzero.data.manifest import Manifest
from fromzero.data.rows.passing import (
    PROBLEMS,
    Seen,
    classes_of,
    computing,
    hashes,
    made,
    mask,
    normalised,
    note,
    stored,
    text_of,
)  # fmt: skip
from fromzero.data.rows.reading import Rows
from fromzero.terminal import Console


def of_texts(rows: Rows, roles: dict[str, str], source: dict[str, Any], console: Console) -> Manifest:
    pyarrow = computing()
    seen = Seen()

    def passing() -> Iterator[Any]:
        for batch in rows.batches():
            cells = text_of(rows, batch, roles["text"])
            plain = normalised(cells)
            seen.hashes.append(hashes(plain))
            seen.sizes.append(pyarrow.compute.binary_length(cells).to_numpy())
            seen.problems.append(mask(pyarrow.compute.equal(plain, "")))
            note(seen, rows, batch, roles)
            place = batch.schema.get_field_index(roles["text"])
            yield batch.set_column(place, roles["text"], cells)

    size = rows.path.stat().st_size if rows.path.is_file() else 0
    name = stored(rows.path, source, passing(), console, size)
    classes, labels = classes_of(seen)
    problems = np.concatenate(seen.problems).astype(np.int8)
    if "label" in roles:
        problems[(labels < 0) & (problems == 0)] = PROBLEMS.index("label_missing")
    about = {"source": source, "rows": name, "roles": roles}
    return made(rows.path, "texts", seen, classes, labels, problems, about)
