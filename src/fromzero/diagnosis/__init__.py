"""What can be wrong with a run, one file a family of findings, found by this folder. Each has:

CODES                  the findings it can make
find(facts)            yields a `Finding` for each that the facts show
draw(facts, finding)   the one picture of it, as PNG bytes

`facts` is a `_facts.Facts`: the run's records, and what a short probe of its weights says; what is not asked for is not
computed. A family that cannot look (its data are gone, the run kept no such record) raises a FromzeroError, and is
named as not checked.

Sentences are rows of the catalogue, filled with the evidence: `diagnose.<code>` what was seen, `diagnose.<code>.fix`
what to do, `diagnose.<code>.name` a few words. Thresholds are constants of the file with their reason beside them; the
`strength` of a finding is the measured figure in units of its threshold, so that 1 is only just there.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is wrong: `evidence` are the numbers it was read from, `where` layers or samples by name.

    The fix, for `train --apply`: `words` of `train` that change, `without` rows and columns of the data to leave out,
    `environment` variables. All empty where nothing that a run can be told would help."""

    code: str
    strength: float
    evidence: Mapping[str, Any]
    where: tuple[str, ...] = ()
    words: Mapping[str, Any] = field(default_factory=dict)
    without: tuple[int | str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def applicable(self) -> bool:
        return bool(self.words or self.without or self.environment)


def families() -> dict[str, ModuleType]:
    """The files of this folder by name."""
    names = sorted(each.name for each in pkgutil.iter_modules(__path__) if not each.name.startswith("_"))
    return {name: importlib.import_module(f"{__name__}.{name}") for name in names}


def codes() -> tuple[str, ...]:
    """Every finding there is."""
    return tuple(code for family in families().values() for code in family.CODES)
