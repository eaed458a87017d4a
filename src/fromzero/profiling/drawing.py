"""The flame graph (SVG, written here: it is nothing but rectangles) and the pictures of time and memory (PNG)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

from fromzero import pictures
from fromzero.language import say
from fromzero.profiling.events import Level, Stacks
from fromzero.profiling.noted import Deviation, Profile
from fromzero.terminal import bytes_text, seconds_text

WIDTH, ROW = 1400, 18  # of the flame graph, in pixels
NARROWEST = 0.6  # pixels; what is narrower is not drawn
LETTER = 6.4  # pixels
DEEPEST = 60
MOST_BARS = 14
LEAST_ROOM = 0.05  # of the axis of time, for a phase's name
PHASE_COLOURS = {
    "waiting": "#edae49", "entering": "#8d6b94", "forward": "#1f6f8b", "backward": "#22313f", "clip": "#9aa5b1",
    "optimizer": "#d1495b",
}  # fmt: skip
GROUP_COLOURS = {"products": "#1f6f8b", "moves": "#66a182", "copies": "#edae49", "optimizer": "#d1495b"}


@dataclass
class _Frame:
    total: float = 0.0
    inside: dict[str, _Frame] = field(default_factory=dict)


def flame_graph(stacks: Stacks, title: str) -> str:
    """An SVG: time to the right, what calls what downwards; a frame's tooltip has its whole name and its share."""
    root = _Frame()
    for stack, time in stacks.items():
        frame = root
        frame.total += time
        for name in stack[:DEEPEST]:
            frame = frame.inside.setdefault(name, _Frame())
            frame.total += time
    boxes: list[str] = []
    depth = _draw(root, 0.0, 0, root.total or 1.0, boxes)
    height = (depth + 2) * ROW + 16
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'font-family="Verdana, sans-serif" font-size="11">\n<rect width="100%" height="100%" fill="#fff"/>\n'
        f'<text x="6" y="16" font-size="14">{escape(title)}</text>\n'
    )
    return head + "\n".join(boxes) + "\n</svg>\n"


def _draw(frame: _Frame, left: float, depth: int, whole: float, boxes: list[str]) -> int:
    """The frames inside one, side by side, the longest first; how deep they reach."""
    deepest = depth
    for name, each in sorted(frame.inside.items(), key=lambda item: -item[1].total):
        width = WIDTH * each.total / whole
        if width < NARROWEST:
            break
        top = 26 + depth * ROW
        room = int((width - 6) / LETTER)
        shown = name if len(name) <= room else name[: room - 1] + "…" if room > 3 else ""
        tip = f"{name}: {seconds_text(each.total / 1e6)}, {each.total / whole:.1%}"
        boxes.append(
            f'<g><title>{escape(tip)}</title><rect x="{left:.1f}" y="{top}" width="{max(width - 0.5, 0.3):.1f}" '
            f'height="{ROW - 1}" fill="{_colour(name)}" rx="1"/>'
            + (f'<text x="{left + 3:.1f}" y="{top + 12.5}" fill="#fff">{escape(shown)}</text>' if shown else "")
            + "</g>"
        )
        deepest = max(deepest, _draw(each, left, depth + 1, whole, boxes))
        left += width
    return deepest


def _colour(name: str) -> str:
    """Operators, modules, and the rest of Python."""
    if "::" in name:
        return "#c2571a" if name.startswith("aten::") else "#8d6b94"
    return "#1f6f8b" if name.startswith("nn.Module") else "#5f6c7b"


def time_of_step(profile: Profile) -> bytes:
    """A PNG: the parts of a step, and its operators."""
    operators = profile.operators[:MOST_BARS]
    figure, (left, right) = pictures.subplots(2, (12, 1.8 + 0.28 * max(len(operators), 6)))
    names = [name for name in PHASE_COLOURS if profile.parts.get(name, 0) > 0]
    _bars(left, [say(f"profile.part.{each}") for each in names], [profile.parts[each] for each in names],
          [PHASE_COLOURS[each] for each in names])  # fmt: skip
    left.set_title(say("profile.parts_title", step=seconds_text(profile.step)), loc="left", fontsize=10)
    labels = [f"{each.name} × {each.calls:.0f}" for each in operators]
    _bars(right, labels, [each.seconds for each in operators], [GROUP_COLOURS[each.group] for each in operators])
    right.set_title(say("profile.operators_title"), loc="left", fontsize=10)
    handles = [_patch(colour, say(f"profile.group.{name}")) for name, colour in GROUP_COLOURS.items()]
    right.legend(handles=handles, frameon=False, fontsize=8, loc="lower right")
    return pictures.png(figure)


