"""Findings in words: what the command prints and the page shows. A name is told so that it cannot act: a line break, an
escape code for the terminal or a turn of the writing direction in a file's name is shown, not obeyed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from fromzero.data.check import BLOCKERS
from fromzero.data.manifest import Manifest, arrow
from fromzero.language import catalogue, say

PRINTABLE = " \u3000"  # besides letters, digits and signs
# What has words of its own in `told`, or is no detail.
_TOLD = ("file", "files", "code", "reason", "label", "suggested", "score", "classes", "splits", "near")


def shown(name: object) -> str:
    """A name or a value on one line: what is no letter, digit, sign or blank as its escape."""
    text = str(name)
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() or each in PRINTABLE else each.encode("unicode_escape").decode() for each in text
    )


def title(kind: str) -> str:
    """What a kind of finding is called."""
    return _row(f"finding.{kind}", kind.replace("_", " "))


def meaning(kind: str) -> str:
    """What a kind of finding does to a training, and what to do about it; empty if nobody wrote it down."""
    return _row(f"meaning.{kind}", "")


def names(entry: Mapping[str, Any]) -> list[str]:
    """The samples that a finding is about."""
    return [str(each) for each in entry.get("files") or ([entry["file"]] if "file" in entry else [])]


def told(kind: str, entry: Mapping[str, Any]) -> str:
    """All that a finding says besides the names of its samples."""
    if f"entry.{kind}" in catalogue():
        return say(f"entry.{kind}", **{key: _value(key, value) for key, value in entry.items()})
    parts = [reason(str(entry[key])) for key in ("code", "reason") if entry.get(key)]
    if entry.get("suggested"):
        parts.append(
            say("findings.suggested", label=shown(entry.get("label", "?")), suggested=shown(entry["suggested"]))
        )
    parts += [say("findings.near")] if entry.get("near") else []
    parts += [" / ".join(map(shown, entry["classes"]))] if entry.get("classes") else []
    parts += [" / ".join(map(split_name, entry["splits"]))] if entry.get("splits") else []
    parts += [say("findings.score", score=f"{entry['score']:.2f}")] if "score" in entry else []
    parts += [f"{_row(f'detail.{key}', key)} {_value(key, value)}" for key, value in entry.items() if key not in _TOLD]
    return say("findings.comma").join(each for each in parts if each)


def blocks(kind: str, entries: Iterable[Mapping[str, Any]]) -> bool:
    """Whether findings of this kind forbid training, as `DataReport.verdict` judges: near copies do not."""
    return kind in BLOCKERS and any(not each.get("near") for each in entries)


def reason(code: str) -> str:
    return _row(f"reason.{code}", shown(code))


def split_name(name: str) -> str:
    return _row(f"split.{name}", shown(name)) if name else say("findings.no_split")


def rows_named(manifest: Manifest, wanted: Iterable[str]) -> dict[str, int]:
    """The rows of named samples; a name that is none of the manifest's is left out."""
    each = list(dict.fromkeys(wanted))
    column = next((manifest[name] for name in ("name", "path") if name in manifest.columns), None)
    if column is None:
        numbers = {name: name.rpartition(":")[2] for name in each}
        rows = {name: int(number) - 1 for name, number in numbers.items() if number.isdecimal()}
        return {name: row for name, row in rows.items() if 0 <= row < len(manifest) and manifest.name(row) == name}
    pyarrow = arrow()
    from pyarrow import compute

    places = compute.index_in(column.array, value_set=pyarrow.array(each, pyarrow.string()))
    found = places.fill_null(-1).to_numpy(zero_copy_only=False)
    here = np.flatnonzero(found >= 0)
    return {each[place]: row for place, row in zip(found[here].tolist(), here.tolist(), strict=True)}


def class_of(manifest: Manifest, row: int) -> str:
    label = int(manifest["label"][row])
    return manifest.classes[label] if label >= 0 else ""


def split_of(manifest: Manifest, row: int) -> str:
    """The split that the data name, else the one that was made; "" for none."""
    return manifest["given"][row] or manifest["split"][row]


def _row(key: str, otherwise: str) -> str:
    return say(key) if key in catalogue() else otherwise


def _value(key: str, value: Any) -> str:
    if isinstance(value, bool):
        return say("findings.yes" if value else "findings.no")
    if isinstance(value, float):
        return f"{value:.0%}" if key == "share" else f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return " / ".join(_value(key, each) for each in value)
    return shown(value)
