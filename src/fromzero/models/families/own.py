"""The project's own small networks."""

from __future__ import annotations

from typing import Any

PREFIX = ""
_CELLS = {"rnn": "lstm", "rnn-gru": "gru", "rnn-plain": "plain", "rnn-wide": "lstm"}
_TASKS = {"cnn": "image", **dict.fromkeys(_CELLS, "text"), "transformer": "text", "gpt": "lm"}


def names() -> list[str]:
    return list(_TASKS)


def takes(name: str) -> bool:
    return name in _TASKS


def task(name: str) -> str:
    return _TASKS[name]


def build(name: str, classes: int, channels: int, size: int, *, vocabulary: int = 0, **_: Any) -> Any:
    from fromzero.models.cnn import Cnn
    from fromzero.models.rnn import Rnn
    from fromzero.models.transformer import VOCABULARY, Gpt, Transformer

    tokens = vocabulary or VOCABULARY
    if name == "cnn":
        return Cnn(classes, channels)
    if name == "gpt":
        return Gpt(tokens)
    if name == "transformer":
        return Transformer(classes, tokens)
    return Rnn(classes, _CELLS[name], tokens, wide=name == "rnn-wide")


def normalisation(name: str) -> dict[str, Any] | None:
    return None
