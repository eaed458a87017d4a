"""Texts as samples: each with its class, or packed into blocks that a language model continues.

Dialogues become tokens by a template: the one that came with the tokenizer, or the plain one,

    user:
    What is in the box?
    assistant:
    A card.<end>

of which a model learns nothing but what the assistant says and the end of it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from fromzero.data.batches import Item, shuffled
from fromzero.data.load import Rows
from fromzero.data.manifest import SPLITS, Manifest
from fromzero.data.rows.content import content
from fromzero.data.rows.content import texts as texts_of
from fromzero.data.tokens import ROWS, Encoded, cut, keep_encoded, library, opened
from fromzero.records import Tokens
from fromzero.terminal import Console

PLAIN = "plain"
ANSWER = "assistant:\n"
IGNORED = -100  # a target that counts for nothing: PyTorch's own
MEASURED_LOGITS = 1 << 24  # of a batch that is measured: 64 MB as fp32, thrice, which a step of training takes too
BUCKETS = 50  # batches whose texts are sorted by length together
ERASED = 0.1  # of the tokens: random deletion (Wei and Zou 2019)
STEP = 8  # lengths of batches are multiples of it: kernels are made for a few sizes, not for every one

Turn = Mapping[str, str]  # role and text


class Labelled(Rows):
    """Texts with their classes: int64 (N, the longest of the batch) filled up with padding, and (N,). In training,
    with a `batch`, texts of about the same length come together, which saves most of the padding: half of the time
    and more where lengths differ. With `erase` a text loses each of its tokens but the first and the last (which may
    be marks) with the probability ERASED, others in each epoch."""

    workers = 0

    def __init__(
        self, manifest: Manifest, how: Tokens, encoded: Encoded, seed: int = 0, batch: int = 0, erase: bool = False
    ) -> None:
        self.manifest, self.how, self.encoded, self.seed, self.together = manifest, how, encoded, seed, batch
        self.erase = erase
        self.changed: set[int] = set()

    def order(self, rows: np.ndarray, epoch: int) -> np.ndarray:
        order = shuffled(rows, self.seed, epoch)
        full = len(order) // self.together * self.together if self.together else 0
        if not full:
            return order
        window = BUCKETS * self.together
        lengths = self.encoded.lengths
        sorted_inside = [
            part[np.argsort(lengths[part], kind="stable")]
            for part in (order[at : min(at + window, full)] for at in range(0, full, window))
        ]
        batches = np.concatenate(sorted_inside).reshape(-1, self.together)
        mixed = batches[np.random.default_rng((self.seed, epoch, 2)).permutation(len(batches))]
        return np.concatenate([mixed.reshape(-1), order[full:]])

    def batch(self, items: Sequence[Item]) -> tuple[np.ndarray, np.ndarray]:
        rows = np.array([row for row, _ in items])
        texts = [self._erased(row, epoch) if self.erase else self.encoded[row] for row, epoch in items]
        return stacked(texts, self.how), self.labels(rows)

    def _erased(self, row: int, epoch: int) -> np.ndarray:
        ids = self.encoded[row]
        kept = np.random.default_rng((self.seed, epoch, row, 3)).random(len(ids)) >= ERASED
        kept[:1] = kept[-1:] = True
        return ids[kept]


class Blocks:
    """What a language model learns from: blocks of `how.length` tokens, filled with one text after the other, int64
    (N, length), and the same as targets, IGNORED where nothing is to be learnt. Rows are blocks, those of the training
    part first.

    Texts run on from block to block, an end mark behind each: the last word of one is followed by `end`, and `end` by
    the first of the next. Dialogues are never cut by a border: a block takes as many as fit, one that is too long
    loses its end, and what stays free is padding. Attention is not cut between the texts of a block, as in the
    training of GPT-2 and GPT-3; what is learnt of a dialogue never lies in another."""

    workers = 0

    def __init__(self, manifest: Manifest, how: Tokens, encoded: Encoded, seed: int = 0) -> None:
        self.manifest, self.how, self.encoded, self.seed = manifest, how, encoded, seed
        self.changed: set[int] = set()
        self.measured = max(1, MEASURED_LOGITS // (how.length * how.vocabulary))
        whole = manifest.kind == "chats"
        self._parts = {split: _packed(encoded, manifest.rows(split), how.length, whole) for split in SPLITS}
        counts = [len(part.begins) for part in self._parts.values()]
        self._first = dict(zip(SPLITS, np.cumsum([0, *counts[:-1]]).tolist(), strict=True))

    def rows(self, split: str) -> np.ndarray:
        return self._first[split] + np.arange(len(self._parts[split].begins))

    def labels(self, rows: np.ndarray) -> np.ndarray:
        return np.zeros(0, np.int64)

    def order(self, rows: np.ndarray, epoch: int) -> np.ndarray:
        return shuffled(rows, self.seed, epoch)

    def name(self, row: int) -> str:
        part, block = self._found(row)
        return self.manifest.name(int(part.rows[part.first_row(block)]))

    def batch(self, items: Sequence[Item]) -> tuple[np.ndarray, np.ndarray]:
        inputs = np.full((len(items), self.how.length), self.how.padding, np.int64)
        targets = np.full_like(inputs, IGNORED)
        for place, (row, _) in enumerate(items):
            part, block = self._found(row)
            ids = part.read(self.encoded, block)
            inputs[place, : len(ids)] = np.where(ids < 0, ~ids, ids)
            targets[place, : len(ids)] = np.where(ids < 0, IGNORED, ids)
        return inputs, targets

    def _found(self, row: int) -> tuple[_Part, int]:
        split = next(each for each in reversed(SPLITS) if row >= self._first[each] and len(self._parts[each].begins))
        return self._parts[split], row - self._first[split]


class _Part:
    """The blocks of a split: ranges of the stream that its rows make, each row cut to `most` tokens."""

    def __init__(self, rows: np.ndarray, lengths: np.ndarray, begins: np.ndarray, ends: np.ndarray) -> None:
        self.rows, self.upto, self.begins, self.ends = rows, np.cumsum(lengths), begins, ends

    def first_row(self, block: int) -> int:
        return int(np.searchsorted(self.upto, self.begins[block], side="right"))

    def read(self, encoded: Encoded, block: int) -> np.ndarray:
        begin, end = int(self.begins[block]), int(self.ends[block])
        pieces, place = [], self.first_row(block)
        while begin < end:
            start = int(self.upto[place - 1]) if place else 0
            stop = min(end, int(self.upto[place]))
            pieces.append(encoded[int(self.rows[place])][begin - start : stop - start])
            begin, place = stop, place + 1
        return np.concatenate(pieces)


def _packed(encoded: Encoded, rows: np.ndarray, length: int, whole: bool) -> _Part:
    """Blocks of a split. `whole`: no row is cut by a border."""
    lengths = encoded.lengths[rows]
    if not whole:
        total = int(lengths.sum())
        begins = np.arange(0, total, length)
        return _Part(rows, lengths, begins, np.minimum(begins + length, total))
    lengths = np.minimum(lengths, length)
    borders, at = [0], 0
    for each in lengths.tolist():
        if at + each - borders[-1] > length:
            borders.append(at)
        at += each
    first = np.array(borders if at else [], np.int64)
    return _Part(rows, lengths, first, np.append(first[1:], at)[: len(first)])


def stacked(rows: Sequence[np.ndarray], how: Tokens) -> np.ndarray:
    """Rows of tokens as int64 (N, the longest), up to how.length, the rest padding."""
    longest = max((len(each) for each in rows), default=1)
    width = min(-(-max(longest, 1) // STEP) * STEP, how.length)
    made = np.full((len(rows), width), how.padding, np.int64)
    for place, each in enumerate(rows):
        made[place, : len(each)] = each[:width]
    return made


# --- from text to tokens ----------------------------------------------------------------------------------------------


def labelled(
    manifest: Manifest,
    how: Tokens,
    seed: int = 0,
    batch: int = 0,
    console: Console | None = None,
    erase: bool = False,
) -> Labelled:
    """The texts of a manifest with their classes, encoded once. `batch`: how many are asked for together; `erase`: as
    `Labelled` does."""

    def parts() -> Iterator[list[np.ndarray]]:
        tokenizer = cut(how.tokenizer, how.length)
        for some in _texts(manifest):
            yield [np.array(each.ids, np.int32) for each in tokenizer.encode_batch(some)]

    encoded = keep_encoded(manifest, f"labelled/{how.length}/{how.tokenizer}", parts(), console)
    return Labelled(manifest, how, encoded, seed, batch, erase)


def blocks(manifest: Manifest, how: Tokens, seed: int = 0, console: Console | None = None) -> Blocks:
    """The texts or dialogues of a manifest as blocks, encoded once."""

    def parts() -> Iterator[list[np.ndarray]]:
        if manifest.kind == "chats":
            for some in _chats(manifest):
                yield [dialogue(turns, how) for turns in some]
            return
        for plain in _texts(manifest):
            yield [_ended(each.ids, how.end) for each in opened(how.tokenizer).encode_batch(plain)]

    key = f"blocks/{manifest.kind}/{how.end}/{how.template}/{how.tokenizer}"
    return Blocks(manifest, how, keep_encoded(manifest, key, parts(), console), seed)


def lengths_of(manifest: Manifest, how: Tokens, rows: np.ndarray) -> np.ndarray:
    """How many tokens some rows have, uncut."""
    if manifest.kind == "chats":
        turns = content(manifest, rows).column("turns").to_pylist()
        return np.array([len(dialogue(each, how)) for each in turns])
    return np.array(
        [len(each.ids) for each in opened(how.tokenizer).encode_batch(texts_of(manifest, rows).to_pylist())]
    )


def training_texts(manifest: Manifest) -> Iterator[str]:
    """The texts of the training part, or what is said in its dialogues: what a tokenizer learns from."""
    rows = manifest.rows("train")
    for start in range(0, len(rows), ROWS):
        some = rows[start : start + ROWS]
        if manifest.kind == "chats":
            for turns in content(manifest, some).column("turns").to_pylist():
                yield "".join(text for text, _ in _plain(turns))
        else:
            yield from texts_of(manifest, some).to_pylist()


def _texts(manifest: Manifest) -> Iterator[list[str]]:
    for start in range(0, len(manifest), ROWS):
        yield texts_of(manifest, np.arange(start, min(start + ROWS, len(manifest)))).to_pylist()


def _chats(manifest: Manifest) -> Iterator[list[list[Turn]]]:
    for start in range(0, len(manifest), ROWS):
        rows = np.arange(start, min(start + ROWS, len(manifest)))
        yield content(manifest, rows).column("turns").to_pylist()


def _ended(ids: list[int], end: int) -> np.ndarray:
    return np.array(ids if end < 0 or (ids and ids[-1] == end) else [*ids, end], np.int32)


# --- dialogues --------------------------------------------------------------------------------------------------------


def dialogue(turns: Sequence[Turn], how: Tokens) -> np.ndarray:
    """A dialogue as int32 tokens: ~id, which is negative, for all but what the assistant says and the end of it."""
    tokenizer = opened(how.tokenizer)
    found: list[int] = []
    for text, learnt in _plain(turns) if how.template == PLAIN else _rendered(turns, how):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        if learnt and how.template == PLAIN and how.end >= 0:
            ids = [*ids, how.end]
        found += ids if learnt else [~each for each in ids]
    return np.array(found, np.int32)


def prompt(turns: Sequence[Turn], how: Tokens) -> list[int]:
    """The tokens that the assistant's next words follow."""
    if how.template == PLAIN:
        asked = dialogue(turns, how)
        opening = opened(how.tokenizer).encode(ANSWER, add_special_tokens=False).ids
        return [*np.where(asked < 0, ~asked, asked).tolist(), *opening]
    text = _render(turns, how, answer=True)
    return opened(how.tokenizer).encode(text, add_special_tokens=False).ids


