"""From a folder of pictures to what a run needs: a scanned and split manifest, and how its pictures become inputs."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
from pathlib import Path

import numpy as np

from fromzero.data import load
from fromzero.data.alike import marked
from fromzero.data.augment import choose
from fromzero.data.by import values
from fromzero.data.checks.copies import groups
from fromzero.data.manifest import Manifest, save, state_folder
from fromzero.data.manifest import load as kept_manifest
from fromzero.data.opening import open_data
from fromzero.data.split import divided, split
from fromzero.errors import DataError, UsageError
from fromzero.files import write_json
from fromzero.language import say
from fromzero.models.build import family_of
from fromzero.records import Preprocessing
from fromzero.terminal import Console

LARGEST_SIDE = 224
MANY = 100_000  # files whose times are compared in about a second


def prepare(data: Path | str, console: Console | None = None) -> Manifest:
    """The pictures at a path or address, scanned, with near copies found and a split; assigns the last split's rule (or
    the default one) where a split is missing."""
    manifest = open_data(data, console, quick=_large(data))
    if manifest.kind != "pictures":
        raise UsageError("kind_not_trained", path=data, kind=say(f"kind.{manifest.kind}"))
    if len(manifest.classes) < 2:
        raise DataError("one_class", path=data, name=manifest.classes[0])
    if console is not None and len(manifest.good()) < len(manifest):
        console.line(say("data.left_out", count=len(manifest) - len(manifest.good()), images=len(manifest)))
    if console is not None and (wrong := _contradicting(manifest)):
        console.line(say("data.contradicting", count=wrong, path=data))
    manifest = marked(manifest, console)
    if (manifest["split"][manifest.good()] == "").any() or divided(manifest):
        rule = manifest.rule
        groups = values(manifest, rule.how, rule.by) if rule.how in ("grouped", "time") else None
        manifest = save(split(manifest, values=groups))
    return manifest


def _contradicting(manifest: Manifest) -> int:
    """Contents that stand in several classes: whatever is learnt of them, some of it is wrong."""
    labels = manifest["label"]
    return sum(len(np.unique(labels[rows])) > 1 for rows in groups(manifest["hash"], manifest.good()))


def _large(data: Path | str) -> bool:
    """Whether comparing every file with the last scan would take longer than anybody wants to wait."""
    if "://" in str(data):
        return True
    known = kept_manifest(Path(data)) if Path(data).exists() else None
    return known is not None and len(known) > MANY


def preprocessing_for(
    manifest: Manifest, model: str, imgsz: int | None, *, pretrained: bool, console: Console | None = None
) -> Preprocessing:
    """How this data set's pictures become inputs of this model. Trained weights want what they were trained with; a
    fresh model takes the data's own size, channels and statistics."""
    published = family_of(model).normalisation(model)
    side = shorter_side(manifest)
    own = max(8, min(LARGEST_SIDE, math.ceil(side / 4) * 4))
    size = imgsz or (published["size"] if published else own)
    if size < 8:
        raise UsageError("picture_too_small", size=size)
    if pretrained and published:
        return Preprocessing(
            size=size, channels=3, crop=published["crop"], mean=published["mean"], std=published["std"]
        )
    channels = 1 if bool(manifest["grey"][manifest.good()].all()) else 3
    draft = Preprocessing(
        size=size,
        channels=channels,
        crop=1.0 if side < 1.5 * size else 0.875,
        mean=(0.0,) * channels,
        std=(1.0,) * channels,
    )
    mean, std = _statistics(manifest, draft, console, small=choose(side, size) in load.ON_ARRAYS)
    return dataclasses.replace(draft, mean=mean, std=std)


def _statistics(
    manifest: Manifest, draft: Preprocessing, console: Console | None, *, small: bool
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of the training pictures' channels: computed once, and kept beside the manifest."""
    key = f"{draft.size}/{draft.channels}/{draft.crop:g}/{digest(manifest)}"
    path = state_folder(manifest.root) / "statistics.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        mean, std = json.loads(path.read_text(encoding="utf-8"))[key]
        return tuple(mean), tuple(std)
    found = load.statistics(manifest, draft, load.keep_decoded(manifest, draft, console) if small else None)
    write_json(path, {key: found})
    return found


def shorter_side(manifest: Manifest) -> float:
    good = manifest.good()
    return float(np.median(np.minimum(manifest["width"][good], manifest["height"][good])))


def digest(manifest: Manifest) -> str:
    """Identifies what a run learns from: pictures, classes and splits."""
    seen = hashlib.blake2b(digest_size=16)
    for column in (manifest["label"], manifest["hash"], manifest["split"].codes):
        seen.update(column.tobytes())
    return seen.hexdigest()
