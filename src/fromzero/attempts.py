"""Trying sources from the nearest to the farthest, saying which served and why the others did not."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from fromzero.errors import SourceError
from fromzero.language import say
from fromzero.terminal import Console

T = TypeVar("T")


def first_of(sources: Iterable[tuple[str, Callable[[], T]]], code: str, name: str, console: Console) -> tuple[T, str]:
    """What the first of the titled `sources` gives that does not fail, and its title. Raises SourceError(`code`) for
    `name` with every attempt if all fail."""
    attempts = []
    for title, fetch in sources:
        try:
            found = fetch()
        except Exception as error:  # a source may fail in any way: say it, try the next
            reason = (str(error).strip() or type(error).__name__).splitlines()[-1][:300].rstrip(".")
            attempts.append(f"{title}: {reason}")
            console.line(say("source.failed", source=title, reason=reason))
            continue
        console.line(say("source.used", source=title))
        return found, title
    raise SourceError(code, attempts, name=name)
