"""The report's pictures, drawn with matplotlib as PNG bytes. Class names in Chinese need a font that has them: one is
looked for among those installed, and `missing_font` says so where there is none.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from fromzero.language import say

_CJK_FONTS = (
    "Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei",
    "Microsoft YaHei", "SimHei", "PingFang SC", "Heiti SC", "Arial Unicode MS", "Noto Sans CJK JP",
)  # fmt: skip
LONGEST_LABEL = 28  # letters; longer names would leave no room for the squares
INK, ACCENT, SECOND = "#22313f", "#1f6f8b", "#d1495b"


def curves(history: Sequence[dict[str, float]]) -> bytes:
    """Loss and accuracy over the epochs."""
    figure, (left, right) = _subplots(2, (9, 3.2))
    epochs = [row["epoch"] for row in history]
    left.plot(epochs, [row["train_loss"] for row in history], "o-", color=ACCENT, label=say("report.training"))
    left.plot(epochs, [row["val_loss"] for row in history], "o-", color=SECOND, label=say("report.validation"))
    left.set_title(say("report.loss"))
    left.legend(frameon=False)
    right.plot(epochs, [row["val_accuracy"] * 100 for row in history], "o-", color=SECOND)
    right.set_title(say("report.val_accuracy"))
    for axes in (left, right):
        axes.set_xlabel(say("report.epoch"))
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    return _png(figure)


def confusion(counts: np.ndarray, labels: Sequence[str]) -> bytes:
    """Rows are true classes, columns what they were called; colour is the share of the row."""
    count = len(labels)
    side = min(14.0, 2.5 + 0.55 * count)
    figure, (axes,) = _subplots(1, (side, side))
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if count <= 30:
        for row in range(count):
            for column in range(count):
                if counts[row, column]:
                    colour = "white" if shares[row, column] > 0.5 else INK
                    axes.text(column, row, counts[row, column], ha="center", va="center", color=colour, fontsize=8)
    short = [each if len(each) <= LONGEST_LABEL else each[: LONGEST_LABEL - 1] + "…" for each in labels]
    axes.set_xticks(range(count), short, rotation=45, ha="right")
    axes.set_yticks(range(count), short)
    axes.set_xlabel(say("report.called"))
    axes.set_ylabel(say("report.truth"))
    axes.spines[:].set_visible(False)
    return _png(figure)


def missing_font(labels: Sequence[str]) -> bool:
    """Whether the labels hold Chinese characters that no installed font can draw."""
    return any("\u2e80" <= letter <= "\u9fff" for label in labels for letter in label) and not _cjk_fonts()


def _cjk_fonts() -> list[str]:
    from matplotlib import font_manager

    installed = {each.name for each in font_manager.fontManager.ttflist}
    return [each for each in _CJK_FONTS if each in installed]


def _subplots(columns: int, size: tuple[float, float]) -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("Agg")  # no window, whatever the user's settings say
    from matplotlib import pyplot

    pyplot.rcParams["font.sans-serif"] = [*_cjk_fonts(), "DejaVu Sans"]
    pyplot.rcParams["axes.unicode_minus"] = False
    pyplot.rcParams["text.parse_math"] = False  # a class may be named "$5" and "$10"
    figure, axes = pyplot.subplots(1, columns, figsize=size, layout="constrained", squeeze=False)
    return figure, axes[0]


def _png(figure: Any) -> bytes:
    from matplotlib import pyplot

    target = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # letters that no font has: `missing_font` tells the reader
        figure.savefig(target, format="png", dpi=130)
    pyplot.close(figure)
    return target.getvalue()
