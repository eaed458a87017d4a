"""The project's own small networks."""

from __future__ import annotations

from typing import Any

PREFIX = ""


def names() -> list[str]:
    return ["cnn"]


def takes(name: str) -> bool:
    return name in names()


def task(name: str) -> str:
    return "image"


def build(name: str, classes: int, channels: int, size: int) -> Any:
    from fromzero.models.cnn import Cnn

    return Cnn(classes, channels)


def normalisation(name: str) -> dict[str, Any] | None:
    return None
