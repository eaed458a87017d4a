"""What a classifier answers when a part of its input is hidden (Zeiler and Fergus 2014). Asks nothing of a model but
its answers, so it works for an exported one as well. Imports no torch.

    occlusion()        parts of a picture become the data set's mean colour
    hidden_words()     words of a text are left out
    hidden_columns()   numbers of a row become their mean, words unknown
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fromzero.data.tokens import cut
from fromzero.records import Columns, Tokens
from fromzero.runtimes import Classifier

GRID = 8  # cells along a side of a heat map
REACH = 2.0  # cells that are hidden at once, along a side: a single one is too little to change a sure mind
ASKED = 32  # samples that a model is asked about at a time


def occlusion(classifier: Classifier, sample: np.ndarray, class_index: int, grid: int = GRID) -> np.ndarray:
    """A picture as `data.inputs.prepared` makes it, uint8 (size, size, channels) -> float32 (grid, grid) in 0..1: by
    how much the class's probability drops when the surroundings of a cell become the data set's mean colour; 0 where
    it rises. `scaled` makes a map for the eye of it."""
    size = sample.shape[0]
    colour = np.round(255 * np.array(classifier.preprocessing.mean)).clip(0, 255).astype(np.uint8)
    middles = (np.arange(grid) + 0.5) * size / grid
    reach = REACH * size / grid / 2
    low = np.floor(np.maximum(middles - reach, 0)).astype(int)
    high = np.ceil(np.minimum(middles + reach, size)).astype(int)

    def hidden(row: int, column: int) -> np.ndarray:
        changed = sample.copy()
        changed[low[row] : high[row], low[column] : high[column]] = colour
        return changed

    changed = (hidden(row, column) for row in range(grid) for column in range(grid))
    return np.maximum(_drops(classifier, sample, changed, class_index), 0).reshape(grid, grid)


@dataclass(frozen=True)
class Word:
    """A piece of a text as a person sees it, from character `start` to `end`, and the places of its tokens."""

    start: int
    end: int
    tokens: tuple[int, ...]


def words_of(text: str, how: Tokens) -> list[Word]:
    """The words of a text that a model reads. Tokens that are parts of one word are joined; Chinese tokens, which are
    words or characters already, stay apart. What the tokenizer puts around a text is no part of it."""
    found = cut(how.tokenizer, how.length).encode(text)
    words: list[Word] = []
    for place, ((start, end), special) in enumerate(zip(found.offsets, found.special_tokens_mask, strict=True)):
        piece = text[start:end]
        start, end = start + len(piece) - len(piece.lstrip()), end - len(piece) + len(piece.rstrip())
        if special or start >= end:
            continue
        if words and _one_word(text, words[-1].end, start):
            last = words.pop()
            words.append(Word(last.start, max(end, last.end), (*last.tokens, place)))
        else:
            words.append(Word(start, end, (place,)))
    return words


def hidden_words(classifier: Classifier, sample: np.ndarray, class_index: int, words: list[Word]) -> np.ndarray:
    """A text's tokens, int64 (length,) -> float32 (words,): by how much the class's probability drops when a word is
    left out; below 0 for a word that speaks against it."""
    padding = classifier.preprocessing.padding

    def without(word: Word) -> np.ndarray:
        left = np.delete(sample, word.tokens)
        return np.pad(left, (0, len(sample) - len(left)), constant_values=padding)

    return _drops(classifier, sample, map(without, words), class_index)


def columns_of(how: Columns) -> list[tuple[str, list[int]]]:
    """The columns of a table by name, each with its places among a row's inputs."""
    names = [name for name, *_ in how.numbers]
    before = len(names) + len(how.flagged) + bool(how.window)
    flags = {name: len(names) + place for place, name in enumerate(how.flagged)}
    numbers = [(name, [place, *([flags[name]] if name in flags else [])]) for place, name in enumerate(names)]
    return numbers + [(name, [before + place]) for place, (name, _) in enumerate(how.words)]


def hidden_columns(classifier: Classifier, sample: np.ndarray, class_index: int) -> np.ndarray:
    """A row's inputs, float32 (values,) or (window, values) -> float32 (columns,), in the order of `columns_of`: by how
    much the class's probability drops when a number becomes its mean and a word one that is not known."""

    def without(places: list[int]) -> np.ndarray:
        changed = sample.copy()
        changed[..., places] = 0  # see records.Columns: the mean, not missing, or no known word
        return changed

    columns = columns_of(classifier.preprocessing)
    return _drops(classifier, sample, (without(places) for _, places in columns), class_index)


def scaled(heat: np.ndarray) -> np.ndarray:
    """A heat map for the eye: its highest value is 1, whatever it was."""
    highest = float(heat.max(initial=0.0))
    return (heat / highest if highest > 0 else heat).astype(np.float32)


def _drops(classifier: Classifier, sample: np.ndarray, changed: Iterator[np.ndarray], class_index: int) -> np.ndarray:
    """By how much each changed sample lowers the class's probability, float32."""
    before = classifier.scores(sample[None])[0, class_index]
    found: list[np.ndarray] = []
    while part := list(itertools.islice(changed, ASKED)):
        found.append(before - classifier.scores(np.stack(part))[:, class_index])
    return np.concatenate(found).astype(np.float32) if found else np.zeros(0, np.float32)


def _one_word(text: str, end: int, start: int) -> bool:
    """Whether the token that ends at `end` and the one that starts at `start` are parts of one word."""
    if start < end:  # a character of several bytes, a token each
        return True
    return start == end and all(each.isalnum() and not _ideograph(each) for each in text[end - 1 : end + 1])


def _ideograph(character: str) -> bool:
    """Whether it is Chinese or Japanese writing, which puts no space between words."""
    return "\u3040" <= character <= "\u30ff" or "\u3400" <= character <= "\u9fff" or "\uf900" <= character <= "\ufaff"
