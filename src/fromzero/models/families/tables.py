"""The project's own networks for tables."""

from __future__ import annotations

from typing import Any

PREFIX = ""
_NAMES = ("mlp", "ft-transformer", "table-rnn", "table-gru")


def names() -> list[str]:
    return list(_NAMES)


def takes(name: str) -> bool:
    return name in _NAMES


def task(name: str) -> str:
    return "table"


def build(name: str, classes: int, channels: int, size: int, *, categories: tuple[int, ...] = (), **_: Any) -> Any:
    """`channels` numbers and a column of words for each of `categories`; `size` rows in a sequence, 0 for one row."""
    from fromzero.models.tabular import FtTransformer, Mlp, TableRnn

    if name == "mlp":
        return Mlp(classes, channels, categories)
    if name == "ft-transformer":
        return FtTransformer(classes, channels, categories)
    return TableRnn(classes, channels, categories, window=size, cell="gru" if name == "table-gru" else "lstm")


def normalisation(name: str) -> dict[str, Any] | None:
    return None
