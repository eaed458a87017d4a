"""Pictures as samples: decoded and varied when they are asked for, or kept decoded; and a frozen backbone's features
in their place."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fromzero.data.augment import ON_ARRAYS, varied
from fromzero.data.batches import Item, loader_threads, ordered_batches, shuffled
from fromzero.data.images import prepared
from fromzero.data.manifest import Manifest, content_hash, state_folder
from fromzero.data.mix import mixed
from fromzero.data.pack import read, shards_of, unchanged
from fromzero.errors import DiskError, UnreadableImage
from fromzero.files import only, replacing
from fromzero.language import say
from fromzero.records import Preprocessing
from fromzero.terminal import Console

KEPT_BYTES = 2 << 30  # decoded pictures are kept on disk up to this size, and mapped by every worker
STATISTICS_SAMPLE = 2000
WINDOW = 8  # shards that are read at a time
FEATURES_BATCH = 64


class Rows:
    """What samples that are rows of a manifest have in common."""

    manifest: Manifest
    how: Any
    seed: int
    changed: set[int]

    def rows(self, split: str) -> np.ndarray:
        return self.manifest.rows(split)

    def labels(self, rows: np.ndarray) -> np.ndarray:
        return self.manifest["label"][rows].astype(np.int64)

    def name(self, row: int) -> str:
        return self.manifest.name(row)

    def order(self, rows: np.ndarray, epoch: int) -> np.ndarray:
        """Those of a packed set come a few shards at a time, so that a slow disk reads in one go and a remote set
        fetches ahead of its use: within the shards they lie shuffled anyway."""
        order = shuffled(rows, self.seed, epoch)
        if not self.manifest.about.get("packed"):
            return order
        shards = shards_of(self.manifest)
        turn = np.random.default_rng((self.seed, epoch, 1)).permutation(shards.max() + 1) // WINDOW
        return order[np.argsort(turn[shards[order]], kind="stable")]


class Pictures(Rows):
    """Pictures of a manifest as uint8 arrays (size, size, channels) with their class, addressed by (row, epoch). `mix`
    mixes the pictures of a batch; see `mix.mixed`."""

    def __init__(
        self,
        manifest: Manifest,
        how: Preprocessing,
        policy: str = "none",
        seed: int = 0,
        kept: Path | None = None,
        mix: str = "none",
    ) -> None:
        self.manifest, self.how, self.policy, self.seed, self.mix = manifest, how, policy, seed, mix
        self.kept = kept
        self.changed: set[int] = set()  # rows whose file was not what the scan saw
        self.lost: set[int] = set()  # those of them that could not be read
        self._arrays: np.ndarray | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.how.size, self.how.size, self.how.channels

    @property
    def workers(self) -> int:
        """None for pictures that are kept decoded: a worker costs more than it saves."""
        return 0 if self.kept is not None else loader_threads()

    def batch(self, items: Sequence[Item]) -> tuple[np.ndarray, np.ndarray]:
        """uint8 (N, size, size, channels) and classes (N,), or shares of the classes (N, classes) if mixed."""
        images = np.empty((len(items), *self.shape), dtype=np.uint8)
        labels = np.empty(len(items), dtype=np.int64)
        for place, item in enumerate(items):
            images[place], labels[place] = self[item]
        if self.mix == "none":
            return images, labels
        row, epoch = items[0]
        rng = np.random.default_rng((self.seed, epoch, row, len(items)))
        return mixed(images, labels, len(self.manifest.classes), rng, self.mix)

    def __getitem__(self, item: Item) -> tuple[np.ndarray, int]:
        row, epoch = item
        rng = np.random.default_rng((self.seed, epoch, row))
        kept = self._kept_arrays()
        array = self._varied(row, rng) if kept is None else ON_ARRAYS[self.policy](kept[row], rng)
        return array, int(self.manifest["label"][row])

    def _kept_arrays(self) -> np.ndarray | None:
        if self._arrays is None and self.kept is not None:
            try:
                self._arrays = np.load(self.kept, mmap_mode="r")
            except FileNotFoundError:  # a run of another size on the same pictures made room for its own
                self.kept = None
        return self._arrays

    def _varied(self, row: int, rng: np.random.Generator) -> np.ndarray:
        try:
            content = read(self.manifest, row)
            if not unchanged(self.manifest, row):
                self.changed.add(row)
            return varied(content, self.how, self.policy, rng, self.manifest["path"][row])
        except UnreadableImage:  # it was readable when it was scanned: training must not die of one lost file
            if not self.manifest["problem"][row]:
                self.changed.add(row)
                self.lost.add(row)
            return np.full(self.shape, 128, dtype=np.uint8)


class Features(Rows):
    """What a frozen backbone made of each picture, in place of the pictures: a row of a mapped array each."""

    workers = 0

    def __init__(self, manifest: Manifest, kept: Path, seed: int = 0) -> None:
        self.manifest, self.kept, self.seed, self.how = manifest, kept, seed, None
        self.changed: set[int] = set()
        self.array = np.load(kept, mmap_mode="r")

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape[1:]

    def batch(self, items: Sequence[Item]) -> tuple[np.ndarray, np.ndarray]:
        """float32 (N, ...) and classes (N,)."""
        rows = np.array([row for row, _ in items])
        return self.array[rows], self.labels(rows)


def keep_features(
    samples: Any,
    digest: str,
    make: Callable[[np.ndarray], np.ndarray],
    console: Console | None = None,
) -> Features | None:
    """Features of all of a manifest's samples, made once for a backbone of that `digest` by `make` (a batch of inputs
    as they are loaded -> float32 (N, ...)); None where they would be too large or the disk is full."""
    manifest, console = samples.manifest, console or Console()
    key = hashlib.blake2b(repr((digest, samples.how)).encode() + manifest["hash"].tobytes(), digest_size=8)
    path = state_folder(manifest.root) / f"features-{key.hexdigest()}.npy"
    if not path.is_file():
        sample = make(samples.batch([(int(manifest.good()[0]), 0)])[0])
        shape = (len(manifest), *sample.shape[1:])
        if len(manifest) * sample.nbytes > KEPT_BYTES:
            return None
        every = ordered_batches(samples, np.arange(len(manifest)), FEATURES_BATCH)
        made = (make(inputs.numpy()) for inputs, _ in every)
        try:
            _write_array(path, shape, "<f4", made, say("data.features"), console)
        except DiskError:
            return None
        if samples.changed:  # what was computed is not of the samples that the name stands for
            path.unlink(missing_ok=True)
            return None
    return Features(manifest, path, samples.seed)


def can_keep(manifest: Manifest, how: Preprocessing) -> bool:
    """Whether decoded pictures are few and small enough to be kept."""
    return len(manifest) * how.size**2 * how.channels <= KEPT_BYTES


def keep_decoded(manifest: Manifest, how: Preprocessing, console: Console | None = None) -> Path | None:
    """The file that holds every good picture decoded and resized, made once; None where that would be too large, the
    disk is full, or a picture is no longer what the scan saw."""
    console = console or Console()
    if not can_keep(manifest, how):
        return None
    shape = (len(manifest), how.size, how.size, how.channels)
    key = hashlib.blake2b(repr((shape, how.crop, how.resize)).encode(), digest_size=8)
    key.update(manifest["hash"].tobytes())
    path = state_folder(manifest.root) / f"pixels-{key.hexdigest()}.npy"
    if path.is_file():
        return path
    nothing = np.zeros((1, *shape[1:]), dtype=np.uint8)
    arrays = (
        nothing if problem else prepared(_as_scanned(manifest, row), how)[None]
        for row, problem in enumerate(manifest["problem"])
    )
    try:
        _write_array(path, shape, "|u1", arrays, say("data.decoding"), console)
    except (DiskError, UnreadableImage):
        return None
    return path


def _as_scanned(manifest: Manifest, row: int) -> bytes:
    """A file's content; raises UnreadableImage if it is not what the scan saw, for what is kept is kept under that."""
    content = read(manifest, row)
    if content_hash(content) != int(manifest["hash"][row]):
        raise UnreadableImage("image_not_read", name=manifest.name(row), reason=say("data.changed"))
    return content


