"""Reading a table that was published as a pickled pandas DataFrame, without pandas and without running the pickle.

A pickle may name any function to call. This reader knows eleven names and no other: numpy's arrays, and pandas' parts,
which become records of what they were given. Anything else in the file is an error.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np


class _Part:
    """What a part of a DataFrame was made of."""

    def __init__(self, *given: Any) -> None:
        self.given = given
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


def _array(*given: Any) -> np.ndarray:
    """numpy's `_reconstruct`: an empty array that its state fills."""
    return np.ndarray((0,), np.uint8)


def _from_buffer(buffer: Any, dtype: Any, shape: Any, order: str) -> np.ndarray:
    return np.frombuffer(buffer, dtype).reshape(shape, order="F" if order == "F" else "C")


_KNOWN: dict[str, Any] = {
    "numpy.dtype": np.dtype,
    "numpy.ndarray": np.ndarray,
    "numpy.core.multiarray._reconstruct": _array,
    "numpy.core.numeric._frombuffer": _from_buffer,
    "builtins.slice": slice,
    "pandas.core.frame.DataFrame": _Part,
    "pandas.core.internals.managers.BlockManager": _Part,
    "pandas._libs.internals._unpickle_block": _Part,
    "pandas.core.indexes.base._new_Index": _Part,
    "pandas.core.indexes.base.Index": _Part,
    "pandas.core.indexes.range.RangeIndex": _Part,
}


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        known = _KNOWN.get(f"{module.replace('numpy._core', 'numpy.core')}.{name}")  # numpy 2 writes the other name
        if known is None:
            raise pickle.UnpicklingError(f"{module}.{name}")
        return known


def rows_of(content: bytes) -> Iterator[list[str]]:
    """The names of the columns, then each row. Raises UnpicklingError for a pickle that is anything but a table of
    numbers and texts, ValueError for blocks that do not fit."""
    frame = _Reader(io.BytesIO(content)).load()
    try:
        blocks, (columns, _) = frame.state["_mgr"].given
        names = [str(each) for each in columns.given[1]["data"]]
        found: dict[int, np.ndarray] = {}
        for block in blocks:
            values, place, _ = block.given
            rows = range(*place.indices(len(names))) if isinstance(place, slice) else place.tolist()
            found |= dict(zip(rows, values, strict=True))
        ordered = [found[number].tolist() for number in range(len(names))]
    except (AttributeError, KeyError, TypeError) as error:
        raise pickle.UnpicklingError(str(error)) from error
    yield names
    for row in zip(*ordered, strict=True):
        yield ["" if each is None or each != each else str(each) for each in row]