def _plain(turns: Sequence[Turn]) -> Iterator[tuple[str, bool]]:
    for role, text in _pairs(turns):
        if role == "assistant":
            yield ANSWER, False
            yield text, True
            yield "\n", False
        else:
            yield f"{role}:\n{text}\n", False


def _rendered(turns: Sequence[Turn], how: Tokens) -> Iterator[tuple[str, bool]]:
    """The parts of a dialogue in the tokenizer's own template: what each answer adds to the prompt before it."""
    done = ""
    for number, (role, _) in enumerate(_pairs(turns)):
        if role != "assistant":
            continue
        asked = _render(turns[:number], how, answer=True)
        upto = _render(turns[: number + 1], how)
        start = _shared(asked, upto)
        yield upto[_shared(done, upto) : start], False
        yield upto[start:], True
        done = upto


def _shared(one: str, other: str) -> int:
    """How many characters two texts begin with alike: a template may add to a prompt, or write it otherwise."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _render(turns: Sequence[Turn], how: Tokens, *, answer: bool = False) -> str:
    messages = [{"role": role, "content": text} for role, text in _pairs(turns)]
    end = opened(how.tokenizer).id_to_token(how.end) if how.end >= 0 else None
    return _renderer(how.tokenizer, end).apply_chat_template(
        messages, chat_template=how.template, tokenize=False, add_generation_prompt=answer
    )


@functools.lru_cache(maxsize=2)
def _renderer(tokenizer: str, end: str | None) -> Any:
    """transformers' own renderer, which knows every template there is."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=library().Tokenizer.from_str(tokenizer), eos_token=end)


def _pairs(turns: Sequence[Turn]) -> list[tuple[str, str]]:
    return [(each["role"], each["text"]) for each in turns]