def _bars(axes: object, names: Sequence[str], seconds: Sequence[float], colours: Sequence[str]) -> None:
    drawn = axes.barh(range(len(names)), seconds, color=colours)  # type: ignore[attr-defined]
    axes.bar_label(drawn, [seconds_text(each) for each in seconds], padding=3, fontsize=8)  # type: ignore[attr-defined]
    axes.set_yticks(range(len(names)), names, fontsize=8)  # type: ignore[attr-defined]
    axes.invert_yaxis()  # type: ignore[attr-defined]
    axes.margins(x=0.18)  # type: ignore[attr-defined]
    axes.xaxis.set_visible(False)  # type: ignore[attr-defined]
    axes.spines[["top", "right", "bottom"]].set_visible(False)  # type: ignore[attr-defined]


def _patch(colour: str, label: str) -> object:
    from matplotlib.patches import Patch

    return Patch(color=colour, label=label)


def memory_over_time(level: Level, kept: Mapping[str, int], planned: int, peak: int) -> bytes:
    """A PNG: bytes of tensors over one step; what is `kept` from step to step lies below."""
    figure, (axes,) = pictures.subplots(1, (11, 4.4))
    mib, base = 1 << 20, 0.0
    times = [1e3 * each for each in level.seconds]
    for name, size in kept.items():
        axes.fill_between([times[0], times[-1]], base, base + size / mib, color=pictures.PART_COLOURS[name],
                          label=say(f"part.{name}"), linewidth=0)  # fmt: skip
        base += size / mib
    course = [base + each / mib for each in level.bytes]
    axes.fill_between(times, base, course, step="post", color=pictures.ACCENT, alpha=0.75, linewidth=0,
                      label=say("profile.live"))  # fmt: skip
    highest = max(max(course), planned / mib)
    axes.axhline(planned / mib, color=pictures.SECOND, linestyle="--", linewidth=1)
    text = " " + say("profile.planned_peak", bytes=bytes_text(planned))
    axes.text(times[0], planned / mib, text, va="bottom", color=pictures.SECOND, fontsize=9)
    marks = [(1e3 * at, phase) for at, phase in level.marks]
    for number, (at, phase) in enumerate(marks):
        axes.axvline(at, color=pictures.INK, linewidth=0.7)
        until = marks[number + 1][0] if number + 1 < len(marks) else times[-1]
        if until - at > LEAST_ROOM * times[-1]:
            axes.text(at, highest * 1.16, " " + say(f"profile.part.{phase}"), va="top", fontsize=9)
    axes.set_ylim(0, highest * 1.18)
    axes.set_xlim(times[0], times[-1])
    axes.set_xlabel(say("profile.axis_ms"))
    axes.set_ylabel("MiB")
    axes.set_title(say("profile.memory_title", peak=bytes_text(peak)), loc="left", fontsize=10)
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    axes.spines[["top", "right"]].set_visible(False)
    return pictures.png(figure)


def measured_beside_predicted(rows: Sequence[Deviation]) -> bytes:
    """A PNG: two bars an operator."""
    figure, (axes,) = pictures.subplots(1, (8.4, 1.6 + 0.42 * len(rows)))
    for shift, name, colour in ((-0.2, "measured", pictures.SECOND), (0.2, "predicted", pictures.ACCENT)):
        seconds = [getattr(each, name) or 0.0 for each in rows]
        places = [place + shift for place in range(len(rows))]
        drawn = axes.barh(places, seconds, height=0.38, color=colour, label=say(f"profile.{name}"))
        axes.bar_label(drawn, [seconds_text(each) if each else "" for each in seconds], padding=3, fontsize=7)
    axes.set_yticks(range(len(rows)), [each.operator for each in rows], fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.xaxis.set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.set_title(say("profile.deviations_title"), loc="left", fontsize=10)
    return pictures.png(figure)
