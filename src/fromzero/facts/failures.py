"""Error messages of PyTorch on NVIDIA cards and what they really mean: failures.json, and how to find them in a log.

Rows of one `group` share a message and are tried in order, the special before the general. A row holds if one of its
`match` patterns is in the log, one of `when` anywhere in it, one of `near` in the lines just before the match, and the
first named size of `exceeds` is larger than the second. `hides` names groups that are only the same fault once more.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

LINES_BEFORE = 8  # the last frames of a traceback
_UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


@dataclass(frozen=True)
class Failure:
    """One row: what to look for. Cause and fix are the catalogue's `failure.<code>` and `failure.<code>.fix`."""

    group: str
    code: str
    match: tuple[re.Pattern[str], ...]
    when: re.Pattern[str] | None
    near: re.Pattern[str] | None
    exceeds: tuple[str, ...]
    hides: tuple[str, ...]
    threads: str


@dataclass(frozen=True)
class Sighting:
    """A failure in a log: `line` counts from 1, `text` is that line, `values` what the message says of itself.
    `decided` is true if the log itself told this cause from others with the same message."""

    failure: Failure
    line: int
    text: str
    values: Mapping[str, str]

    @property
    def decided(self) -> bool:
        return self.failure.when is not None or self.failure.near is not None


@functools.cache
def failures() -> tuple[Failure, ...]:
    """All rows in their order."""
    rows = json.loads(Path(__file__).with_name("failures.json").read_text(encoding="utf-8"))
    return tuple(
        Failure(
            group=row["group"],
            code=row["code"],
            match=tuple(map(_pattern, row["match"])),
            when=_pattern("|".join(row["when"])) if "when" in row else None,
            near=_pattern("|".join(row["near"])) if "near" in row else None,
            exceeds=tuple(row.get("exceeds", ())),
            hides=tuple(row.get("hides", ())),
            threads=row["threads"],
        )
        for row in rows
    )


def sightings(log: str, context: str = "") -> list[Sighting]:
    """Every known failure in `log`, one a group, in the order of the log. `context` is what is known of the machine
    besides; `when` looks there too."""
    log = _COLOURS.sub("", log)
    found: dict[str, Sighting] = {}
    for failure in failures():
        if failure.group not in found and (match := _holds(failure, log, context)):
            found[failure.group] = _sighting(failure, log, match)
    hidden = {group for each in found.values() for group in each.failure.hides}
    return sorted((each for group, each in found.items() if group not in hidden), key=lambda each: each.line)


def _pattern(text: str) -> re.Pattern[str]:
    """A space stands for any white space: terminals and log collectors wrap long messages."""
    return re.compile(text.replace(" ", r"\s+"), re.IGNORECASE)


def _holds(failure: Failure, log: str, context: str) -> re.Match[str] | None:
    if failure.when and not failure.when.search(f"{log}\n{context}"):
        return None
    for pattern in failure.match:
        for match in pattern.finditer(log):
            if _is_near(failure, log, match) and _exceeds(failure, match):
                return match
    return None


def _is_near(failure: Failure, log: str, match: re.Match[str]) -> bool:
    if failure.near is None:
        return True
    before = log[: match.start()].splitlines()[-LINES_BEFORE:]
    return failure.near.search("\n".join([*before, match[0]])) is not None


def _exceeds(failure: Failure, match: re.Match[str]) -> bool:
    if not failure.exceeds:
        return True
    larger, smaller = (_bytes(match[name]) for name in failure.exceeds)
    return larger > smaller


def _bytes(size: str) -> float:
    number, unit = size.split()
    return float(number) * _UNITS[unit[0].upper() + "iB"]


def _sighting(failure: Failure, log: str, match: re.Match[str]) -> Sighting:
    start = log.rfind("\n", 0, match.start()) + 1
    end = log.find("\n", match.start())
    text = log[start : end if end >= 0 else len(log)].strip()
    values = {name: value for name, value in match.groupdict().items() if value}
    return Sighting(failure, log.count("\n", 0, match.start()) + 1, text, values)
