"""Texts as numbers, for all of them at once: the letters of a batch lie in one array of code points.

A letter is what Unicode calls a letter or a digit, in lower case, full-width forms made plain (NFKC).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

LETTERS = 4 << 20  # letters in a batch, about
FEATURES = 1 << 18  # columns of `tfidf`
# First and last code point of the letters of a script (Unicode 15.1, Blocks.txt).
SCRIPTS = {
    "Latin": ((0x41, 0x24F), (0x1E00, 0x1EFF)),
    "Greek": ((0x370, 0x3FF),),
    "Cyrillic": ((0x400, 0x52F),),
    "Hebrew": ((0x590, 0x5FF),),
    "Arabic": ((0x600, 0x6FF), (0x750, 0x77F)),
    "Devanagari": ((0x900, 0x97F),),
    "Thai": ((0xE00, 0xE7F),),
    "Kana": ((0x3040, 0x30FF),),
    "Hangul": ((0x1100, 0x11FF), (0xAC00, 0xD7AF)),
    "Han": ((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x323AF)),
}
_MIX = np.uint32(0x9E3779B1)  # odd; spreads neighbouring numbers (Knuth's multiplicative hashing)
_STEP = np.uint32(0x01000193)  # the factor of a polynomial hash (FNV's prime)


@dataclass(frozen=True, eq=False)
class Letters:
    """The letters of some texts, one after the other: `codes` (uint32) and where each of the `rows` starts; the last
    entry of `starts` is the end. `gap` zeros follow each text."""

    rows: np.ndarray
    codes: np.ndarray
    starts: np.ndarray
    gap: int

    @property
    def owner(self) -> np.ndarray:
        """For each code the place of its text in `rows`."""
        return np.repeat(np.arange(len(self.rows)), np.diff(self.starts))


def batches(texts: Any, rows: np.ndarray, *, between: str = "", gap: int = 1, links: bool = True) -> Iterator[Letters]:
    """The letters of `rows` of a pyarrow column of texts; `between` stands for what is no letter. Addresses of pages
    count as text unless `links` is false."""
    import pyarrow
    import pyarrow.compute as compute

    sizes = compute.binary_length(texts).to_numpy()[rows]
    ends = np.flatnonzero(np.diff(np.cumsum(sizes) // LETTERS)) + 1
    for some in np.split(rows, ends):
        cells = texts.take(pyarrow.array(some))
        if not links:
            cells = compute.replace_substring_regex(cells, pattern=r"(?:https?://|www\.)[!-~]+", replacement=" ")
        cells = compute.utf8_lower(compute.utf8_normalize(cells, form="NFKC"))
        cells = compute.replace_substring_regex(cells, pattern=r"[^\p{L}\p{N}]+", replacement=between)
        lengths = compute.utf8_length(cells).to_numpy() + gap
        joined = ("\0" * gap).join([*cells.to_pylist(), ""])
        codes = np.frombuffer(joined.encode("utf-32-le"), np.uint32)
        yield Letters(some, codes, np.concatenate([[0], np.cumsum(lengths)]), gap)


def shingles(letters: Letters) -> np.ndarray:
    """A hash (uint32) of each `gap` + 1 letters in a row, at the place of the first, 0 at the places of a gap. Those at
    the end of a text are shorter."""
    width = letters.gap + 1
    codes = np.concatenate([letters.codes, np.zeros(width, np.uint32)])
    total = np.zeros(len(letters.codes), np.uint32)
    for shift in range(width):
        total *= _STEP
        total += codes[shift : shift + len(total)] * _MIX
    total ^= total >> np.uint32(15)
    total *= np.uint32(0x2C1B3C6D)
    total ^= total >> np.uint32(13)
    return np.where(letters.codes > 0, total, np.uint32(0))


def scripts(letters: Letters) -> np.ndarray:
    """Letters of each script in each text: (texts, len(SCRIPTS)); digits and rarer scripts count in none."""
    edges = sorted((first, last, number) for number, each in enumerate(SCRIPTS.values()) for first, last in each)
    firsts, lasts, numbers = (np.array(each) for each in zip(*edges, strict=True))
    place = np.searchsorted(firsts, letters.codes, side="right") - 1
    inside = (place >= 0) & (letters.codes <= lasts[place])
    cells = letters.owner[inside] * len(SCRIPTS) + numbers[place[inside]]
    return np.bincount(cells, minlength=len(letters.rows) * len(SCRIPTS)).reshape(-1, len(SCRIPTS))


def tfidf(texts: Any, rows: np.ndarray) -> Any:
    """Sparse features (len(rows), FEATURES), float32, of length one: words and pairs of words, a Chinese or Japanese
    character counting as a word (so that there they are characters and pairs of characters), hashed; logarithm of
    their count times the inverse of how many texts have them (Salton and Buckley 1988)."""
    from scipy.sparse import csr_matrix, vstack

    parts = []
    for letters in batches(texts, rows, between=" ", gap=1):
        words, owner = _words(letters)
        follows = owner[1:] == owner[:-1]
        pairs = ((words[:-1] * _STEP) ^ (words[1:] * _MIX))[follows]
        columns = np.concatenate([words, pairs])
        columns ^= columns >> np.uint32(16)
        columns &= np.uint32(FEATURES - 1)
        places = np.concatenate([owner, owner[:-1][follows]]), columns.astype(np.int32)
        shape = len(letters.rows), FEATURES
        counts = csr_matrix((np.ones(len(columns), np.float32), places), shape=shape)
        counts.sum_duplicates()
        parts.append(counts)
    found = vstack(parts, format="csr")
    held = np.bincount(found.indices, minlength=FEATURES)
    inverse = np.log((1 + len(rows)) / (1 + held)) + 1
    found.data = ((1 + np.log(found.data)) * inverse[found.indices]).astype(np.float32)
    norms = np.sqrt(np.asarray(found.multiply(found).sum(axis=1)).ravel())
    found.data /= np.repeat(np.where(norms > 0, norms, 1), np.diff(found.indptr)).astype(np.float32)
    return found


def commonest(features: Any, most: int) -> Any:
    """The columns of sparse features that most rows have, at least two; a model of the others learns by heart."""
    held = np.bincount(features.indices, minlength=features.shape[1])
    kept = np.argsort(-held, kind="stable")[: min(most, int((held > 1).sum()))]
    return features[:, np.sort(kept)]


def _words(letters: Letters) -> tuple[np.ndarray, np.ndarray]:
    """A hash of each word and the place of its text."""
    codes = letters.codes
    single = (codes >= 0x3040) & ~((codes >= 0xAC00) & (codes <= 0xD7AF)) & (codes < 0x40000)
    letter = (codes > 0) & (codes != 32)
    before = np.concatenate([[False], (letter & ~single)[:-1]])
    starts = np.flatnonzero(letter & (single | ~before))
    if not len(starts):
        return np.zeros(0, np.uint32), np.zeros(0, np.int64)
    place = _places(codes, starts)
    powers = np.cumprod(np.full(64, _STEP, np.uint32), dtype=np.uint32)
    values = np.where(letter, codes * _MIX * powers[np.minimum(place, 63)], np.uint32(0))
    return np.add.reduceat(values, starts, dtype=np.uint32) * np.uint32(0x85EBCA6B), letters.owner[starts]


def _places(codes: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """For each code how far it is from the start of its word."""
    marks = np.zeros(len(codes), np.int64)
    marks[starts] = starts
    return np.arange(len(codes)) - np.maximum.accumulate(marks)


def share(texts: Any, rows: np.ndarray, sample: int = 2000) -> dict[str, float]:
    """Share of each script in the letters of an even sample of texts."""
    some = rows[np.linspace(0, len(rows) - 1, min(sample, len(rows))).astype(np.int64)] if len(rows) else rows
    total = np.zeros(len(SCRIPTS), np.int64)
    for letters in batches(texts, some):
        total += scripts(letters).sum(axis=0)
    whole = max(1, int(total.sum()))
    return dict(zip(SCRIPTS, (total / whole).tolist(), strict=True))


def unique_rows(hashes: np.ndarray, rows: Sequence[int] | np.ndarray) -> np.ndarray:
    """The first row of each content among `rows`, in order."""
    rows = np.asarray(rows)
    return np.sort(rows[np.unique(hashes[rows], return_index=True)[1]])
