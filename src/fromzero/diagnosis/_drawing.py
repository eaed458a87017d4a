"""The pictures that only a diagnosis draws; fonts and form are those of `pictures`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from fromzero.language import say
from fromzero.pictures import ACCENT, INK, PANEL, SECOND, lines, plain, subplots

MOST_BARS = 40  # of a deep network's layers every second or third is left out


def bars(
    title: str,
    names: Sequence[str],
    values: Sequence[float],
    *,
    marked: Collection[str] = (),
    logarithmic: bool = False,
) -> bytes:
    """A bar for each name, from top to bottom; those in `marked` in the colour of trouble."""
    every = -(-len(names) // MOST_BARS) or 1
    shown = [place for place, name in enumerate(names) if place % every == 0 or (name in marked and len(marked) < 10)]
    names, values = [names[each] for each in shown], [float(values[each]) for each in shown]
    figure, (axes,) = subplots(1, (PANEL[0], 1.1 + 0.24 * max(3, len(names))))
    places = range(len(names))
    axes.barh(places, values, color=[SECOND if name in marked else ACCENT for name in names], height=0.7)
    axes.set_yticks(places, names, fontsize=8)
    axes.invert_yaxis()
    if logarithmic and any(each > 0 for each in values):
        axes.set_xscale("log")
        _plain_numbers(axes)
    for place, value in zip(places, values, strict=True):
        axes.text(value, place, f" {value:.3g}", va="center", fontsize=7, color=INK)
    axes.margins(x=0.15)
    axes.set_title(title)
    return plain(figure, axes)


def losses(rows: Sequence[Mapping[str, float]]) -> bytes:
    """Training and validation loss over the epochs."""
    epochs = [each["epoch"] for each in rows]
    series = {
        say("diagnose.draw.training"): (epochs, [each["train_loss"] for each in rows]),
        say("diagnose.draw.validation"): (epochs, [each["val_loss"] for each in rows]),
    }
    return lines(say("diagnose.draw.loss"), say("diagnose.draw.epoch"), series)


def range_test(rates: Sequence[float], losses: Sequence[float], marks: Mapping[str, float]) -> bytes:
    """The running mean of the loss over the rates that were tried, with some rates by name."""
    figure, (axes,) = subplots(1, PANEL)
    axes.plot(rates, losses, color=ACCENT, linewidth=1.4)
    for (name, rate), colour in zip(marks.items(), (SECOND, INK), strict=True):
        axes.axvline(rate, color=colour, linestyle="--", linewidth=1, label=f"{name} {rate:.2g}")
    axes.set_xscale("log")
    _plain_numbers(axes)
    axes.set_ylim(top=min(max(losses), 2.5 * losses[0]) * 1.05)
    axes.set_title(say("diagnose.draw.range"))
    axes.set_xlabel(say("diagnose.draw.rate"))
    axes.legend(frameon=False, fontsize=8)
    return plain(figure, axes)


def _plain_numbers(axes: Any) -> None:
    """A logarithmic axis without formulas, which `pictures` switches off for the sake of class names."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axes.xaxis.set_major_locator(LogLocator(numticks=6))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
