"""A trace's events, as PyTorch's profiler writes them in Chrome's format: times in microseconds. Imports no torch.

Events of one thread lie in each other like the calls they are, which gives the time that each takes alone, and the
stack it stands in.
"""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OPERATOR, PYTHON, MARK = "cpu_op", "python_function", "user_annotation"
ON_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")
STEP = "fromzero::step"
Stacks = dict[tuple[str, ...], float]  # microseconds in each stack, outermost first
# Frames of Python that say nothing: how modules, hooks and this profile itself call what they call.
_PLUMBING = (
    *(
        "_call_impl",
        "_wrapped_call_impl",
        "torch/utils/_contextlib",
        "contextlib.py",
        "<built-in",
        "profiling/measuring",
    ),
    *("profile_hook_step", "torch/_ops.py", "<listcomp>", "<genexpr>"),
)
_ROOT = ": stepped"  # the function of training.py that runs a step
_OWN = ("torch/profiler", "torch/autograd/profiler")  # what marking takes is no part of the step


@dataclass(frozen=True)
class Call:
    """An event in its place: `alone` is its time without that of the calls in it."""

    name: str
    kind: str
    start: float
    length: float
    alone: float
    above: tuple[str, ...]
    number: int  # the profiler's, which events of the device carry as well
    thread: Any


def read(path: Path) -> list[dict[str, Any]]:
    """All events of a trace file."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return json.load(file)["traceEvents"]


def calls(events: Iterable[dict[str, Any]], kinds: Collection[str]) -> list[Call]:
    """The events of some kinds, each in its place among them."""
    threads: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for each in events:
        if each.get("ph") == "X" and each.get("cat") in kinds:
            threads[each["tid"]].append(each)
    return [call for thread, mine in threads.items() for call in _nested(mine, thread)]


def _nested(events: list[dict[str, Any]], thread: Any) -> Iterator[Call]:
    open_: list[tuple[dict[str, Any], list[float]]] = []  # events around this one, with the time in those inside

    def closed(until: float) -> Iterator[Call]:
        while open_ and open_[-1][0]["ts"] + open_[-1][0]["dur"] <= until:
            event, inside = open_.pop()
            above = tuple(each["name"] for each, _ in open_)
            alone = max(0.0, event["dur"] - sum(inside))
            number = event.get("args", {}).get("External id", -1)
            yield Call(event["name"], event["cat"], event["ts"], event["dur"], alone, above, number, thread)

    for each in sorted(events, key=lambda event: (event["ts"], -event["dur"])):
        yield from closed(each["ts"])
        if open_:
            open_[-1][1].append(each["dur"])
        open_.append((each, []))
    yield from closed(float("inf"))


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """How much of time lies in at least one of the (start, end)."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def steps(events: Iterable[dict[str, Any]]) -> list[tuple[float, float]]:
    """(start, end) of the steps that were marked."""
    return [(e["ts"], e["ts"] + e["dur"]) for e in events if e.get("name") == STEP and e.get("cat") == MARK]


def between(events: list[dict[str, Any]]) -> float:
    """The share of the steps in which nothing runs: no operator on a CPU, no kernel on a card."""
    whole = covered(steps(events))
    kinds = ON_DEVICE if _has_device(events) else (OPERATOR,)
    spans = [(e["ts"], e["ts"] + e["dur"]) for e in events if e.get("ph") == "X" and e.get("cat") in kinds]
    inside = covered((max(a, s), min(b, t)) for a, b in spans for s, t in steps(events) if a < t and b > s)
    return max(0.0, 1 - inside / whole) if whole else 0.0


def tiny(found: list[Call], shortest: float) -> tuple[float, int]:
    """Microseconds in operators that take less than `shortest`, and how many of those there are."""
    inner = [each.alone for each in found if each.kind == OPERATOR and each.alone < shortest]
    return sum(inner), sum(1 for each in found if each.kind == OPERATOR and each.length < shortest)


