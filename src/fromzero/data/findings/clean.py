"""Moving what a check found out of a data set. Nothing is deleted: files go to `NAME.removed/<time>/files/`, and a
journal that is written before the first of them is moved tells `undo` where they belong, whatever happens meanwhile. A
file of rows is never touched: a cleaned copy is written beside it.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from fromzero.data.check import DataReport
from fromzero.data.findings.telling import class_of, names, rows_named
from fromzero.data.findings.without import copy_without
from fromzero.data.manifest import Manifest
from fromzero.errors import DataError, UnknownName, UsageError
from fromzero.files import disk_error, write_json

JOURNAL, UNDONE, FILES = "journal.json", "undone.json", "files"
FORMAT = 1
# Kinds that need no second look: what cannot be read, and the same content twice. Near copies do need one.
SURE = ("corrupt", "empty", "conflicting_labels", "leakage", "exact_duplicates")
RANKS = {"": 0, "train": 0, "val": 1, "test": 2}  # how far from training; the copy that is furthest stays


@dataclass(frozen=True)
class Move:
    """A sample to be taken out: the finding it is part of, and `why`, which names the copy that stays if one does."""

    file: str
    kind: str
    why: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Restored:
    """What `undo` brought back, and what was neither here nor there."""

    files: list[str]
    lost: list[str]


@dataclass(frozen=True)
class _Place:
    label: str
    given: str
    size: int  # pixels, else bytes


def propose(
    manifest: Manifest, report: DataReport, kinds: Sequence[str] | None = None, keep: Sequence[str] = ()
) -> list[Move]:
    """What to take out for the findings of `kinds` (default: SURE), each sample once. Of several copies at least one
    stays, but for those under different labels: they all go, except those under a label of `keep`. Copies inside the
    data's own test set stay too: it is what others compare with.

    Raises what `ask` raises."""
    ask(manifest, kinds, keep)
    kept = frozenset(keep)
    wanted = [each for each in RULES if each in (SURE if kinds is None else kinds) and each in report.findings]
    entries = [
        (kind, entry)
        for kind in wanted
        for entry in report.findings[kind]
        if kinds is not None or not entry.get("near")
    ]
    places = _places(manifest, (name for _, entry in entries for name in names(entry)))
    moves: dict[str, Move] = {}
    for kind, entry in entries:
        here = {name: places[name] for name in names(entry) if name in places and name not in moves}
        for name, stays in RULES[kind](here, kept):
            why = {key: value for key, value in entry.items() if key not in ("file", "files")}
            moves[name] = Move(name, kind, {**why, "stays": stays} if stays else why)
    return list(moves.values())


def ask(manifest: Manifest, kinds: Sequence[str] | None, keep: Iterable[str]) -> None:
    """Raises UnknownName for a class that the data do not have, or a kind that taking samples out does not mend: before
    a check that may take minutes."""
    for each in kinds or ():
        if each not in RULES:
            raise UnknownName("choice", each, RULES)
    for each in keep:
        if each not in manifest.classes:
            raise UnknownName("class", each, manifest.classes)


def _places(manifest: Manifest, wanted: Iterable[str]) -> dict[str, _Place]:
    sized = {"width", "height"} <= set(manifest.columns)
    return {
        name: _Place(
            class_of(manifest, row),
            manifest["given"][row],
            int(manifest["width"][row]) * int(manifest["height"][row]) if sized else int(manifest["bytes"][row]),
        )
        for name, row in rows_named(manifest, wanted).items()
        if not (manifest.folder / name).is_symlink()  # what it leads to would go, or it would lead nowhere
    }


# A rule gives for the samples of a finding those that go, each with the one that stays for it ("" if none does).
Rule = Callable[[Mapping[str, _Place], frozenset[str]], Iterable[tuple[str, str]]]


def _all(here: Mapping[str, _Place], keep: frozenset[str]) -> Iterable[tuple[str, str]]:
    return [(name, "") for name in here]


def _contradicting(here: Mapping[str, _Place], keep: frozenset[str]) -> Iterable[tuple[str, str]]:
    """All of several labels, but those of a label that is kept; two kept labels still contradict each other."""
    labels = {place.label for place in here.values()}
    if len(labels) < 2:
        return []
    right = labels & keep if len(labels & keep) == 1 else set()
    stays = next((name for name, place in here.items() if place.label in right), "")
    return [(name, stays) for name, place in here.items() if place.label not in right]


def _training(here: Mapping[str, _Place], keep: frozenset[str]) -> Iterable[tuple[str, str]]:
    """All but those of the split that is furthest from training."""
    furthest = max((RANKS[place.given] for place in here.values()), default=0)
    stays = next((name for name, place in here.items() if RANKS[place.given] == furthest), "")
    return [(name, stays) for name, place in here.items() if RANKS[place.given] < furthest]


def _copies(here: Mapping[str, _Place], keep: frozenset[str]) -> Iterable[tuple[str, str]]:
    """Of each class and split all but the largest, the first of equals."""
    for label, given in dict.fromkeys((place.label, place.given) for place in here.values()):
        if given == "test":
            continue
        same = [name for name, place in here.items() if (place.label, place.given) == (label, given)]
        stays, *others = sorted(same, key=lambda name: (-here[name].size, name))
        yield from ((name, stays) for name in others)


# In this order, so that a copy which stays is none that an earlier rule took.
RULES: dict[str, Rule] = {
    "corrupt": _all,
    "empty": _all,
    "empty_turns": _all,
    "role_order": _all,
    "mixed_language": _all,
    "over_long": _all,
    "conflicting_labels": _contradicting,
    "label_suspects": _all,
    "outliers": _all,
    "leakage": _training,
    "exact_duplicates": _copies,
    "near_duplicates": _copies,
}


# --- folders: away and back ---------------------------------------------------------------------------------------


def removed_folder(root: Path) -> Path:
    """Where what is taken out of a folder goes: beside it and in plain sight, for it is no cache."""
    root = root.resolve()
    return root.with_name(f"{root.name}.removed")


def apply(manifest: Manifest, moves: Sequence[Move]) -> Path:
    """Take the samples out. Returns the folder they are now in, or, for a file of rows, its cleaned copy.

    Raises DataError if a file cannot be moved (those before it are away, `undo` brings them back) or lies outside the
    folder, DiskError if the journal cannot be written; then nothing was moved."""
    if manifest.root.is_file():
        rows = rows_named(manifest, (each.file for each in moves)).values()
        return copy_without(manifest.root, set(rows), len(manifest))
    root = manifest.root
    if manifest.about.get("packed"):
        raise UsageError("clean_packed", path=root)
    for each in moves:
        _inside(root, each.file)
    away = removed_folder(root) / f"{time.strftime('%Y%m%d-%H%M%S')}-{time.time_ns() % 10**9:09d}"
    try:
        (away / FILES).mkdir(parents=True)
    except OSError as error:
        raise disk_error(away, error) from error
    listed = [{"file": each.file, "kind": each.kind, "why": dict(each.why)} for each in moves]
    write_json(away / JOURNAL, {"format": FORMAT, "moves": listed})
    for count, each in enumerate(moves):
        try:
            _move(root / each.file, away / FILES / each.file)
        except OSError as error:
            raise DataError(
                "clean_stopped", path=each.file, reason=error.strerror or str(error), count=count
            ) from error
    return away


def undo(root: Path) -> Restored:
    """Bring back what the last `apply` took out of a folder, also if it was interrupted, also if `undo` was.

    Raises UsageError if there is nothing to bring back, DataError, with nothing moved, if something else stands in a
    file's place by now or the journal names a place outside the folder."""
    if root.is_file():
        raise UsageError("undo_of_a_copy", path=root)
    away = _last(root)
    files = _journal(away)
    waiting = []
    for name in files:
        _inside(root, name)
        _inside(away / FILES, name)
        if os.path.lexists(away / FILES / name):
            if os.path.lexists(root / name):
                raise DataError("undo_in_the_way", path=root / name)
            waiting.append(name)
    lost = [name for name in files if name not in set(waiting) and not os.path.lexists(root / name)]
    for name in waiting:
        try:
            _move(away / FILES / name, root / name)
        except OSError as error:
            raise DataError("undo_stopped", path=name, reason=error.strerror or str(error)) from error
    for folder, _, _ in os.walk(away / FILES, topdown=False):
        with contextlib.suppress(OSError):  # not empty: somebody put something there
            os.rmdir(folder)
    os.replace(away / JOURNAL, away / UNDONE)
    return Restored(waiting, lost)


def _last(root: Path) -> Path:
    found = sorted(each.parent for each in removed_folder(root).glob(f"*/{JOURNAL}"))
    if not found:
        raise UsageError("nothing_to_undo", path=root)
    return found[-1]


def _journal(away: Path) -> list[str]:
    try:
        content = json.loads((away / JOURNAL).read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(content["format"])
        return [str(each["file"]) for each in content["moves"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError("bad_journal", path=away / JOURNAL, reason=str(error) or type(error).__name__) from error


def _move(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    os.rename(source, target)  # never copied: a move within a file system is whole or not done


def _inside(folder: Path, name: str) -> None:
    """Raises DataError for a name that leads out of the folder, by itself or through a link: a journal may have come
    with a downloaded data set, and no file beyond it is anybody's to move."""
    path = PurePosixPath(name)
    outside = not name or path.is_absolute() or ".." in path.parts or Path(name).is_absolute()
    if outside or not (folder / name).parent.resolve().is_relative_to(folder.resolve()):
        raise DataError("clean_outside", path=name, folder=folder)
