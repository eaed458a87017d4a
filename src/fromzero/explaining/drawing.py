"""Explanations for the eye: a heat map over a picture, a text with its words marked, a bar for each column."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fromzero.data.images import decode, padded
from fromzero.language import current, say
from fromzero.records import Preprocessing

if TYPE_CHECKING:
    from fromzero.explaining.telling import Explanation

SIDE = 448  # pixels of a drawn picture
MOST_BARS = 15  # columns that are drawn; the others are in the record
COVER = 0.75  # how much of the picture the hottest place hides
FOR, AGAINST = (209, 73, 91), (31, 111, 139)


def heat_map(explanation: Explanation, source: Path, how: Preprocessing) -> bytes:
    """A PNG: what the model saw of the picture, and the same under the heat map."""
    from PIL import Image

    from fromzero import pictures

    seen = _seen(source, how)
    heat = Image.fromarray(np.array(explanation.heat, np.float32), "F").resize(seen.size, Image.Resampling.BICUBIC)
    strength = np.asarray(heat).clip(0, 1)
    figure, panels = pictures.subplots(2, (9.2, 5.0))
    grey = np.asarray(seen.convert("L").convert("RGB"))
    colours = _coloured(strength)
    over = (1 - COVER * strength[..., None]) * grey + COVER * strength[..., None] * colours
    for axes, picture in zip(
        panels, (np.asarray(seen.convert("RGB")), over.clip(0, 255).astype(np.uint8)), strict=True
    ):
        axes.imshow(picture)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
    panels[0].set_title(title(explanation), loc="left", fontsize=11)
    panels[1].set_title(caption(explanation), loc="left", fontsize=9, color="#555555")
    return pictures.png(figure)


def bars(explanation: Explanation) -> bytes:
    """A PNG: a bar for each of the columns that matter most, to the right where it speaks for the class."""
    from fromzero import pictures

    parts = [each for each in explanation.parts if each.effect][:MOST_BARS] or explanation.parts[:1]
    figure, (axes,) = pictures.subplots(1, (8.2, 1.4 + 0.34 * len(parts)))
    names = [
        f"{each.name} = {each.value[:24]}" if each.value else f"{each.name} ({say('explain.no_value')})"
        for each in parts
    ]
    colours = [_hex(FOR if each.effect > 0 else AGAINST) for each in parts]
    drawn = axes.barh(range(len(parts)), [each.effect for each in parts], color=colours)
    axes.bar_label(drawn, [effect_text(explanation, each.effect) for each in parts], padding=4, fontsize=8)
    axes.set_yticks(range(len(parts)), names, fontsize=9)
    axes.invert_yaxis()
    axes.axvline(0, color=pictures.INK, linewidth=0.8)
    axes.margins(x=0.2)
    axes.xaxis.set_visible(False)
    axes.tick_params(length=0)
    axes.spines[["top", "right", "bottom", "left"]].set_visible(False)
    figure.suptitle(f"{title(explanation)}\n{caption(explanation)}", x=0.01, ha="left", fontsize=10)
    return pictures.png(figure)


def page(explanation: Explanation, text: str) -> bytes:
    """A page of its own, UTF-8: the text with its words marked, and the words that matter most."""
    import jinja2

    template = jinja2.Template(
        Path(__file__).with_name("words.html.j2").read_text(encoding="utf-8"), autoescape=True, trim_blocks=True
    )
    strongest = sorted(explanation.parts, key=lambda part: -abs(part.effect))[:MOST_BARS]
    rendered = template.render(
        say=say,
        language={"zh": "zh-CN"}.get(current(), current()),
        title=title(explanation),
        caption=caption(explanation),
        pieces=pieces(explanation, text),
        strongest=[(each.name, effect_text(explanation, each.effect), speaks(each.effect)) for each in strongest],
    )
    return rendered.encode()


def speaks(effect: float) -> str:
    """For the class, against it, or neither."""
    return say("explain.for") if effect > 0 else say("explain.against") if effect < 0 else ""


def pieces(explanation: Explanation, text: str) -> list[tuple[str, float, str]]:
    """The whole text in pieces: (text, from -1 to 1 how strongly it speaks, its effect in words, empty for what is no
    word or was not read)."""
    highest = max((abs(each.effect) for each in explanation.parts), default=0.0) or 1.0
    made, at = [], 0
    for part in explanation.parts:
        if part.start > at:
            made.append((text[at : part.start], 0.0, ""))
        made.append((text[part.start : part.end], part.effect / highest, effect_text(explanation, part.effect)))
        at = part.end
    return [*made, (text[at:], 0.0, "")]


def title(explanation: Explanation) -> str:
    """The class and its probability."""
    return f"{explanation.label} {explanation.score:.1%}"


def caption(explanation: Explanation) -> str:
    """The method, and what its figures mean."""
    meaning = say(f"explain.unit.{explanation.unit}", highest=effect_text(explanation, explanation.highest).lstrip("+"))
    return f"{explanation.method} · {meaning}"


def effect_text(explanation: Explanation, effect: float) -> str:
    """An effect in its unit: percentage points, or nats."""
    if explanation.unit == "probability":
        return f"{100 * effect:+.1f} %"
    return f"{effect:+.2g}"


def _seen(source: Path, how: Preprocessing) -> Any:
    """What the model sees of a picture, at the size that it is drawn in."""
    from PIL import Image

    picture = decode(source)
    if how.resize == "pad":
        return padded(picture, SIDE)
    side = min(picture.size) * (1.0 if picture.size == (how.size, how.size) else how.crop)
    left, top = (picture.width - side) / 2, (picture.height - side) / 2
    smooth = Image.Resampling.BILINEAR if side > SIDE / 4 else Image.Resampling.NEAREST  # few pixels stay squares
    return picture.resize((SIDE, SIDE), smooth, box=(left, top, left + side, top + side))


def _coloured(strength: np.ndarray) -> np.ndarray:
    """(height, width) in 0..1 -> (height, width, 3) in 0..255, from dark red to yellow."""
    import matplotlib

    return 255 * matplotlib.colormaps["plasma"](0.25 + 0.75 * strength)[..., :3]


def _hex(colour: tuple[int, int, int]) -> str:
    red, green, blue = colour
    return f"#{red:02x}{green:02x}{blue:02x}"
