"""Near duplicates among texts: MinHash (Broder 1997) over runs of letters, found by banding and then verified.

Runs of three letters where most are Chinese characters, else of five. A pair counts if the runs that both have are
SAME of those that either has (Jaccard). Memory is a signature of 256 bytes a different text.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fromzero.data.manifest import Manifest
from fromzero.data.rows import grams
from fromzero.data.rows.content import texts
from fromzero.language import say
from fromzero.terminal import Console

SAME = 0.7
BANDS, WIDTH = 16, 4  # a pair at 0.7 is met with a chance of 0.99, one at 0.8 with 0.9998, one at 0.3 with 0.12
PROMISING = SAME - 0.2  # agreement of signatures below which a pair is not worth verifying; its deviation is 0.06
PAIRS = 20_000  # pairs verified at a time
_RUNS = (1 << 31) - 1  # as many columns as scipy counts in 32 bits


def mark(manifest: Manifest, console: Console | None = None) -> Manifest:
    """The manifest of texts with its column `cluster` (int32; -1 for none) filled: texts that are nearly the same, and
    their exact copies, share a number; so a split keeps them together. Exact copies alone are no cluster."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    column = texts(manifest)
    rows = grams.unique_rows(manifest["hash"], manifest.good())
    ideographs = grams.share(column, rows)
    gap = 2 if ideographs["Han"] + ideographs["Kana"] > 0.5 else 4
    rows, signatures = _signatures(column, rows, gap, console or Console())
    pairs = _verified(column, rows, _pairs(signatures), gap)
    cluster = np.full(len(manifest), -1, np.int32)
    if len(pairs):
        shape = len(rows), len(rows)
        links = coo_matrix((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape=shape)
        number = connected_components(links, directed=False)[1]
        tied = np.unique(pairs)
        _, number = np.unique(number[tied], return_inverse=True)
        known = manifest["hash"][rows[tied]]
        order = np.argsort(known)
        every = manifest.good()
        place = np.searchsorted(known[order], manifest["hash"][every]).clip(max=len(tied) - 1)
        same = known[order][place] == manifest["hash"][every]
        cluster[every[same]] = number[order][place[same]]
    return manifest.with_column("cluster", cluster)


def _signatures(column: Any, rows: np.ndarray, gap: int, console: Console) -> tuple[np.ndarray, np.ndarray]:
    """Rows that have letters, and their signatures (rows, BANDS * WIDTH) uint32."""
    count = BANDS * WIDTH
    rng = np.random.default_rng(0)
    flips = rng.integers(0, 1 << 32, count, dtype=np.uint32)
    factors = rng.integers(0, 1 << 31, count, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
    kept, signatures = [], []
    with console.progress(say("check.near_texts"), len(rows)) as advance:
        for letters in grams.batches(column, rows, gap=gap):
            hashes = grams.shingles(letters)
            inside = letters.codes > 0
            some = np.diff(letters.starts) > gap
            values = hashes[inside]
            starts = np.concatenate([[0], np.cumsum(np.diff(letters.starts)[some] - gap)])[:-1]
            found = np.empty((int(some.sum()), count), np.uint32)
            if len(found):
                for number in range(count):
                    found[:, number] = np.minimum.reduceat((values ^ flips[number]) * factors[number], starts)
            kept.append(letters.rows[some])
            signatures.append(found)
            advance(len(letters.rows))
    return np.concatenate(kept), np.concatenate(signatures)


def _pairs(signatures: np.ndarray) -> np.ndarray:
    """Promising pairs (pairs, 2): in a bucket of a band each text meets the one before it and the first."""
    found = [np.zeros(0, np.int64)]
    for band in range(BANDS):
        part = signatures[:, band * WIDTH : (band + 1) * WIDTH].astype(np.uint64)
        key = np.zeros(len(part), np.uint64)
        for number in range(WIDTH):
            key = (key ^ part[:, number]) * np.uint64(0x9E3779B97F4A7C15)
            key ^= key >> np.uint64(29)
        order = np.argsort(key, kind="stable")
        new = np.concatenate([[True], np.diff(key[order]) != 0]) if len(order) else np.zeros(0, bool)
        first = order[np.maximum.accumulate(np.where(new, np.arange(len(order)), 0))]
        before = np.concatenate([order[:1], order[:-1]])
        for other in (before, first):
            meets = ~new & (other != order)
            low, high = np.minimum(other, order)[meets], np.maximum(other, order)[meets]
            found.append(low.astype(np.int64) << 32 | high)
    packed = np.unique(np.concatenate(found))
    pairs = np.stack([packed >> 32, packed & 0xFFFFFFFF], axis=1)
    agree = [
        (signatures[some[:, 0]] == signatures[some[:, 1]]).mean(axis=1)
        for some in np.array_split(pairs, len(pairs) // PAIRS + 1)
    ]
    return pairs[np.concatenate(agree) >= PROMISING]


def _verified(column: Any, rows: np.ndarray, pairs: np.ndarray, gap: int) -> np.ndarray:
    """The pairs whose shared runs really are SAME of all of theirs."""
    from scipy.sparse import csr_matrix, vstack

    if not len(pairs):
        return pairs
    wanted = np.unique(pairs)
    parts = []
    for letters in grams.batches(column, rows[wanted], gap=gap):
        inside = letters.codes > 0
        places = letters.owner[inside], (grams.shingles(letters)[inside] >> np.uint32(2)).astype(np.int32)
        held = csr_matrix((np.ones(len(places[0]), np.int32), places), shape=(len(letters.rows), _RUNS))
        held.sum_duplicates()
        held.data[:] = 1
        parts.append(held)
    held = vstack(parts, format="csr")
    size = np.diff(held.indptr)
    good = []
    for some in np.array_split(np.searchsorted(wanted, pairs), len(pairs) // PAIRS + 1):
        shared = np.asarray(held[some[:, 0]].multiply(held[some[:, 1]]).sum(axis=1)).ravel()
        good.append(shared >= SAME * (size[some[:, 0]] + size[some[:, 1]] - shared))
    return pairs[np.concatenate(good)]
