"""What is wrong with a set of texts."""

from __future__ import annotations

from typing import Any

import numpy as np

from fromzero.data.checks import copies
from fromzero.data.checks.lengths import over_long
from fromzero.data.manifest import Manifest
from fromzero.data.rows import grams, near_texts
from fromzero.data.rows.content import texts
from fromzero.terminal import Console

AT_HOME = 0.10  # a script that prevails in this share of the texts belongs to the set
FOREIGN = 0.5  # a text with this share of letters in other scripts is out of place
LEARNT = 20_000  # words and pairs of words that label suspects are judged by
FEWEST_LETTERS = 10  # in fewer, a brand name prevails


def findings(
    manifest: Manifest,
    console: Console | None = None,
    *,
    tokenizer: str | None = None,
    limit: int | None = None,
    suspects: bool = True,
) -> dict[str, list[dict[str, Any]]]:
    """By kind; near duplicates are looked for if the manifest's `cluster` is not filled yet (`near_texts.mark`)."""
    if "cluster" not in manifest.columns:
        manifest = near_texts.mark(manifest, console)
    found = copies.findings(manifest)
    empty = manifest["problem"] == "text_empty"
    found["corrupt"] = [each for each in found["corrupt"] if each["code"] != "text_empty"]
    found["empty"] = [{"file": manifest.name(row)} for row in np.flatnonzero(empty).tolist()]
    column, good = texts(manifest), manifest.good()
    found["mixed_language"] = _mixed(manifest, column, good)
    found["over_long"] = [
        {"file": manifest.name(row), "tokens": tokens, "limit": most, "estimated": estimated}
        for row, tokens, most, estimated in over_long(column, good, tokenizer, limit)
    ]
    if suspects and manifest.classes:
        rows = copies.learnable(manifest, grams.unique_rows(manifest["hash"], good))
        if len(rows):
            found["label_suspects"] = copies.suspects(
                manifest, rows, grams.commonest(grams.tfidf(column, rows), LEARNT)
            )
    return found


def _mixed(manifest: Manifest, column: Any, good: np.ndarray) -> list[dict[str, Any]]:
    """Texts mostly in a script that is not the data set's; letters of other scripts than `grams.SCRIPTS` are not
    judged."""
    counts = [np.zeros((0, len(grams.SCRIPTS)), np.int64)]
    counts += [grams.scripts(letters) for letters in grams.batches(column, good, links=False)]
    letters = np.concatenate(counts)
    names = list(grams.SCRIPTS)
    letters[:, names.index("Han")] += letters[:, names.index("Kana")]  # Japanese writes both
    letters[:, names.index("Kana")] = 0
    total = letters.sum(axis=1)
    prevails = letters.argmax(axis=1)
    judged = total >= FEWEST_LETTERS
    home = np.bincount(prevails[judged], minlength=len(names)) >= AT_HOME * max(1, judged.sum())
    foreign = letters[:, ~home].sum(axis=1) / np.maximum(total, 1)
    return [
        {
            "file": manifest.name(int(good[place])),
            "script": names[int(np.where(home, 0, letters[place]).argmax())],
            "share": round(float(foreign[place]), 2),
        }
        for place in np.flatnonzero(judged & (foreign >= FOREIGN)).tolist()
    ]
