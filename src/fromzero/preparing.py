"""From a folder of pictures to what a run needs: a scanned and split manifest, and how its pictures become inputs."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np

from fromzero.data import load
from fromzero.data.alike import marked
from fromzero.data.augment import choose
from fromzero.data.by import values
from fromzero.data.checks.copies import groups
from fromzero.data.draft import LEAST_SIDE, draft, shorter_side
from fromzero.data.manifest import Manifest, save, state_folder
from fromzero.data.opening import open_data
from fromzero.data.split import divided, split
from fromzero.errors import DataError, UsageError
from fromzero.files import write_json
from fromzero.language import say
from fromzero.models.build import family_of
from fromzero.records import Preprocessing
from fromzero.terminal import Console


def prepare(data: Path | str, console: Console | None = None) -> Manifest:
    """The pictures at a path or address, scanned, with near copies found and a split; assigns the last split's rule (or
    the default one) where a split is missing."""
    manifest = open_data(data, console, quick=True)
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


def preprocessing_for(
    manifest: Manifest, model: str, imgsz: int | None, *, pretrained: bool, console: Console | None = None
) -> Preprocessing:
    """How this data set's pictures become inputs of this model. Trained weights want what they were trained with; a
    fresh model takes the data's own size, channels and statistics."""
    published = family_of(model).normalisation(model)
    own = draft(manifest, imgsz or (published["size"] if published else None))
    if own.size < LEAST_SIDE:
        raise UsageError("picture_too_small", size=own.size)
    if pretrained and published:
        return Preprocessing(
            size=own.size, channels=3, crop=published["crop"], mean=published["mean"], std=published["std"]
        )
    small = choose(shorter_side(manifest), own.size) in load.ON_ARRAYS
    mean, std = _statistics(manifest, own, console, small=small)
    return dataclasses.replace(own, mean=mean, std=std)


def _statistics(
    manifest: Manifest, own: Preprocessing, console: Console | None, *, small: bool
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of the training pictures' channels: computed once, and kept beside the manifest."""
    key = f"{own.size}/{own.channels}/{own.crop:g}/{digest(manifest)}"
    path = state_folder(manifest.root) / "statistics.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        mean, std = json.loads(path.read_text(encoding="utf-8"))[key]
        return tuple(mean), tuple(std)
    found = load.statistics(manifest, own, load.keep_decoded(manifest, own, console) if small else None)
    write_json(path, {key: found})
    return found


def digest(manifest: Manifest) -> str:
    """Identifies what a run learns from: pictures, classes and splits."""
    seen = hashlib.blake2b(digest_size=16)
    for column in (manifest["label"], manifest["hash"], manifest["split"].codes):
        seen.update(column.tobytes())
    return seen.hexdigest()
