"""From a manifest to batches.

Everything random is a function of (seed, epoch, picture): the order, and how a picture is varied. So workers carry no
state, and a run that stops in the middle of an epoch continues with the very next picture. Workers are threads:
decoding, resizing and reading let go of the interpreter, nothing is copied between processes, and the manifest is there
once (benchmarks/data.py compares with the processes of other loaders).
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Union

import numpy as np
import torch

from fromzero.data.augment import ON_ARRAYS, varied
from fromzero.data.images import prepared
from fromzero.data.manifest import Manifest, content_hash, state_folder
from fromzero.data.mix import mixed
from fromzero.data.pack import read, shards_of, unchanged
from fromzero.errors import DiskError, UnreadableImage
from fromzero.files import only, replacing
from fromzero.language import say
from fromzero.machine.process import usable_cores
from fromzero.records import Preprocessing
from fromzero.terminal import Console

KEPT_BYTES = 2 << 30  # decoded pictures are kept on disk up to this size, and mapped by every worker
STATISTICS_SAMPLE = 2000
WINDOW = 8  # shards that are read at a time
FEATURES_BATCH = 64
AHEAD = 1  # batches that wait, beside those that are being made

Item = tuple[int, int]  # (row of the manifest, epoch)
# uint8 (N, size, size, channels) and classes (N,), or shares of the classes (N, classes) where pictures are mixed
Batch = tuple[torch.Tensor, torch.Tensor]


class Pictures:
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
        self._arrays: np.ndarray | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.how.size, self.how.size, self.how.channels

    dtype = np.uint8

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
            return np.full(self.shape, 128, dtype=np.uint8)


class Features:
    """What a frozen backbone made of each picture, in place of the pictures: a row of a mapped array each."""

    dtype, mix = np.float32, "none"

    def __init__(self, manifest: Manifest, kept: Path, seed: int = 0) -> None:
        self.manifest, self.kept, self.seed = manifest, kept, seed
        self.array = np.load(kept, mmap_mode="r")
        self.shape = self.array.shape[1:]

    def __getitem__(self, item: Item) -> tuple[np.ndarray, int]:
        return self.array[item[0]], int(self.manifest["label"][item[0]])


Samples = Union[Pictures, Features]  # noqa: UP007 - evaluated in Python 3.10


def keep_features(
    pictures: Pictures,
    digest: str,
    make: Callable[[np.ndarray], np.ndarray],
    console: Console | None = None,
) -> Features | None:
    """Features of all pictures (of grey for those that cannot be read), made once for a backbone of that `digest` by
    `make` (uint8 batch -> float32 (N, ...)); None where they would be too large or the disk is full."""
    manifest, console = pictures.manifest, console or Console()
    key = hashlib.blake2b(repr((digest, pictures.how)).encode() + manifest["hash"].tobytes(), digest_size=8)
    path = state_folder(manifest.root) / f"features-{key.hexdigest()}.npy"
    if not path.is_file():
        sample = make(pictures[(int(manifest.good()[0]), 0)][0][None])
        shape = (len(manifest), *sample.shape[1:])
        if len(manifest) * sample.nbytes > KEPT_BYTES:
            return None
        every = ordered_batches(pictures, np.arange(len(manifest)), FEATURES_BATCH, worker_count(pictures))
        made = (make(images.numpy()) for images, _ in every)
        try:
            _write_array(path, shape, "<f4", made, say("data.features"), console)
        except DiskError:
            return None
        if pictures.changed:  # what was computed is not of the pictures that the name stands for
            path.unlink(missing_ok=True)
            return None
    return Features(manifest, path, pictures.seed)


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
    key = hashlib.blake2b(repr((shape, how.crop)).encode(), digest_size=8)
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


def epoch_order(pictures: Samples, rows: np.ndarray, epoch: int) -> np.ndarray:
    """The rows in the order of an epoch. Those of a packed set come a few shards at a time, so that a slow disk reads
    in one go and a remote set fetches ahead of its use: within the shards they lie shuffled anyway."""
    rng = np.random.default_rng((pictures.seed, epoch))
    order = rows[rng.permutation(len(rows))]
    if not pictures.manifest.about.get("packed"):
        return order
    shards = shards_of(pictures.manifest)
    turn = rng.permutation(shards.max() + 1) // WINDOW
    return order[np.argsort(turn[shards[order]], kind="stable")]


def training_batches(
    pictures: Samples, rows: np.ndarray, batch: int, epoch: int, first: int, workers: int, pin: bool
) -> Iterator[Batch]:
    """Full batches of an epoch from batch number `first` on: uint8 (N, size, size, channels) and classes (N,)."""
    order = epoch_order(pictures, rows, epoch)
    count = steps_per_epoch(len(rows), batch)
    batches = [order[number * batch : (number + 1) * batch] for number in range(first, count)]
    return _load(pictures, [[(int(row), epoch) for row in each] for each in batches], workers, pin)


def ordered_batches(pictures: Samples, rows: np.ndarray, batch: int, workers: int = 0) -> Iterator[Batch]:
    """All of `rows` once, in their order."""
    parts = [rows[start : start + batch] for start in range(0, len(rows), batch)]
    return _load(pictures, [[(int(row), 0) for row in each] for each in parts], workers, pin=False)


def steps_per_epoch(samples: int, batch: int) -> int:
    """Full batches only, so that every step costs the same; a set smaller than a batch is one step."""
    return max(1, samples // batch)


def worker_count(pictures: Samples) -> int:
    """No worker for pictures that are kept decoded (a worker costs more than it saves), else one a core, at most 8."""
    if pictures.kept is not None:
        return 0
    return min(8, usable_cores())


def _load(pictures: Samples, batches: Sequence[list[Item]], workers: int, pin: bool) -> Iterator[Batch]:
    """The batches in their order; `workers` threads make the next ones meanwhile."""
    if not workers:
        yield from (_made(pictures, each, pin) for each in batches)
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="loader")
    ahead: deque[Future[Batch]] = deque()
    try:
        for items in batches:
            ahead.append(pool.submit(_made, pictures, items, pin))
            if len(ahead) > workers + AHEAD:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:  # also when the epoch is left in the middle
        pool.shutdown(wait=False, cancel_futures=True)


def _made(pictures: Samples, items: list[Item], pin: bool) -> Batch:
    images = np.empty((len(items), *pictures.shape), dtype=pictures.dtype)
    labels = np.empty(len(items), dtype=np.int64)
    for place, item in enumerate(items):
        images[place], labels[place] = pictures[item]
    targets = labels
    if pictures.mix != "none":
        row, epoch = items[0]
        rng = np.random.default_rng((pictures.seed, epoch, row, len(items)))
        images, targets = mixed(images, labels, len(pictures.manifest.classes), rng, pictures.mix)
    batch = torch.from_numpy(images), torch.from_numpy(targets)
    return (batch[0].pin_memory(), batch[1].pin_memory()) if pin else batch
