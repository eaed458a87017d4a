"""What was found, for a person: a name for each candidate, the table, the answer, the picture."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from fromzero import pictures
from fromzero import shrink as ways
from fromzero.language import say
from fromzero.shrink._judging import ORIGINAL, Shrunk, Verdict
from fromzero.shrink._measuring import Measured
from fromzero.terminal import bytes_text


def title(name: str) -> str:
    """A candidate for a person: "pruned 50 %, recovered, int8"."""
    return say("shrink.joint").join(_step_title(*ways.parts(each)) for each in name.split(ways.JOINT))


def _step_title(way: str, setting: str) -> str:
    if way == "distilled" and setting:
        return say("shrink.step.student", setting=setting)
    share = "." in setting  # else pixels, or nothing
    return say(f"shrink.step.{way}", setting=f"{float(setting):.0%}" if share else setting)


def verdict_text(each: Verdict) -> str:
    """What became of a candidate, for a person."""
    if each.reason == "untrained":
        return say("shrink.untrained", verdict=say("shrink.verdict.too_slow"))
    if each.measured is not None:
        return say(f"shrink.verdict.{each.reason}")
    if re.fullmatch("[a-z_]+", each.reason):
        return say(f"shrink.reason.{each.reason}")
    return say("shrink.failed", reason=each.reason)


def table(found: Shrunk) -> tuple[list[str], list[list[str]]]:
    """Headings and rows: what was measured of each candidate."""
    on_card = found.budget.on != "cpu"
    threads = [each.threads for each in _original(found).latency]
    names = ["candidate", *(["predicted"] if on_card else []), "faster", "size", "compressed", "memory"]
    headings = [say(f"shrink.head.{each}") for each in names]
    headings[-4:-4] = [f"p50/p99, ms ({count})" for count in threads]
    headings += [say(f"shrink.head.{each}") for each in ("accuracy", "lost", "agreement", "verdict")]
    return headings, [_row(each, on_card, len(threads)) for each in found.candidates]


def _row(each: Verdict, on_card: bool, counts: int) -> list[str]:
    faster = "" if each.faster is None else f"{each.faster:.2f}x"
    seconds = "" if each.latency is None else f"{each.latency * 1e3:.3g}"
    predicted = [f"{seconds} ms" if seconds else ""] if on_card else []
    measured = each.measured
    if measured is None:
        times = ["", *[""] * (counts - 2), seconds] if counts > 1 else [seconds]
        return [
            title(each.name),
            *predicted,
            *(times if not on_card else [""] * counts),
            faster,
            *[""] * 6,
            verdict_text(each),
        ]
    low, high = measured.interval
    least, most = measured.drop_interval
    return [
        title(each.name),
        *predicted,
        *(f"{one.p50 * 1e3:.3g}/{one.p99 * 1e3:.3g}" for one in measured.latency),
        faster,
        bytes_text(measured.size),
        bytes_text(measured.compressed),
        bytes_text(measured.memory),
        f"{measured.accuracy:.2%} ({low:.2%}-{high:.2%})",
        "" if each.name == ORIGINAL else f"{measured.drop * 100:+.2f} ({least * 100:+.2f}..{most * 100:+.2f})",
        f"{measured.agreement:.2%}",
        verdict_text(each),
    ]


def summary(found: Shrunk) -> str:
    """The answer in one sentence, and under what conditions it holds."""
    original = _original(found)
    split = say(f"split.{original.split}")
    told = [say("shrink.conditions", device=found.device, samples=original.samples, split=split)]
    if found.budget.on != "cpu":
        told.append(say("shrink.predicted_for", card=found.budget.on))
    chosen = found.of(found.best or found.nearest)
    if chosen is None or chosen.measured is None:
        return "\n".join([*told, say("shrink.nothing")])
    if chosen.name == ORIGINAL:
        return "\n".join([*told, say("shrink.unchanged", path=chosen.artifact)])
    words: dict[str, Any] = {
        "name": title(chosen.name),
        "faster": f"{chosen.faster or 0:.2f}",
        "change": f"{-chosen.measured.drop * 100:+.2f}",
        "path": chosen.artifact,
    }
    return "\n".join([*told, say("shrink.best", **words) if found.best else say("shrink.none", **words)])


def _original(found: Shrunk) -> Measured:
    first = found.candidates[0].measured
    assert first is not None
    return first


def picture(found: Shrunk) -> bytes:
    """Accuracy over latency: what keeps the budget filled, what was dropped hollow, and the front of those that nothing
    beats in both."""
    made = [each for each in found.candidates if each.measured is not None and each.latency is not None]
    figure, (axes,) = pictures.subplots(1, (9, 5.2))
    points = {each.name: (_drawn_seconds(each, found) * 1e3, _measured_of(each).accuracy * 100) for each in made}
    for kept, key in ((True, "kept"), (False, "dropped")):
        some = [points[each.name] for each in made if each.kept == kept]
        if some:
            axes.scatter(
                *zip(*some, strict=True),
                s=70,
                facecolor=pictures.ACCENT if kept else "none",
                edgecolor=pictures.ACCENT if kept else "#7b8794",
                zorder=3,
                label=say(f"shrink.legend.{key}"),
            )
    front = _front(list(points.values()))
    if len(front) > 1:
        legend = say("shrink.legend.front")
        axes.step(*zip(*front, strict=True), where="post", color=pictures.SECOND, linewidth=1, label=legend)
    low, high = min(y for _, y in points.values()), max(y for _, y in points.values())
    room = max(0.5, (high - low) * 0.15)
    axes.set_ylim(low - room, high + room)
    axes.set_xlim(0, max(x for x, _ in points.values()) * 1.25)
    goal = _goal_of(found)
    if goal is not None:
        least = (_original(found).accuracy - found.budget.max_drop) * 100
        axes.fill_between(
            [0, goal * 1e3],
            least,
            high + room,
            color=pictures.ACCENT,
            alpha=0.1,
            linewidth=0,
            label=say("shrink.legend.budget"),
        )
    for number, each in enumerate(sorted(made, key=lambda one: points[one.name])):
        above = 7 if number % 2 == 0 else -13
        axes.annotate(title(each.name), points[each.name], xytext=(7, above), textcoords="offset points", fontsize=8)
    threads = _original(found).latency[-1].threads
    on_card = found.budget.on != "cpu"
    axes.set_xlabel(
        say("shrink.axis_predicted", card=found.budget.on) if on_card else say("shrink.axis_latency", threads=threads)
    )
    axes.set_ylabel(say("shrink.axis_accuracy"))
    axes.set_title(say("shrink.title", model=found.model))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1), fontsize=8)
    return pictures.png(figure)


def _measured_of(each: Verdict) -> Measured:
    assert each.measured is not None
    return each.measured


def _drawn_seconds(each: Verdict, found: Shrunk) -> float:
    """By what was judged: where that is a ratio, the original's time divided by it."""
    first = found.candidates[0].latency
    if found.budget.latency is not None or not first or not each.faster:
        return each.latency or 0.0
    return first / each.faster


def _goal_of(found: Shrunk) -> float | None:
    """Seconds that the budget allows."""
    first = found.candidates[0].latency
    if found.budget.latency is not None or first is None:
        return found.budget.latency
    return None if found.budget.faster is None else first / found.budget.faster


def _front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Those (latency, accuracy) that no other is at least as good as in both, fastest first."""
    front: list[tuple[float, float]] = []
    for point in sorted(points, key=lambda each: (each[0], -each[1])):
        if not front or point[1] > front[-1][1]:
            front.append(point)
    return front
