"""Columns of text as Arrow keeps them: one buffer for all rows, mapped from disk and shared by every worker. A list of
Python strings is ten times as large and is copied into each forked process.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Union

import numpy as np


class Texts(Sequence[str]):
    """A text a row."""

    def __init__(self, array: Any) -> None:
        self.array = array  # a pyarrow StringArray

    @classmethod
    def of(cls, texts: Sequence[str]) -> Texts:
        import pyarrow

        return cls(pyarrow.array(texts, pyarrow.string()))

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, row: Any) -> Any:
        if isinstance(row, (slice, np.ndarray)):
            return Texts(self.array.take(np.arange(len(self))[row]))
        return self.array[int(row)].as_py()

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), 4096):
            yield from self.array.slice(start, 4096).to_pylist()

    def tolist(self) -> list[str]:
        return self.array.to_pylist()


class Words:
    """One of a few words a row: a byte each, and the words once. Compares with a word like an array of texts."""

    def __init__(self, codes: np.ndarray, words: Sequence[str]) -> None:
        self.codes, self.words = codes, tuple(words)

    @classmethod
    def of(cls, texts: Any, words: Sequence[str] = ()) -> Words:
        """From texts; `words` come first, whether they occur or not."""
        found = [str(each) for each in texts]
        names = list(dict.fromkeys([*words, *sorted(set(found))]))
        place = {name: number for number, name in enumerate(names)}
        return cls(np.array([place[each] for each in found], dtype=np.int8), names)

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, row: Any) -> Any:
        if isinstance(row, (slice, np.ndarray)):
            return Words(self.codes[row], self.words)
        return self.words[self.codes[row]]

    def __eq__(self, word: object) -> Any:
        return self.codes == (self.words.index(word) if word in self.words else -1)

    def __ne__(self, word: object) -> Any:
        return ~(self == word)

    __hash__ = None  # type: ignore[assignment]

    def __iter__(self) -> Iterator[str]:
        return (self.words[code] for code in self.codes.tolist())

    def tolist(self) -> list[str]:
        return list(self)


Column = Union[np.ndarray, Texts, Words]  # noqa: UP007 - evaluated in Python 3.10