def _has_device(events: list[dict[str, Any]]) -> bool:
    return any(each.get("cat") in ON_DEVICE for each in events)


def by_operator(events: list[dict[str, Any]], names: Collection[str]) -> dict[str, float]:
    """Microseconds in the operators of these names and all that they call, the outermost of them counted: their time on
    the device where there is one, else on the CPU."""
    device: dict[int, float] = defaultdict(float)
    for each in events:
        if each.get("cat") in ON_DEVICE:
            device[each.get("args", {}).get("External id", -1)] += each["dur"]
    found: dict[str, float] = defaultdict(float)
    for call in calls(events, (OPERATOR,)):
        path = [*(plain(each) for each in call.above), plain(call.name)]
        outermost = next((each for each in path if each in names), None)
        if device:
            found[outermost or path[-1]] += device[call.number]
        elif outermost is None:
            found[path[-1]] += call.alone
        elif outermost == path[-1] and not any(each in names for each in path[:-1]):
            found[outermost] += call.length
    return dict(found)


def plain(name: str) -> str:
    """ "aten::addmm" -> "addmm"."""
    return name.rpartition("::")[2]


@dataclass(frozen=True)
class Level:
    """Bytes of tensors over time, relative to what was there at the start; marks are (time, phase)."""

    seconds: tuple[float, ...]
    bytes: tuple[int, ...]
    marks: tuple[tuple[float, str], ...]


def memory(events: list[dict[str, Any]], phases: Collection[str]) -> Level:
    """The course of memory over the last marked step: on the device where there is one."""
    on_device = _has_device(events)
    start, end = steps(events)[-1]
    notes = sorted(
        (each["ts"], each["args"])
        for each in events
        if each.get("name") == "[memory]" and (each["args"].get("Device Type", 0) != 0) == on_device
        if "Bytes" in each["args"]
    )
    level, seconds, course = 0, [0.0], [0]
    for ts, args in notes:
        if start <= ts <= end:
            level += int(args["Bytes"])
            seconds.append((ts - start) / 1e6)
            course.append(level)
    marks = [
        ((each["ts"] - start) / 1e6, each["name"])
        for each in events
        if each.get("cat") == MARK and each.get("name") in phases and start <= each["ts"] <= end
    ]
    return Level((*seconds, (end - start) / 1e6), (*course, level), tuple(sorted(marks)))


# --- stacks ---------------------------------------------------------------------------------------------------------


def stacks(events: list[dict[str, Any]]) -> Stacks:
    """The time of each stack: Python's functions, modules and operators, in the marked steps only and from the step on;
    what only passes calls on is left out. Marks are not in it: they end in another call than they begin in."""
    found: Stacks = defaultdict(float)
    spans = steps(events)
    for call in calls(events, (PYTHON, OPERATOR)):
        frames = (*call.above, call.name)
        outside = not any(start <= call.start < end for start, end in spans)
        if outside or any(part in each for each in frames for part in _OWN):
            continue
        root = next((place for place, each in enumerate(frames) if each.endswith(_ROOT)), 0)
        kept = tuple(_short(each) for each in frames[root:] if not any(part in each for part in _PLUMBING))
        if kept:
            found[kept] += call.alone
    return found


def _short(name: str) -> str:
    """ "/a/long/path/torch/nn/modules/conv.py(553): forward" -> "conv.py:553 forward"."""
    place, mark, function = name.partition("): ")
    file, _, line = place.rpartition("(")
    return f"{file.replace(chr(92), '/').rpartition('/')[2]}:{line} {function}" if mark and file else name


def folded(found: Stacks) -> str:
    """Stacks as other tools read them: "outer;inner 123" a line, in microseconds."""
    lines = [f"{';'.join(each.replace(';', ',') for each in stack)} {round(t)}" for stack, t in found.items() if t >= 1]
    return "\n".join(sorted(lines)) + "\n"