def _write_array(
    path: Path, shape: tuple[int, ...], kind: str, parts: Iterable[np.ndarray], title: str, console: Console
) -> None:
    """An .npy file of `shape` from its parts along the first axis, and the others of its kind removed. Written, not
    mapped: a full disk is an error here and would kill the process there. Raises DiskError."""
    only(path, path.name.split("-")[0] + "-*")
    with replacing(path) as beside, beside.open("wb") as file, console.progress(title, shape[0]) as advance:
        np.lib.format.write_array_header_1_0(file, {"descr": kind, "fortran_order": False, "shape": shape})
        for each in parts:
            file.write(np.ascontiguousarray(each).tobytes())
            advance(len(each))


def statistics(
    manifest: Manifest, how: Preprocessing, kept: Path | None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel in [0, 1], over a fixed sample of the training pictures."""
    rows = manifest.rows("train")
    rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), STATISTICS_SAMPLE)).astype(int)]
    pictures = Pictures(manifest, how, kept=kept)
    total, squares = np.zeros(how.channels), np.zeros(how.channels)
    for row in rows:  # one at a time: as floats, 2000 photos are 2.4 GB
        values = pictures[(int(row), 0)][0].reshape(-1, how.channels) / 255.0
        total += values.sum(axis=0)
        squares += (values * values).sum(axis=0)
    mean = total / (len(rows) * how.size**2)
    std = np.maximum(np.sqrt(np.maximum(squares / (len(rows) * how.size**2) - mean**2, 0)), 1e-3)
    return tuple(round(float(each), 4) for each in mean), tuple(round(float(each), 4) for each in std)
