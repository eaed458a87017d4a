"""The findings of a check as one HTML page that needs no other file: the pictures of each finding side by side."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fromzero import language
from fromzero.data.check import DataReport
from fromzero.data.findings.telling import (
    blocks,
    class_of,
    meaning,
    names,
    rows_named,
    shown,
    split_name,
    split_of,
    title,
    told,
)
from fromzero.data.images import decode
from fromzero.data.manifest import Manifest
from fromzero.data.pack import read
from fromzero.errors import UnreadableImage
from fromzero.language import say

ENTRIES = 48  # findings of a kind on the page; the rest are counted
SAMPLES = 6  # of a finding
LOOKED_AT = 1000  # of which they are chosen
CLASSES = 60
SIDE = 128  # pixels of a picture's longer side
LETTERS = 600  # of a text


@dataclass(frozen=True)
class Sample:
    """One picture or row of a finding, as the page shows it."""

    name: str
    label: str
    split: str
    picture: str = ""
    text: str = ""


@dataclass(frozen=True)
class Finding:
    """One finding: its samples (`more` are not shown) and what it says."""

    samples: list[Sample]
    more: int
    told: str


@dataclass(frozen=True)
class Section:
    """All findings of a kind; `more` are not shown."""

    kind: str
    title: str
    meaning: str
    blocks: bool
    count: int
    findings: list[Finding]
    more: int


def page(report: DataReport, manifest: Manifest) -> str:
    """The page, in the language in use. Its size is bounded whatever was found: a few megabytes."""
    import jinja2

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["coded"] = _coded
    template = environment.from_string(Path(__file__).with_name("page.html.j2").read_text(encoding="utf-8"))
    largest = max(report.classes.values(), default=0)
    classes = sorted(report.classes.items(), key=lambda each: -each[1])
    return template.render(
        say=say,
        lang={"zh": "zh-CN"}.get(language.current(), "en"),
        name=shown(manifest.root.resolve().name),
        report=report,
        pictures=manifest.kind == "pictures",
        sections=sections(report, manifest),
        classes=[(shown(name), count, 100 * count / max(1, largest)) for name, count in classes[:CLASSES]],
        more_classes=max(0, len(classes) - CLASSES),
        clean=[
            title(kind) for kind, entries in report.findings.items() if not entries and kind not in report.unchecked
        ],
        unchecked=[title(kind) for kind in report.unchecked],
    )


def _coded(text: str) -> Any:
    """Escaped, with what stands in backticks as code."""
    import markupsafe

    parts = [markupsafe.escape(each) for each in text.split("`")]
    marked = [f"<code>{each}</code>" if number % 2 else str(each) for number, each in enumerate(parts)]
    return markupsafe.Markup("".join(marked))


def sections(report: DataReport, manifest: Manifest) -> list[Section]:
    """What was found, what hinders training first."""
    kinds = sorted(report.findings, key=lambda kind: not blocks(kind, report.findings[kind]))
    found = {kind: report.findings[kind] for kind in kinds if report.findings[kind]}
    picked = {kind: [_picked(manifest, names(entry)) for entry in entries[:ENTRIES]] for kind, entries in found.items()}
    samples = _samples(manifest, (name for some in picked.values() for each in some for name in each))
    return [
        Section(
            kind=kind,
            title=title(kind),
            meaning=meaning(kind),
            blocks=blocks(kind, entries),
            count=len(entries),
            findings=[
                _finding(kind, entry, [samples.get(name) or Sample(shown(name), "", "") for name in some])
                for entry, some in zip(entries, picked[kind], strict=False)
            ],
            more=max(0, len(entries) - ENTRIES),
        )
        for kind, entries in found.items()
    ]


def _finding(kind: str, entry: dict[str, Any], samples: list[Sample]) -> Finding:
    return Finding(samples, len(names(entry)) - len(samples), told(kind, entry))


def _picked(manifest: Manifest, wanted: list[str]) -> list[str]:
    """The samples of a finding that are shown: of many, some of each class and split."""
    if len(wanted) <= SAMPLES:
        return wanted
    rows = rows_named(manifest, wanted[:LOOKED_AT])
    seen: Counter[tuple[str, str]] = Counter()
    turns = []
    for name, row in rows.items():
        group = class_of(manifest, row), split_of(manifest, row)
        turns.append((seen[group], name))
        seen[group] += 1
    some = {name for _, name in sorted(turns, key=lambda each: each[0])[:SAMPLES]}
    return [name for name in rows if name in some] or wanted[:SAMPLES]


def _samples(manifest: Manifest, wanted: Iterable[str]) -> dict[str, Sample]:
    rows = rows_named(manifest, wanted)
    pictures = manifest.kind == "pictures"
    texts = {} if pictures else _texts(manifest, list(rows.values()))
    return {
        name: Sample(
            name=shown(name),
            label=shown(class_of(manifest, row)),
            split=split_name(split) if (split := split_of(manifest, row)) else "",
            picture=_thumbnail(manifest, row) if pictures and not manifest["problem"][row] else "",
            text=texts.get(row, ""),
        )
        for name, row in rows.items()
    }


def _thumbnail(manifest: Manifest, row: int) -> str:
    """A picture, small, as a data URL; "" if it cannot be read any more."""
    try:
        picture = decode(read(manifest, row), manifest["path"][row], least=SIDE)
    except UnreadableImage:
        return ""
    picture.thumbnail((SIDE, SIDE))
    form = "PNG" if max(picture.size) <= SIDE // 4 else "JPEG"  # every pixel of an icon counts
    target = io.BytesIO()
    picture.save(target, form, quality=78)
    return f"data:image/{form.lower()};base64,{base64.b64encode(target.getvalue()).decode()}"


def _texts(manifest: Manifest, rows: list[int]) -> dict[int, str]:
    """What stands in rows of texts, chats or a table, cut to a length that can be read."""
    from fromzero.data.rows.content import content

    some = content(manifest, rows).to_pylist() if rows else []
    return {row: _excerpt(_AS_TEXT[manifest.kind](each, manifest)) for row, each in zip(rows, some, strict=True)}


def _excerpt(text: str) -> str:
    return text if len(text) <= LETTERS else f"{text[:LETTERS]} …"


# A sample of each kind as text, from its row of the file.
_AS_TEXT: dict[str, Callable[[dict[str, Any], Manifest], str]] = {
    "texts": lambda row, manifest: str(row[manifest.about["roles"]["text"]]),
    "chats": lambda row, manifest: "\n".join(f"{each['role']}: {each['text']}" for each in row["turns"]),
    "table": lambda row, manifest: "\n".join(
        f"{name}: {'–' if value is None else value}" for name, value in row.items()
    ),
}
