"""What the tasks of texts have in common: whose tokenizer it is, and how long a text may be."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from fromzero.data import texts
from fromzero.data.manifest import Manifest
from fromzero.data.tokens import END, opened, train_tokenizer
from fromzero.errors import DataError, UsageError
from fromzero.language import say
from fromzero.models import hub
from fromzero.models.families import huggingface
from fromzero.records import Tokens, from_json
from fromzero.terminal import Console

SAMPLE = 10_000  # texts whose lengths are looked at
STEP = 8  # lengths are multiples of it, as kernels like them
LEAST = 8


def how_for(
    manifest: Manifest,
    model: str,
    words: Mapping[str, Any],
    console: Console | None,
    *,
    vocabulary: int,
    exact: bool,
    length: Callable[[np.ndarray], int],
) -> Tokens:
    """How this data set's texts become inputs of this model. Trained weights want the tokenizer they were trained with;
    for others one of at most `vocabulary` tokens is trained on the training part. `length` says how many tokens are
    read, from the lengths of the texts; the user's `seq` comes first, the model's own limit last."""
    console = console or Console()
    rows = manifest.rows("train")
    if not len(rows):
        raise DataError("no_tokens")
    where = words.get("pretrained")
    of_transformers = model.startswith(huggingface.PREFIX)
    longest, own = huggingface.limits(model) if of_transformers else (0, 0)
    if of_transformers and where:
        how = _published(model, where, own, console)
    else:
        how = (_of_run(where) if where else None) or _trained_here(manifest, vocabulary, own, exact)
    how = dataclasses.replace(how, template=_template(manifest, how))
    some = rows[np.linspace(0, len(rows) - 1, min(len(rows), SAMPLE)).astype(int)]
    lengths = texts.lengths_of(manifest, how, some)
    wanted = words.get("seq")
    if wanted is not None and longest and wanted > longest:
        raise UsageError("seq_too_long", model=model, seq=wanted, limit=longest)
    chosen = wanted or max(LEAST, -(-length(lengths) // STEP) * STEP)
    how = dataclasses.replace(how, length=min(chosen, longest) if longest else chosen)
    key = "tokens.published" if of_transformers and where else "tokens.learning"
    share = f"{(lengths <= how.length).mean():.1%}"
    console.line(say(key, tokens=opened(how.tokenizer).get_vocab_size(), length=how.length, share=share))
    return how


def _trained_here(manifest: Manifest, vocabulary: int, own: int, exact: bool) -> Tokens:
    # below a configuration's own: by that it is known from it when the model is built
    most = min(vocabulary, own - 1) if own else vocabulary
    tokenizer = train_tokenizer(texts.training_texts(manifest), most, exact=exact)
    kit = opened(tokenizer)
    end = kit.token_to_id(END) if exact else -1
    return Tokens(length=0, vocabulary=kit.get_vocab_size(), padding=0, tokenizer=tokenizer, end=end)


def _published(model: str, where: str, own: int, console: Console) -> Tokens:
    found = hub.tokenizer_of(hub.folder(huggingface.plain_name(model), where, console))
    return Tokens(
        length=0,
        vocabulary=own,
        padding=found.padding,
        tokenizer=found.tokenizer,
        end=found.end,
        template=found.template,
    )


def _of_run(where: str) -> Tokens | None:
    """What stands beside the weights of another run: its numbers mean nothing under another tokenizer."""
    for folder in Path(where).expanduser().resolve().parents:
        if (folder / "run.json").is_file() and (folder / "tokenizer.json").is_file():
            values = json.loads((folder / "run.json").read_text(encoding="utf-8"))["preprocessing"]
            tokenizer = (folder / "tokenizer.json").read_text(encoding="utf-8")
            return from_json(Tokens, {**values, "tokenizer": tokenizer})
    return None


def _template(manifest: Manifest, how: Tokens) -> str:
    return (how.template or texts.PLAIN) if manifest.kind == "chats" else ""


def shape(how: Tokens) -> dict[str, Any]:
    return {"seq": how.length, "vocabulary": how.vocabulary}


def entry(how: Tokens) -> nn.Module:
    """Tokens are what the model takes."""
    return nn.Identity()
