"""Texts longer than a model reads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fromzero.errors import MissingPackage, UsageError

LIMIT = 512  # tokens that a BERT reads (Devlin et al. 2019)
PER_TOKEN = 4.0  # characters a token, in alphabetic scripts; an ideograph counts as one
COUNTED = 1000  # texts tokenized at a time


def over_long(
    texts: Any, rows: np.ndarray, tokenizer: str | None = None, limit: int | None = None
) -> Iterator[tuple[int, int, int, bool]]:
    """(row, tokens, limit, estimated) of each text of a pyarrow column above the limit. `tokenizer` is a folder, a
    tokenizer.json or a name; without one, tokens are estimated from the characters."""
    import pyarrow
    import pyarrow.compute as compute

    size = compute.binary_length(texts).to_numpy()[rows]
    if tokenizer is None:
        limit = limit or LIMIT
        length = compute.utf8_length(texts).to_numpy()[rows]
        wide = np.minimum((size - length) / 2, length)  # an ideograph has three bytes
        tokens = np.ceil(wide + (length - wide) / PER_TOKEN).astype(np.int64)
        for place in np.flatnonzero(tokens > limit).tolist():
            yield int(rows[place]), int(tokens[place]), limit, True
        return
    count, most = _counter(tokenizer)
    limit = limit or most
    candidates = np.flatnonzero(size > limit - 8)  # a token has a byte at least; a few are added around the text
    for some in np.array_split(candidates, len(candidates) // COUNTED + 1):
        for place, tokens in zip(some.tolist(), count(texts.take(pyarrow.array(rows[some])).to_pylist()), strict=True):
            if tokens > limit:
                yield int(rows[place]), tokens, limit, False


def _counter(tokenizer: str) -> tuple[Any, int]:
    """A function that counts the tokens of each text of a list, and the most that the model reads."""
    try:
        if Path(tokenizer).is_file():
            from tokenizers import Tokenizer

            made = Tokenizer.from_file(tokenizer)
            made.no_truncation()
            return (lambda texts: [len(each.ids) for each in made.encode_batch(texts)]), LIMIT
        from transformers import AutoTokenizer
    except ImportError as error:
        raise MissingPackage("transformers", "text") from error
    try:
        loaded = AutoTokenizer.from_pretrained(tokenizer)
    except (OSError, ValueError) as error:
        raise UsageError("no_tokenizer", name=tokenizer) from error
    most = loaded.model_max_length
    ids = "input_ids"
    return (
        lambda texts: [len(each) for each in loaded(texts, truncation=False, verbose=False)[ids]] if texts else []
    ), (most if most < 1_000_000 else LIMIT)
