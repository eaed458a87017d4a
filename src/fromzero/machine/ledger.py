"""The ledger: what was predicted and what was measured, a line a finished run of this machine.

It is how the planner's word is kept honest, and how it learns: once a device has run something, plans for it are
corrected by what was seen.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from fromzero.machine.measured import state_folder
from fromzero.records import from_json, to_json

NAME = "ledger.jsonl"
LAST = 20  # runs that count; drivers and releases change
# The correction of n runs is n / (n + DOUBT) of what they show. DOUBT is how much more jobs of one device scatter than
# devices do, both squared: benchmarks/time.py prints it, from runs that the calibration had not seen.
DOUBT = 1.3
MOST = 4.0  # a run that was this much slower or faster was disturbed, and teaches nothing


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One finished run: seconds of a step and bytes of the process, predicted (by the built-in calibration, before any
    correction) and measured. `measured_bytes` is 0 where the system does not tell."""

    when: str
    device: str
    model: str
    batch: int
    precision: str
    torch: str
    predicted_step: float
    measured_step: float
    predicted_bytes: int
    measured_bytes: int

    @property
    def ratio(self) -> float:
        """Measured over predicted time."""
        return self.measured_step / self.predicted_step


def note(entry: Entry) -> None:
    """Add a line. A folder that cannot be written loses the line, not the run."""
    path = state_folder() / NAME
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:  # one short write: lines of two processes do not mix
            file.write(json.dumps(to_json(entry), ensure_ascii=False) + "\n")
    except OSError:
        return


def entries(device: str | None = None) -> list[Entry]:
    """All lines in order, or those of one device. A line that cannot be read is left out."""
    try:
        lines = (state_folder() / NAME).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        try:
            each = from_json(Entry, json.loads(line))
            usable = each.predicted_step > 0 and each.measured_step > 0
        except (ValueError, TypeError, AttributeError):
            continue
        if usable and device in (None, each.device):
            found.append(each)
    return found


def correction(runs: Sequence[Entry]) -> float:
    """The factor that turns the built-in prediction of a step into this device's; 1 without runs."""
    return shrunken([each.ratio for each in runs[-LAST:]])


def shrunken(ratios: Sequence[float]) -> float:
    """The factor that follows from `ratios` of measured over predicted time: their median, drawn to 1 the more the
    fewer they are."""
    logs = [math.log(each) for each in ratios if 1 / MOST < each < MOST]
    if not logs:
        return 1.0
    return math.exp(statistics.median(logs) * len(logs) / (len(logs) + DOUBT))


def now() -> str:
    """This minute, in the form of `Entry.when`."""
    return datetime.now().astimezone().isoformat(timespec="minutes")
