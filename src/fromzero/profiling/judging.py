"""From what was measured of a step to the one thing that holds it up. Imports no torch.

What could be taken away comes first, by how much it takes: waiting for data, Python, calls of tiny operators, the
optimizer, copies. Where none of it takes much, the operators themselves are the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fromzero.language import say
from fromzero.profiling.events import plain
from fromzero.profiling.noted import Bottleneck, Function, Loading, Operator
from fromzero.terminal import seconds_text

NOTEWORTHY = 0.25  # of a step; less is not what holds it up
MENTIONED = 0.1  # of a step; less is not worth a line
DOMINATES = 0.5  # of the operators' time
TINY = 20.0  # microseconds: below, calling an operator takes longer than what it does
BLAMED = 0.3  # of Python's own time, in one function of the user's: then it is the reason,
CALL = 100e-6  # unless operators follow each other so closely, in seconds, that calling them is what Python does

# What operators do, by the first part that their name contains.
GROUPS: tuple[tuple[str, str], ...] = (
    ("_foreach", "optimizer"),
    ("_fused_", "optimizer"),
    ("conv", "products"),
    ("attention", "products"),
    ("addmm", "products"),
    ("baddbmm", "products"),
    ("bmm", "products"),
    ("mm", "products"),
    ("linear", "products"),
    ("rnn", "products"),
    ("lstm", "products"),
    ("gru", "products"),
    ("einsum", "products"),
    ("copy", "copies"),
    ("clone", "copies"),
    ("contiguous", "copies"),
    ("aten::to", "copies"),
    ("Memcpy", "copies"),
    ("cat", "copies"),
    ("stack", "copies"),
)


def group(name: str) -> str:
    """ "products", "copies", "optimizer", or "moves": what reads and writes more than it computes."""
    return next((found for part, found in GROUPS if part in name), "moves")


def operators(times: Mapping[str, float], counts: Mapping[str, int], steps: int) -> tuple[Operator, ...]:
    """Operators by their own time, the longest first; `times` in microseconds of all `steps`."""
    whole = sum(times.values()) or 1.0
    return tuple(
        Operator(
            name=name, group=group(name), calls=counts.get(name, 0) / steps, seconds=t / steps / 1e6, share=t / whole
        )
        for name, t in sorted(times.items(), key=lambda item: -item[1])
    )


@dataclass(frozen=True)
class Measured:
    """What is judged; see `noted.Profile`."""

    step: float
    resident: float
    parts: dict[str, float]
    loading: Loading
    between: float
    tiny: float
    tiny_calls: float
    operators: Sequence[Operator]
    functions: Sequence[Function]
    making: Sequence[Function]
    batch: int


def judge(found: Measured) -> tuple[Bottleneck, tuple[Bottleneck, ...]]:
    """The bottleneck, and what else takes a tenth of a step or more."""
    removable = sorted((each(found) for each in _REMOVABLE), key=lambda each: -each.share)
    kept = [each for each in removable if each.share >= MENTIONED]
    if kept and kept[0].share >= NOTEWORTHY:
        return kept[0], tuple(kept[1:])
    return _work(found), tuple(kept)


def _loader(found: Measured) -> Bottleneck:
    """What a step gains when its batch is there already: waiting, and cores that the loader takes away."""
    share = max(0.0, 1 - found.resident / found.step)
    way, slow = found.loading, next((each for each in found.making if each.seconds > 0), None)
    return _bottleneck(
        "loader",
        share,
        step=seconds_text(found.step),
        resident=seconds_text(found.resident),
        batch=seconds_text(way.batch),
        threads=max(1, way.threads),
        cores=way.cores,
        slowest=f"{slow.place} {slow.name}".strip() if slow else "-",
        needed=max(1, round(way.batch / found.resident + 0.5)),
    )


def _entry(found: Measured) -> Bottleneck:
    seconds = found.parts["entering"]
    return _bottleneck("entry", seconds / found.step, seconds=seconds_text(seconds))


def _python(found: Measured) -> Bottleneck:
    """Time in which no operator runs, or only such as are too short: one function's fault, or that of their number."""
    share = (found.between + found.tiny) * found.resident / found.step
    alone = sum(each.seconds for each in found.functions if each.place)
    mine = next((each for each in found.functions if each.own), None)
    where = f"{mine.name} ({mine.place})" if mine else ""
    calls = sum(each.calls for each in found.operators)
    if mine is not None and mine.seconds > BLAMED * alone and found.between * found.resident > CALL * calls:
        between = f"{found.between:.0%}"
        return _bottleneck("python", share, where=where, calls=f"{mine.calls:.0f}", between=between)
    few = {"calls": f"{found.tiny_calls:.0f}", "shortest": f"{TINY:.0f}"}
    most = say("profile.most", where=where) if where else ""
    return _bottleneck("overhead", share, half=False, most=most, batch=found.batch, **few)


def _optimizer(found: Measured) -> Bottleneck:
    seconds = found.parts["optimizer"] + found.parts["clip"]
    rest = found.resident - seconds
    return _bottleneck(
        "optimizer",
        seconds / found.step,
        seconds=seconds_text(seconds),
        rest=seconds_text(rest),
        batch=found.batch,
    )


def _copies(found: Measured) -> Bottleneck:
    mine = [each for each in found.operators if each.group == "copies"]
    share = sum(each.share for each in mine) * _operating(found)
    names = ", ".join(f"{plain(each.name)} ({each.calls:.0f})" for each in mine[:2])
    return _bottleneck("copies", share, names=names or "-")


_REMOVABLE: tuple[Callable[[Measured], Bottleneck], ...] = (_loader, _entry, _python, _optimizer, _copies)


def _work(found: Measured) -> Bottleneck:
    """What the operators themselves are: one of them, traffic, or arithmetic."""
    learnt = [each for each in found.operators if each.group != "optimizer"]
    first = learnt[0] if learnt else Operator(name="-", group="moves", calls=0, seconds=0.0, share=0.0)
    operating = _operating(found)
    if first.share >= DOMINATES:
        return _bottleneck(
            "operator",
            first.share * operating,
            half=True,
            name=plain(first.name),
            calls=f"{first.calls:.0f}",
            seconds=seconds_text(first.share * operating * found.step),
        )
    moving = sum(each.share for each in learnt if each.group in ("moves", "copies"))
    code = "memory" if moving >= DOMINATES else "compute"
    share = moving if code == "memory" else sum(each.share for each in learnt if each.group == "products")
    names = ", ".join(plain(each.name) for each in learnt[:3])
    return _bottleneck(code, share * operating, half=True, names=names)


def _operating(found: Measured) -> float:
    """The share of a step in which operators run."""
    return (1 - found.between) * found.resident / found.step


def _bottleneck(code: str, share: float, *, half: bool = False, **values: Any) -> Bottleneck:
    """`half`: what cannot be taken away, but may become twice as fast."""
    share = min(max(share, 0.0), 0.99)
    gain = 1 / (1 - (share / 2 if half else share))
    told = {"share": f"{share:.0%}", "gain": f"{gain:.1f}", **values}
    fix = say(f"profile.fix.{code}", **told)
    return Bottleneck(code=code, share=share, gain=gain, text=say(f"profile.bottleneck.{code}", **told), fix=fix)
