"""Figures of the training part that are kept with a manifest of rows: one definition for training and for serving."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from fromzero.data.manifest import Manifest
from fromzero.data.rows.content import content, texts

QUANTILES = (0.05, 0.5, 0.95, 0.99, 1.0)


def statistics(manifest: Manifest) -> dict[str, Any]:
    """Of the training rows (all good ones while there is no split). For a table `numbers`: the mean and the standard
    deviation of each numeric column, missing values left out, and `categories`: the words of each other column,
    sorted, a word's code being its place. For texts `characters`: their number at QUANTILES."""
    rows = manifest.rows("train")
    rows = rows if len(rows) else manifest.good()
    if manifest.kind == "table":
        return _of_table(manifest, rows)
    if manifest.kind == "texts":
        import pyarrow.compute as compute

        lengths = compute.utf8_length(texts(manifest)).to_numpy()[rows]
        found = np.quantile(lengths, QUANTILES) if len(rows) else np.zeros(len(QUANTILES))
        return {"characters": {f"{each:g}": float(length) for each, length in zip(QUANTILES, found, strict=True)}}
    return {}


def kept(manifest: Manifest) -> Manifest:
    """The manifest with its statistics in `about["statistics"]`."""
    return dataclasses.replace(manifest, about={**manifest.about, "statistics": statistics(manifest)})


def _of_table(manifest: Manifest, rows: np.ndarray) -> dict[str, Any]:
    import pyarrow
    import pyarrow.compute as compute

    table = content(manifest)
    numbers, categories = {}, {}
    for name in manifest.about["features"]:
        if name in manifest.about["numeric"]:
            values = table.column(name).to_numpy()[rows]
            values = values[np.isfinite(values)]  # infinite is missing, as for `tabular`
            spread = float(values.std()) if len(values) else 0.0
            mean = float(values.mean()) if len(values) else 0.0
            numbers[name] = {"mean": mean, "std": spread or 1.0}  # a constant column stays 0 when it is scaled
        else:
            words = compute.unique(table.column(name).take(pyarrow.array(rows)).drop_null()).to_pylist()
            categories[name] = sorted(words)
    return {"numbers": numbers, "categories": categories}
