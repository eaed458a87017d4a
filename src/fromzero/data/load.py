"""From a manifest to batches.

Everything random is a function of (seed, epoch, picture): the order, and how a picture is varied. So workers carry no
state, and a run that stops in the middle of an epoch continues with the very next picture.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from fromzero.data.augment import ON_ARRAYS, varied
from fromzero.data.images import decode, pixels
from fromzero.data.manifest import Manifest, state_folder
from fromzero.errors import UnreadableImage
from fromzero.language import say
from fromzero.machine.process import usable_cores
from fromzero.records import Preprocessing
from fromzero.terminal import Console

KEPT_BYTES = 2 << 30  # decoded pictures are kept on disk up to this size, and mapped by every worker
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
        if self.kept is not None:
            if self._arrays is None:  # opened in the worker that needs it: a map is not sent between processes
                self._arrays = np.load(self.kept, mmap_mode="r")
            array = ON_ARRAYS[self.policy](self._arrays[row], rng)
        else:
            array = varied(self._picture(row), self.how, self.policy, rng)
        return array, int(self.labels[row])

    def _picture(self, row: int) -> Any:
        try:
            return decode(self.root / str(self.paths[row]))
        except UnreadableImage:  # it was readable when it was scanned: training must not die of one lost file
            from PIL import Image

            return Image.new("RGB", (self.how.size, self.how.size), (128, 128, 128))


def keep_decoded(manifest: Manifest, how: Preprocessing, console: Console | None = None) -> Path | None:
    """The file that holds every good picture decoded and resized, made once; None where that would be too large."""
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
    for old in path.parent.glob("pixels-*.npy"):
        old.unlink(missing_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    arrays = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
    good = manifest.good()
    with console.progress(say("data.decoding"), len(good)) as advance:
        for row in good:
            arrays[row] = pixels(decode(manifest.root / str(manifest["path"][row])), how)
            advance()
    arrays.flush()
    del arrays
    os.replace(temporary, path)
    return path


def statistics(
    manifest: Manifest, how: Preprocessing, kept: Path | None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel in [0, 1], over a fixed sample of the training pictures."""
    rows = manifest.rows("train")
    rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), STATISTICS_SAMPLE)).astype(int)]
    pictures = Pictures(manifest, how, kept=kept)
    sample = np.stack([pictures[(int(row), 0)][0] for row in rows]).reshape(-1, how.channels) / 255.0
    mean, std = sample.mean(axis=0), np.maximum(sample.std(axis=0), 1e-3)
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
