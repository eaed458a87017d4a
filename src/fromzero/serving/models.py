"""The models a server answers with: opened, measured, and exchanged for newer ones while it runs."""

from __future__ import annotations

import hashlib
import io
import logging
import math
import re
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fromzero.errors import UsageError
from fromzero.runtimes import Classifier
from fromzero.runtimes._artifact import DESCRIPTION, described
from fromzero.serving import samples
from fromzero.serving.batcher import Lane, Workers, measure
from fromzero.serving.pages import asked_for

SHARE = 0.5  # of the target that one run may take: the rest is for waiting and preparing
WORDS = "the quick brown fox jumps over the lazy dog and nobody knows why it should " * 6
log = logging.getLogger("fromzero.serving")


@dataclass(eq=False)
class Hosted:
    """A model under a name. `version` changes with the files it was opened from; `answers` once it gave probabilities,
    `ready` once it is known how fast."""

    name: str
    classifier: Classifier
    lane: Lane
    path: Path | None = None
    version: str = ""
    answers: bool = False
    ready: bool = False
    sample: bytes = field(default=b"", repr=False)  # a typical body, to measure with

    @property
    def task(self) -> str:
        return self.classifier.task

    def record(self) -> dict[str, Any]:
        """What `GET /models` tells."""
        return {
            "name": self.name,
            "model": self.classifier.name,
            "task": self.task,
            "labels": len(self.classifier.labels),
            "version": self.version,
            "ready": self.ready,
            "input": asked_for(self.classifier.preprocessing),
        }


@dataclass(frozen=True)
class Opened:
    """The model of a run or artifact folder, and which version of it."""

    path: Path
    classifier: Classifier
    version: str

    @classmethod
    def at(cls, path: Path) -> Opened:
        """Opened to be run by several workers at once: with one thread for each run, none waits for the others.

        Raises what `open_classifier` raises."""
        from fromzero.predicting import open_classifier

        version = version_of(path)  # first: a change that comes meanwhile is found by the next look
        return cls(path, open_classifier(path, threads=1), version)


def hosted(name: str, source: Classifier | Opened | Path, workers: Workers) -> Hosted:
    """A model under its name: one that is open, or the one at a path."""
    if isinstance(source, Path):
        source = Opened.at(source)
    path, version = None, ""
    if isinstance(source, Opened):
        path, version, source = source.path, source.version, source.classifier
    # On a CPU each thread runs its own sample; a card runs one batch at a time.
    slots = workers.threads if source.device == "cpu" else 1
    return Hosted(name, source, Lane(source.scores, slots), path, version)


def version_of(path: Path) -> str:
    """A short digest of the file that is written last and carries the checksums of the rest; "" if there is none."""
    for file in ("artifact.json", "checkpoints/best/state.json", "checkpoints/last/state.json"):
        if (path / file).is_file():
            return hashlib.sha256((path / file).read_bytes()).hexdigest()[:12]
    return ""


def intact(path: Path) -> None:
    """Raises RunError for an artifact whose files are no longer those that were exported: the next process could not
    open it."""
    if (path / DESCRIPTION).is_file():
        described(path)


def named(others: Collection[str], classifier: Classifier) -> str:
    """A name for the first model, which was given none: the model's own, as it can stand in an address."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", classifier.name).strip("-.") or "model"
    if name in others:
        raise UsageError("model_twice", name=name)
    return name


def warm_up(model: Hosted, workers: Workers, most: int) -> None:
    """The first run of a model is the slowest and the one that fails: it is ours, not a visitor's. Then its speed is
    measured, and with it how many samples it takes at a time."""
    sample = _input(model)
    scores = model.classifier.scores(sample[None])
    shape = (1, len(model.classifier.labels))
    if scores.shape != shape or not np.isfinite(scores).all():
        log.error("warm-up gave no probabilities", extra={"fields": {"model": model.name, "shape": list(scores.shape)}})
        return
    target = workers.target
    model.lane.times = measure(model.classifier.scores, sample, most, SHARE * target)
    for _ in range(5):  # the first decodes load what the rest find loaded
        started = time.perf_counter()
        _input(model)
        model.lane.prepared(len(model.sample), time.perf_counter() - started)
    model.answers = True
    fields = {
        "model": model.name,
        "version": model.version,
        "best_batch": model.lane.times.best,
        "milliseconds": {str(size): round(1e3 * each, 2) for size, each in model.lane.times.runs.items()},
        "preparing_milliseconds": round(1e3 * model.lane.preparing(len(model.sample)), 2),
    }
    log.info("warm", extra={"fields": fields})
    alone = model.lane.preparing(len(model.sample)) + model.lane.times.run(1)
    if alone > target:
        log.warning("slower than the target when alone", extra={"fields": {"seconds": alone, "target": target}})


def _input(model: Hosted) -> np.ndarray:
    """A typical sample, through the very preparation of a request."""
    kind = samples.content_type(model.task)
    if not model.sample:
        model.sample = _body(model.task)
    (found,) = samples.Reading(model.classifier, f"{kind}; boundary=sample", model.sample, "")()
    if isinstance(found, Exception):
        raise found
    return found


def _body(task: str) -> bytes:
    """A request as visitors send them: a photo of 500 x 375, a text of some eighty words, a row of which nothing is
    known."""
    if task == "text":
        return b'{"text": "%s"}' % WORDS.encode()
    if task == "table":
        return b'{"row": {}}'
    head = b'--sample\r\nContent-Disposition: form-data; name="file"; filename="sample.jpg"\r\n\r\n'
    return head + photo() + b"\r\n--sample--\r\n"


def photo(width: int = 500, height: int = 375) -> bytes:
    """A JPEG that takes as long to decode as a photo: structure of all sizes, about a bit a pixel and a half."""
    from PIL import Image

    dice = np.random.default_rng(0)
    layers = np.zeros((height, width, 3), np.float32)
    for cell, strength in ((128, 60), (32, 40), (8, 25), (2, 12)):
        shape = (math.ceil(height / cell), math.ceil(width / cell), 3)
        noise = Image.fromarray(dice.integers(0, 256, shape, dtype=np.uint8))
        layers += (np.asarray(noise.resize((width, height))) / 127.5 - 1.0) * strength
    stream = io.BytesIO()
    Image.fromarray((layers + 128).clip(0, 255).astype(np.uint8)).save(stream, "JPEG", quality=90)
    return stream.getvalue()
