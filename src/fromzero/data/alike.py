"""Near copies of any kind of sample, looked for once: what a split keeps together."""

from __future__ import annotations

from fromzero.data.manifest import Manifest, save
from fromzero.terminal import Console


def marked(manifest: Manifest, console: Console | None = None) -> Manifest:
    """The manifest with its column `cluster`, and kept. Tables have none: nearly equal rows are different cases."""
    if "cluster" in manifest.columns:
        return manifest
    if manifest.kind == "pictures":
        from fromzero.data.near import mark
    elif manifest.kind == "texts":
        from fromzero.data.rows.near_texts import mark
    else:
        return manifest
    return save(mark(manifest, console))
