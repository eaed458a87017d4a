"""The tree of errors a user can meet.

    FromzeroError                 exit status 1: the answer is no, or the world said no
    ├── UsageError (ValueError)   exit status 2: the call is wrong
    │   └── UnknownName           a name that is in no list; carries the nearest matches
    ├── MissingPackage            exit status 2: an optional package is not installed
    ├── DataError                 the data set cannot be used as asked
    │   └── UnreadableImage       one picture cannot be decoded
    ├── SourceError               no source had the data or the weights; carries what was tried
    ├── RunError                  a run folder is incomplete, damaged or not of the kind asked for
    ├── DiskError                 a file could not be written
    └── ParityError               an exported model disagrees with the model it came from

Each has a stable `code`; what happened and what to do about it are the catalogue's rows `error.<code>` and
`error.<code>.fix`. Broken invariants of our own are asserts, never these.
"""

from __future__ import annotations

from collections.abc import Iterable

from fromzero.language import current, say


class FromzeroError(Exception):
    """An error with a stable `code`, a `cause` and a `fix` in the user's language."""

    status = 1

    def __init__(self, code: str, /, **values: object) -> None:
        self.code = code
        self.values = values
        self.cause = say(f"error.{code}", **values)
        self.fix = say(f"error.{code}.fix", **values).strip()  # a hint that stands first may be empty
        space = "" if current() == "zh" else " "  # Chinese sentences stand side by side
        super().__init__(f"{self.cause}{space}{self.fix}".strip())


class UsageError(FromzeroError, ValueError):
    """The call is wrong; nothing was done."""

    status = 2


class UnknownName(UsageError):
    """`name` is in no list of its kind ("model", "card", "flag", ...); `near` holds the closest known names."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        self.near = nearest(name, known)
        hint = say("error.near", near=", ".join(self.near)) if self.near else ""
        super().__init__(f"unknown_{kind}", name=name, near=hint)


class MissingPackage(FromzeroError, ImportError):
    """A package of an optional extra is not installed."""

    status = 2

    def __init__(self, package: str, extra: str) -> None:
        super().__init__("missing_package", package=package, extra=extra)


class DataError(FromzeroError):
    """The data set cannot be used as asked."""


class UnreadableImage(DataError):
    """One picture cannot be decoded; `code` says why (truncated, not an image, too large ...)."""


class SourceError(FromzeroError):
    """No source had what was asked for; `attempts` says what was tried and why each failed."""

    def __init__(self, code: str, attempts: Iterable[str], /, **values: object) -> None:
        self.attempts = tuple(attempts)
        super().__init__(code, attempts="; ".join(self.attempts), **values)


class RunError(FromzeroError):
    """A run folder or artifact is incomplete, damaged or of another kind."""


class DiskError(FromzeroError):
    """A file could not be written; what was there before is untouched."""


class ParityError(FromzeroError):
    """An exported model disagrees with the model it came from; no artifact was left."""


def nearest(name: str, known: Iterable[str], count: int = 4) -> list[str]:
    """The `count` known names most like `name`, ignoring case; a name that contains it counts as like."""
    import difflib  # only a wrong name needs it, and every command would pay for it

    by_folded = {each.casefold(): each for each in known}
    wanted = name.casefold()
    inside = sorted((each for each in by_folded if wanted and wanted in each), key=len)[:count]
    alike = difflib.get_close_matches(wanted, by_folded, n=count, cutoff=0.6)
    return [by_folded[each] for each in dict.fromkeys([*alike, *inside])][:count]
