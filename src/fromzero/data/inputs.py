"""One sample of what a user hands in - a picture's file, a text, a row - as it is loaded. Imports no torch: an artifact
answers without it."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

# The record that says how -> the module whose `prepared(given, how)` does it.
_READERS = {
    "Preprocessing": "fromzero.data.images",
    "Tokens": "fromzero.data.tokens",
    "Columns": "fromzero.data.tabular",
}


def prepared(given: Any, how: Any) -> np.ndarray:
    """A picture's path or content as uint8 (size, size, channels); a text as its tokens; a row of a table, by the names
    of its columns, as numbers. Raises UnreadableImage or UsageError for what is none."""
    return importlib.import_module(_READERS[type(how).__name__]).prepared(given, how)
