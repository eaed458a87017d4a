"""What is looked for among pictures."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from fromzero.data import near
from fromzero.data.checks import copies
from fromzero.data.folder import COLOURS, FORMS, SIDE, looks_of
from fromzero.data.images import SUFFIXES
from fromzero.data.manifest import Manifest
from fromzero.language import say
from fromzero.terminal import Console

Entry = dict[str, Any]
FLAT = 1.0  # standard deviation of grey values below which a picture shows nothing
FAINT = 20.0  # below which sharpness says nothing: there is hardly anything that could be sharp
DARK, BRIGHT = 20.0, 240.0  # mean grey values that no ordinary picture has
BLURRED = 15.0  # variance of the Laplacian below which a picture of any size looks blurred
SMALL, SEVERAL = 16, 4  # shortest side that shows a thing; times the usual size or shape that is odd
MANY = 200_000  # pictures beyond which label suspects are not looked for: their features no longer fit into memory
NEAR = ("altered", "resized", "cropped")
# How the name of each format may end. What is read as what it is not called is read all the same, but not everywhere.
ENDINGS = {
    "jpeg": (".jpg", ".jpeg"), "png": (".png",), "bmp": (".bmp",), "gif": (".gif",),
    "webp": (".webp",), "tiff": (".tif", ".tiff"),
}  # fmt: skip


def findings(manifest: Manifest, console: Console | None = None) -> dict[str, list[Entry]]:
    """By kind. Near copies are looked for anew, since the manifest does not keep what makes a pair one."""
    console = console or Console()
    close = near.pairs(manifest, console)
    manifest = manifest.with_column("cluster", near.clusters(manifest, close))
    good = manifest.good()
    found = copies.findings(manifest)
    _tell_near(manifest, close, found)
    found["wrong_type"] = _wrong_types(manifest, good)
    found["outliers"] = _outliers(manifest, good)
    found["misplaced"] = _misplaced(manifest)
    if len(good) <= MANY:
        console.line(say("check.suspects"))
        found["label_suspects"] = _suspects(manifest)
    return found


def unchecked(manifest: Manifest) -> tuple[str, ...]:
    """Kinds that were not looked for, and whose lists are empty for that reason alone."""
    return ("label_suspects",) if len(manifest.good()) > MANY else ()


def _tell_near(manifest: Manifest, close: near.Pairs, found: dict[str, list[Entry]]) -> None:
    """Say of each group of near copies what was done to them and how alike they are at least; name those that stand
    under several labels among the conflicts."""
    cluster = manifest["cluster"]
    number = cluster[close.first]
    least = np.ones(int(cluster.max(initial=-1)) + 1)
    held = number >= 0
    np.minimum.at(least, number[held], close.alike[held])
    size = manifest["width"].astype(np.int64) * manifest["height"]
    kinds = np.where(close.share < 0.97, 2, size[close.first] != size[close.second])
    most = np.zeros(len(least), np.int64)
    np.maximum.at(most, number[held], kinds[held])
    place = dict(zip(cluster[cluster >= 0][::-1].tolist(), np.flatnonzero(cluster >= 0)[::-1].tolist(), strict=True))
    numbers = sorted(place, key=lambda each: place[each])  # in the order of `copies.findings`
    for each, entry in zip(numbers, found["near_duplicates"], strict=True):
        entry["reason"], entry["score"] = NEAR[most[each]], round(float(least[each]), 3)
        if "classes" in entry:
            conflict = {"files": entry["files"], "classes": entry["classes"], "near": True}
            found["conflicting_labels"].append(conflict)


def _wrong_types(manifest: Manifest, rows: np.ndarray) -> list[Entry]:
    """Files whose name says another format than they are."""
    found = []
    for number, (form, _) in enumerate(FORMS):
        for row in rows[manifest["form"][rows] == number] if form else ():
            if not manifest.name(row).lower().endswith(ENDINGS[form]):
                found.append({"file": manifest.name(row), "form": form})
    return found


def _outliers(manifest: Manifest, rows: np.ndarray) -> list[Entry]:
    """Pictures that show little or stand out; each for its first reason. "Dark", "bright" and "blurred" hold against
    a bound that no ordinary picture crosses and against the data set, whose pictures may all be dark."""
    if not len(rows):
        return []
    spread, bright, sharp = (manifest[name][rows].astype(np.float64) for name in ("spread", "bright", "sharp"))
    width, height = manifest["width"][rows].astype(np.float64), manifest["height"][rows].astype(np.float64)
    detail = np.log(np.maximum(sharp, 1e-3) / np.maximum(spread, 1) ** 2)
    longer, shape = np.log(np.sqrt(width * height)), np.log(width / height)
    odd = np.log(SEVERAL)
    reasons = {
        "flat": (spread < FLAT, "spread", spread),
        "dark": ((bright < DARK) & (bright < _low(bright)), "bright", bright),
        "bright": ((bright > BRIGHT) & (bright > -_low(-bright)), "bright", bright),
        "blurred": ((sharp < BLURRED) & (spread > FAINT) & (detail < _low(detail)), "sharp", sharp),
        "odd_size": (np.abs(longer - np.median(longer)) > odd, "", longer),
        "odd_shape": (np.abs(shape - np.median(shape)) > odd, "", shape),
    }
    found, taken = [], np.zeros(len(rows), bool)
    for reason, (hit, fact, values) in reasons.items():
        for at in np.flatnonzero(hit & ~taken):
            entry: Entry = {"file": manifest.name(rows[at]), "reason": reason}
            if fact:
                entry[fact] = round(float(values[at]), 3)
            else:
                entry["size"] = [int(width[at]), int(height[at])]
            found.append(entry)
        taken |= hit
    return found


def _low(values: np.ndarray) -> float:
    """What is low for these values: three robust standard deviations below their median."""
    low, middle = np.quantile(values, (0.25, 0.5))
    return float(middle - 3 * max(middle - low, 1e-6) / 0.6745)


def _suspects(manifest: Manifest) -> list[Entry]:
    _, first = np.unique(manifest["hash"], return_index=True)
    rows = np.sort(first)
    rows = copies.learnable(manifest, rows[manifest["problem"].codes[rows] == 0])
    return copies.suspects(manifest, rows, described(looks_of(manifest), rows)) if len(rows) else []


CELLS = 4  # of gradient histograms in a direction
DIRECTIONS = 8


def described(looks: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """(rows, 240) float32: histograms of gradients (after Dalal and Triggs 2005), 8 x 8 grey values, 4 x 4 colours."""
    angles = 2 * np.pi * np.arange(DIRECTIONS) / DIRECTIONS
    turns = np.stack([np.cos(angles), np.sin(angles)]).astype(np.float32)
    pool = np.repeat(np.eye(CELLS, dtype=np.float32), SIDE // CELLS, axis=1)
    out = np.empty((len(rows), CELLS * CELLS * DIRECTIONS + 64 + COLOURS * COLOURS * 3), np.float32)
    for start in range(0, len(rows), 1024):
        part = looks[rows[start : start + 1024]].astype(np.float32) / 255
        grey = part[:, : SIDE * SIDE].reshape(-1, SIDE, SIDE)
        across, down = np.zeros_like(grey), np.zeros_like(grey)
        across[:, :, 1:-1] = grey[:, :, 2:] - grey[:, :, :-2]
        down[:, 1:-1] = grey[:, 2:] - grey[:, :-2]
        cells = []
        for x, y in turns.T:
            along = across * x + down * y
            np.maximum(along, 0, out=along)
            cells.append((pool @ (along**2) @ pool.T).reshape(len(part), -1))
        edges = np.sqrt(np.concatenate(cells, axis=1))
        edges *= 4 / (np.linalg.norm(edges, axis=1, keepdims=True) + 1e-2)
        small = grey.reshape(-1, 8, SIDE // 8, 8, SIDE // 8).mean((2, 4)).reshape(len(part), -1)
        out[start : start + 1024] = np.concatenate([edges, small, part[:, SIDE * SIDE :]], axis=1)
    return out


def _misplaced(manifest: Manifest) -> list[Entry]:
    """Pictures beside the class folders, which no class has, folders of pictures beside the splits, and class folders
    without a picture."""
    folders = {name for name in manifest.about.get("folders", {}) if name}
    if not folders:
        return []
    full = {"/".join(parts[:depth]) for parts in _parents(manifest) for depth in range(1, len(parts) + 1)}
    parts = {name for name in folders if "/" not in name} if (manifest["given"] != "").any() else set()
    found: list[Entry] = []
    for folder in (manifest.root, *(manifest.root / name for name in sorted(parts))):
        with os.scandir(folder) as inside:
            beside = sorted(each.name for each in inside if each.name.lower().endswith(SUFFIXES) and each.is_file())
        found += [
            {"file": (folder / name).relative_to(manifest.root).as_posix(), "reason": "beside"}
            for name in beside
            if not name.startswith(".")
        ]
    found += [{"file": name, "reason": "no_split"} for name in _beside_splits(manifest.root, parts)]
    return found + [{"file": name, "reason": "empty"} for name in sorted(folders - full)]


def _beside_splits(root: Path, parts: set[str]) -> list[str]:
    """Folders with pictures that lie beside train and test and are called like neither: nothing is read from them."""
    if not parts:
        return []
    with os.scandir(root) as inside:
        others = sorted(e.name for e in inside if e.is_dir() and e.name not in parts and not e.name.startswith("."))
    return [
        name
        for name in others
        if any(file.lower().endswith(SUFFIXES) for _, _, files in os.walk(root / name) for file in files)
    ]


def _parents(manifest: Manifest) -> set[tuple[str, ...]]:
    """The folders that pictures lie in."""
    return {tuple(path.split("/")[:-1]) for path in manifest["path"]}
