"""The report's pictures, drawn with matplotlib as PNG bytes. Class names in Chinese need a font that has them: one is
looked for among those installed, and `missing_font` says so where there is none.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fromzero.language import say
from fromzero.terminal import bytes_text

if TYPE_CHECKING:  # drawing needs no PyTorch
    from fromzero.machine.ledger import Entry
    from fromzero.metrics import Bin
    from fromzero.planner.breakdown import Course
    from fromzero.records import Candidate, Choice

_CJK_FONTS = (
    "Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei",
    "Microsoft YaHei", "SimHei", "PingFang SC", "Heiti SC", "Arial Unicode MS", "Noto Sans CJK JP",
)  # fmt: skip
LONGEST_LABEL = 28  # letters; longer names would leave no room for the squares
INK, ACCENT, SECOND = "#22313f", "#1f6f8b", "#d1495b"


Line = tuple[Sequence[float], Sequence[float]]  # places and values
PANEL = (5.4, 3.0)  # inches: wide enough for a column of a page, and for a telephone's screen


MARKED = 40  # points that are drawn as such


def lines(title: str, axis: str, series: Mapping[str, Line]) -> bytes:
    """Lines of one panel by their names; a single one needs no legend."""
    figure, (axes,) = subplots(1, PANEL)
    colours = (SECOND, ACCENT) if len(series) == 1 else (ACCENT, SECOND)
    for (name, (places, values)), colour in zip(series.items(), colours, strict=False):
        form = "o-" if len(places) <= MARKED else "-"
        axes.plot(places, values, form, markersize=4, linewidth=1.4, color=colour, label=name)
    axes.set_title(title[0].upper() + title[1:])
    axes.set_xlabel(axis)
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    if len(series) > 1:
        axes.legend(frameon=False)
    return plain(figure, axes)


def roc(truth: np.ndarray, scores: np.ndarray) -> bytes:
    """Of the positive class: `truth` (N,) bool, `scores` (N,) its probabilities."""
    from sklearn.metrics import roc_curve

    false_alarms, found, _ = roc_curve(truth, scores)
    figure, (axes,) = subplots(1, PANEL)
    axes.plot([0, 1], [0, 1], "--", linewidth=0.8, color=INK)
    axes.plot(false_alarms, found, color=ACCENT)
    axes.set_title(say("report.roc"))
    axes.set_xlabel(say("report.false_alarms"))
    axes.set_ylabel(say("report.recall"))
    return plain(figure, axes)


def precision_recall(truth: np.ndarray, scores: np.ndarray) -> bytes:
    """The same of precision over recall; the dashed line is a coin."""
    from sklearn.metrics import precision_recall_curve

    precision, recall, _ = precision_recall_curve(truth, scores)
    figure, (axes,) = subplots(1, PANEL)
    axes.axhline(float(truth.mean()), linestyle="--", linewidth=0.8, color=INK)
    axes.step(recall, precision, where="post", color=ACCENT)
    axes.set_ylim(0, 1.03)
    axes.set_title(say("report.precision_recall"))
    axes.set_xlabel(say("report.recall"))
    axes.set_ylabel(say("report.precision"))
    return plain(figure, axes)


def reliability(bins: Sequence[Bin]) -> bytes:
    """How often the model was right against how sure it was; on the line it is as sure as it should be. The area of a
    circle is the number of samples."""
    figure, (axes,) = subplots(1, PANEL)
    axes.plot([0, 1], [0, 1], "--", linewidth=0.8, color=INK)
    most = max(each.samples for each in bins)
    axes.plot([each.confidence for each in bins], [each.accuracy for each in bins], color=ACCENT, linewidth=1)
    axes.scatter(
        [each.confidence for each in bins],
        [each.accuracy for each in bins],
        s=[12 + 200 * each.samples / most for each in bins],
        color=ACCENT,
        alpha=0.7,
    )
    axes.set_title(say("report.reliability"))
    axes.set_xlabel(say("report.confidence"))
    axes.set_ylabel(say("report.right"))
    return plain(figure, axes)


def plain(figure: Any, axes: Any) -> bytes:
    """A panel with a faint grid and no frame, as PNG."""
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return png(figure)


PART_COLOURS = {
    "weights": "#22313f", "gradients": "#d1495b", "optimizer": "#8d6b94", "activations": "#1f6f8b",
    "workspace": "#edae49",
}  # fmt: skip
MOST_MARKS = 16  # names of blocks along the axis; more would lie on each other


def memory_over_step(course: Course, title: str, usable: int) -> bytes:
    """Live bytes over the operators of a step, stacked by part, with the phases, the blocks of the network and, where
    it is near, the card's usable memory."""
    figure, (axes,) = subplots(1, (11, 4.6))
    gib = 1 << 30
    levels = {name: np.array(course.bytes[name]) / gib for name in PART_COLOURS}
    length = len(levels["weights"])
    labels = [say(f"part.{name}") for name in levels]
    axes.stackplot(range(length), *levels.values(), labels=labels, colors=PART_COLOURS.values(), step="post")
    highest = float(np.sum(list(levels.values()), axis=0).max())
    if usable / gib < 2.5 * highest:
        axes.axhline(usable / gib, color=SECOND, linestyle="--")
        axes.text(0, usable / gib, f" {bytes_text(usable)}", va="bottom", color=SECOND)
        highest = max(highest, usable / gib)
    axes.set_ylim(0, highest * 1.18)
    axes.set_xlim(0, length - 1)
    for at, phase in course.phases:
        if phase in ("forward", "backward", "optimizer"):
            axes.axvline(at, color=INK, linewidth=0.8)
    for phase in ("forward", "backward", "optimizer"):
        spans = [at for at, name in course.phases if name == phase]
        if spans:
            axes.text(spans[0], highest * 1.16, " " + say(f"course.{phase}"), va="top", color=INK)
    marks = course.blocks[:: max(1, -(-len(course.blocks) // MOST_MARKS))]
    axes.set_xticks([at for at, _ in marks], [name for _, name in marks], rotation=60, ha="right", fontsize=7)
    axes.set_ylabel("GiB")
    axes.set_xlabel(say("course.operators"))
    axes.set_title(title)
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    axes.spines[["top", "right"]].set_visible(False)
    return png(figure)


MOST_NAMES = 14  # of the best cards; more names would lie on each other


def cards_for_job(found: Choice) -> bytes:
    """Time against usable memory, both logarithmic, a circle a card: filled if it meets the limits, its area the price
    the user gave (all alike without prices)."""
    figure, (axes,) = subplots(1, (10, 6))
    highest = max((each.cost or 0.0 for each in found.candidates), default=0.0)
    for meets in (False, True):
        rows = [each for each in found.candidates if each.meets == meets]
        axes.scatter(
            [_gib_of(each) for each in rows],
            [_time_of(each) for each in rows],
            s=[40 + 400 * (each.cost or 0.0) / highest if highest else 60 for each in rows],
            facecolor=ACCENT if meets else "none",
            edgecolor=ACCENT if meets else "#9aa5b1",
            alpha=0.8,
            label=say("choose.meets" if meets else "choose.fails"),
        )
    placed: list[tuple[float, float]] = []
    for each in found.candidates[:MOST_NAMES]:
        spot = (math.log10(_gib_of(each)), math.log10(_time_of(each)))
        if any(abs(spot[0] - x) < 0.12 and abs(spot[1] - y) < 0.05 for x, y in placed):
            continue  # its name would lie on a better card's
        placed.append(spot)
        count = f"{each.plan.recipe.cards} x " if each.plan.recipe.cards > 1 else ""
        name = count + each.plan.card.title.removeprefix("NVIDIA ").removeprefix("GeForce ")
        place = (_gib_of(each), _time_of(each))
        axes.annotate(name, place, xytext=(6, 4), textcoords="offset points", fontsize=8, color=INK)
    _logarithmic(axes)
    axes.set_xlabel(say("choose.axis_memory"))
    axes.set_ylabel(say("choose.axis_time" if any(each.hours for each in found.candidates) else "choose.axis_step"))
    axes.set_title(f"{found.model}" + (f" · {say('choose.size')}" if highest else ""))
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return png(figure)


def _time_of(each: Candidate) -> float:
    """Hours of the run, or seconds for 1000 samples where its length is not known."""
    return each.hours or 1000 / each.plan.time.samples_per_second


def _gib_of(each: Candidate) -> float:
    return each.plan.card.usable_bytes / 2**30 * each.plan.recipe.cards


def predicted_and_measured(runs: Sequence[Entry]) -> bytes:
    """Each run a point, time and memory: on the line the prediction was right."""
    figure, panels = subplots(2, (10, 4.6))
    figures = (
        ("ledger.time_title", [(each.predicted_step, each.measured_step) for each in runs]),
        (
            "ledger.memory_title",
            [(each.predicted_bytes / 2**30, each.measured_bytes / 2**30) for each in runs if each.measured_bytes],
        ),
    )
    for axes, (title, points) in zip(panels, figures, strict=True):
        if points:
            low, high = min(map(min, points)) * 0.8, max(map(max, points)) * 1.25
            axes.plot([low, high], [low, high], color=INK, linewidth=0.8)
            axes.fill_between([low, high], [low * 0.9, high * 0.9], [low * 1.1, high * 1.1], color=ACCENT, alpha=0.12)
            axes.scatter(*zip(*points, strict=True), color=SECOND, s=28)
        _logarithmic(axes)
        axes.set_title(say(title))
        axes.set_xlabel(say("ledger.axis_predicted"))
        axes.set_ylabel(say("ledger.axis_measured"))
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    return png(figure)


def confusion(counts: np.ndarray, labels: Sequence[str]) -> bytes:
    """Rows are true classes, columns what they were called; colour is the share of the row."""
    count = len(labels)
    side = min(14.0, 2.5 + 0.55 * count)
    figure, (axes,) = subplots(1, (side, side))
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if count <= 30:
        for row in range(count):
            for column in range(count):
                if counts[row, column]:
                    colour = "white" if shares[row, column] > 0.5 else INK
                    axes.text(column, row, counts[row, column], ha="center", va="center", color=colour, fontsize=8)
    short = [_short(each) for each in labels]
    axes.set_xticks(range(count), short, rotation=45, ha="right")
    axes.set_yticks(range(count), short)
    axes.set_xlabel(say("report.called"))
    axes.set_ylabel(say("report.truth"))
    axes.spines[:].set_visible(False)
    return png(figure)


def contact_sheet(rows: Sequence[str], columns: Sequence[str], tiles: np.ndarray) -> bytes:
    """Small pictures (rows, columns, size, size, 1 or 3) uint8 side by side; a name that is the row above's or the
    column before's is not repeated."""
    count, across, size = tiles.shape[:3]
    gap = max(1, size // 24)
    channels = np.repeat(tiles, 3, axis=-1) if tiles.shape[-1] == 1 else tiles
    framed = np.pad(channels, ((0, 0), (0, 0), (0, gap), (0, gap), (0, 0)), constant_values=255)
    whole = framed.transpose(0, 2, 1, 3, 4).reshape(count * (size + gap), across * (size + gap), 3)
    figure, (axes,) = subplots(1, (1.6 + 1.05 * across, 0.5 + 1.05 * count))
    axes.imshow(whole, interpolation="nearest" if size < 100 else "antialiased")
    for names, axis in ((rows, axes.yaxis), (columns, axes.xaxis)):
        starts = [place for place in range(len(names)) if not place or names[place] != names[place - 1]]
        middles = [(first + last - 1) / 2 for first, last in zip(starts, [*starts[1:], len(names)], strict=True)]
        axis.set_ticks(
            [(each + 0.5) * (size + gap) - gap / 2 for each in middles], [_short(names[at]) for at in starts]
        )
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return png(figure)


def missing_font(labels: Sequence[str]) -> bool:
    """Whether the labels hold Chinese characters that no installed font can draw."""
    return any("\u2e80" <= letter <= "\u9fff" for label in labels for letter in label) and not _cjk_fonts()


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_LABEL else name[: LONGEST_LABEL - 1] + "…"


def _cjk_fonts() -> list[str]:
    from matplotlib import font_manager

    installed = {each.name for each in font_manager.fontManager.ttflist}
    return [each for each in _CJK_FONTS if each in installed]


def _logarithmic(axes: Any) -> None:
    """Both axes, with plain numbers at 1, 2 and 5 (formulas are switched off, see below)."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    for name, axis in (("x", axes.xaxis), ("y", axes.yaxis)):
        getattr(axes, f"set_{name}scale")("log")
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.set_minor_formatter(NullFormatter())


def subplots(columns: int, size: tuple[float, float]) -> tuple[Any, Any]:
    """A figure of `size` inches with panels side by side, in fonts that can write what is to be written."""
    import matplotlib

    matplotlib.use("Agg")  # no window, whatever the user's settings say
    from matplotlib import pyplot

    pyplot.rcParams["font.sans-serif"] = [*_cjk_fonts(), "DejaVu Sans"]
    pyplot.rcParams["axes.unicode_minus"] = False
    pyplot.rcParams["text.parse_math"] = False  # a class may be named "$5" and "$10"
    figure, axes = pyplot.subplots(1, columns, figsize=size, layout="constrained", squeeze=False)
    return figure, axes[0]


def png(figure: Any) -> bytes:
    """A figure as a file's content, and closed."""
    from matplotlib import pyplot

    target = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # letters that no font has: `missing_font` tells the reader
        figure.savefig(target, format="png", dpi=130)
    pyplot.close(figure)
    return target.getvalue()
