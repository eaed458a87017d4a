"""Texts as numbers: a tokenizer trained on a data set's own training texts, and every row encoded once, kept in the
state folder and mapped from there.

A tokenizer is the JSON text of the `tokenizers` library everywhere but inside a function: that is what a run keeps.
"""

from __future__ import annotations

import functools
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fromzero.data.manifest import Manifest, state_folder
from fromzero.errors import MissingPackage, UsageError
from fromzero.files import only, replacing
from fromzero.language import say
from fromzero.records import Tokens
from fromzero.terminal import Console

PADDING, UNKNOWN, END = "<pad>", "<unk>", "<end>"  # the first three of every vocabulary that is trained here
LEARNT_FROM = 50_000_000  # characters; more hardly changes a vocabulary
LEAST_OCCURRENCES = 2
ROWS = 2048  # encoded at a time

# What is never merged with what stands beside it: a run of Chinese characters, a digit, a sign.
_PIECES = r"\p{Han}+|\p{N}|[\p{P}\p{S}]"
# The same with the space before a word, so that the text comes back to the letter.
_SPACED_PIECES = r"\p{Han}+| ?[^\s\p{Han}\p{P}\p{S}\p{N}]+|\p{N}| ?[\p{P}\p{S}]+|\s+(?!\S)|\s+"


def train_tokenizer(texts: Iterable[str], vocabulary: int, *, exact: bool = False) -> str:
    """A byte pair encoding (Sennrich et al. 2016) of at most `vocabulary` tokens, the same for the same texts. Frequent
    words become tokens of their own, Chinese ones as well as English, and whatever occurs once stays in parts.

    By default for telling classes apart: full-width and capital letters become plain ones, spaces are gone. `exact`
    keeps every character, as bytes where they are rare, so that decoding gives the text back: for language models."""
    kit = library()
    tokenizer = kit.Tokenizer(kit.models.BPE(unk_token=None if exact else UNKNOWN))
    split = kit.pre_tokenizers.Split(kit.Regex(_SPACED_PIECES if exact else _PIECES), "isolated")
    if exact:
        as_bytes = kit.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = kit.pre_tokenizers.Sequence([split, as_bytes])
        tokenizer.decoder = kit.decoders.ByteLevel()
        alphabet = sorted(kit.pre_tokenizers.ByteLevel.alphabet())
        sample = list(_some(texts))
    else:
        tokenizer.normalizer = kit.normalizers.Sequence([kit.normalizers.NFKC(), kit.normalizers.Lowercase()])
        tokenizer.pre_tokenizer = kit.pre_tokenizers.Sequence([kit.pre_tokenizers.WhitespaceSplit(), split])
        sample = [tokenizer.normalizer.normalize_str(each) for each in _some(texts)]
        alphabet = _alphabet(sample, vocabulary // 2)
    trainer = kit.trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=LEAST_OCCURRENCES,
        special_tokens=[PADDING, UNKNOWN, END],
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sample, trainer)
    return tokenizer.to_str()


def _some(texts: Iterable[str]) -> Iterator[str]:
    left = LEARNT_FROM
    for each in texts:
        yield each[:left]
        left -= len(each)
        if left <= 0:
            return


def _alphabet(texts: Sequence[str], most: int) -> list[str]:
    """The characters that occur more than once, at most `most` of them; of equally frequent ones the same at every
    time, which the library leaves to chance."""
    counts: Counter[str] = Counter()
    for each in texts:
        counts.update(each)
    ranked = sorted((-count, each) for each, count in counts.items() if count > 1 and not each.isspace())
    return [each for _, each in ranked[:most]]


@functools.lru_cache(maxsize=4)
def opened(tokenizer: str) -> Any:
    """The `tokenizers.Tokenizer` of its JSON, without the truncation and padding that it may carry."""
    found = library().Tokenizer.from_str(tokenizer)
    found.no_truncation()
    found.no_padding()
    return found


@functools.lru_cache(maxsize=4)
def cut(tokenizer: str, length: int) -> Any:
    """A tokenizer that gives at most `length` tokens, the marks that it puts around a text among them."""
    found = library().Tokenizer.from_str(tokenizer)
    found.no_padding()
    found.enable_truncation(length)
    return found


def prepared(given: Any, how: Tokens) -> np.ndarray:
    """A text as a classifier sees it, int64 (how.length,). Raises UsageError for what is none."""
    if not isinstance(given, str):
        raise UsageError("not_a_text", kind=type(given).__name__)
    ids = cut(how.tokenizer, how.length).encode(given).ids
    return np.array([*ids, *[how.padding] * (how.length - len(ids))], np.int64)


@dataclass(frozen=True)
class Encoded:
    """The tokens of all rows behind each other: row `r` is `ids[ends[r - 1] : ends[r]]`, int32, mapped. What is read
    but not to be learnt (a prompt) stands as ~id, which is negative."""

    ids: np.ndarray
    ends: np.ndarray

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, row: int) -> np.ndarray:
        return self.ids[self.ends[row - 1] if row else 0 : self.ends[row]]

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.ends, prepend=0)


def keep_encoded(
    manifest: Manifest, key: str, parts: Iterable[Sequence[np.ndarray]], console: Console | None = None
) -> Encoded:
    """The rows' tokens, encoded once for a `key` that says all they depend on: `parts` are the rows in their order,
    some at a time. Raises DiskError."""
    console = console or Console()
    digest = hashlib.blake2b(key.encode() + str(manifest.about.get("rows")).encode(), digest_size=8)
    digest.update(manifest["hash"].tobytes())
    folder = state_folder(manifest.root)
    ids, ends = (folder / f"tokens-{digest.hexdigest()}-{each}" for each in ("ids.bin", "ends.npy"))
    if not ends.is_file():
        only(ids, "tokens-*")
        lengths: list[int] = []
        with (
            replacing(ids) as beside,
            beside.open("wb") as file,
            console.progress(say("tokens.encoding"), len(manifest)) as advance,
        ):
            for part in parts:
                for each in part:
                    file.write(np.asarray(each, np.int32).tobytes())
                    lengths.append(len(each))
                advance(len(part))
        assert len(lengths) == len(manifest)
        with replacing(ends) as beside, beside.open("wb") as file:  # last: what is there is whole
            np.save(file, np.cumsum(lengths, dtype=np.int64))
    return _mapped(ids, ends)


def _mapped(ids: Path, ends: Path) -> Encoded:
    upto = np.load(ends)
    empty = not len(upto) or upto[-1] == 0  # nothing cannot be mapped
    return Encoded(np.zeros(0, np.int32) if empty else np.memmap(ids, np.int32, "r"), upto)


def library() -> Any:
    """`tokenizers`, or the error that says how to get it."""
    try:
        import tokenizers
        from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers  # noqa: F401 - its parts
    except ImportError as error:
        raise MissingPackage("tokenizers", "text") from error
    return tokenizers
