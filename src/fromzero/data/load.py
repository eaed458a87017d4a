"""From a manifest to batches.

Everything random is a function of (seed, epoch, picture): the order, and how a picture is varied. So workers carry no
state, and a run that stops in the middle of an epoch continues with the very next picture.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from fromzero.data.augment import ON_ARRAYS, varied
from fromzero.data.images import decode, pixels
from fromzero.data.manifest import Manifest, state_folder
from fromzero.errors import DiskError, UnreadableImage
from fromzero.files import replacing
from fromzero.language import say
from fromzero.machine.process import usable_cores
from fromzero.records import Preprocessing
from fromzero.terminal import Console

KEPT_BYTES = 2 << 30  # decoded pictures are kept on disk up to this size, and mapped by every worker
STALE_SECONDS = 3600  # a half-written file that nobody touched for this long was left by a crash
STATISTICS_SAMPLE = 2000

Item = tuple[int, int]  # (row of the manifest, epoch)


class Pictures(Dataset[tuple[np.ndarray, int]]):
    """Pictures of a manifest as uint8 arrays (size, size, channels) with their class, addressed by (row, epoch)."""

    def __init__(
        self, manifest: Manifest, how: Preprocessing, policy: str = "none", seed: int = 0, kept: Path | None = None
    ) -> None:
        self.root, self.how, self.policy, self.seed = manifest.root, how, policy, seed
        self.paths, self.labels = manifest["path"], manifest["label"]
        self.kept = kept
        self._arrays: np.ndarray | None = None

    def __getitem__(self, item: Item) -> tuple[np.ndarray, int]:
        row, epoch = item
        rng = np.random.default_rng((self.seed, epoch, row))
        arrays = self._kept_arrays()
        if arrays is not None:
            array = ON_ARRAYS[self.policy](arrays[row], rng)
        else:
            array = varied(self._picture(row), self.how, self.policy, rng)
        return array, int(self.labels[row])

    def _kept_arrays(self) -> np.ndarray | None:
        if self._arrays is None and self.kept is not None:  # opened in the worker: a map is not sent between processes
            try:
                self._arrays = np.load(self.kept, mmap_mode="r")
            except FileNotFoundError:  # a run of another size on the same pictures made room for its own
                self.kept = None
        return self._arrays

    def _picture(self, row: int) -> Any:
        try:
            return decode(self.root / str(self.paths[row]))
        except UnreadableImage:  # it was readable when it was scanned: training must not die of one lost file
            from PIL import Image

            return Image.new("RGB", (self.how.size, self.how.size), (128, 128, 128))


def keep_decoded(manifest: Manifest, how: Preprocessing, console: Console | None = None) -> Path | None:
    """The file that holds every good picture decoded and resized, made once; None where that would be too large, the
    disk is full, or a picture is no longer what the scan saw."""
    console = console or Console()
    shape = (len(manifest), how.size, how.size, how.channels)
    if int(np.prod(shape, dtype=np.int64)) > KEPT_BYTES:
        return None
    key = hashlib.blake2b(repr((shape, how.crop)).encode(), digest_size=8)
    for row in range(len(manifest)):
        key.update(f"{manifest['path'][row]}:{manifest['hash'][row]}\n".encode())
    path = state_folder(manifest.root) / f"pixels-{key.hexdigest()}.npy"
    if path.is_file():
        return path
    for old in path.parent.glob("pixels-*"):
        if old.suffix == ".npy" or time.time() - old.stat().st_mtime > STALE_SECONDS:
            old.unlink(missing_ok=True)
    nothing = np.zeros(shape[1:], dtype=np.uint8).tobytes()
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    try:  # written, not mapped: a full disk is an error here and would kill the process there
        with (
            replacing(path) as beside,
            beside.open("wb") as file,
            console.progress(say("data.decoding"), len(manifest)) as advance,
        ):
            np.lib.format.write_array_header_1_0(file, header)
            for name, problem in zip(manifest["path"], manifest["problem"], strict=True):
                file.write(nothing if problem else pixels(decode(manifest.root / str(name)), how).tobytes())
                advance()
    except (DiskError, UnreadableImage):
        return None
    return path


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


def epoch_order(rows: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """The rows in the order of an epoch."""
    return rows[np.random.default_rng((seed, epoch)).permutation(len(rows))]


def training_batches(
    pictures: Pictures, rows: np.ndarray, batch: int, epoch: int, first: int, workers: int, pin: bool
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Full batches of an epoch from batch number `first` on: uint8 (N, size, size, channels) and classes (N,)."""
    order = epoch_order(rows, pictures.seed, epoch)
    count = steps_per_epoch(len(rows), batch)
    batches = [order[number * batch : (number + 1) * batch] for number in range(first, count)]
    return _load(pictures, [[(int(row), epoch) for row in each] for each in batches], workers, pin)


def ordered_batches(
    pictures: Pictures, rows: np.ndarray, batch: int, workers: int = 0
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """All of `rows` once, in their order."""
    parts = [rows[start : start + batch] for start in range(0, len(rows), batch)]
    return _load(pictures, [[(int(row), 0) for row in each] for each in parts], workers, pin=False)


def steps_per_epoch(samples: int, batch: int) -> int:
    """Full batches only, so that every step costs the same; a set smaller than a batch is one step."""
    return max(1, samples // batch)


def worker_count(pictures: Pictures) -> int:
    """No worker for pictures that are kept decoded (a worker costs more than it saves), else one a core, at most 8."""
    if pictures.kept is not None:
        return 0
    return min(8, usable_cores())


def _load(pictures: Pictures, batches: Sequence[list[Item]], workers: int, pin: bool) -> Iterator[Any]:
    if not batches:
        return iter(())
    return iter(
        DataLoader(
            pictures,
            batch_sampler=batches,
            num_workers=min(workers, len(batches)),
            pin_memory=pin,
            collate_fn=_collate,
        )
    )


def _collate(items: list[tuple[np.ndarray, int]]) -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.from_numpy(np.stack([each for each, _ in items]))
    return images, torch.tensor([label for _, label in items], dtype=torch.long)
