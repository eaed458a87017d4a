"""The picture of `fromzero cards --compare`: a panel for each figure, a bar for each card."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from fromzero.errors import MissingPackage, UsageError
from fromzero.facts.cards import GIB
from fromzero.files import disk_error
from fromzero.language import say
from fromzero.records import Card

_PANELS: dict[str, Callable[[Card], float]] = {
    "gib": lambda card: card.memory_bytes / GIB,
    "gbs": lambda card: card.bandwidth / 1e9,
    "fp32": lambda card: card.rates.get("fp32", 0) / 1e12,
    "fp16": lambda card: card.rates.get("fp16", 0) / 1e12,
    "int8": lambda card: card.rates.get("int8", 0) / 1e12,
    "watts": lambda card: card.tdp_watts,
}
_COLOURS = ("#1f6f8b", "#d1495b", "#edae49", "#66a182", "#8d5a97", "#5f6c7b", "#b5651d", "#2e4057")
_FONTS = (
    "Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei",
    "Microsoft YaHei", "SimHei", "PingFang SC", "Heiti SC", "Arial Unicode MS",
)  # fmt: skip


def draw(cards: Sequence[Card], path: Path) -> None:
    """Write the picture. Raises MissingPackage without matplotlib, UsageError for a name that is no picture's, and
    DiskError."""
    if path.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise UsageError("picture_kind", path=path)
    try:
        import matplotlib
        from matplotlib import font_manager
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingPackage("matplotlib", "train") from error
    installed = {each.name for each in font_manager.fontManager.ttflist}
    chinese = [each for each in _FONTS if each in installed]
    names = [card.title.removeprefix("NVIDIA ").removeprefix("GeForce ") for card in cards]
    with matplotlib.rc_context({"font.sans-serif": [*chinese, "DejaVu Sans"]}):
        figure = Figure(figsize=(11, 2.0 + 0.62 * len(cards)), layout="constrained")
        FigureCanvasAgg(figure)
        colours = [_COLOURS[each % len(_COLOURS)] for each in range(len(cards))]
        for place, (panel, figure_of) in enumerate(_PANELS.items()):
            axes = figure.add_subplot(2, 3, place + 1)
            values = [figure_of(card) for card in cards]
            bars = axes.barh(names, values, color=colours)
            axes.bar_label(bars, [f"{value:.4g}" if value else "-" for value in values], padding=3, fontsize=8)
            axes.set_title(_title(panel, bool(chinese)), fontsize=10, loc="left")
            axes.invert_yaxis()
            axes.margins(x=0.18)
            axes.tick_params(labelsize=8, length=0)
            axes.spines[["top", "right", "bottom"]].set_visible(False)
            axes.xaxis.set_visible(False)
            axes.yaxis.set_visible(place % 3 == 0)
        try:
            figure.savefig(path, dpi=130)
        except OSError as error:
            raise disk_error(path, error) from error


def _title(panel: str, chinese: bool) -> str:
    """In the user's language, if a font of this machine can write it."""
    text = say(f"cards.{panel}")
    return text if chinese or text.isascii() else _plain(panel)


def _plain(panel: str) -> str:
    from fromzero.language import catalogue

    return catalogue()[f"cards.{panel}"][0]
